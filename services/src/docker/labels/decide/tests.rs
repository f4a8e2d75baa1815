use std::collections::HashMap;

use super::*;
use crate::config::tests::config;
use crate::docker::labels::{Labelled, read};
use crate::store::Kind;

fn node() -> NodeName {
    "main".parse().expect("a name")
}

fn labelled(container: &str, created: i64, runs: bool, labels: &[(&str, &str)]) -> Labelled {
    let labels: HashMap<String, String> =
        labels.iter().map(|(name, value)| (format!("portcullis.{name}"), (*value).to_owned())).collect();
    Labelled {
        container: container.to_owned(),
        runs,
        state: if runs { "running" } else { "exited" }.to_owned(),
        created: jiff::Timestamp::from_second(created).ok(),
        asks: labels.get("portcullis.host").cloned().unwrap_or_default(),
        wish: read(container, &labels),
    }
}

/// What the labels of `main/web` made for `app.test`.
fn made() -> Config {
    config(&[
        (
            Kind::Service,
            "web",
            json!({ "service_name": "web", "container": "web", "node": "main", "labelled_by": "main/web" }),
        ),
        (
            Kind::Proxy,
            "app.test",
            json!({ "proxy_hostname": "app.test", "target_url": "service:web", "labelled_by": "main/web" }),
        ),
    ])
}

fn decided(config: &Config, seen: &[Labelled], over: &[&str]) -> Decision {
    let over = over.iter().map(|&marker| marker.to_owned()).collect();
    let policy = Policy { labels: true, ..Policy::default() };
    decide(&Facts { config, node: &node(), issuer: "auth.test", policy: &policy, seen, over: &over })
}

fn told(decision: &Decision) -> Vec<(&str, &str, ClaimState)> {
    let claims = decision.claims.iter();
    claims.map(|claim| (claim.container.as_str(), claim.host.as_str(), claim.state)).collect()
}

fn reason(decision: &Decision) -> &str {
    decision.claims[0].reason.as_deref().unwrap_or_default()
}

#[test]
fn a_label_makes_a_service_and_a_host_once() {
    let labels = [("host", "app.test"), ("port", "3000"), ("auth", "true")];
    let seen = [labelled("web", 1, true, &labels)];
    let first = decided(&Config::default(), &seen, &[]);
    let [make] = &first.makes[..] else { panic!("{first:?}") };
    assert_eq!((make.service.0.internal_port, make.service.1), (Some(3000), true));
    assert_eq!(make.service.0.problems(), []);
    assert!(make.proxies[0].auth_enabled && make.proxies[0].problems().is_empty());
    assert_eq!(told(&first), [("web", "app.test", ClaimState::Pending)]);
    // The port and the sign-in are gone from the labels of the next container of this name.
    let mut there = Config::default();
    there.services.insert(make.service.0.service_name.clone(), make.service.0.clone().into());
    there.proxies.insert(make.proxies[0].proxy_hostname.clone(), make.proxies[0].clone().into());
    assert!(decided(&there, &seen, &[]).is_idle());
    let seen = [labelled("web", 2, true, &[("host", "app.test")])];
    let changed = decided(&there, &seen, &[]);
    let [make] = &changed.makes[..] else { panic!("{changed:?}") };
    assert_eq!((make.service.0.internal_port, make.proxies[0].auth_enabled), (None, false));
}

#[test]
fn who_is_stopped_keeps_and_who_is_gone_loses_after_a_while() {
    let stopped = decided(&made(), &[labelled("web", 1, false, &[("host", "app.test")])], &[]);
    assert!(stopped.is_idle());
    assert_eq!(told(&stopped), [("web", "app.test", ClaimState::Stopped)]);
    let gone = decided(&made(), &[], &[]);
    assert!(gone.is_idle());
    assert_eq!(told(&gone), [("web", "app.test", ClaimState::Leaving)]);
    let over = decided(&made(), &[], &["main/web"]);
    let [going] = &over.goings[..] else { panic!("{over:?}") };
    assert_eq!((going.proxies[0].as_str(), going.services[0].as_str()), ("app.test", "web"));
    // One that never ran makes nothing.
    let new = decided(&Config::default(), &[labelled("web", 1, false, &[("host", "app.test")])], &[]);
    assert!(new.is_idle() && told(&new)[0].2 == ClaimState::Stopped);
}

#[test]
fn another_label_moves_the_host() {
    let moved = decided(&made(), &[labelled("web", 2, true, &[("host", "new.test")])], &[]);
    assert_eq!(moved.makes[0].proxies[0].proxy_hostname.as_str(), "new.test");
    assert_eq!(moved.goings[0].proxies[0].as_str(), "app.test");
    assert!(moved.goings[0].services.is_empty(), "the new host needs it");
    let wrong = decided(&made(), &[labelled("web", 2, true, &[("host", "a b")])], &[]);
    assert_eq!((wrong.goings[0].proxies.len(), wrong.goings[0].services.len()), (1, 1));
    assert_eq!(told(&wrong), [("web", "a b", ClaimState::Refused)]);
}

#[test]
fn what_somebody_else_has_is_not_touched() {
    let host = json!({ "proxy_hostname": "app.test", "target_url": "http://10.0.0.9" });
    let seen = [labelled("web", 1, true, &[("host", "app.test")])];
    let clash = decided(&config(&[(Kind::Proxy, "app.test", host)]), &seen, &[]);
    assert!(clash.is_idle() && reason(&clash).contains("no label made"), "{clash:?}");
    let service = json!({ "service_name": "web", "image": "web:1" });
    let clash = decided(&config(&[(Kind::Service, "web", service)]), &seen, &[]);
    assert!(clash.is_idle() && reason(&clash).contains("no label made"), "{clash:?}");
    let external = json!({ "service_name": "web", "target_url": "http://10.0.0.9" });
    let clash = decided(&config(&[(Kind::External, "web", external)]), &seen, &[]);
    assert!(clash.is_idle() && reason(&clash).contains("external"), "{clash:?}");
    let issuer = decided(&Config::default(), &[labelled("web", 1, true, &[("host", "auth.test")])], &[]);
    assert!(issuer.is_idle() && reason(&issuer).contains("authorization server"), "{issuer:?}");
    // What the labels of another node made is none of ours.
    let other = config(&[(
        Kind::Proxy,
        "app.test",
        json!({ "proxy_hostname": "app.test", "target_url": "http://10.0.0.9", "labelled_by": "other/web" }),
    )]);
    let clash = decided(&other, &seen, &["other/web"]);
    assert!(clash.is_idle() && reason(&clash).contains("other/web"), "{clash:?}");
}

#[test]
fn of_two_containers_the_first_gets_the_host() {
    let both = [
        labelled("late", 2, true, &[("host", "app.test,late.test")]),
        labelled("web", 1, true, &[("host", "app.test")]),
    ];
    let first = decided(&Config::default(), &both, &[]);
    let hosts: Vec<_> = first
        .makes
        .iter()
        .flat_map(|make| make.proxies.iter().map(|one| one.proxy_hostname.as_str()))
        .collect();
    assert_eq!(hosts, ["app.test", "late.test"]);
    assert_eq!(reason(&first), "the container web was first");
    // Whoever has it keeps it, even when the other one is older.
    let older = [
        labelled("old", 0, true, &[("host", "app.test")]),
        labelled("web", 1, true, &[("host", "app.test")]),
    ];
    let kept = decided(&made(), &older, &[]);
    assert!(kept.is_idle());
    assert_eq!(reason(&kept), "the container main/web has it");
}

#[test]
fn labels_make_only_hosts_that_are_allowed() {
    let seen = [labelled("web", 1, true, &[("host", "app.test")])];
    let policy = Policy {
        labels: true,
        label_hosts: vec!["*.apps.test".parse().expect("a pattern")],
        ..Policy::default()
    };
    let facts = Facts {
        config: &made(),
        node: &node(),
        issuer: "auth.test",
        policy: &policy,
        seen: &seen,
        over: &BTreeSet::new(),
    };
    let refused = decide(&facts);
    assert!(reason(&refused).contains("PORTCULLIS_DOCKER_LABEL_HOSTS"), "{refused:?}");
    assert_eq!((refused.goings[0].proxies.len(), refused.goings[0].services.len()), (1, 1));
}
