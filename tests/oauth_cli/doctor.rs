//! `oauth doctor`: what it says of a good host, and of hosts that are wrong in one way each.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
use serde_json::{Value, json};

use crate::broken::{self, Asked, GOOD, Said};
use crate::site::{Site, err};
use crate::support::daemon::command;
use crate::support::eventually;

/// The entries of a check that went so.
fn entries<'a>(report: &'a Value, check: &str, result: &str) -> Vec<&'a Value> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|entry| entry["check"] == check && entry["result"] == result).collect()
}

/// The checks that did not pass.
fn complaints(report: &Value) -> Vec<(String, String)> {
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .filter(|entry| entry["result"] == "warn" || entry["result"] == "fail")
        .map(|entry| (text(entry, "result"), text(entry, "check")))
        .collect()
}

/// Looks at a host that is at this address.
async fn look_at(twist: fn(&Asked, &mut Said), more: &[&str]) -> (Option<i32>, Value) {
    let address = broken::host(twist).await;
    let home = tempfile::tempdir().unwrap();
    let url = format!("http://{address}/mcp");
    let args = [&["--format", "json", "oauth", "doctor", &url], more].concat();
    let output = tokio::task::block_in_place(|| command(home.path()).args(args).output().unwrap());
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", err(&output)));
    (output.status.code(), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_gateway_is_well() {
    let site = Site::start().await;
    site.protect(&json!({
        "resource_allowed_origins": ["http://localhost:6274"],
    }));
    let host = format!("app.localhost:{}", site.daemon.https.port());
    let (ca, http) = (site.authority.to_str().unwrap(), site.daemon.http.port().to_string());
    let doctor = ["--cacert", ca, "oauth", "doctor", &host, "--register", "--http-port", &http];
    let output = site.run(&doctor);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let complaints = complaints(&report);
    let only_the_address = [("warn".to_owned(), "dns".to_owned())];
    assert_eq!(complaints, only_the_address, "{report:#}");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    for check in [
        "tls",
        "http",
        "clock",
        "challenge",
        "bad-token",
        "metadata-named",
        "metadata-root",
        "issuer",
        "pkce",
        "keys",
        "authorize",
        "token",
        "register",
        "unregister",
        "cors-resource",
        "cors-token",
    ] {
        assert!(!entries(&report, check, "pass").is_empty(), "{check}: {report:#}");
    }
    let mut table = command(site.home.path());
    let text = table.args(["--cacert", ca, "--format", "table", "oauth", "doctor", &host]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("pass  challenge: Bearer") && text.contains("WARN  dns: 127.0.0.1\n      fails for:"),
        "{text}"
    );

    let untrusted = site.run(&["oauth", "doctor", &host]);
    assert_eq!(untrusted.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&untrusted.stdout).unwrap();
    let tls = entries(&report, "tls", "fail");
    assert!(tls[0]["why"].as_str().unwrap().contains("nobody knows who signed"), "{report:#}");
    assert_eq!(report["result"], "fail");

    // A host that nobody protects.
    site.daemon.run(&["proxy", "update", "app.localhost", "--auth-enabled=false"]);
    let open = site.run(&["--cacert", ca, "oauth", "doctor", &host]);
    let report: Value = serde_json::from_slice(&open.stdout).unwrap();
    assert_eq!(open.status.code(), Some(1));
    assert!(!entries(&report, "challenge", "fail").is_empty(), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_not_be_reached_is_said() {
    let home = tempfile::tempdir().unwrap();
    for (host, check) in [("127.0.0.1:1", "tls"), ("no-such-host.invalid", "dns")] {
        let output =
            command(home.path()).args(["--format", "json", "oauth", "doctor", host]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(entries(&report, check, "fail").len(), 1, "{report:#}");
    }
    let output = command(home.path()).args(["oauth", "doctor", "not a host"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", err(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_host_of_others_is_well_and_nothing_is_written() {
    let (code, report) = look_at(
        |asked, said| {
            if asked.path == "/register" && asked.method == "POST" {
                said.status = 500;
            }
        },
        &[],
    )
    .await;
    assert_eq!(
        (code, complaints(&report)),
        (Some(0), vec![("warn".to_owned(), "dns".to_owned())]),
        "{report:#}"
    );
    assert_eq!(entries(&report, "register", "skip").len(), 1);
    let (_, report) = look_at(|_, _| (), &["--register"]).await;
    let registered = entries(&report, "register", "pass").len();
    assert_eq!((registered, entries(&report, "unregister", "pass").len()), (4, 4), "{report:#}");
}

/// One thing that is wrong: its name, how answers change, and the check that must say so.
type Case = (&'static str, fn(&Asked, &mut Said), &'static str, &'static str);

const SERVER: &str = "/.well-known/oauth-authorization-server";
const RESOURCE: &str = "/.well-known/oauth-protected-resource";

fn metadata(asked: &Asked, said: &mut Said, change: impl FnOnce(&mut Value)) {
    let server = asked.path == SERVER || asked.path == "/.well-known/openid-configuration";
    if server && asked.method == "GET" {
        said.change(change);
    }
}

fn resource(asked: &Asked, said: &mut Said, change: impl FnOnce(&mut Value)) {
    if asked.path.starts_with(RESOURCE) && asked.method == "GET" {
        said.change(change);
    }
}

fn challenge(asked: &Asked, said: &mut Said, value: Option<&str>) {
    if asked.path == "/mcp" && asked.method != "OPTIONS" {
        said.header("www-authenticate", value);
    }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("no challenge", |asked, said| challenge(asked, said, None), "fail", "challenge"),
    ("another scheme", |asked, said| challenge(asked, said, Some("Basic realm=\"x\"")), "fail", "challenge"),
    ("no metadata named", |asked, said| challenge(asked, said, Some("Bearer realm=\"x\"")), "fail", "challenge"),
    ("two challenges", |asked, said| if asked.path == "/mcp" { said.headers.push(("www-authenticate", "Basic".to_owned())) }, "warn", "challenge"),
    ("no token needed", |asked, said| if asked.path == "/mcp" { said.status = 200 }, "fail", "challenge"),
    ("a page to log in", |asked, said| if asked.path == "/mcp" && asked.method == "POST" { said.status = 302; said.header("location", Some("/login")) }, "fail", "redirect"),
    ("GET is open", |asked, said| if asked.path == "/mcp" && asked.method == "GET" { said.status = 200 }, "warn", "challenge-get"),
    ("bad tokens are forbidden", |asked, said| if asked.headers.contains_key("authorization") { said.status = 403 }, "fail", "bad-token"),
    ("another resource", |asked, said| resource(asked, said, |value| value["resource"] = "http://127.0.0.1/mcp".into()), "fail", "metadata-named"),
    ("no server named", |asked, said| resource(asked, said, |value| value["authorization_servers"] = json!([])), "fail", "metadata"),
    ("a null in the resource", |asked, said| resource(asked, said, |value| value["scopes_supported"] = Value::Null), "fail", "metadata-named"),
    ("nothing where it is named", |asked, said| if asked.path == "/.well-known/oauth-protected-resource/mcp" { said.status = 404 }, "fail", "metadata-named"),
    ("no root form", |asked, said| if asked.path == RESOURCE { said.status = 404 }, "warn", "metadata-root"),
    ("a broken root form", |asked, said| if asked.path == RESOURCE { said.status = 500 }, "fail", "metadata-root"),
    ("metadata is a page", |asked, said| if asked.path.starts_with(RESOURCE) && asked.method == "GET" { said.page() }, "fail", "metadata-named"),
    ("no CORS", |_, said| said.header("access-control-allow-origin", None), "warn", "cors-resource"),
    ("a hidden challenge", |_, said| said.header("access-control-expose-headers", None), "warn", "cors-challenge"),
    ("preflights need tokens", |asked, said| if asked.method == "OPTIONS" { said.status = 401 }, "warn", "cors-token"),
    ("a slash in the issuer", |asked, said| metadata(asked, said, |value| value["issuer"] = format!("{}/", value["issuer"].as_str().unwrap()).into()), "fail", "issuer"),
    ("no metadata of the server", |asked, said| if asked.path == SERVER || asked.path == "/.well-known/openid-configuration" { said.status = 404 }, "fail", "server-metadata"),
    ("a null in the server", |asked, said| metadata(asked, said, |value| value["op_policy_uri"] = Value::Null), "fail", "server-metadata"),
    ("an endpoint in clear", |asked, said| metadata(asked, said, |value| value["token_endpoint"] = "http://a.invalid/token".into()), "fail", "server-metadata"),
    ("no PKCE", |asked, said| metadata(asked, said, |value| value["code_challenge_methods_supported"] = json!(["plain"])), "fail", "pkce"),
    ("plain PKCE", |asked, said| metadata(asked, said, |value| value["code_challenge_methods_supported"] = json!(["S256", "plain"])), "warn", "pkce-plain"),
    ("no code flow", |asked, said| metadata(asked, said, |value| value["response_types_supported"] = json!(["token"])), "fail", "response-types"),
    ("no public clients", |asked, said| metadata(asked, said, |value| value["token_endpoint_auth_methods_supported"] = json!(["client_secret_basic"])), "fail", "public-clients"),
    ("no registration", |asked, said| metadata(asked, said, |value| { value.as_object_mut().unwrap().remove("registration_endpoint"); }), "warn", "registration"),
    ("a part of the URL as resource", |asked, said| resource(asked, said, |value| value["resource"] = value["resource"].as_str().unwrap().trim_end_matches("/mcp").into()), "warn", "resource-url"),
    ("no secrets for clients", |asked, said| metadata(asked, said, |value| value["token_endpoint_auth_methods_supported"] = json!(["none"])), "warn", "client-secrets"),
    ("no schemes of programs", |asked, said| if asked.path == "/register" && asked.body.contains("cursor://") { said.status = 400 }, "fail", "register"),
    ("web addresses are no native ones", |asked, said| if asked.path == "/register" && asked.body.contains("vscode.dev") { said.status = 400 }, "fail", "register"),
    ("no secret after all", |asked, said| if asked.path == "/register" && asked.method == "POST" { said.change(|value| { value.as_object_mut().unwrap().remove("client_secret"); }) }, "fail", "register"),
    ("no client documents", |asked, said| metadata(asked, said, |value| value["client_id_metadata_document_supported"] = json!(false)), "warn", "client-documents"),
    ("no iss", |asked, said| metadata(asked, said, |value| value["authorization_response_iss_parameter_supported"] = json!(false)), "warn", "iss-parameter"),
    ("no keys", |asked, said| if asked.path == "/jwks" { said.status = 404; said.body.clear() }, "fail", "keys"),
    ("private keys", |asked, said| if asked.path == "/jwks" { said.change(|value| value["keys"][0]["d"] = "x".into()) }, "fail", "keys"),
    ("unknown paths break", |asked, said| if said.status == 404 && asked.method == "GET" { said.status = 500 }, "fail", "unknown-paths"),
    ("unknown paths are pages", |asked, said| if said.status == 404 && asked.method == "GET" { said.status = 200; said.page() }, "fail", "unknown-paths"),
    ("an open redirect", |asked, said| if asked.path == "/authorize" { said.status = 302; said.header("location", Some("https://client.invalid/callback?error=x")) }, "fail", "authorize"),
    ("token errors are pages", |asked, said| if asked.path == "/token" && asked.method == "POST" { said.page() }, "fail", "token"),
    ("a null in a registration", |asked, said| if asked.path == "/register" && asked.method == "POST" { said.change(|value| value["logo_uri"] = Value::Null) }, "fail", "register"),
    ("no registration after all", |asked, said| if asked.path == "/register" && asked.method == "POST" { said.status = 403 }, "fail", "register"),
    ("registrations stay", |asked, said| if asked.method == "DELETE" { said.status = 404 }, "warn", "unregister"),
    ("another time", |_, said| said.header("date", Some("Thu, 01 Jan 2015 00:00:00 GMT")), "fail", "clock"),
];

/// A token that says this. Its signature is for the host to judge.
fn token(claims: &Value) -> String {
    format!("e30.{}.{GOOD}", BASE64_URL.encode(claims.to_string()))
}

/// Looks at a good host with a token that is for it, but for what is changed.
async fn look_with(change: impl FnOnce(&mut Value), twist: fn(&Asked, &mut Said)) -> (Option<i32>, Value) {
    let address = broken::host(twist).await;
    let home = tempfile::tempdir().unwrap();
    let origin = format!("http://{address}");
    let mut claims = json!({
        "iss": origin, "aud": [format!("{origin}/mcp"), "https://other.example"], "exp": 4_000_000_000_u64,
        "iat": 1_000_000_000, "scope": "mcp:write mcp:read",
    });
    change(&mut claims);
    let (url, token) = (format!("{origin}/mcp"), token(&claims));
    let args = ["--format", "json", "--token", &token, "oauth", "doctor", &url];
    let output = tokio::task::block_in_place(|| command(home.path()).args(args).output().unwrap());
    for said in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(said).contains(&token), "the token is never shown");
    }
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", err(&output)));
    (output.status.code(), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_looked_at_and_what_is_wrong_with_it_is_said() {
    const CHECKS: [&str; 5] = ["audience", "token-issuer", "token-lifetime", "token-scopes", "accepted"];
    let (code, report) = look_with(|_| (), |_, _| ()).await;
    for check in CHECKS {
        assert_eq!(entries(&report, check, "pass").len(), 1, "{check}: {report:#}");
    }
    assert_eq!((code, complaints(&report)), (Some(0), vec![("warn".to_owned(), "dns".to_owned())]));

    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str, &str); 8] = [
        ("for another", |claims| claims["aud"] = "https://other.example/mcp".into(), "fail", "audience"),
        ("for the whole host", |claims| claims["aud"] = claims["iss"].clone(), "fail", "audience"),
        ("for nobody", |claims| claims["aud"] = Value::Null, "fail", "audience"),
        ("of another", |claims| claims["iss"] = "https://auth.other.example".into(), "fail", "token-issuer"),
        ("ended", |claims| claims["exp"] = 1_500_000_000.into(), "fail", "token-lifetime"),
        ("to come", |claims| claims["iat"] = 3_999_999_999_u64.into(), "fail", "token-lifetime"),
        ("too little", |claims| claims["scope"] = "mcp:write".into(), "warn", "token-scopes"),
        ("nothing at all", |claims| *claims = json!({ "scope": "mcp:read" }), "fail", "token-lifetime"),
    ];
    for (name, change, result, check) in cases {
        let (code, report) = look_with(change, |_, _| ()).await;
        let found = entries(&report, check, result);
        assert_eq!(found.len(), 1, "{name}: {report:#}");
        for field in ["clients", "why", "advice"] {
            assert!(!found[0][field].is_null(), "{name}: {field}");
        }
        assert_eq!(code, Some(i32::from(result == "fail")), "{name}: {report:#}");
    }
    // What a token says does not bind the host.
    for status in [401, 403] {
        let twist: fn(&Asked, &mut Said) = match status {
            401 => |asked, said| {
                if said.status == 405 && asked.path == "/mcp" {
                    said.status = 401;
                }
            },
            _ => |asked, said| {
                if said.status == 405 && asked.path == "/mcp" {
                    said.status = 403;
                }
            },
        };
        let (code, report) = look_with(|_| (), twist).await;
        assert_eq!((code, entries(&report, "accepted", "fail").len()), (Some(1), 1), "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_to_no_host_that_it_is_not_for() {
    static SHOWN: AtomicUsize = AtomicUsize::new(0);
    let count = |asked: &Asked, _: &mut Said| {
        let token = asked.headers.get("authorization").is_some_and(|value| value != "Bearer not-a-token");
        SHOWN.fetch_add(usize::from(token), Ordering::Relaxed);
    };
    look_with(|_| (), count).await;
    assert_eq!(SHOWN.swap(0, Ordering::Relaxed), 1, "that one is for the host");
    let (_, report) = look_with(|claims| claims["aud"] = "https://other.example/mcp".into(), count).await;
    assert_eq!(entries(&report, "accepted", "skip").len(), 1, "{report:#}");
    assert_eq!(SHOWN.load(Ordering::Relaxed), 0);

    // What the profile has is for its gateway: another host is looked at without it.
    let home = tempfile::tempdir().unwrap();
    let claims = json!({ "aud": "https://gateway.example", "exp": 4_000_000_000_u64 });
    std::fs::create_dir_all(home.path().join(".config/portcullis")).unwrap();
    let profiles = format!(
        "profiles:\n  default:\n    base_url: https://gateway.example\n    token: {}\n",
        token(&claims)
    );
    let file = home.path().join(".config/portcullis/profiles.yml");
    std::fs::write(&file, profiles).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let url = format!("http://{}/mcp", broken::host(count).await);
    let args = ["--format", "json", "oauth", "doctor", &url];
    let output = tokio::task::block_in_place(|| command(home.path()).args(args).output().unwrap());
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", err(&output)));
    let skipped = entries(&report, "audience", "skip");
    assert!(skipped[0]["seen"].as_str().unwrap().contains("https://gateway.example"), "{report:#}");
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(SHOWN.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_gateway_is_good_where_it_is_for() {
    let site = Site::start().await;
    site.protect(&json!({ "auth_required_users": ["service:robot"], "resource_scopes": ["user"] }));
    let host = format!("app.localhost:{}", site.daemon.https.port());
    let ca = site.authority.to_str().unwrap();
    let look = |token: &str| {
        let output = site.run(&["--cacert", ca, "--token", token, "oauth", "doctor", &host]);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", err(&output)));
        (output.status.code(), report)
    };
    let good = site.daemon.token("robot", "app.localhost").await;
    let (code, report) = look(&good);
    for check in ["audience", "token-issuer", "token-lifetime", "accepted"] {
        assert_eq!(entries(&report, check, "pass").len(), 1, "{check}: {report:#}");
    }
    assert_eq!(code, Some(0), "{report:#}");
    let stranger = site.daemon.token("stranger", "app.localhost").await;
    let (code, report) = look(&stranger);
    let refused = entries(&report, "accepted", "fail");
    assert!(refused[0]["why"].as_str().unwrap().contains("on no list"), "{report:#}");
    assert_eq!(code, Some(1));
    let elsewhere = site.daemon.token("elsewhere", "localhost").await;
    let (code, report) = look(&elsewhere);
    assert_eq!((code, entries(&report, "audience", "fail").len()), (Some(1), 1), "{report:#}");
    site.daemon.api(http::Method::DELETE, "/tokens/robot", Value::Null).await;
    let refused = eventually("the token is revoked", async || {
        let (_, report) = look(&good);
        entries(&report, "accepted", "fail").first().map(|entry| (*entry).clone())
    })
    .await;
    assert!(refused["seen"].as_str().unwrap().starts_with("401"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_and_named_with_the_clients_that_fail() {
    for (name, twist, result, check) in CASES {
        let (code, report) = look_at(*twist, &["--register"]).await;
        let found = entries(&report, check, result);
        assert!(!found.is_empty(), "{name}: no {result} of {check}: {report:#}");
        for entry in found {
            let told = |field: &str| entry[field].as_str().is_some_and(|text| !text.is_empty());
            assert!(told("seen") && told("why") && told("advice"), "{name}: {entry}");
        }
        assert_eq!(code == Some(1), complaints(&report).iter().any(|(result, _)| result == "fail"), "{name}");
        assert_eq!(*result == "fail", code == Some(1), "{name}: {report:#}");
    }
}
