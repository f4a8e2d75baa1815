//! Hosts get certificates by themselves, and admins get those that they ask for.

use serde_json::json;

use crate::support::acme_front::AcmeFront;
use crate::support::client::{get, plain, secure};
use crate::support::eventually;
use crate::support::pebble::Pebble;
use crate::world::{Place, World, ask};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_host_is_trusted_within_seconds_and_asks_for_nothing() {
    let world = World::start().await;
    world.host("app.example.com");
    world.trusted("app.example.com").await;
    let status =
        world.until("proxy-app-example-com", "settled", |status| status["in_progress"] == false).await;
    assert_eq!((&status["status"], &status["failures"]), (&json!("active"), &json!(0)), "{status}");
    assert_eq!(status["proxies"], json!(["app.example.com"]));
    let steps: Vec<_> =
        status["steps"].as_array().unwrap().iter().map(|step| step["text"].as_str().unwrap()).collect();
    assert!(steps.iter().any(|step| step.contains("http-01 for app.example.com")), "{steps:?}");
    assert!(steps.last().unwrap().starts_with("issued by "), "{steps:?}");
    assert!(status["next_renewal"].as_str().unwrap() < status["expires_at"].as_str().unwrap());
    // Trusted now, so plain requests are sent there.
    let answer = plain(world.daemon.http, get("app.example.com", "/x")).await;
    assert_eq!(answer.status, 308);
    assert_eq!((world.pebble.orders(), world.pebble.issued(), world.pebble.accounts()), (3, 3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_pending_is_not_found_for_any_host() {
    let world = World::start().await;
    for host in ["nobody.example.com", "localhost"] {
        let path = "/.well-known/acme-challenge/unknownunknownunknownunknown";
        let answer = plain(world.daemon.http, get(host, path)).await;
        assert_eq!(answer.status, 404, "{host}");
        assert!(answer.json()["code"] == "no_such_challenge", "{:?}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_certificate_for_a_hundred_names_in_spite_of_bad_nonces() {
    let world = World::start_with(|pebble| pebble.bad_nonces = 15, |_| ()).await;
    let names: Vec<_> = (0..100).map(|n| format!("h{n}.example.com")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let made = ask(&world.daemon, &[&["cert", "create-multi", "many"], &names[..], &["--wait"]].concat());
    assert_eq!(made["status"], "active", "{made}");
    world.host("h42.example.com");
    world.trusted("h42.example.com").await;
    assert_eq!(world.pebble.issued(), 3, "the host has one already");
    let coverage = world.daemon.run(&["cert", "coverage", "many"]);
    assert_eq!(coverage["serves"], json!(["h42.example.com"]));
    assert_eq!(coverage["unused"].as_array().unwrap().len(), 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_alpn_01_validates_on_the_https_port() {
    let world = World::start().await;
    let made = world.daemon.run(&[
        "cert",
        "create",
        "alpn",
        "alpn.example.com",
        "--challenge",
        "tls-alpn-01",
        "--wait",
    ]);
    assert_eq!(made["status"], "active", "{made}");
    world.host("alpn.example.com");
    world.trusted("alpn.example.com").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsa_and_ecdsa_keys_and_another_one_each_time() {
    let world = World::start().await;
    world.host("rsa.example.com");
    world.trusted("rsa.example.com").await;
    let key = |leaf: &[u8]| {
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).unwrap();
        (parsed.public_key().algorithm.algorithm.to_id_string(), parsed.public_key().raw.to_vec())
    };
    let (ecdsa, first) = key(&world.trusted("rsa.example.com").await);
    assert_eq!(ecdsa, "1.2.840.10045.2.1");
    let renewed = ask(&world.daemon, &["cert", "renew", "proxy-rsa-example-com", "--force", "--wait"]);
    assert_eq!(renewed["status"], "active", "{renewed}");
    let (_, second) = key(&world.trusted("rsa.example.com").await);
    assert_ne!(first, second, "a new key each time");
    let rsa = ask(&world.daemon, &["cert", "generate", "rsa.example.com", "--key-type", "rsa", "--wait"]);
    assert_eq!(rsa["status"], "active", "{rsa}");
    let (algorithm, _) = key(&world.trusted("rsa.example.com").await);
    assert_eq!(algorithm, "1.2.840.113549.1.1.1");
    assert_eq!(world.pebble.accounts(), 1, "the account is reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_comes_out_only_for_an_admin_who_asks_and_is_audited() {
    let world = World::start().await;
    let made = ask(&world.daemon, &["cert", "create", "out", "out.example.com", "--wait"]);
    assert_eq!(made["status"], "active", "{made}");
    let shown = world.daemon.run(&["cert", "show", "out"]);
    assert!(shown["fullchain_pem"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    let plain = world.daemon.run(&["cert", "export", "out"]);
    assert_eq!(plain["files"], json!(["./out.fullchain.pem"]));
    let with_key = world.daemon.run(&["cert", "export", "out", "--include-key", "--force"]);
    assert_eq!(with_key["files"], json!(["./out.fullchain.pem", "./out.key.pem"]));
    for without in [&shown, &plain, &with_key, &world.daemon.run(&["cert", "list"])] {
        assert!(!without.to_string().contains("PRIVATE KEY"), "{without}");
    }
    let read = |name: &str| std::fs::read_to_string(world.place.dir.path().join(name)).unwrap();
    let (key, chain) = (read("out.key.pem"), read("out.fullchain.pem"));
    let pair = rcgen::KeyPair::from_pem(&key).unwrap();
    let (_, chain) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain.contents).unwrap();
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), pair.public_key_raw());
    // It is told of, and only of.
    let audit = eventually("the audit", || async {
        let found =
            world.daemon.run(&["log", "search", "--log", "audit", "--q", "export_certificate"]).to_string();
        found.contains("out with its key").then_some(found)
    })
    .await;
    assert!(!audit.contains("PRIVATE KEY"));
    let user = world.daemon.token("somebody", "localhost").await;
    let request = http::Request::post("/certificates/out/export")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {user}"))
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(bytes::Bytes::from_static(b"{\"include_key\":true}")))
        .unwrap();
    assert_eq!(secure(world.daemon.https, request).await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_is_asked_for_by_name() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    front.offer(&[("shortlived", "six days")]);
    let daemon = place.serve(&front.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false");
    });
    let made =
        ask(&daemon, &["cert", "create", "s", "s.example.com", "--acme-profile", "shortlived", "--wait"]);
    assert_eq!(made["status"], "active", "{made}");
    assert_eq!(front.orders()[0].profile.as_deref(), Some("shortlived"));
    let refused =
        ask(&daemon, &["cert", "create", "t", "t.example.com", "--acme-profile", "forever", "--wait"]);
    assert_eq!(refused["error"]["problem"], "invalidProfile", "{refused}");
}
