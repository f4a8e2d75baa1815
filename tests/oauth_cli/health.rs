//! `oauth health`: whether clients reach the issuer, asked over the network.

use std::net::TcpListener;

use http::Method;
use serde_json::{Value, json};

use crate::support::certificate::Authority;
use crate::support::daemon::Daemon;

/// What the check found.
fn reachable(report: &Value) -> (bool, &str) {
    let check = &report["checks"]["oauth_server_reachable"];
    (check["ok"].as_bool().unwrap(), check["detail"].as_str().unwrap())
}

/// Serves a certificate of this authority at the issuer's host.
fn certify(daemon: &Daemon, authority: &Authority) {
    let flags = authority.sign(&["auth.localhost"]).flags(daemon.dir.path(), "issuer");
    daemon.run(&["cert", "upload", "issuer", &flags[0], &flags[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_clients_trust_is_reachable() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let trusted = dir.path().join("authority.pem");
    std::fs::write(&trusted, &authority.pem).unwrap();
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_OAUTH_FETCH_CA", &trusted);
    });
    certify(&daemon, &authority);
    let report = daemon.run(&["oauth", "health"]);
    let (ok, detail) = reachable(&report);
    let url =
        format!("https://auth.localhost:{}/.well-known/oauth-authorization-server", daemon.https.port());
    assert!(ok && detail.starts_with(&format!("{url} answered in ")), "{report:#}");
    assert_eq!(report["checks"]["certificate_valid"]["ok"], true, "{report:#}");
    // It was asked from outside: the request is in the log like anybody's.
    daemon
        .record("hostname=auth.localhost", |entry| {
            entry["request_path"] == "/.well-known/oauth-authorization-server"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_trusts_is_told_apart_from_no_answer() {
    // The certificate that a host has until it gets one, and one of an authority that nobody has heard of.
    for uploaded in [false, true] {
        let daemon = Daemon::start();
        if uploaded {
            certify(&daemon, &Authority::new());
        }
        let report = daemon.api(Method::GET, "/oauth/health", json!(null)).await;
        let (ok, detail) = reachable(&report);
        assert!(!ok, "{report:#}");
        for part in ["it answers with our metadata", "not trusted here", "invalid peer certificate"] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
        assert_ne!(report["status"], "healthy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_not_where_it_says_is_found_out() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", closed.to_string());
    });
    let report = daemon.run(&["oauth", "health"]);
    let (ok, detail) = reachable(&report);
    assert!(!ok && detail.contains("can't be reached from here"), "{report:#}");
    // Another deployment has that port: its certificate is as unknown as ours, but it names itself.
    let other = Daemon::start();
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", other.https.port().to_string());
        command.env("OAUTH_ISSUER", format!("https://auth.localhost:{}/else", other.https.port()));
    });
    let report = daemon.run(&["oauth", "health"]);
    let (ok, detail) = reachable(&report);
    assert!(!ok && detail.contains("something else answers"), "{report:#}");
}
