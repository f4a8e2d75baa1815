//! Certificates and handshakes of the built daemon.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use support::certificate::{Authority, Pair};
use support::client::{self, get, get_as, handshake, handshake_of, open, read, secure};
use support::daemon::Daemon;
use support::eventually;
use support::upstream::Upstream;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const HTTP1: &[&[u8]] = &[b"http/1.1"];
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

fn upload(daemon: &Daemon, name: &str, pair: &Pair, more: &[&str]) -> Value {
    let flags = pair.flags(daemon.dir.path(), name);
    daemon.run(&[&["cert", "upload", name, &flags[0], &flags[1]], more].concat())
}

fn peer(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn shown(address: SocketAddr, sni: &str) -> Result<CertificateDer<'static>, String> {
    handshake(address, sni, HTTP1).await.map(|stream| peer(&stream)).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_name_gets_its_certificate_then_a_wildcard_then_the_fallback_or_is_refused() {
    let daemon = Daemon::start();
    let authority = Authority::new();
    let exact = authority.sign(&["a.wild.test"]);
    let wildcard = authority.sign(&["*.wild.test"]);
    for host in ["a.wild.test", "b.wild.test", "*.wild.test", "waits.test"] {
        daemon.proxy(host, "builtin:echo", &json!({}));
    }
    daemon.proxy("plain.test", "builtin:echo", &json!({ "enable_https": false }));
    upload(&daemon, "wild", &wildcard, &[]);
    upload(&daemon, "exact", &exact, &[]);
    daemon.run(&["cert", "attach", "exact", "a.wild.test"]);
    eventually("the certificate", || async {
        (shown(daemon.https, "a.wild.test").await.ok()? == exact.leaf()).then_some(())
    })
    .await;

    for name in ["b.wild.test", "c.wild.test", "C.Wild.Test"] {
        assert_eq!(shown(daemon.https, name).await.unwrap(), wildcard.leaf(), "{name}");
    }
    // A host without a certificate, and clients that name none, get the self-signed one.
    let fallback = shown(daemon.https, "waits.test").await.unwrap();
    assert!(![exact.leaf(), wildcard.leaf()].contains(&fallback));
    assert_eq!(shown(daemon.https, "127.0.0.1").await.unwrap(), fallback);
    assert_eq!(shown(daemon.https, "localhost").await.unwrap(), fallback);
    for name in ["unknown.test", "wild.test", "x.a.wild.test", "plain.test"] {
        let refused = shown(daemon.https, name).await.unwrap_err();
        assert!(refused.contains("UnrecognisedName"), "{name}: {refused}");
    }
    daemon.run(&["proxy", "delete", "waits.test"]);
    eventually("its name is gone", || async {
        shown(daemon.https, "waits.test").await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_serves_the_names_of_its_certificate_and_421_for_others() {
    let daemon = Daemon::start();
    let authority = Authority::new();
    let hosts = ["a.test", "b.test", "x.wild.test", "y.wild.test", "waits.test"];
    for host in hosts {
        daemon.proxy(host, "builtin:echo", &json!({ "https_redirect": "off" }));
    }
    upload(&daemon, "wild", &authority.sign(&["*.wild.test"]), &[]);
    upload(&daemon, "a", &authority.sign(&["a.test", "gone.test"]), &[]);
    upload(&daemon, "b", &authority.sign(&["b.test"]), &[]);
    for (sni, host, status) in [
        ("a.test", "a.test", 200),
        ("a.test", "A.TEST:443", 200),
        ("a.test", "b.test", 421),
        ("a.test", "x.wild.test", 421),
        ("x.wild.test", "y.wild.test", 200),
        ("x.wild.test", "a.test", 421),
        ("waits.test", "waits.test", 200),
        ("waits.test", "a.test", 421),
        // The certificate covers it, but no proxy has the name.
        ("a.test", "gone.test", 404),
        // Without a name the fallback was shown, and the host is looked up.
        ("127.0.0.1", "a.test", 200),
        ("127.0.0.1", "nobody.test", 404),
    ] {
        let stream = handshake(daemon.https, sni, HTTP1).await.unwrap();
        let answer = read(open(stream, get(host, "/")).await).await;
        assert_eq!(answer.status, status, "{host} on a connection for {sni}: {answer:?}");
    }
}

#[tokio::test]
async fn both_versions_of_http_and_tls_are_spoken_as_the_client_asks() {
    let daemon = Daemon::start();
    let upstream = Upstream::start("app").await;
    daemon.proxy("app.test", &upstream.url(), &json!({}));
    for (offered, chosen) in [
        (BOTH, Some(&b"h2"[..])),
        (&[&b"http/1.1"[..], b"h2"][..], Some(&b"h2"[..])),
        (&[&b"h2"[..]], Some(b"h2")),
        (HTTP1, Some(b"http/1.1")),
        (&[], None),
        (&[&b"spdy/3"[..], b"http/1.1"], Some(b"http/1.1")),
    ] {
        for version in [&TLS12, &TLS13] {
            let stream = handshake_of(daemon.https, "app.test", offered, &[version]).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            let answer = if chosen == Some(b"h2") {
                read(open_http2(stream, "https://app.test/x?y").await).await
            } else {
                read(open(stream, get("app.test", "/x?y")).await).await
            };
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.json()["uri"], "/x?y");
            assert_eq!(answer.seen("host"), ["app.test"]);
            assert_eq!(answer.seen("x-forwarded-proto"), ["https"]);
        }
    }
    let refused = handshake(daemon.https, "app.test", &[b"spdy/3"]).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    // The log knows which it was.
    let search = || async {
        let page = daemon.run(&["log", "search", "--hostname=app.test"]);
        let entries = page["logs"].as_array()?.clone();
        (entries.len() >= 12).then_some(entries)
    };
    let entries = eventually("the log", search).await;
    for (field, value) in [
        ("http_version", "2"),
        ("http_version", "1.1"),
        ("tls_version", "TLSv1.2"),
        ("tls_version", "TLSv1.3"),
    ] {
        assert!(entries.iter().any(|entry| entry[field] == value), "{field} {value}: {}", entries[0]);
    }
}

async fn open_http2(stream: TlsStream<TcpStream>, uri: &str) -> http::Response<hyper::body::Incoming> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(Request::get(uri).body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn an_upload_serves_new_handshakes_and_leaves_open_connections_alone() {
    let daemon = Daemon::start();
    let upstream = Upstream::start("app").await;
    daemon.proxy("app.test", &upstream.url(), &json!({}));
    let authority = Authority::new();
    let first = authority.sign(&["app.test"]);
    let said = upload(&daemon, "app", &first, &["--domains=app.test"]);
    assert_eq!((&said["status"], &said["domains"]), (&json!("active"), &json!(["app.test"])));
    assert!(said["expires_at"].is_string() && said["days_left"].as_i64() >= Some(28), "{said}");
    let begin = || async {
        Some(handshake(daemon.https, "app.test", BOTH).await.unwrap()).filter(|s| peer(s) == first.leaf())
    };
    let http2 = eventually("the first certificate", begin).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(http2)).await.unwrap();
    let connection = tokio::spawn(connection);
    let http1 = handshake(daemon.https, "app.test", HTTP1).await.unwrap();
    let (mut plain, driver) = hyper::client::conn::http1::handshake(TokioIo::new(http1)).await.unwrap();
    let driver = tokio::spawn(driver);
    // A response that is under way, and one exchange on each connection before.
    let slow = sender
        .send_request(Request::get("https://app.test/slow?3000").body(Full::<Bytes>::default()).unwrap());
    let slow = tokio::spawn(slow);
    let answer = plain.send_request(get("app.test", "/before")).await.unwrap();
    assert_eq!(read(answer).await.status, StatusCode::OK);

    let flags = first.flags(daemon.dir.path(), "again");
    let again = daemon.cli(&["cert", "upload", "app", &flags[0], &flags[1]]);
    assert!(!again.status.success(), "a certificate is replaced only when asked for");
    let second = authority.sign(&["app.test", "more.test"]);
    upload(&daemon, "app", &second, &["--replace"]);
    eventually("the second certificate", || async {
        (shown(daemon.https, "app.test").await.unwrap() == second.leaf()).then_some(())
    })
    .await;

    let answer = plain.send_request(get("app.test", "/after")).await.unwrap();
    assert_eq!(read(answer).await.json()["uri"], "/after");
    let request = Request::get("https://app.test/after").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, StatusCode::OK);
    assert_eq!(read(slow.await.unwrap().unwrap()).await.body, "slow");
    assert!(!connection.is_finished() && !driver.is_finished());
}

#[tokio::test]
async fn a_trusted_certificate_turns_the_redirect_on() {
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
    });
    daemon.proxy("app.test", "builtin:echo", &json!({}));
    assert_eq!(client::plain(daemon.http, get("app.test", "/a?b")).await.status, StatusCode::OK);
    upload(&daemon, "app", &Authority::new().sign(&["app.test"]), &[]);
    let answer = eventually("the redirect", || async {
        Some(client::plain(daemon.http, get("app.test", "/a?b")).await)
            .filter(|a| a.status == StatusCode::PERMANENT_REDIRECT)
    })
    .await;
    assert_eq!(answer.header("location"), "https://app.test/a?b");
    assert_eq!(secure(daemon.https, get("app.test", "/a?b")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_private_key_never_comes_back() {
    let daemon = Daemon::start();
    daemon.proxy("app.test", "builtin:echo", &json!({}));
    let pair = Authority::new().sign(&["app.test"]);
    let mut said = upload(&daemon, "app", &pair, &[]).to_string();
    let token =
        daemon.run(&["token", "create", "root", "--scopes", "admin"])["token"].as_str().unwrap().to_owned();
    for args in [
        &["cert", "show", "app"][..],
        &["cert", "list"],
        &["cert", "status", "app"],
        &["cert", "attach", "app", "app.test"],
        &["proxy", "show", "app.test"],
        &["system", "config", "export"],
        &["system", "config", "export", "--include-secrets"],
        &["system", "info"],
        &["system", "health"],
        &["log", "search", "--log=audit"],
        &["log", "search", "--log=diagnostics"],
    ] {
        said.push_str(&daemon.run(args).to_string());
    }
    for path in [
        "/certificates/",
        "/certificates/app",
        "/api/v1/certificates/app",
        "/system/config/export?include_secrets=true",
    ] {
        let answer = client::plain(daemon.http, get_as("localhost", path, &token)).await;
        said.push_str(&String::from_utf8_lossy(&answer.body));
    }
    // The upload is written where it is answered, so a mistake shows here, too.
    let refused = daemon.cli(&[
        "cert",
        "upload",
        "other",
        &format!("--cert={}", pair.key),
        &format!("--key={}", pair.key),
    ]);
    assert!(!refused.status.success());
    said.push_str(&String::from_utf8_lossy(&refused.stderr));
    said.push_str(&daemon.logged());
    assert!(said.contains("BEGIN CERTIFICATE"), "the chain is shown");
    for line in pair.key.lines().filter(|line| !line.is_empty()) {
        assert!(!said.contains(line), "{line:?} was shown in {said}");
    }
    // Nor does it lie about on disk.
    for entry in std::fs::read_dir(daemon.dir.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let body = pair.key.lines().nth(1).unwrap().as_bytes();
        assert!(!bytes.windows(body.len()).any(|part| part == body), "{}", path.display());
    }
}

#[tokio::test]
async fn an_upload_that_can_not_serve_is_refused_by_field() {
    let daemon = Daemon::start();
    let authority = Authority::new();
    let day = Duration::from_secs(86_400);
    let now = SystemTime::now();
    let good = authority.sign(&["app.test"]);
    let other = authority.sign(&["app.test"]);
    let stranger = Authority::new();
    let of = |chain: &str, key: &str| Pair { chain: chain.to_owned(), key: key.to_owned() };
    for (what, pair, more, field, detail) in [
        (
            "expired",
            authority.sign_between(&["app.test"], now - 9 * day, now - day),
            "",
            "fullchain_pem",
            "expired at",
        ),
        (
            "too early",
            authority.sign_between(&["app.test"], now + day, now + 9 * day),
            "",
            "fullchain_pem",
            "is not valid before",
        ),
        (
            "key of another",
            of(&good.chain, &other.key),
            "",
            "private_key_pem",
            "does not belong to the first certificate",
        ),
        (
            "no key",
            of(&good.chain, "nothing"),
            "",
            "private_key_pem",
            "expected an unencrypted private key as PEM",
        ),
        (
            "chain as key",
            of(&good.chain, &good.chain),
            "",
            "private_key_pem",
            "expected an unencrypted private key",
        ),
        ("no chain", of("nothing", &good.key), "", "fullchain_pem", "has 0 certificates"),
        (
            "broken chain",
            of(&format!("{}{}", &good.chain[..60], &good.chain[70..]), &good.key),
            "",
            "fullchain_pem",
            "",
        ),
        (
            "wrong issuer behind it",
            of(&format!("{}{}", first(&good.chain), stranger.sign(&["x.test"]).chain), &good.key),
            "",
            "fullchain_pem",
            "expected each to be issued by the next",
        ),
        ("no names", authority.sign(&[]), "", "fullchain_pem", "names no host"),
        (
            "names that it lacks",
            authority.sign(&["app.test"]),
            "--domains=app.test,more.test",
            "domains[1]",
            "is not covered",
        ),
    ] {
        let flags = pair.flags(daemon.dir.path(), "bad");
        let mut args = vec!["cert", "upload", "bad", &flags[0], &flags[1]];
        args.extend(Some(more).filter(|more| !more.is_empty()));
        let refused = daemon.cli(&args);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(&format!("  {field}: ")) && said.contains(detail), "{what}: {said}");
    }
    assert_eq!(daemon.run(&["cert", "list"]), json!([]), "nothing is stored of what was refused");

    // A replacement must still cover who names it.
    daemon.proxy("app.test", "builtin:echo", &json!({}));
    upload(&daemon, "app", &good, &[]);
    daemon.run(&["cert", "attach", "app", "app.test"]);
    let flags = authority.sign(&["more.test"]).flags(daemon.dir.path(), "narrow");
    let refused = daemon.cli(&["cert", "upload", "app", &flags[0], &flags[1], "--replace"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("does not cover app.test"), "{said}");
    assert!(!daemon.cli(&["cert", "delete", "app"]).status.success(), "a proxy names it");
}

fn first(chain: &str) -> &str {
    let end = "-----END CERTIFICATE-----\n";
    &chain[..chain.find(end).unwrap_or_else(|| chain.find("-----END CERTIFICATE-----").unwrap()) + end.len()]
}
