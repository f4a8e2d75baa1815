use serde_json::{Map, Value, json};

use super::*;
use crate::config::{Entity, External, Proxy};

fn fields(value: Value) -> Map<String, Value> {
    let Value::Object(fields) = value else { panic!("an object") };
    fields
}

fn proxy(more: Value) -> Result<Proxy, Vec<FieldError>> {
    let mut all = fields(json!({ "proxy_hostname": "a.example", "target_url": "http://a" }));
    all.extend(fields(more));
    Proxy::from_fields(all)
}

fn urls(upstreams: &[UpstreamUrl]) -> Vec<(String, u16)> {
    upstreams.iter().map(|one| (one.url.to_string(), one.weight)).collect()
}

#[test]
fn an_upstream_is_a_url_or_a_url_with_a_weight() {
    let list = json!(["http://b", { "url": "http://c", "weight": 3 }, { "url": "http://d", "weight": 0 }]);
    let read = proxy(json!({ "upstreams": list })).expect("valid");
    let all = |list: &[(&str, u16)]| -> Vec<_> {
        list.iter().map(|(url, weight)| ((*url).to_owned(), *weight)).collect()
    };
    let balanced = read.balanced();
    assert_eq!(
        urls(&balanced.upstreams()),
        all(&[("http://a", 1), ("http://b", 1), ("http://c", 3), ("http://d", 0)])
    );
    assert_eq!(read.stored()["upstreams"], list, "what has no weight is a text, as it ever was");
    assert_eq!(balanced.policy(), Policy::RoundRobin, "weights mean that");
    let plain = proxy(json!({ "upstreams": ["http://b"] })).expect("valid");
    assert_eq!(plain.balanced().policy(), Policy::Failover);
    let usual = forward::Balancing { observed: true, ..forward::Balancing::default() };
    assert_eq!(plain.balanced().balancing(), usual);
    // Whoever lists the first one says its weight and its place.
    let list = json!(["http://b", { "url": "http://a", "weight": 2 }]);
    let read = proxy(json!({ "upstreams": list })).expect("valid");
    assert_eq!(urls(&read.balanced().upstreams()), all(&[("http://b", 1), ("http://a", 2)]));
}

#[test]
fn complaints_name_the_field() {
    for (more, field) in [
        (json!({ "upstreams": ["ftp://b"] }), "upstreams[0]"),
        (json!({ "upstreams": ["https://b"] }), "upstreams[0]"),
        (json!({ "upstreams": ["http://b/base"] }), "upstreams[0]"),
        (json!({ "upstreams": ["http://b", "http://b:80"] }), "upstreams[1]"),
        (json!({ "upstreams": [{ "url": "http://b", "weight": 1001 }] }), "upstreams[0].weight"),
        (json!({ "upstreams": [{ "url": "http://b", "weight": -1 }] }), "upstreams[0].weight"),
        (json!({ "upstreams": [{ "url": "http://b", "wait": 1 }] }), "upstreams[0].wait"),
        (json!({ "upstreams": [{ "url": "http://a", "weight": 0 }] }), "upstreams"),
        (json!({ "load_balancing": { "policy": "random" } }), "load_balancing.policy"),
        (json!({ "load_balancing": { "hash_on": "client" } }), "load_balancing.hash_on"),
        (
            json!({ "load_balancing": { "policy": "hash", "hash_on": "header:a b" } }),
            "load_balancing.hash_on",
        ),
        (json!({ "load_balancing": { "slow_start_seconds": 3601 } }), "load_balancing.slow_start_seconds"),
        (json!({ "load_balancing": { "slow": 1 } }), "load_balancing.slow"),
        (json!({ "health_check": { "path": "healthz" } }), "health_check.path"),
        (json!({ "health_check": { "path": "/a b" } }), "health_check.path"),
        (json!({ "health_check": { "host": "http://a" } }), "health_check.host"),
        (json!({ "health_check": { "host": "a:x" } }), "health_check.host"),
        (json!({ "health_check": { "method": "POST" } }), "health_check.method"),
        (json!({ "health_check": { "statuses": [] } }), "health_check.statuses"),
        (json!({ "health_check": { "statuses": ["299-200"] } }), "health_check.statuses[0]"),
        (json!({ "health_check": { "statuses": [200, 99] } }), "health_check.statuses[1]"),
        (json!({ "health_check": { "interval_seconds": 0 } }), "health_check.interval_seconds"),
        (json!({ "health_check": { "timeout_seconds": 301 } }), "health_check.timeout_seconds"),
        (json!({ "health_check": { "healthy_threshold": 0 } }), "health_check.healthy_threshold"),
        (json!({ "health_check": { "unhealthy_threshold": 0 } }), "health_check.unhealthy_threshold"),
        (json!({ "health_check": { "every": 1 } }), "health_check.every"),
        (json!({ "passive_health": { "consecutive_failures": 0 } }), "passive_health.consecutive_failures"),
        (json!({ "passive_health": { "statuses": [404] } }), "passive_health.statuses[0]"),
        (
            json!({ "passive_health": { "ejection_seconds": 60, "max_ejection_seconds": 30 } }),
            "passive_health.max_ejection_seconds",
        ),
        (json!({ "passive_health": { "max_ejected_percent": 101 } }), "passive_health.max_ejected_percent"),
        (json!({ "retries": { "attempts": 11 } }), "retries.attempts"),
        (json!({ "retries": { "statuses": [200] } }), "retries.statuses[0]"),
        (json!({ "retries": { "budget_percent": 101 } }), "retries.budget_percent"),
        (json!({ "retries": { "budget": 1 } }), "retries.budget"),
        (json!({ "target_url": "builtin:echo", "health_check": {} }), "health_check"),
        (json!({ "target_url": "builtin:echo", "upstreams": ["http://b"] }), "upstreams"),
        (json!({ "target_url": "builtin:echo", "retries": { "attempts": 2 } }), "retries"),
    ] {
        let problems = proxy(more.clone()).expect_err(&more.to_string());
        assert_eq!(problems[0].field, field, "{more}: {problems:?}");
        assert!(!problems[0].detail.is_empty());
    }
}

#[test]
fn what_is_said_is_what_the_layers_get() {
    let said = json!({
        "upstreams": ["http://b"],
        "load_balancing": { "policy": "hash", "hash_on": "cookie:sid", "slow_start_seconds": 30 },
        "health_check": {
            "path": "/healthz?x=1", "method": "HEAD", "host": "app.example:8080", "statuses": ["200-204", 301],
            "interval_seconds": 7, "timeout_seconds": 2, "healthy_threshold": 4, "unhealthy_threshold": 5,
            "initially_healthy": false, "fail_when_all_unhealthy": true,
        },
        "outlier": { "consecutive_failures": 2, "statuses": [503], "ejection_seconds": 11,
                     "max_ejection_seconds": 12, "max_ejected_percent": 13 },
        "retries": { "attempts": 2, "statuses": [502], "budget_percent": 14, "budget_per_second": 15 },
    });
    let read = proxy(said.clone()).expect("valid");
    let seconds = std::time::Duration::from_secs;
    let expected = forward::Balancing {
        policy: forward::Policy::Hash(forward::HashOn::Cookie("sid".into())),
        slow_start: seconds(30),
        check: Some(forward::HealthCheck {
            path: Some("/healthz?x=1".into()),
            method: http::Method::HEAD,
            host: Some("app.example:8080".into()),
            statuses: vec![(200, 204), (301, 301)],
            interval: seconds(7),
            timeout: seconds(2),
            healthy_threshold: 4,
            unhealthy_threshold: 5,
            initially_healthy: false,
        }),
        fail_when_all_unhealthy: true,
        passive: Some(forward::PassiveHealth {
            consecutive_failures: 2,
            statuses: vec![503],
            ejection: seconds(11),
            max_ejection: seconds(12),
            max_percent: 13,
        }),
        retries: forward::Retries { attempts: Some(2), statuses: vec![502], percent: 14, per_second: 15 },
        observed: true,
    };
    assert_eq!(read.balanced().balancing(), expected);
    let stored = fields(read.stored());
    assert_eq!(
        Proxy::from_fields(stored.clone()).expect("what is stored is read").balanced().balancing(),
        expected
    );
    assert_eq!(
        (&stored["health_check"], &stored["load_balancing"]),
        (&said["health_check"], &said["load_balancing"])
    );

    let mut service = said;
    let (more, name) = (service["upstreams"].take(), json!("web"));
    let service = json!({
        "name": name, "target_url": "http://a", "target_urls": more,
        "load_balancing": service["load_balancing"], "health_check": service["health_check"],
        "passive_health": service["outlier"], "retries": service["retries"],
    });
    let service = External::from_fields(fields(service)).expect("valid");
    assert_eq!(service.balanced().balancing(), expected);
    assert_eq!(
        urls(&service.balanced().upstreams()),
        [("http://a".to_owned(), 1), ("http://b".to_owned(), 1)]
    );
}

#[test]
fn a_service_is_a_url_or_a_list_of_urls() {
    let read = |value: Value| External::from_fields(fields(value));
    let list = json!(["http://b", { "url": "http://c", "weight": 2 }]);
    let service = read(json!({ "service_name": "web", "target_urls": list })).expect("a list is enough");
    assert_eq!(service.target_url.to_string(), "http://b");
    assert_eq!(
        urls(&service.balanced().upstreams()),
        [("http://b".to_owned(), 1), ("http://c".to_owned(), 2)]
    );
    for (value, field) in [
        (json!({ "service_name": "web" }), "target_url"),
        (json!({ "service_name": "web", "target_urls": [] }), "target_url"),
        (json!({ "service_name": "web", "target_urls": ["http://a", "https://a"] }), "target_urls[1]"),
        (
            json!({ "service_name": "web", "target_url": "http://a", "health_check": { "x": 1 } }),
            "health_check.x",
        ),
        (
            json!({ "service_name": "web", "target_url": "https://a", "upstream_tls": { "ca_pem": "x" } }),
            "upstream_tls.ca_pem",
        ),
    ] {
        assert_eq!(read(value.clone()).expect_err("refused")[0].field, field, "{value}");
    }
}
