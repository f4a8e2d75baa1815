//! What touches the whole of the API: following the log, secrets, moving a configuration.

use std::time::Duration;

use http_body_util::BodyExt;
use portcullis::services::control::register;
use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::client::{Answer, get, plain};
use crate::support::daemon::Daemon;
use crate::support::upstream::Upstream;
use crate::{Listed, pair, told};

#[tokio::test]
async fn a_follower_sees_the_line_of_a_request_that_was_just_made() {
    let daemon = Daemon::start();
    let upstream = Upstream::start("up").await;
    let proxy =
        json!({ "proxy_hostname": "app.localhost", "target_url": upstream.url(), "https_redirect": "off" });
    let made = Api::local(&daemon).call("POST", "/proxy/targets/", proxy).await;
    assert_eq!(made.status, 201, "{}", told(&made));
    let reader = Api::remote(&daemon, "reader", "user");
    for api in [Api::local(&daemon), reader] {
        let mut followed =
            api.open("GET", "/logs/follow?hostname=app.localhost&path=/followed*", &[], "").await;
        assert_eq!(followed.headers()["content-type"], "text/event-stream");
        let mut text = String::new();
        // The follower starts with its first read, so requests go on until one is told.
        let mut count = 0;
        while !text.contains("data:") {
            count += 1;
            assert!(count < 200, "nothing was told");
            assert!(
                plain(daemon.http, get("app.localhost", &format!("/followed/{count}")))
                    .await
                    .status
                    .is_success()
            );
            while let Ok(Some(frame)) =
                tokio::time::timeout(Duration::from_millis(100), followed.body_mut().frame()).await
            {
                text.push_str(&String::from_utf8_lossy(frame.unwrap().data_ref().unwrap()));
            }
        }
        let line = text.lines().find_map(|line| line.strip_prefix("data:")).unwrap();
        let record: Value = serde_json::from_str(line.trim()).unwrap();
        assert_eq!(
            (&record["proxy_hostname"], &record["status_code"]),
            (&json!("app.localhost"), &json!(200)),
            "{record}"
        );
        assert!(text.contains("id:"), "an event can be gone on from: {text}");
    }
}

/// Every answer of every `GET` of the API.
async fn every_answer(api: &Api, names: &[(&str, &str)]) -> Vec<(String, Answer)> {
    let mut listed = Listed::default();
    register(&mut listed);
    let mut answers = Vec::new();
    for (_, endpoint) in listed.0.iter().filter(|(_, endpoint)| endpoint.method == http::Method::GET) {
        let mut path = endpoint.path.to_owned();
        for (field, value) in names {
            path = path.replace(&format!("{{{field}}}"), value);
        }
        let answer = api.get(&path).await;
        answers.push((path, answer));
    }
    for path in [
        "/system/config/export?include_secrets=true&include_tokens=true",
        "/logs/search?log=audit",
        "/logs/search?log=diagnostics",
    ] {
        answers.push((path.to_owned(), api.get(path).await));
    }
    answers
}

/// The predecessor told the secret of a host's GitHub app and the private keys of certificates to who read them, and
/// its log had tokens and keys (catalogue 14.2, numbers 37 and 38).
#[tokio::test]
async fn secrets_are_in_no_answer_and_in_no_log() {
    const SECRET_KEY: &str = "this-key-seals-all-secrets-of-the-test";
    const APP_SECRET: &str = "the-secret-of-the-app-of-a-host";
    const GLOBAL_SECRET: &str = "the-secret-of-the-deployments-app";
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_SECRET_KEY", SECRET_KEY).env("LOG_LEVEL", "TRACE");
        command.env("GITHUB_CLIENT_ID", "Iv1.global").env("GITHUB_CLIENT_SECRET", GLOBAL_SECRET);
    });
    let api = Api::local(&daemon);
    let (chain, key) = pair("app.localhost");
    let upload = json!({ "cert_name": "app", "fullchain_pem": chain, "private_key_pem": key });
    assert_eq!(api.call("POST", "/certificates/upload", upload).await.status, 201);
    let proxy = json!({ "proxy_hostname": "app.localhost", "target_url": "http://127.0.0.1:9" });
    assert_eq!(api.call("POST", "/proxy/targets/", proxy).await.status, 201);
    let token = api.call("POST", "/tokens/", json!({ "name": "ci", "scopes": ["admin"] })).await.json();
    let token = token["token"].as_str().unwrap().to_owned();
    let setup = api.call("POST", "/setup/tokens", Value::Null).await.json();
    let setup = setup["token"].as_str().unwrap().to_owned();
    let app = json!({ "client_id": "Iv1.own", "client_secret": APP_SECRET });
    let app = api.call("POST", "/proxy/targets/app.localhost/github-oauth", app).await;
    assert_eq!(app.status, 200, "{}", told(&app));
    let client = json!({ "client_id": "conf", "redirect_uris": ["https://client.example/callback"] });
    let client = api.call("POST", "/oauth/clients", client).await;
    assert_eq!(client.status, 201, "{}", told(&client));
    let first = client.json()["client_secret"].as_str().unwrap().to_owned();
    let client = api.call("POST", "/oauth/clients/conf/secret", Value::Null).await;
    let second = client.json()["client_secret"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    let wrong = json!({ "cert_name": "b", "fullchain_pem": chain, "private_key_pem": [key] });
    let wrong = api.call("POST", "/certificates/upload", wrong).await;
    assert_eq!(wrong.status, 422);
    assert_eq!(Api::Remote(daemon.https, Some(token.clone())).get("/tokens/info").await.status, 200);

    let body = key.lines().nth(1).unwrap();
    let signature = token.rsplit('.').next().unwrap();
    let secrets = [
        ("a key", body),
        ("a key", "PRIVATE KEY"),
        ("a token", signature),
        ("a setup token", &*setup),
        ("the secret key", SECRET_KEY),
        ("the secret of a host's app", APP_SECRET),
        ("the secret of the deployment's app", GLOBAL_SECRET),
        ("the first secret of a client", &*first),
        ("the second secret of a client", &*second),
    ];
    let names =
        [("proxy_hostname", "app.localhost"), ("cert_name", "app"), ("name", "ci"), ("client_id", "conf")];
    let mut told = every_answer(&api, &names).await;
    told.push(("the refusal".to_owned(), wrong));
    told.push(("the answer to who sets an app".to_owned(), app));
    for (path, answer) in &told {
        let text = String::from_utf8_lossy(&answer.body);
        for (what, secret) in &secrets {
            assert!(!text.contains(secret), "{path} shows {what}: {text}");
        }
    }
    let log = daemon.logged();
    for (what, secret) in &secrets {
        assert!(!log.contains(secret), "the daemon's log shows {what}");
    }
}

#[tokio::test]
async fn a_configuration_moves_to_another_gateway_as_a_whole() {
    let start = || {
        Daemon::start_with(|command| {
            command.env("PORTCULLIS_SECRET_KEY", "the-same-secret-key-on-both-gateways");
        })
    };
    let (from, to) = (start(), start());
    let upstream = Upstream::start("up").await;
    let (source, target) = (Api::local(&from), Api::local(&to));
    let (chain, key) = pair("app.localhost");
    for (path, body) in [
        (
            "/certificates/upload",
            json!({ "cert_name": "app", "fullchain_pem": chain, "private_key_pem": key }),
        ),
        ("/services/external", json!({ "service_name": "web", "target_url": upstream.url() })),
        (
            "/proxy/targets/",
            json!({ "proxy_hostname": "app.localhost", "target_url": upstream.url(), "cert_name": "app", "https_redirect": "off" }),
        ),
        (
            "/routes/",
            json!({ "route_id": "r", "path_pattern": "/r", "target_type": "instance", "target_value": "web" }),
        ),
    ] {
        let made = source.call("POST", path, body).await;
        assert_eq!(made.status, 201, "{path}: {}", told(&made));
    }
    let export = source.get("/system/config/export?include_secrets=true").await.json();
    assert!(export["config"]["secrets"].is_object(), "{export}");
    let check =
        target.call("POST", "/system/config/validate", json!({ "config": export["config"] })).await.json();
    assert_eq!(check["valid"], true, "{check}");
    let dry = json!({ "config": export["config"], "skip_existing": true, "dry_run": true });
    assert_eq!(target.call("POST", "/system/config/import", dry).await.status, 200);
    assert_eq!(target.get("/proxy/targets/app.localhost").await.status, 404, "a dry run changes nothing");
    let twice = json!({ "config": export["config"] });
    assert_eq!(
        target.call("POST", "/system/config/import", twice).await.status,
        409,
        "`localhost` is there already"
    );
    let import = json!({ "config": export["config"], "skip_existing": true });
    let import = target.call("POST", "/system/config/import", import).await;
    assert_eq!(import.status, 200, "{}", told(&import));
    let answer = plain(to.http, get("app.localhost", "/r")).await;
    assert_eq!(answer.status, 200, "{}", told(&answer));
    let again = target.get("/system/config/export?include_secrets=true").await.json();
    assert_eq!(
        again["config"]["proxies"].as_array().map(Vec::len),
        export["config"]["proxies"].as_array().map(Vec::len)
    );
    let bad = json!({ "config": { "routes": [{ "route_id": "x", "path_pattern": "/x", "target_type": "instance", "target_value": "none" }] } });
    let checked = target.call("POST", "/system/config/validate", bad).await.json();
    assert_eq!(
        (&checked["valid"], &checked["errors"][0]["field"]),
        (&json!(false), &json!("routes[0].target_value")),
        "{checked}"
    );
}
