//! `acme doctor`: what it says of a good name, and of names that are wrong in one way each.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::acme_front::AcmeFront;
use crate::support::dns::{Dns, Zone};
use crate::support::pebble::Pebble;
use crate::world::{Place, World, ask};

/// A node that asks the DNS of its Pebble.
async fn start() -> World {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_DNS_RESOLVERS", pebble.names().address().to_string());
    });
    World { daemon, pebble, place }
}

impl World {
    fn examine(&self, name: &str) -> Value {
        let (http, https) = (self.place.http.to_string(), self.place.https.to_string());
        ask(&self.daemon, &["acme", "doctor", name, "--http-port", &http, "--https-port", &https])
    }
}

/// How a check went; the first of its name.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

fn result<'a>(report: &'a Value, name: &str) -> &'a str {
    check(report, name)["result"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_here_is_well_before_and_after_it_has_a_certificate() {
    let world = start().await;
    let before = world.examine("app.example.com");
    assert_eq!(before["result"], "ok", "{before:#}");
    assert_eq!(result(&before, "certificate"), "skip");
    world.host("app.example.com");
    world.trusted("app.example.com").await;
    world.until("proxy-app-example-com", "issued", |status| status["in_progress"] == false).await;
    let after = world.examine("app.example.com");
    assert_eq!(after["result"], "ok", "{after:#}");
    for name in [
        "name",
        "dns a",
        "dns aaaa",
        "port 80",
        "port 443",
        "authority",
        "caa",
        "certificate",
        "last attempt",
        "budget",
    ] {
        assert_eq!(result(&after, name), "ok", "{name} in {after:#}");
    }
    assert_eq!(check(&after, "port 80")["address"], "127.0.0.1");
    assert!(check(&after, "certificate")["found"].as_str().unwrap().contains("proxy-app-example-com"));
    assert!(check(&after, "next attempt")["found"].as_str().unwrap().contains("next one at 2"), "{after:#}");
    // People get it line by line.
    let (http, https) = (world.place.http.to_string(), world.place.https.to_string());
    let words = [
        "--format",
        "table",
        "acme",
        "doctor",
        "app.example.com",
        "--http-port",
        &http,
        "--https-port",
        &https,
    ];
    let shown = world.daemon.cli(&words);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.contains("ok    port 80 of 127.0.0.1: this gateway"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_else_answers_is_told() {
    let world = start().await;
    let name = "app.example.com";
    world.pebble.names().set(name, &["127.0.0.9".parse().unwrap()]).await;
    let nobody = world.examine(name);
    for port in ["port 80", "port 443"] {
        assert_eq!(result(&nobody, port), "fail", "{nobody:#}");
        assert!(
            check(&nobody, port)["found"].as_str().unwrap().contains("no connection to 127.0.0.9"),
            "{nobody:#}"
        );
    }
    let other = TcpListener::bind(SocketAddr::from(([127, 0, 0, 9], world.place.http))).await.unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nServer: other/1\r\nContent-Length: 2\r\n\r\nno")
            .await
            .unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let report = world.examine(name);
    let request = serving.await.unwrap();
    assert!(request.starts_with("GET /.well-known/acme-challenge/portcullis-doctor-"), "{request}");
    assert!(request.contains(&format!("\r\nHost: {name}:{}\r\n", world.place.http)), "{request}");
    let found = check(&report, "port 80")["found"].as_str().unwrap();
    assert!(
        found.contains("somebody else") && found.contains("404") && found.contains("other/1"),
        "{report:#}"
    );
    assert_eq!(
        (&report["result"], &check(&report, "port 80")["address"]),
        (&json!("fail"), &json!("127.0.0.9"))
    );
    let (http, https) = (world.place.http.to_string(), world.place.https.to_string());
    let ended = world.daemon.cli(&["acme", "doctor", name, "--http-port", &http, "--https-port", &https]);
    assert_eq!(ended.status.code(), Some(1), "scripts see it, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_resolve_and_what_failed_last_is_told() {
    let world = start().await;
    world.pebble.names().fail("lost.example.com").await;
    ask(&world.daemon, &["cert", "create", "lost", "lost.example.com", "--wait"]);
    let report = world.examine("lost.example.com");
    assert_eq!((result(&report, "dns a"), result(&report, "dns aaaa")), ("fail", "fail"), "{report:#}");
    let last = check(&report, "last attempt");
    assert!(
        last["found"].as_str().unwrap().contains("could not resolve") && last["advice"].is_string(),
        "{report:#}"
    );
    assert_eq!(result(&report, "next attempt"), "ok");
    world.pebble.names().set_default("").await;
    let report = world.examine("nowhere.example.com");
    assert_eq!(result(&report, "dns"), "fail", "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caa_records_that_forbid_the_authority_are_told() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    front.is_called(&["pebble.example"]);
    let records = "@ CAA 0 issue \"other.example\"\nours CAA 0 issue \"pebble.example\"\nours CAA 0 issuewild \";\"\nleads CNAME ours\n";
    let dns = Dns::start_with(&[Zone { name: "example.com", records }]);
    let daemon = place.serve(&front.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
        command.env("PORTCULLIS_ACME_DNS_RESOLVERS", dns.address().to_string());
    });
    let world = World { daemon, pebble, place };
    for (name, wanted) in [
        ("app.example.com", "fail"),
        ("ours.example.com", "ok"),
        ("below.ours.example.com", "ok"),
        ("leads.example.com", "ok"),
        ("*.ours.example.com", "fail"),
    ] {
        let report = world.examine(name);
        assert_eq!(result(&report, "caa"), wanted, "{report:#}");
        if wanted == "fail" {
            let advice = check(&report, "caa")["advice"].as_str().unwrap();
            assert!(advice.contains("\"pebble.example\""), "{report:#}");
        }
    }
    let wildcard = world.examine("*.example.com");
    assert_eq!(result(&wildcard, "dns-01"), "fail", "there is no DNS provider");
    // Records for one account are held against ours, once there is one.
    ask(&world.daemon, &["cert", "create", "x", "x.ours.example.com", "--wait"]);
    dns.set("example.com", "account", "CAA", "0 issue \"pebble.example; accounturi=https://a.example/1\"");
    let theirs = world.examine("account.example.com");
    assert_eq!(result(&theirs, "caa"), "fail", "{theirs:#}");
    let advice = check(&theirs, "caa")["advice"].as_str().unwrap();
    let account = advice.split_whitespace().last().unwrap();
    assert!(account.starts_with("https://"), "{theirs:#}");
    dns.unset("example.com", "account", "CAA");
    dns.set("example.com", "account", "CAA", &format!("0 issue \"pebble.example; accounturi={account}\""));
    let ours = world.examine("account.example.com");
    assert_eq!(result(&ours, "caa"), "ok", "{ours:#}");
    // What a certificate is validated by counts, and not what it could be.
    dns.set("example.com", "tls", "CAA", "0 issue \"pebble.example; validationmethods=tls-alpn-01\"");
    assert_eq!(result(&world.examine("tls.example.com"), "caa"), "warn");
    ask(&world.daemon, &["cert", "create", "tls", "tls.example.com", "--challenge", "http-01"]);
    let other = world.examine("tls.example.com");
    assert_eq!(result(&other, "caa"), "fail", "{other:#}");
    assert!(
        check(&other, "caa")["advice"].as_str().unwrap().contains("--challenge tls-alpn-01"),
        "{other:#}"
    );
}
