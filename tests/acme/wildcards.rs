//! Wildcards, by a DNS server that takes updates, and what is left there.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::support::dns::{Dns, KEY};
use crate::support::eventually;
use crate::support::pebble::{Pebble, Settings};
use crate::world::{Place, ask, leaf};

/// The node may update this server.
fn updates(command: &mut Command, dns: &Dns) {
    command.env("PORTCULLIS_ACME_DNS_PROVIDER", "rfc2136");
    command.env("PORTCULLIS_ACME_DNS_RFC2136_SERVER", dns.address().to_string());
    command.env("PORTCULLIS_ACME_DNS_RESOLVERS", dns.address().to_string());
    command.env("PORTCULLIS_ACME_DNS_RFC2136_TSIG_NAME", KEY.name);
    command.env("PORTCULLIS_ACME_DNS_RFC2136_TSIG_ALGORITHM", KEY.algorithm);
    command.env("PORTCULLIS_ACME_DNS_RFC2136_TSIG_SECRET", KEY.secret);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_is_validated_by_dns_and_leaves_nothing_there() {
    let dns = Dns::start(&["example.com"]);
    let place = Place::new();
    let pebble = Pebble::start(Settings { resolver: Some(dns.address()), ..place.settings() }).await;
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |command| updates(command, &dns));
    let made = ask(&daemon, &["cert", "create-wildcard", "wild", "example.com", "--wait"]);
    assert_eq!(made["status"], "active", "{made}");
    assert_eq!(made["domains"], json!(["example.com", "*.example.com"]));
    assert!(made["steps"].to_string().contains("dns-01"), "{made}");
    assert_eq!(dns.texts("example.com", "_acme-challenge.example.com"), Vec::<String>::new());
    // A wildcard host finds it, and so does a name below.
    daemon.proxy("*.example.com", "builtin:echo", &json!({}));
    let root = pebble.root(0).await;
    eventually("a name below is served", || async {
        leaf(daemon.https, "any.example.com", &root).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_dns_provider_a_wildcard_is_refused_with_the_reason() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |_| ());
    let refused = daemon.cli(&["cert", "create-wildcard", "wild", "example.com"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("PORTCULLIS_ACME_DNS_PROVIDER"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_may_have_put_there_before_it_failed_is_taken_away() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let (hook, calls) = (place.dir.path().join("hook"), place.dir.path().join("calls"));
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {}\necho the token is s3cret\n[ \"$1\" = cleanup ]\n",
        calls.display()
    );
    std::fs::write(&hook, text).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o700)).unwrap();
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
        command.env("PORTCULLIS_ACME_DNS_PROVIDER", "exec").env("PORTCULLIS_ACME_DNS_EXEC", &hook);
        command.env("PORTCULLIS_ACME_DNS_RESOLVERS", pebble.names().address().to_string());
    });
    let words = ["cert", "create", "app", "app.example.com", "--challenge", "dns-01", "--wait"];
    let failed = ask(&daemon, &words);
    assert_eq!(failed["status"], "failed", "{failed}");
    let calls = std::fs::read_to_string(calls).unwrap();
    let lines: Vec<_> = calls.lines().collect();
    let [present, cleanup] = lines[..] else { panic!("{calls}") };
    let record = present.strip_prefix("present _acme-challenge.app.example.com ").unwrap();
    assert_eq!(cleanup, format!("cleanup _acme-challenge.app.example.com {record}"));
    // What it prints is for whoever reads the log.
    assert!(!failed.to_string().contains("s3cret"), "{failed}");
    assert!(failed["error"]["detail"].as_str().unwrap().contains("in the log"), "{failed}");
    assert!(daemon.logged().contains("s3cret"), "{}", daemon.logged());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_on_with_an_order_takes_its_record_away() {
    let dns = Dns::start(&["example.com"]);
    let place = Place::new();
    let settings = Settings { resolver: Some(dns.address()), validation_delay: Some(6), ..place.settings() };
    let pebble = Pebble::start(settings).await;
    let start = || {
        place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
            command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
            updates(command, &dns);
        })
    };
    let texts = || dns.texts("example.com", "_acme-challenge.app.example.com");
    let mut daemon = start();
    daemon.run(&["cert", "create", "app", "app.example.com", "--challenge", "dns-01"]);
    let logged = |text: &'static str| {
        let pebble = &pebble;
        eventually(text, || async { (pebble.logged(text) > 0).then_some(()) })
    };
    logged("validations.").await;
    daemon.signal("KILL");
    daemon.ended();
    assert_eq!(texts().len(), 1, "nobody took it away");
    // By now there is nothing to answer any more.
    logged("set VALID").await;
    daemon = start();
    let done = eventually("it goes on", || async {
        let status = daemon.run(&["cert", "status", "app"]);
        (status["status"] == "active").then_some(status)
    })
    .await;
    assert!(done["steps"].to_string().contains("goes on with the order"), "{done}");
    eventually("the record is gone", || async { texts().is_empty().then_some(()) }).await;
}
