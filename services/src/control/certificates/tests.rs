use std::sync::Arc;

use serde_json::{Value, json};

use super::delete::DeleteCertificate;
use super::doctor::AcmeDoctor;
use super::issue::{
    CreateCertificate, CreateMultiCertificate, CreateWildcardCertificate, GenerateCertificate,
};
use super::names::{AddCertificateName, RemoveCertificateName};
use super::renew::{ConvertCertificate, RenewCertificate};
use super::status::Status;
use super::upload::UploadCertificate;
use crate::acme::Policy;
use crate::config::certificate::{CertStatus, Source};
use crate::config::{CertName, Certificate, HostPattern};
use crate::control::proxies::{CreateProxy, DeleteProxy};
use crate::control::testing::{caller, control};
use crate::control::{Context, Control, Error, Operation};

fn admin() -> Context {
    Context { caller: caller("ops", &["admin"]), ..Context::default() }
}

async fn call<O: Operation>(control: &Control, input: Value) -> Result<O::Output, Error> {
    let input: O = serde_json::from_value(input).expect("an input");
    control.call(input, &admin()).await
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    outcome.expect_err("refused").to_string()
}

async fn certificate(control: &Control, name: &str) -> crate::config::Certificate {
    control.get(name).await.expect("stored")
}

#[tokio::test]
async fn a_wish_is_kept_until_somebody_makes_it_true() {
    let (control, _) = control();
    let made: Status = call::<CreateCertificate>(
        &control,
        json!({ "domain": "App.example.com", "email": "ops@example.com", "staging": true, "key_type": "rsa" }),
    )
    .await
    .expect("created");
    assert_eq!((made.cert_name.as_str(), made.status), ("proxy-app-example-com", CertStatus::Pending));
    assert!(made.in_progress && made.message.contains("being issued"), "{made:?}");
    let kept = certificate(&control, "proxy-app-example-com").await;
    assert_eq!((kept.source, kept.automatic), (Source::Acme, false));
    let directory = kept.acme_directory_url.expect("kept").to_string();
    assert!(directory.contains("staging"), "{directory}");
    let again = json!({ "cert_name": "other", "domain": "app.example.com" });
    assert!(
        refused(call::<CreateCertificate>(&control, again).await).contains("covers app.example.com already")
    );
    let taken = json!({ "cert_name": "proxy-app-example-com", "domain": "b.example.com" });
    assert!(matches!(call::<CreateCertificate>(&control, taken).await, Err(Error::Conflict(_))));
}

#[tokio::test]
async fn what_no_authority_issues_is_refused_by_name() {
    let (control, _) = control();
    for (input, field, word) in [
        (json!({ "domain": "app.localhost" }), "domain", "no public name"),
        (json!({ "domain": "*.example.com" }), "domain", "DNS provider"),
        (json!({ "domain": "a.example.com", "email": "nobody" }), "email", "mail address"),
        (
            json!({ "domain": "a.example.com", "acme_directory_url": "http://ca.example.com/directory" }),
            "acme_directory_url",
            "https",
        ),
        (
            json!({ "domain": "a.example.com", "acme_directory_url": "https://ca.example.com", "staging": true }),
            "acme_directory_url",
            "not both",
        ),
        (json!({ "cert_name": "upload", "domain": "a.example.com" }), "cert_name", ""),
    ] {
        let text = refused(call::<CreateCertificate>(&control, input.clone()).await);
        assert!(text.contains(field) && text.contains(word), "{input}: {text}");
    }
    let twice =
        json!({ "cert_name": "many", "domains": ["a.example.com", "b.example.com", "A.example.com"] });
    let text = refused(call::<CreateMultiCertificate>(&control, twice).await);
    assert!(text.contains("domains[2]") && text.contains("twice"), "{text}");
    let many: Vec<_> = (0..101).map(|n| format!("h{n}.example.com")).collect();
    let text = refused(
        call::<CreateMultiCertificate>(&control, json!({ "cert_name": "many", "domains": many })).await,
    );
    assert!(text.contains("101 names"), "{text}");
    let wild = json!({ "cert_name": "wild", "base_domain": "example.com" });
    let text = refused(call::<CreateWildcardCertificate>(&control, wild).await);
    assert!(text.contains("base_domain") && text.contains("DNS provider"), "{text}");
}

#[test]
fn what_nobody_knows_is_refused() {
    for input in [
        json!({ "domain": "a.example.com", "colour": "red" }),
        json!({ "domain": "a.example.com", "stagin": true }),
    ] {
        assert!(serde_json::from_value::<CreateCertificate>(input.clone()).is_err(), "{input}");
    }
    let whole =
        json!({ "domain": "a.example.com", "staging": true, "challenge": "tls-alpn-01", "wait": false });
    let read: CreateCertificate = serde_json::from_value(whole).expect("an input");
    assert!(read.wish.staging && read.wish.challenge.is_some());
}

#[tokio::test]
async fn a_proxy_gets_one_of_its_own() {
    let (control, _) = control();
    let unknown = json!({ "proxy_hostname": "app.example.com" });
    assert!(matches!(
        call::<GenerateCertificate>(&control, unknown.clone()).await,
        Err(Error::NotFound { .. })
    ));
    let proxy = json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.1" });
    call::<CreateProxy>(&control, proxy).await.expect("created");
    let made = call::<GenerateCertificate>(&control, unknown.clone()).await.expect("wished");
    assert!(made.proxies.is_empty() && made.in_progress, "it serves when it is there: {made:?}");
    let proxy: crate::config::Proxy = control.get("app.example.com").await.expect("stored");
    assert_eq!(proxy.cert_name.as_ref(), Some(&made.cert_name));
    let again = call::<GenerateCertificate>(&control, unknown).await.expect("wished");
    assert_eq!(again.cert_name, made.cert_name, "it is asked for again, not made twice");
    let asked = async || certificate(&control, made.cert_name.as_str()).await.renew_requested_at;
    assert_eq!(asked().await, None, "what is held already is what is asked for");
    let other = json!({ "proxy_hostname": "app.example.com", "key_type": "rsa" });
    call::<GenerateCertificate>(&control, other).await.expect("wished");
    assert!(asked().await.is_some(), "another one is");
}

#[tokio::test]
async fn what_serves_by_covering_is_in_use_too() {
    let (control, _) = control();
    let proxy = json!({ "proxy_hostname": "a.example.com", "target_url": "http://10.0.0.1" });
    call::<CreateProxy>(&control, proxy).await.expect("created");
    let ends = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 86_400).expect("in range");
    for name in ["one", "two"] {
        let domains = vec!["a.example.com".parse().expect("valid")];
        let held = crate::config::Certificate {
            fullchain_pem: Some("PEM".to_owned()),
            expires_at: Some(ends),
            ..crate::config::Certificate::wanted(name.parse().expect("valid"), domains)
        };
        control.create(&Context::default(), held, Vec::new()).await.expect("created");
    }
    let delete = |name: &str, force| json!({ "cert_name": name, "force": force });
    call::<DeleteCertificate>(&control, delete("one", false)).await.expect("the other one takes over");
    let text = refused(call::<DeleteCertificate>(&control, delete("two", false)).await);
    assert!(text.contains("in use by a.example.com"), "{text}");
    let more = json!({ "cert_name": "two", "domain": "b.example.com" });
    call::<AddCertificateName>(&control, more).await.expect("added");
    let less = json!({ "cert_name": "two", "domain": "a.example.com" });
    let text = refused(call::<RemoveCertificateName>(&control, less).await);
    assert!(text.contains("a.example.com needs this certificate"), "{text}");
    call::<DeleteCertificate>(&control, delete("two", true)).await.expect("forced");
}

#[tokio::test]
async fn names_come_and_go() {
    let (control, _) = control();
    let many = json!({ "cert_name": "many", "domains": ["a.example.com", "b.example.com"] });
    call::<CreateMultiCertificate>(&control, many).await.expect("created");
    let add = json!({ "cert_name": "many", "domain": "c.example.com" });
    call::<AddCertificateName>(&control, add).await.expect("added");
    let remove = json!({ "cert_name": "many", "domain": "a.example.com" });
    let left = call::<RemoveCertificateName>(&control, remove.clone()).await.expect("removed");
    assert_eq!(
        left.domains.iter().map(HostPattern::as_str).collect::<Vec<_>>(),
        ["b.example.com", "c.example.com"]
    );
    assert!(refused(call::<RemoveCertificateName>(&control, remove).await).contains("no name of"));
    let proxy =
        json!({ "proxy_hostname": "b.example.com", "target_url": "http://10.0.0.1", "cert_name": "many" });
    call::<CreateProxy>(&control, proxy).await.expect("created");
    let used = json!({ "cert_name": "many", "domain": "b.example.com" });
    assert!(refused(call::<RemoveCertificateName>(&control, used).await).contains("b.example.com"));
}

#[tokio::test]
async fn who_takes_over_what_was_made_on_demand_looks_after_it() {
    let (control, _) = control();
    let domain: HostPattern = "a.example.com".parse().expect("valid");
    for name in ["uploaded", "longer"] {
        let made = Certificate {
            automatic: true,
            on_demand: true,
            ..Certificate::wanted(name.parse().expect("valid"), vec![domain.clone()])
        };
        control.create(&admin(), made, Vec::new()).await.expect("created");
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let chain = rcgen::CertificateParams::new(vec![domain.to_string()]).expect("valid");
    let chain = chain.self_signed(&key).expect("signs").pem();
    let upload = json!({
        "cert_name": "uploaded", "fullchain_pem": chain, "private_key_pem": key.serialize_pem(), "replace": true,
    });
    call::<UploadCertificate>(&control, upload).await.expect("replaced");
    let add = json!({ "cert_name": "longer", "domain": "b.example.com" });
    call::<AddCertificateName>(&control, add).await.expect("added");
    for name in ["uploaded", "longer"] {
        let kept = certificate(&control, name).await;
        assert!(!kept.on_demand && !kept.automatic, "{kept:?}");
    }
}

#[tokio::test]
async fn successors_are_asked_for_when_they_are_due_or_somebody_insists() {
    let (control, _) = control();
    call::<CreateCertificate>(&control, json!({ "cert_name": "a", "domain": "a.example.com" }))
        .await
        .expect("created");
    let held = certificate(&control, "a").await;
    let now = jiff::Timestamp::now();
    let day = |days: i64| jiff::Timestamp::from_second(now.as_second() + days * 86_400).expect("in range");
    let active = crate::config::Certificate {
        status: CertStatus::Active,
        fullchain_pem: Some("PEM".to_owned()),
        issued_at: Some(day(-1)),
        expires_at: Some(day(89)),
        obtained_at: Some(day(-1)),
        fingerprint: Some("sha256:1".to_owned()),
        issued_from: Some(control.acme.authorities[0].directory.to_string()),
        ..held
    };
    control.store.commit(vec![crate::control::managed::replace(&active)]).await.expect("stored");
    let status = call::<RenewCertificate>(&control, json!({ "cert_name": "a" })).await.expect("answered");
    assert!(!status.in_progress && status.message.contains("unless forced"), "{status:?}");
    assert!(status.next_renewal.is_some_and(|at| at > day(50)));
    let status = call::<ConvertCertificate>(&control, json!({ "cert_name": "a" })).await.expect("answered");
    assert!(!status.in_progress && status.message.contains("staging"), "{status:?}");
    let forced = json!({ "cert_name": "a", "force": true });
    let status = call::<RenewCertificate>(&control, forced).await.expect("asked");
    assert!(status.in_progress && status.message.contains("serves until"), "{status:?}");
}

#[tokio::test]
async fn users_have_the_gateway_knock_at_its_own_names_only() {
    let (control, _) = control();
    call::<CreateCertificate>(&control, json!({ "cert_name": "app", "domain": "app.localhost.example.com" }))
        .await
        .expect("created");
    let user = Context { caller: caller("joe", &["user"]), ..Context::default() };
    for input in [
        json!({ "domain": "other.example.com" }),
        json!({ "domain": "app.localhost.example.com", "http_port": 8080 }),
        json!({ "domain": "app.localhost.example.com", "https_port": 22 }),
    ] {
        let asked: AcmeDoctor = serde_json::from_value(input.clone()).expect("an input");
        let refused = control.call(asked, &user).await;
        assert!(matches!(refused, Err(Error::Forbidden { .. })), "{input}: {refused:?}");
    }
    // Without a resolver there is no address to call.
    let asked = json!({ "domain": "app.localhost.example.com" });
    let asked: AcmeDoctor = serde_json::from_value(asked).expect("an input");
    let report = control.call(asked, &user).await.expect("allowed");
    let failed: Vec<_> = report.checks.iter().filter(|check| check.found.contains("no resolver")).collect();
    assert_eq!(failed.len(), 3, "A, AAAA and CAA: {report:?}");
}

/// A new host, and what is said of its HTTPS.
async fn new_host(control: &Control, host: &str, more: Value) -> Result<(String, Option<String>), Error> {
    let mut input = json!({ "proxy_hostname": host, "target_url": "http://10.0.0.5" });
    input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let made = call::<CreateProxy>(control, input).await?;
    Ok((made.certificate_status.to_owned(), made.cert_name.map(|name| name.to_string())))
}

#[tokio::test]
async fn a_new_host_is_covered_or_gets_a_certificate_with_its_own_commit() {
    let (mut control, _) = control();
    let started = |name: &str| Some(("Certificate generation started".to_owned(), Some(name.to_owned())));
    let none = ("self_signed".to_owned(), None);
    let host = new_host(&control, "none.example.com", json!({})).await.expect("created");
    assert_eq!(host, none, "not where nothing is issued by itself");
    let policy = Policy { automatic: true, ..Policy::clone(&control.acme) };
    Arc::get_mut(&mut control).expect("ours").acme = Arc::new(policy);
    let host = new_host(&control, "a.example.com", json!({})).await.expect("created");
    assert_eq!(Some(host), started("proxy-a-example-com"));
    let kept = certificate(&control, "proxy-a-example-com").await;
    assert!(kept.automatic && kept.acme_directory_url.is_none() && kept.created_at.is_some());
    assert_eq!(kept.created_by.as_deref(), Some("ops"));

    let mail = json!({ "email": "ops@example.com", "staging": true });
    let host = new_host(&control, "b.example.com", mail).await.expect("created");
    assert_eq!(Some(host), started("proxy-b-example-com"));
    let kept = certificate(&control, "proxy-b-example-com").await;
    let directory = kept.acme_directory_url.expect("kept").to_string();
    assert!(directory.contains("staging") && kept.automatic, "{directory}");
    assert_eq!(kept.email.as_deref(), Some("ops@example.com"));
    let own = json!({ "cert_email": "me@example.com", "acme_directory_url": "https://ca.example.com/dir" });
    new_host(&control, "c.example.com", own).await.expect("created");
    let kept = certificate(&control, "proxy-c-example-com").await;
    assert_eq!(kept.acme_directory_url.expect("kept").to_string(), "https://ca.example.com/dir");

    let many = json!({ "cert_name": "many", "domains": ["d.example.com", "e.example.com"] });
    call::<CreateMultiCertificate>(&control, many).await.expect("created");
    for host in ["d.example.com", "e.example.com"] {
        let host = new_host(&control, host, json!({ "staging": true })).await.expect("created");
        assert_eq!(Some(host), started("many"), "what covers it already is not issued twice");
    }
    let off = new_host(&control, "f.example.com", json!({ "enable_https": false, "staging": true })).await;
    assert_eq!(off.expect("created"), ("not_required".to_owned(), None));
    for (host, more) in [
        // Nobody is asked for these.
        ("app.localhost", json!({})),
        ("*.example.com", json!({})),
        ("g.example.com", json!({ "enabled": false })),
    ] {
        let host = new_host(&control, host, more).await.expect("created");
        assert_eq!(host, none);
    }
}

#[tokio::test]
async fn what_a_new_host_can_not_have_is_refused_and_nothing_is_made() {
    let (control, _) = control();
    for (host, more, word) in [
        ("app.localhost", json!({ "staging": true }), "no public name"),
        ("*.example.com", json!({ "cert_email": "ops@example.com" }), "DNS provider"),
        ("a.example.com", json!({ "email": "nobody" }), "mail address"),
        ("a.example.com", json!({ "staging": true, "enabled": false }), "hosts that answer"),
        ("a.example.com", json!({ "acme_directory_url": "http://ca.example.com/dir" }), "https"),
        ("a.example.com", json!({ "stagign": true }), "stagign"),
    ] {
        let text = refused(new_host(&control, host, more).await);
        assert!(text.contains(word), "{host}: {text}");
    }
    let config = control.config().await.expect("a configuration");
    assert!(config.proxies.is_empty() && config.certificates.is_empty());
}

#[tokio::test]
async fn a_certificate_goes_with_the_only_host_that_it_serves() {
    let (control, _) = control();
    new_host(&control, "a.example.com", json!({ "staging": true })).await.expect("created");
    let many = json!({ "cert_name": "many", "domains": ["b.example.com", "c.example.com"] });
    call::<CreateMultiCertificate>(&control, many).await.expect("created");
    new_host(&control, "b.example.com", json!({ "cert_name": "many" })).await.expect("created");
    new_host(&control, "c.example.com", json!({})).await.expect("created");
    let delete = async |host: &str| {
        let input = json!({ "proxy_hostname": host, "delete_certificate": true });
        call::<DeleteProxy>(&control, input).await.expect("deleted").also
    };
    assert_eq!(delete("a.example.com").await, ["certificate proxy-a-example-com deleted"]);
    assert!(delete("b.example.com").await.is_empty(), "it serves another one");
    assert!(delete("c.example.com").await.is_empty(), "it is for more than this one");
    let config = control.config().await.expect("a configuration");
    let left: Vec<_> = config.certificates.keys().map(CertName::as_str).collect();
    assert_eq!(left, ["many"]);
}
