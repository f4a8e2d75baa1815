//! Several nodes: one order at a time, any of them answers, and each goes on with what another one began.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::pebble::{Pebble, Settings};
use crate::support::redis::RedisServer;
use crate::world::{Place, files, leaf};

fn node(place: &Place, pebble: &Pebble, redis: &RedisServer, change: impl FnOnce(&mut Command)) -> Daemon {
    place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
        command.env("REDIS_URL", redis.url()).env("OAUTH_ISSUER", "https://auth.example.com");
        command.env("PORTCULLIS_SECRET_KEY", "k1-0123456789abcdefghijklmnopqrstuvwxyz");
        change(command);
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_one_asks_and_either_answers() {
    let redis = RedisServer::start();
    let (one, two) = (Place::new(), Place::new());
    // The authority finds the second node only: most challenges are put up by the first.
    let pebble = Pebble::start(two.settings()).await;
    let first = node(&one, &pebble, &redis, |_| ());
    let second = node(&two, &pebble, &redis, |_| ());
    for n in 0..4 {
        first.proxy(&format!("h{n}.example.com"), "builtin:echo", &json!({}));
    }
    let root = pebble.root(0).await;
    for n in 0..4 {
        let host = format!("h{n}.example.com");
        for address in [first.https, second.https] {
            eventually(&host, || async { leaf(address, &host, &root).await.ok() }).await;
        }
    }
    // The issuer's own hosts were asked for before the second node listened, maybe: these orders fail.
    let certificates = first.run(&["cert", "list"]).as_array().unwrap().len();
    eventually("all are asked for", || async { (pebble.orders() >= certificates).then_some(()) }).await;
    assert_eq!((pebble.orders(), pebble.accounts()), (certificates, 1), "nobody asked twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_answers_over_tls_although_it_is_tried_out_there() {
    let redis = RedisServer::start();
    let (one, two) = (Place::new(), Place::new());
    // The authority finds the second node, and the first one has the lease.
    let pebble = Pebble::start(Settings { validation_delay: Some(2), ..two.settings() }).await;
    let manual = |command: &mut Command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
        command.env("PORTCULLIS_ACME_DNS_RESOLVERS", pebble.names().address().to_string());
    };
    let first = node(&one, &pebble, &redis, manual);
    let second = node(&two, &pebble, &redis, manual);
    first.run(&["cert", "create", "app", "app.example.com", "--challenge", "tls-alpn-01"]);
    let (http, https) = (two.http.to_string(), two.https.to_string());
    // Somebody looks at the name again and again, where the authority asks.
    let done = eventually("it is issued", || async {
        let look = ["acme", "doctor", "app.example.com", "--http-port", &http, "--https-port", &https];
        second.cli(&look);
        let status = second.run(&["cert", "status", "app"]);
        (status["in_progress"] == false).then_some(status)
    })
    .await;
    assert_eq!((&done["status"], &done["failures"]), (&json!("active"), &json!(0)), "{done}");
    assert!(done["steps"].to_string().contains("answering tls-alpn-01"), "{done}");
    assert_eq!((pebble.orders(), pebble.issued()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_in_the_middle_is_followed_by_the_other_one() {
    let redis = RedisServer::start();
    let (one, two) = (Place::new(), Place::new());
    let pebble = Pebble::start(Settings { validation_delay: Some(4), ..two.settings() }).await;
    let manual = |command: &mut Command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
    };
    let first = node(&one, &pebble, &redis, manual);
    // The one that was first has the lease, the other one the port that the authority asks.
    let second = node(&two, &pebble, &redis, manual);
    first.run(&["cert", "create", "app", "app.example.com"]);
    eventually("an order is under way", || async {
        let steps = first.run(&["cert", "status", "app"])["steps"].to_string();
        steps.contains("answering http-01").then_some(())
    })
    .await;
    first.signal("KILL");
    let done = eventually("the other one goes on", || async {
        let status = second.run(&["cert", "status", "app"]);
        (status["status"] == "active").then_some(status)
    })
    .await;
    assert!(done["steps"].to_string().contains("goes on with the order"), "{done}");
    assert_eq!((pebble.orders(), pebble.issued()), (1, 1), "it is the same order");
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_the_next_start_goes_on() {
    let place = Place::new();
    let pebble = Pebble::start(Settings { validation_delay: Some(1), ..place.settings() }).await;
    let start = || {
        place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
            command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
        })
    };
    let mut daemon = start();
    let names: Vec<_> = (0..12).map(|n| format!("n{n}")).collect();
    for name in &names {
        daemon.run(&["cert", "create", name, &format!("{name}.example.com")]);
    }
    let held = |daemon: &Daemon| -> usize {
        let list = daemon.run(&["cert", "list"]);
        list.as_array().unwrap().iter().filter(|one| one["status"] == "active").count()
    };
    // At whatever step it is when so many are there.
    for reached in [0, 1, 3, 6, 9] {
        eventually("some progress", || async { (held(&daemon) >= reached).then_some(()) }).await;
        daemon.signal("KILL");
        daemon.ended();
        daemon = start();
    }
    eventually("all of them", || async { (held(&daemon) == names.len()).then_some(()) }).await;
    assert_eq!(pebble.accounts(), 1);
    for name in &names {
        let status: Value = daemon.run(&["cert", "status", name]);
        assert_eq!(status["failures"], 0, "{status}");
    }
    // Keys are nowhere but sealed.
    drop(daemon);
    for file in files(place.dir.path()) {
        let content = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&content);
        // Of certificates, and of the account.
        for clear in ["PRIVATE KEY", "key_pkcs8"] {
            assert!(!text.contains(clear), "{} has a key in clear", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_hosts_are_issued_by_as_many_workers_as_there_may_be() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
        command.env("CERT_GEN_MAX_WORKERS", "4").env("ACME_POLL_INTERVAL_SECONDS", "0.05");
    });
    for n in 0..200 {
        daemon.proxy(&format!("h{n}.example.com"), "builtin:echo", &json!({ "https_redirect": "off" }));
    }
    let list = || -> Vec<Value> { daemon.run(&["cert", "list"]).as_array().unwrap().clone() };
    let held = || list().iter().filter(|one| one["status"] == "active").count();
    for some in (10..=200).step_by(10).chain([202]) {
        eventually(&format!("{some} are issued"), || async { (held() >= some).then_some(()) }).await;
    }
    let all = list();
    let mut moments = Vec::new();
    for one in &all {
        let status = daemon.run(&["cert", "status", one["cert_name"].as_str().unwrap()]);
        moments.push((status["started_at"].as_str().unwrap().to_owned(), 1));
        moments.push((status["completed_at"].as_str().unwrap().to_owned(), -1));
    }
    moments.sort();
    let mut running = 0;
    let most = moments.iter().map(|(_, change)| {
        running += change;
        running
    });
    let most = most.max().unwrap();
    assert!((2..=4).contains(&most), "{most} at a time");
    assert_eq!(pebble.issued(), all.len());
}
