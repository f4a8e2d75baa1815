//! Successors: when they are due, and that nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::support::acme_front::{AcmeFront, Window, certificate_id};
use crate::support::eventually;
use crate::support::pebble::{Pebble, Settings};
use crate::world::{Place, World, ask, connect, leaf};

const DAY: Duration = Duration::from_secs(86_400);

fn window(from: SystemTime, until: SystemTime) -> Window {
    Window { start: from, end: until, retry_after: Duration::from_secs(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_moves_the_window_gets_its_renewal() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    let now = SystemTime::now();
    front.suggest(window(now + 40 * DAY, now + 41 * DAY));
    let daemon = place.serve(&front.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false").env("RENEWAL_CHECK_INTERVAL", "1");
    });
    let made = ask(&daemon, &["cert", "create", "a", "a.example.com", "--wait"]);
    assert_eq!(made["status"], "active", "{made}");
    let status = eventually("the window is known", || async {
        let status = daemon.run(&["cert", "status", "a"]);
        status["renewal_window"].is_object().then_some(status)
    })
    .await;
    let (start, end) = (&status["renewal_window"]["start"], &status["renewal_window"]["end"]);
    let next = status["next_renewal"].as_str().unwrap();
    assert!(start.as_str().unwrap() <= next && next <= end.as_str().unwrap(), "{status}");
    // Something is wrong with it, and its authority wants it replaced at once.
    let chain = daemon.run(&["cert", "show", "a"])["fullchain_pem"].as_str().unwrap().to_owned();
    let id = certificate_id(&chain);
    front.suggest_for(&id, window(now - 2 * DAY, now - DAY));
    eventually("its successor", || async {
        (daemon.run(&["cert", "show", "a"])["fullchain_pem"] != json!(chain)).then_some(())
    })
    .await;
    let orders = front.orders();
    assert_eq!(orders.last().unwrap().replaces.as_deref(), Some(id.as_str()), "{orders:?}");
    assert_eq!(orders.len(), 2, "and no other one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_life_is_renewed_when_a_third_of_it_is_left() {
    let place = Place::new();
    let pebble = Pebble::start(Settings { lifetime: Duration::from_secs(30), ..place.settings() }).await;
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
    });
    daemon.proxy("short.example.com", "builtin:echo", &json!({}));
    let made = ask(&daemon, &["cert", "create", "short", "short.example.com", "--wait"]);
    let first = made["expires_at"].as_str().unwrap().to_owned();
    let root = pebble.root(0).await;
    eventually("its successor", || async {
        let status = daemon.run(&["cert", "status", "short"]);
        assert_ne!(status["status"], "expired", "it came too late");
        (status["expires_at"] != json!(first)).then_some(())
    })
    .await;
    leaf(daemon.https, "short.example.com", &root).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_under_load_fail_no_handshake_and_end_no_connection() {
    let world = World::start().await;
    world.host("busy.example.com");
    let mut seen = vec![world.trusted("busy.example.com").await];
    world.until("proxy-busy-example-com", "issued", |status| status["in_progress"] == false).await;
    let (root, address) = (world.pebble.root(0).await, world.daemon.https);
    let before = connect(address, "busy.example.com", &root).await.unwrap();
    let (done, count, failed) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (root, done) = (root.clone(), Arc::clone(&done));
            let (count, failed): (Arc<AtomicUsize>, Arc<AtomicUsize>) =
                (Arc::clone(&count), Arc::clone(&failed));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let outcome = connect(address, "busy.example.com", &root).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let renewed = ask(&world.daemon, &["cert", "renew", "proxy-busy-example-com", "--force", "--wait"]);
        assert_eq!(renewed["status"], "active", "{renewed}");
        let last = seen.last().unwrap().clone();
        seen.push(
            eventually("the new one serves", || async {
                leaf(address, "busy.example.com", &root).await.ok().filter(|leaf| *leaf != last)
            })
            .await,
        );
    }
    done.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} handshakes", count.load(Ordering::Relaxed));
    assert!(count.load(Ordering::Relaxed) > 20);
    // What was open before is open still.
    let answer =
        crate::support::client::open(before, crate::support::client::get("busy.example.com", "/x")).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_staging_to_production_without_a_gap() {
    let place = Place::new();
    let (production, staging) =
        (Pebble::start(place.settings()).await, Pebble::start(place.settings()).await);
    let ca = place.dir.path().join("authorities.pem");
    let pem = [&production, &staging].map(|one| one.authority().pem.clone()).concat();
    std::fs::write(&ca, pem).unwrap();
    let daemon = place.serve(&production.directory(), &ca, |command| {
        command.env("ACME_STAGING_URL", staging.directory()).env("PORTCULLIS_ACME_AUTOMATIC", "false");
    });
    daemon.proxy("app.example.com", "builtin:echo", &json!({}));
    let made = ask(&daemon, &["cert", "create", "app", "app.example.com", "--staging", "--wait"]);
    assert_eq!(made["status"], "active", "{made}");
    let (trusted, for_trial) = (production.root(0).await, staging.root(0).await);
    eventually("the trial serves", || async { leaf(daemon.https, "app.example.com", &for_trial).await.ok() })
        .await;
    let moved = daemon.run(&["cert", "convert-to-production", "app"]);
    assert!(moved["message"].as_str().unwrap().contains("serves until"), "{moved}");
    eventually("what everybody trusts", || async {
        // Either of the two at every moment.
        match leaf(daemon.https, "app.example.com", &trusted).await {
            Ok(_) => Some(()),
            Err(_) => {
                assert!(
                    leaf(daemon.https, "app.example.com", &for_trial).await.is_ok()
                        || leaf(daemon.https, "app.example.com", &trusted).await.is_ok()
                );
                None
            }
        }
    })
    .await;
    let again = daemon.run(&["cert", "convert-to-production", "app"]);
    assert!(again["message"].as_str().unwrap().contains("not of the staging"), "{again}");
}
