//! OCSP stapling, with a real responder.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::certificate::Authority;
use crate::support::client::{get, plain};
use crate::support::daemon::Daemon;
use crate::support::ocsp::{Fate, Responder, Signer, judged, serial, shown};
use crate::support::{eventually, eventually_within};
use crate::world::{World, ask};

/// An answer of one minute is refreshed in its middle, and revocations are known then.
const REFRESH: Duration = Duration::from_secs(90);

/// A node on a folder that may have been used before.
fn start_in(dir: &Arc<TempDir>, stapling: &str) -> Daemon {
    Daemon::start_in(Arc::clone(dir), |command| {
        command.env("OAUTH_ISSUER", "https://auth.example.test");
        command.env("PORTCULLIS_OCSP_STAPLING", stapling);
    })
}

/// What is known from the responder of a certificate.
fn known(daemon: &Daemon, name: &str) -> Value {
    daemon.run(&["cert", "status", name])["ocsp"].clone()
}

/// Waits until something is stapled; what, and to which certificate.
async fn stapled(daemon: &Daemon, host: &str) -> (rustls::pki_types::CertificateDer<'static>, Vec<u8>) {
    let what = format!("a response for {host}");
    eventually(&what, || async {
        shown(daemon.https, host).await.ok().filter(|(_, response)| !response.is_empty())
    })
    .await
}

/// The problems of the node, as its health tells them.
fn problems(daemon: &Daemon) -> String {
    ask(daemon, &["system", "health"])["problems"].to_string()
}

#[tokio::test]
async fn an_uploaded_certificate_is_stapled_until_it_is_revoked() {
    let mut responder = Responder::new();
    let authority = Authority::new();
    let delegate = authority.sign_responder();
    let signer = Signer { authority: &authority.pem, certificate: &delegate.chain, key: &delegate.key };
    let url = responder.url("/?post");
    let pair = authority.sign_naming(&["app.example.test"], &url);
    let leaf = pair.leaf();
    let serial = serial(&leaf);
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let start = || start_in(&dir, "true");
    let daemon = start();
    let [chain, key] = pair.flags(dir.path(), "app");
    daemon.run(&["cert", "upload", "app", &chain, &key]);
    daemon.proxy("app.example.test", "builtin:echo", &json!({ "cert_name": "app" }));

    // Nobody is there to be asked: handshakes go on without.
    let failed = eventually("a failure", || async {
        Some(known(&daemon, "app")).filter(|one| one["error"].is_string())
    });
    let failed = failed.await;
    assert_eq!(failed["responder"], url);
    assert!(failed["next_attempt"].is_string() && failed["status"].is_null(), "{failed}");
    assert_eq!(shown(daemon.https, "app.example.test").await.unwrap(), (leaf.clone(), Vec::new()));

    responder.start(&signer, &[Fate::Good(&serial)], 1).await;
    let (of, response) = stapled(&daemon, "app.example.test").await;
    assert_eq!(of, leaf);
    let (good, said) = judged(&response, &leaf, &authority.pem, &authority.pem, dir.path());
    assert!(good, "{said}");
    let good = eventually("its status", || async {
        Some(known(&daemon, "app")).filter(|one| one["status"] == "good")
    });
    let good = good.await;
    assert!(good["stapled_until"].is_string() && good["error"].is_null(), "{good}");
    assert!(!problems(&daemon).contains("revoked"));

    // Loaded anew, it is stapled all the same.
    daemon.run(&["cert", "upload", "app", &chain, &key, "--replace"]);
    assert!(!shown(daemon.https, "app.example.test").await.unwrap().1.is_empty());

    responder.start(&signer, &[Fate::Revoked(&serial)], 1).await;
    let revoked = eventually_within(REFRESH, "the revocation", || async {
        Some(known(&daemon, "app")).filter(|one| one["status"] == "revoked")
    });
    let revoked = revoked.await;
    assert_eq!(revoked["revoked_at"], "2026-01-01T00:00:00Z");
    assert!(revoked["stapled_until"].is_null(), "{revoked}");
    assert_eq!(shown(daemon.https, "app.example.test").await.unwrap(), (leaf.clone(), Vec::new()));
    assert!(problems(&daemon).contains("was revoked by its authority"));
    let message = daemon.run(&["cert", "status", "app"])["message"].to_string();
    assert!(message.contains("has revoked it"), "{message}");
    daemon.wait_for_log("a certificate was revoked by its authority");

    // Who starts anew learns the same.
    drop(daemon);
    let daemon = start();
    let again = eventually("the revocation", || async {
        Some(known(&daemon, "app")).filter(|one| one["status"] == "revoked")
    });
    again.await;
    assert_eq!(shown(daemon.https, "app.example.test").await.unwrap(), (leaf, Vec::new()));
}

#[tokio::test]
async fn a_certificate_of_an_authority_is_stapled_and_so_is_its_successor() {
    let mut responder = Responder::new();
    let url = responder.url("/");
    let world = World::start_with(
        |pebble| pebble.ocsp = Some(url),
        |node| {
            node.env("PORTCULLIS_METRICS_ADDR", "127.0.0.1:0");
        },
    );
    let world = world.await;
    let (host, name) = ("app.example.test", "proxy-app-example-test");
    world.host(host);
    let first = world.trusted(host).await;
    let [issuer, key, root] = [
        world.pebble.intermediate(0).await,
        world.pebble.intermediate_key(0).await,
        world.pebble.root(0).await,
    ];
    let signer = Signer { authority: &issuer, certificate: &issuer, key: &key };
    responder.start(&signer, &[Fate::Good(&serial(&first))], 3 * 24 * 60).await;
    let (leaf, response) = stapled(&world.daemon, host).await;
    assert_eq!(leaf, first);
    let dir = tempfile::tempdir().unwrap();
    let (good, said) = judged(&response, &leaf, &issuer, &root, dir.path());
    assert!(good, "{said}");

    // The responder does not know the next one yet: it is served without.
    world.daemon.run(&["cert", "renew", name, "--force", "--wait"]);
    let unknown = eventually("the next one", || async {
        Some(known(&world.daemon, name)).filter(|one| one["error"].is_string())
    });
    let unknown = unknown.await;
    assert!(unknown["error"].as_str().unwrap().contains("does not know the certificate"), "{unknown}");
    let (second, response) = shown(world.daemon.https, host).await.unwrap();
    assert!(second != first && response.is_empty());
    let both = [serial(&first), serial(&second)];
    responder.start(&signer, &[Fate::Good(&both[0]), Fate::Good(&both[1])], 3 * 24 * 60).await;
    let (leaf, response) = stapled(&world.daemon, host).await;
    assert_eq!(leaf, second);
    let (good, said) = judged(&response, &leaf, &issuer, &root, dir.path());
    assert!(good, "{said}");
    let metrics = plain(world.daemon.metrics(), get("localhost", "/metrics")).await.body;
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(metrics.contains("portcullis_ocsp_requests_total{result=\"good\"}"), "{metrics}");
}

#[tokio::test]
async fn nobody_is_asked_where_stapling_is_off() {
    let mut responder = Responder::new();
    let authority = Authority::new();
    let signer = Signer { authority: &authority.pem, certificate: &authority.pem, key: &authority.key() };
    let url = responder.url("/?post");
    let pair = authority.sign_naming(&["app.example.test"], &url);
    responder.start(&signer, &[Fate::Good(&serial(&pair.leaf()))], 60).await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let [chain, key] = pair.flags(dir.path(), "app");
    let off = start_in(&dir, "false");
    off.run(&["cert", "upload", "app", &chain, &key]);
    off.proxy("app.example.test", "builtin:echo", &json!({ "cert_name": "app" }));
    assert_eq!(known(&off, "app"), Value::Null);
    assert_eq!(shown(off.https, "app.example.test").await.unwrap(), (pair.leaf(), Vec::new()));
    drop(off);
    let on = start_in(&dir, "true");
    stapled(&on, "app.example.test").await;
    assert_eq!(known(&on, "app")["status"], "good");
}
