//! Logging in at gateways that a test makes itself: the device flow's answers, and what no client may accept.

use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::broken::{self, Asked, Said};
use crate::site::err;
use crate::support::daemon::command;

/// A good gateway, whose resource is all of it.
fn good(asked: &Asked, said: &mut Said) {
    if asked.path.starts_with("/.well-known/oauth-protected-resource") {
        said.change(|value| value["resource"] = asked.origin.clone().into());
    }
}

fn server(asked: &Asked, said: &mut Said, change: impl FnOnce(&mut Value)) {
    good(asked, said);
    if asked.path == "/.well-known/oauth-authorization-server" {
        said.change(change);
    }
}

/// Logs in there. The home has the profile afterwards.
async fn log_in(twist: fn(&Asked, &mut Said), more: &[&str]) -> (Output, tempfile::TempDir) {
    let address = broken::host(twist).await;
    let home = tempfile::tempdir().unwrap();
    let url = format!("http://{address}");
    let args = [&["--format", "json", "--base-url", &url, "login"], more].concat();
    let output = tokio::task::block_in_place(|| command(home.path()).args(args).output().unwrap());
    (output, home)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_asks_until_the_user_has_decided() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (output, home) = log_in(
        |asked, said| {
            good(asked, said);
            if asked.path == "/token" {
                assert!(
                    asked.body.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code")
                );
                assert!(
                    asked.body.contains("device_code=dc") && asked.body.contains("client_id=portcullis-cli")
                );
                if ASKED.fetch_add(1, Ordering::Relaxed) < 3 {
                    said.change(|value| *value = json!({ "error": "authorization_pending" }));
                } else {
                    said.status = 200;
                    let token = json!({ "access_token": "at", "token_type": "bearer", "expires_in": 1800 });
                    said.change(|value| *value = token);
                }
            }
        },
        &["--device", "--scope", "admin", "--scope", "mcp"],
    )
    .await;
    assert!(output.status.success(), "{}", err(&output));
    assert!(err(&output).contains("enter the code: WDJB-MJHT"), "{}", err(&output));
    assert_eq!(ASKED.load(Ordering::Relaxed), 4);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["scopes"], &said["renews_itself"]), (&json!(["admin", "mcp"]), &json!(false)));
    let kept = std::fs::read_to_string(home.path().join(".config/portcullis/profiles.yml")).unwrap();
    assert!(kept.contains("access_token: at\n") && !kept.contains("refresh_token"), "{kept}");
}

/// A gateway that no login may succeed at: how it answers, how to log in, and what is said.
type Case = (fn(&Asked, &mut Said), &'static str, &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    (|asked, said| { good(asked, said); if asked.path == "/token" { said.change(|value| value["error"] = "access_denied".into()) } }, "--device", "access_denied"),
    (|asked, said| { good(asked, said); if asked.path == "/token" { said.change(|value| value["error"] = "expired_token".into()) } }, "--device", "expired_token"),
    (|asked, said| { good(asked, said); if asked.path == "/token" { said.status = 200; said.change(|value| *value = json!({ "access_token": "secret", "token_type": "DPoP" })) } }, "--device", "no bearer token"),
    (|asked, said| { good(asked, said); if asked.path == "/token" { said.status = 200; said.change(|value| *value = json!({ "access_token": ["secret"] })) } }, "--device", "no access token"),
    (|asked, said| { good(asked, said); if asked.path == "/device/code" { said.change(|value| value["device_code"] = json!(["secret"])) } }, "--device", "no device authorization"),
    (|asked, said| server(asked, said, |value| { value.as_object_mut().unwrap().remove("device_authorization_endpoint"); }), "--device", "offers no device flow"),
    (|asked, said| server(asked, said, |value| value["issuer"] = "https://evil.example".into()), "--device", "calls itself \"https://evil.example\""),
    (|asked, said| server(asked, said, |value| value["issuer"] = format!("{}/", value["issuer"].as_str().unwrap()).into()), "--device", "but the gateway named"),
    (|asked, said| server(asked, said, |value| value["token_endpoint"] = "http://evil.example/token".into()), "--device", "no URL of HTTPS"),
    (|asked, said| server(asked, said, |value| value["code_challenge_methods_supported"] = json!(["plain"])), "--no-browser", "no PKCE with S256"),
    (|asked, said| if asked.path.starts_with("/.well-known/oauth-protected-resource") { said.change(|value| value["resource"] = "https://other.example".into()) }, "--device", "--base-url https://other.example"),
    (|asked, said| { good(asked, said); if asked.path.starts_with("/.well-known/oauth-protected-resource") { said.change(|value| value["authorization_servers"] = json!(["http://evil.example"])) } }, "--device", "no URL of HTTPS"),
    (|asked, said| { good(asked, said); if asked.path.starts_with("/.well-known/oauth-protected-resource") { said.change(|value| value["authorization_servers"] = json!([])) } }, "--device", "names no authorization server"),
    (|asked, said| if asked.path == "/tokens/info" { said.status = 200 }, "--device", "does not ask for a login"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_login_where_something_is_wrong() {
    for (twist, flag, told) in CASES {
        let (output, home) = log_in(*twist, &[flag]).await;
        assert_eq!(output.status.code(), Some(1), "{told}: {}", err(&output));
        assert!(err(&output).contains(told), "{told}: {}", err(&output));
        assert!(!err(&output).contains("secret") && !err(&output).contains("panicked"), "{}", err(&output));
        assert!(!home.path().join(".config").exists(), "{told}: nothing is kept");
    }
}
