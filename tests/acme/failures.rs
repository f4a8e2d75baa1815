//! What goes wrong, and what is left then: what served before, the authority's words, and another attempt later.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::acme_front::AcmeFront;
use crate::support::certificate::Authority;
use crate::support::eventually;
use crate::support::pebble::{Pebble, free_port};
use crate::world::{Place, World, ask, leaf};

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_renewal_keeps_the_old_certificate_and_says_what_the_authority_said() {
    let world = World::start().await;
    world.host("app.example.com");
    let before = world.trusted("app.example.com").await;
    let name = "proxy-app-example-com";
    world.until(name, "issued", |status| status["in_progress"] == false).await;
    // Somebody points the name elsewhere, where nobody listens.
    world.pebble.names().set("app.example.com", &["127.0.0.9".parse().unwrap()]).await;
    let failed = ask(&world.daemon, &["cert", "renew", name, "--force", "--wait"]);
    assert_eq!((&failed["status"], &failed["failures"]), (&json!("active"), &json!(1)), "{failed}");
    let error = &failed["error"];
    assert_eq!(
        (&error["identifier"], &error["challenge"]),
        (&json!("app.example.com"), &json!("http-01")),
        "{error}"
    );
    assert!(error["detail"].as_str().unwrap().contains("127.0.0.9"), "{error}");
    assert!(error["hint"].is_string() && error["problem"].is_string(), "{error}");
    assert!(failed["message"].as_str().unwrap().contains("could not be issued"), "{failed}");
    assert!(time(&failed["next_attempt"]) > time(&failed["completed_at"]));
    assert_eq!(world.trusted("app.example.com").await, before, "what served before goes on");
    // The next attempt comes from the other side; and when the name leads here again, it succeeds.
    let failed = ask(&world.daemon, &["cert", "renew", name, "--force", "--wait"]);
    assert_eq!(
        (&failed["error"]["challenge"], &failed["failures"]),
        (&json!("tls-alpn-01"), &json!(2)),
        "{failed}"
    );
    world.pebble.names().reset("app.example.com").await;
    let done = ask(&world.daemon, &["cert", "renew", name, "--force", "--wait"]);
    assert_eq!(
        (&done["status"], &done["failures"], done.get("error")),
        (&json!("active"), &json!(0), None),
        "{done}"
    );
    assert_ne!(world.trusted("app.example.com").await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_attempt_that_fails_is_failed_and_tried_again_later_after_a_restart_too() {
    let world = World::start().await;
    world.pebble.names().fail("lost.example.com").await;
    let failed = ask(&world.daemon, &["cert", "create", "lost", "lost.example.com", "--wait"]);
    assert_eq!((&failed["status"], &failed["failures"]), (&json!("failed"), &json!(1)), "{failed}");
    let next = time(&failed["next_attempt"]);
    let World { daemon, pebble, place } = world;
    drop(daemon);
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |_| ());
    let status = daemon.run(&["cert", "status", "lost"]);
    assert_eq!((time(&status["next_attempt"]), &status["failures"]), (next, &json!(1)), "{status}");
    let health = ask(&daemon, &["system", "health"]);
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(health["problems"].to_string().contains("cert status lost"), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_is_respected_as_long_as_it_says() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    let daemon = place.serve(&front.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
    });
    front.limit("newOrder", 1, Duration::from_secs(5 * 3600));
    let failed = ask(&daemon, &["cert", "create", "busy", "busy.example.com", "--wait"]);
    assert_eq!(failed["error"]["problem"], "rateLimited", "{failed}");
    let wait = time(&failed["next_attempt"]).duration_since(Timestamp::now());
    assert!(wait.as_secs() > 4 * 3600 + 3000 && wait.as_secs() <= 5 * 3600, "{failed}");
    // Whoever insists may.
    let done = ask(&daemon, &["cert", "renew", "busy", "--force", "--wait"]);
    assert_eq!(done["status"], "active", "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authority_that_wants_to_be_left_alone_does_not_keep_the_next_from_being_asked() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    let nobody = format!("https://127.0.0.1:{}/dir", free_port());
    let daemon = place.serve(&front.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false").env("PORTCULLIS_ACME_FALLBACKS", nobody);
    });
    front.limit("newOrder", 1, Duration::from_secs(5 * 3600));
    let failed = ask(&daemon, &["cert", "create", "busy", "busy.example.com", "--wait"]);
    assert!(failed["steps"].to_string().contains("too many certificates"), "{failed}");
    let wait = time(&failed["next_attempt"]).duration_since(Timestamp::now());
    assert!(wait.as_secs() < 600, "the fallback is asked again in some minutes: {failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_has_enough_is_left_alone_by_all_for_a_moment() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    let daemon = place.serve(&front.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
    });
    front.limit("newOrder", 1, Duration::from_secs(5 * 3600));
    ask(&daemon, &["cert", "create", "first", "first.example.com", "--wait"]);
    // Another certificate does not run into the same answer, and does not wait as long either.
    let waits = ask(&daemon, &["cert", "create", "next", "next.example.com", "--wait"]);
    assert_eq!((&waits["status"], &waits["failures"]), (&json!("pending"), &json!(0)), "{waits}");
    assert!(waits["message"].as_str().unwrap().contains("left alone until"), "{waits}");
    let wait = time(&waits["next_attempt"]).duration_since(Timestamp::now());
    assert!(wait.as_secs() <= 60, "{waits}");
    // An order that is made shows that it has enough no more.
    let done = ask(&daemon, &["cert", "renew", "next", "--force", "--wait"]);
    assert_eq!(done["status"], "active", "{done}");
    let done = ask(&daemon, &["cert", "create", "last", "last.example.com", "--wait"]);
    assert_eq!(done["status"], "active", "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_and_uploaded_during_an_order_is_what_was_uploaded() {
    let world = World::start_with(|pebble| pebble.validation_delay = Some(2), |_| ()).await;
    ask(&world.daemon, &["cert", "create", "app", "app.example.com"]);
    let is_under_way = |status: &Value| status["steps"].to_string().contains("answering http-01");
    world.until("app", "an order is under way", is_under_way).await;
    world.daemon.run(&["cert", "delete", "app"]);
    let authority = Authority::new();
    let uploaded = authority.sign(&["app.example.com"]);
    let (cert, key) = (format!("--cert={}", uploaded.chain), format!("--key={}", uploaded.key));
    world.daemon.run(&["cert", "upload", "app", &cert, &key]);
    eventually("the attempt ends", || async {
        let log = world.daemon.logged();
        (log.contains("broke off") || log.contains("could not be issued")).then_some(())
    })
    .await;
    let shown = world.daemon.run(&["cert", "show", "app"]);
    assert_eq!(
        (&shown["source"], &shown["fullchain_pem"]),
        (&json!("upload"), &json!(uploaded.chain)),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_was_away_and_has_forgotten_us_is_asked_again() {
    let mut world = World::start().await;
    world.pebble.stop();
    let failed = ask(&world.daemon, &["cert", "create", "late", "late.example.com", "--wait"]);
    assert_eq!((&failed["status"], failed["error"].get("problem")), (&json!("failed"), None), "{failed}");
    assert!(failed["error"]["detail"].as_str().unwrap().contains("no answer"), "{failed}");
    // It comes back with an empty memory: our account is unknown there.
    world.pebble.restart().await;
    let done = ask(&world.daemon, &["cert", "renew", "late", "--force", "--wait"]);
    assert_eq!(done["status"], "active", "{done}");
    assert!(done["steps"].to_string().contains("forgotten our account"), "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_first_authority_fails_the_next_one_issues() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let nobody = format!("https://127.0.0.1:{}/dir", free_port());
    let daemon = place.serve(&nobody, &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_FALLBACKS", pebble.directory());
    });
    let done = ask(&daemon, &["cert", "create", "second", "second.example.com", "--wait"]);
    assert_eq!(done["status"], "active", "{done}");
    let shown = daemon.run(&["cert", "show", "second"]);
    assert_eq!(shown["issued_from"], json!(pebble.directory()));
    daemon.proxy("second.example.com", "builtin:echo", &json!({}));
    let root = pebble.root(0).await;
    crate::support::eventually("it serves", || async {
        leaf(daemon.https, "second.example.com", &root).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_wants_an_external_account_gets_it() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let accounts = vec![("kid-1".to_owned(), key.to_owned())];
    let place = Place::new();
    let settings = crate::support::pebble::Settings { external_accounts: accounts, ..place.settings() };
    let pebble = Pebble::start(settings).await;
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |_| ());
    let failed = ask(&daemon, &["cert", "create", "eab", "eab.example.com", "--wait"]);
    assert_eq!(failed["error"]["problem"], "externalAccountRequired", "{failed}");
    assert!(failed["error"]["hint"].as_str().unwrap().contains("ACME_EAB_KID"), "{failed}");
    drop(daemon);
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
        command.env("ACME_EAB_KID", "kid-1").env("ACME_EAB_HMAC_KEY", key);
    });
    let done = ask(&daemon, &["cert", "renew", "eab", "--force", "--wait"]);
    assert_eq!(done["status"], "active", "{done}");
    assert!(!daemon.logged().contains(key) && !done.to_string().contains(key));
}
