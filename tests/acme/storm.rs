//! A start with more hosts than an authority would like to hear of at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::acme_front::AcmeFront;
use crate::support::client::{get, plain};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::pebble::Pebble;
use crate::world::{Place, ask};

/// How many hosts are in the store.
const HOSTS: usize = 1000;

/// How many orders may begin.
const ORDERS: usize = 12;

/// How many may be under way.
const WORKERS: usize = 3;

/// How long an answer may take, of a program that was not optimized on a machine that others share.
const PROMPT: Duration = Duration::from_secs(5);

/// A host is served, and somebody who looks at the health gets an answer.
async fn is_well(daemon: &Daemon, host: &str) {
    for (host, path) in [(host, "/x"), ("localhost", "/health")] {
        let begun = Instant::now();
        let answer = plain(daemon.http, get(host, path)).await;
        assert!(answer.status == 200 && begun.elapsed() < PROMPT, "{host}{path}: {:?}", begun.elapsed());
    }
}

/// Waits until so many orders have begun, and looks meanwhile whether everybody else is served.
async fn until_begun(daemon: &Daemon, front: &AcmeFront, orders: usize) {
    let mut host = 0;
    while front.orders().len() < orders {
        let name = format!("h{host}.example.com");
        eventually("another order", || async {
            is_well(daemon, &name).await;
            (front.orders().len() > host).then_some(())
        })
        .await;
        host = front.orders().len();
    }
}

fn is_limited(status: &Value) -> bool {
    status["message"].as_str().unwrap().contains("limit of orders")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_thousand_hosts_keeps_to_the_limits_and_so_does_the_next() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    let start = |automatic: &str| {
        place.serve(&front.directory(), &pebble.authority_file(), |command| {
            command.env("PORTCULLIS_ACME_AUTOMATIC", automatic).env("ACME_POLL_INTERVAL_SECONDS", "0.05");
            command.env("PORTCULLIS_ACME_ORDERS", ORDERS.to_string());
            command.env("CERT_GEN_MAX_WORKERS", WORKERS.to_string());
        })
    };
    let daemon = start("false");
    let host = |n| {
        let name = format!("h{n}.example.com");
        json!({ "proxy_hostname": name, "target_url": "builtin:echo", "https_redirect": "off" })
    };
    let all: Vec<Value> = (0..HOSTS).map(host).collect();
    let file = place.dir.path().join("hosts.json");
    std::fs::write(&file, json!({ "proxies": all }).to_string()).unwrap();
    let made = daemon.run(&["system", "config", "import", &format!("@{}", file.display())]);
    assert_eq!(made["created"].as_array().map(Vec::len), Some(HOSTS));
    assert_eq!(front.requests("newOrder"), 0, "nothing is issued where nothing is wanted");
    drop(daemon);

    let daemon = start("true");
    until_begun(&daemon, &front, ORDERS / 2).await;
    // It ends without a word, in the middle of what it does.
    drop(daemon);
    assert!((1..=WORKERS).contains(&front.most_open()), "{} at a time", front.most_open());
    front.forget_open();

    let daemon = start("true");
    // Of what was counted just before the end the authority may have heard nothing.
    until_begun(&daemon, &front, ORDERS - WORKERS).await;
    eventually("the budget's end", || async {
        is_well(&daemon, "h999.example.com").await;
        let all = daemon.run(&["cert", "list"]);
        let waits = all.as_array().unwrap().iter().rfind(|one| one["status"] == "pending").unwrap();
        let status = daemon.run(&["cert", "status", waits["cert_name"].as_str().unwrap()]);
        is_limited(&status).then_some(())
    })
    .await;
    // One that comes first among all that are due.
    let last = ask(&daemon, &["cert", "create", "a-first", "a-first.example.com", "--wait"]);
    assert!(is_limited(&last) && last["next_attempt"].is_string(), "{last}");
    let forced = ask(&daemon, &["cert", "renew", "a-first", "--force", "--wait"]);
    assert!(is_limited(&forced), "{forced}");
    is_well(&daemon, "h0.example.com").await;

    let begun = front.orders();
    assert!((ORDERS - WORKERS..=ORDERS).contains(&begun.len()), "{} orders", begun.len());
    assert!((1..=WORKERS).contains(&front.most_open()), "{} at a time", front.most_open());
    let names: BTreeSet<_> = begun.iter().flat_map(|order| order.names.clone()).collect();
    assert!(names.len() + WORKERS >= begun.len(), "what was under way was gone on with: {names:?}");
    assert_eq!(pebble.accounts(), 1);
}
