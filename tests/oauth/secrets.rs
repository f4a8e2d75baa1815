//! Nothing that opens a door stands in clear where it could be read later: not in logs at their finest level, not in
//! the store, not in the data folder, not in what administrators are shown.
//!
//! A whole deployment is used in every way there is, and everything secret that came up meanwhile is looked for in
//! everything that was written.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use redis::Value as Reply;
use serde_json::{Value, json};

use super::world::{HOST, ISSUER, PORT, REDIRECT, VERIFIER, World};
use crate::support::client::{self, Answer};
use crate::support::redis::{PASSWORD, RedisServer};
use crate::support::visitor::{Visitor, form_of};

const COOKIE: &str = "__Host-unified_auth_token";
const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef";

/// What the client sends as `state`.
const STATE: &str = "state-of-the-client-5b0e7c";

/// The secrets of a run, by what they are.
#[derive(Default)]
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    fn add(&mut self, what: &str, value: &str) {
        assert!(value.len() >= 16, "{what} is too short to be looked for: {value:?}");
        let what = format!("{what} {}", self.0.len());
        self.0.insert(what, value.to_owned());
    }

    /// Those of an answer of the token endpoint.
    fn add_tokens(&mut self, answer: &Answer) -> Value {
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        let tokens = answer.json();
        for name in ["access_token", "refresh_token", "id_token"] {
            if let Some(value) = tokens[name].as_str() {
                self.add(name, value);
                // Without its signature a token is no secret of its own, but no log has any use for it either.
                if let Some(signature) = value.split('.').nth(2) {
                    self.add(&format!("the signature of an {name}"), signature);
                }
            }
        }
        tokens
    }

    fn add_cookies(&mut self, visitor: &Visitor) {
        for value in visitor.cookie_values() {
            self.add("a cookie", value);
        }
    }

    /// What was found in bytes, in clear or in an encoding that anybody reads.
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let text = String::from_utf8_lossy(bytes);
        let has = |secret: &str| text.contains(secret);
        let leaks = self.0.iter().filter(|(_, value)| {
            has(value)
                || has(&utf8_percent_encode(value, NON_ALPHANUMERIC).to_string())
                || has(BASE64_STANDARD.encode(value).trim_end_matches('='))
                || has(&BASE64_URL_SAFE_NO_PAD.encode(value))
        });
        leaks.map(|(what, _)| what.as_str()).collect()
    }
}

/// Everything that a Redis holds, by key: names, values, and members of all kinds.
async fn dump(redis: &RedisServer) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<String> = redis.admin(&["KEYS", "*"]).await.unwrap();
    let mut all = BTreeMap::new();
    for key in keys {
        let kind: String = redis.admin(&["TYPE", &key]).await.unwrap();
        let words: &[&str] = match kind.as_str() {
            "string" => &["GET", &key],
            "hash" => &["HGETALL", &key],
            "zset" => &["ZRANGE", &key, "0", "-1", "WITHSCORES"],
            "set" => &["SMEMBERS", &key],
            "list" => &["LRANGE", &key, "0", "-1"],
            "stream" => &["XRANGE", &key, "-", "+"],
            // It has expired meanwhile.
            "none" => continue,
            other => panic!("{key} is a {other}"),
        };
        let value: Reply = redis.admin(words).await.unwrap();
        let mut bytes = key.clone().into_bytes();
        flatten(&value, &mut bytes);
        all.insert(key, bytes);
    }
    all
}

fn flatten(value: &Reply, out: &mut Vec<u8>) {
    out.push(b'\n');
    match value {
        Reply::BulkString(bytes) => out.extend(bytes),
        Reply::SimpleString(text) => out.extend(text.bytes()),
        Reply::Array(values) | Reply::Set(values) => values.iter().for_each(|value| flatten(value, out)),
        Reply::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            flatten(key, out);
            flatten(value, out);
        }),
        Reply::Int(number) => out.extend(number.to_string().bytes()),
        Reply::Double(number) => out.extend(number.to_string().bytes()),
        Reply::Nil | Reply::Okay | Reply::Boolean(_) => {}
        other => panic!("{other:?}"),
    }
}

/// All files below a folder.
fn files(folder: &Path, out: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            files(&path, out);
        } else if kind.is_file() {
            out.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
}

async fn post_as(world: &World, path: &str, basic: (&str, &str), pairs: &[(&str, &str)]) -> Answer {
    let credentials = BASE64_STANDARD.encode(format!("{}:{}", basic.0, basic.1));
    let header = format!("Basic {credentials}");
    let headers = [("authorization", header.as_str())];
    let body = form_of(pairs.iter().copied());
    world.visitor().send(Method::POST, &world.at_issuer(path), &headers, body).await
}

/// A client with a secret, through the whole code flow, refreshes, a replay, introspection and revocation; with
/// mistakes that put secrets where they don't belong.
async fn code_flow(world: &World, secrets: &mut Secrets) {
    let request = json!({ "client_name": "Secret", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_basic" });
    let registered = http::Request::post("/register")
        .header("host", format!("auth.localhost:{PORT}"))
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(request.to_string().into()))
        .unwrap();
    let registered = client::secure(world.daemon.https, registered).await.json();
    let id = registered["client_id"].as_str().unwrap().to_owned();
    let secret = registered["client_secret"].as_str().unwrap().to_owned();
    secrets.add("a client secret", &secret);
    secrets.add("credentials in a header", &BASE64_STANDARD.encode(format!("{id}:{secret}")));
    let management = registered["registration_access_token"].as_str().unwrap();
    secrets.add("a registration token", management);
    let own = registered["registration_client_uri"].as_str().unwrap();
    let own = format!("/{}", own.split('/').skip(3).collect::<Vec<_>>().join("/"));
    let shown = client::get_as(&format!("auth.localhost:{PORT}"), &own, management);
    assert_eq!(client::secure(world.daemon.https, shown).await.status, StatusCode::OK);

    let known = super::world::Client { id: id.clone() };
    let mut visitor = world.visitor();
    let more = [("scope", "openid profile mcp:read"), ("state", STATE)];
    let back = world.authorize(&mut visitor, &world.authorize_url(&known, &more), "alice").await;
    let code = back.param("code").expect("a code");
    secrets.add("a code", &code);
    secrets.add_cookies(&visitor);
    let redeem = |code: &str, verifier: &str| {
        [
            ("grant_type", "authorization_code".to_owned()),
            ("code", code.to_owned()),
            ("redirect_uri", REDIRECT.to_owned()),
            ("code_verifier", verifier.to_owned()),
        ]
    };
    // In the query, where nothing of it is looked at, and where logs look first.
    let pairs = redeem(&code, VERIFIER);
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let misplaced = format!("/token?{}&client_secret={secret}", form_of(pairs.iter().copied()));
    assert_eq!(world.post(&misplaced, &[("client_id", "nobody")]).await.status, StatusCode::UNAUTHORIZED);
    let wrong = post_as(world, "/token", (&id, "wrong"), &pairs).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let tokens = secrets.add_tokens(&post_as(world, "/token", (&id, &secret), &pairs).await);
    let refresh = tokens["refresh_token"].as_str().unwrap();
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    let next = secrets.add_tokens(&post_as(world, "/token", (&id, &secret), &pairs).await);
    // The same successor, sealed meanwhile.
    secrets.add_tokens(&post_as(world, "/token", (&id, &secret), &pairs).await);
    let access = next["access_token"].as_str().unwrap();
    assert_eq!(world.get_as(HOST, "/mcp", access).await.status, StatusCode::OK);
    let query = format!("/mcp?access_token={access}&page=1");
    assert_eq!(world.get_as(HOST, &query, access).await.status, StatusCode::OK);
    let referer = format!("{REDIRECT}?code={code}&state={STATE}");
    let headers = [("referer", referer.as_str()), ("authorization", "Bearer none")];
    let refused = world.visitor().send(Method::GET, &world.url(HOST, "/mcp"), &headers, String::new()).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    for pairs in [[("token", access)], [("token", next["refresh_token"].as_str().unwrap())]] {
        let told = post_as(world, "/introspect", (&id, &secret), &pairs).await;
        assert_eq!(told.json()["active"], true);
    }
    let info = client::get_as(&format!("auth.localhost:{PORT}"), "/userinfo", access);
    client::secure(world.daemon.https, info).await;
    let id_token = tokens["id_token"].as_str().unwrap();
    visitor.open(&world.at_issuer(&format!("/logout?id_token_hint={id_token}&state={STATE}")), "").await;
    // A second authorization, whose code is presented twice, the second time by who guesses.
    let back = world.authorize(&mut world.visitor(), &world.authorize_url(&known, &more), "alice").await;
    let code = back.param("code").expect("a code");
    secrets.add("a code", &code);
    for verifier in ["another-verifier-another-verifier-another-verifier", VERIFIER] {
        let pairs = redeem(&code, verifier);
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(post_as(world, "/token", (&id, &secret), &pairs).await.json()["error"], "invalid_grant");
    }
    let revoked = post_as(world, "/revoke", (&id, &secret), &[("token", access)]).await;
    assert_eq!(revoked.status, StatusCode::OK);
}

/// A browser on a host: login, pages, logout, and a ticket that is used twice.
async fn browser(world: &World, secrets: &mut Secrets) {
    let mut visitor = world.visitor();
    let ticket = world.url(HOST, "/.portcullis/session");
    let page = visitor.open(&world.url(HOST, "/inbox?token=none-of-ours"), "").await;
    secrets.add_cookies(&visitor);
    let stopped = visitor.submit(&page, ("user", "alice"), &ticket).await;
    secrets.add("a ticket", &stopped.param("ticket").expect("a ticket"));
    secrets.add_cookies(&visitor);
    assert_eq!(visitor.open(&stopped.url, "").await.answer().status, StatusCode::OK);
    secrets.add_cookies(&visitor);
    let cookie = visitor.cookie(HOST, COOKIE).unwrap().to_owned();
    assert_eq!(world.get_as(HOST, "/", &cookie).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(visitor.open(&stopped.url, "").await.answer().status, StatusCode::BAD_REQUEST);
    visitor.send(Method::POST, &world.url(HOST, "/.portcullis/logout"), &[], String::new()).await;
}

/// A device, with the page where its user agrees.
async fn device(world: &World, secrets: &mut Secrets) {
    let grants = json!({ "grant_types": ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token", "authorization_code"] });
    let client = world.register(grants).await;
    let resource = world.resource(HOST);
    let pairs = [("client_id", client.id.as_str()), ("scope", "mcp:read"), ("resource", &resource)];
    let answer = world.post("/device/code", &pairs).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let codes = answer.json();
    let device_code = codes["device_code"].as_str().unwrap();
    secrets.add("a device code", device_code);
    let mut visitor = world.visitor();
    let page = visitor.open(codes["verification_uri_complete"].as_str().unwrap(), "").await;
    let page = world.sign_in(&mut visitor, page, "alice").await;
    let done = visitor.submit(&page, ("decision", "approve"), "").await;
    assert_eq!(done.answer().status, StatusCode::OK, "{}", done.text());
    secrets.add_cookies(&visitor);
    let pairs = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", device_code),
        ("client_id", &client.id),
    ];
    secrets.add_tokens(&world.post("/token", &pairs).await);
}

/// What administrators make and see.
async fn administration(world: &World, secrets: &mut Secrets) {
    let named = world.daemon.token("ci", HOST).await;
    secrets.add("a named token", &named);
    let wanted = json!({ "client_id": "configured", "client_name": "Configured", "grant_types": ["client_credentials"], "token_endpoint_auth_method": "client_secret_basic" });
    let made = world.daemon.api(Method::POST, "/oauth/clients", wanted).await;
    secrets.add("the secret of a configured client", made["client_secret"].as_str().expect("a secret"));
    let id = made["client_id"].as_str().unwrap();
    let again = world.daemon.api(Method::POST, &format!("/oauth/clients/{id}/secret"), json!({})).await;
    let secret = again["client_secret"].as_str().expect("a secret").to_owned();
    secrets.add("the second secret of a configured client", &secret);
    world
        .daemon
        .change(HOST, json!({ "auth_required_users": ["alice", format!("service:client/{id}")] }))
        .await;
    let resource = world.resource(HOST);
    let pairs = [("grant_type", "client_credentials"), ("scope", "mcp:read"), ("resource", &resource)];
    secrets.add_tokens(&post_as(world, "/token", (id, &secret), &pairs).await);
    let app = "secret-of-the-app-of-this-host-4f1d";
    secrets.add("the secret of a GitHub app", app);
    let app = json!({ "github_client_id": "Iv1.own", "github_client_secret": app });
    world.daemon.api(Method::POST, &format!("/proxy/targets/{HOST}/github-oauth"), app).await;
}

/// A host that wants GitHub's token kept.
async fn kept(world: &World, secrets: &mut Secrets) {
    const VAULT: &str = "vault.localhost";
    world.protect(VAULT, json!({ "auth_mode": "redirect" })).await;
    world.daemon.change(VAULT, json!({ "oauth_vault_upstream_token": true })).await;
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(VAULT, "/"), "").await;
    world.sign_in(&mut visitor, page, "alice").await;
    secrets.add_cookies(&visitor);
    assert_eq!(world.github.tokens().len(), 1, "it is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_written_anywhere_in_clear() {
    let redis = RedisServer::start();
    let world = World::with(|command| {
        command
            .env("REDIS_URL", redis.url())
            .env("PORTCULLIS_SECRET_KEY", SECRET_KEY)
            .env("LOG_LEVEL", "TRACE");
    })
    .await;
    world.daemon.change(HOST, json!({ "auth_mode": "redirect" })).await;
    let mut secrets = Secrets::default();
    for (what, value) in [("the key", SECRET_KEY), ("a verifier", VERIFIER), ("a state", STATE)] {
        secrets.add(what, value);
    }
    // Short, but like nothing else.
    secrets.0.insert("the password of Redis".to_owned(), PASSWORD.to_owned());
    code_flow(&world, &mut secrets).await;
    browser(&world, &mut secrets).await;
    device(&world, &mut secrets).await;
    let mut store = dump(&redis).await;
    administration(&world, &mut secrets).await;
    assert!(world.github.tokens().is_empty(), "GitHub's tokens are given back after use");
    kept(&world, &mut secrets).await;
    let of_github = world.github.secrets();
    assert!(of_github.iter().any(|secret| secret.starts_with("gho_")));
    for secret in of_github.iter().filter(|secret| !secret.is_empty()) {
        secrets.add("something between GitHub and us", secret);
    }

    // The logs are as fine as they can be, and all that was done is in them.
    world.get_as(ISSUER, "/userinfo", "none-of-ours").await;
    world.daemon.wait_for_log("a token was refused at /userinfo");
    let last = "/the-last-request-of-all";
    world.get_as(HOST, last, "none").await;
    world.daemon.record(&format!("hostname={HOST}"), |record| record["request_path"] == last).await;
    world.daemon.record("hostname=auth.localhost", |record| record["request_path"] == "/device").await;
    let mut written: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (key, value) in dump(&redis).await {
        store.entry(key).or_default().extend(value);
    }
    assert!(store.keys().any(|key| key == "{portcullis:requests}"), "{:?}", store.keys());
    written.extend(store);
    files(world.daemon.dir.path(), &mut written);
    written.insert("what the daemon printed".to_owned(), world.daemon.logged().into_bytes());
    for path in [
        "/oauth/clients?per_page=100",
        "/oauth/tokens?per_page=100",
        "/oauth/grants?per_page=100",
        "/oauth/sessions?per_page=100",
        "/oauth/consents",
        "/oauth/events",
        "/oauth/logins",
        "/oauth/metrics",
        "/oauth/proxies",
        "/oauth/health",
        "/oauth/keys",
        "/tokens/",
        "/logs/search?limit=1000",
        "/logs/search?log=diagnostics&limit=1000",
        "/logs/search?log=audit&limit=1000",
        "/logs/events",
        "/logs/errors",
        "/proxy/targets/",
        "/system/config/export",
        "/system/info",
    ] {
        let answer = world.daemon.ask(Method::GET, path, &Value::Null).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&answer.body));
        written.insert(format!("GET {path}"), answer.body.to_vec());
    }
    let clients = world.daemon.api(Method::GET, "/oauth/clients?per_page=100", Value::Null).await;
    for client in clients["clients"].as_array().unwrap() {
        let path = format!("/oauth/clients/{}", client["client_id"].as_str().unwrap());
        let answer = world.daemon.ask(Method::GET, &path, &Value::Null).await;
        written.insert(format!("GET {path}"), answer.body.to_vec());
    }
    let lengths: usize = written.values().map(Vec::len).sum();
    eprintln!(
        "measured: {} secrets looked for in {} places, {lengths} bytes",
        secrets.0.len(),
        written.len()
    );
    let leaks: BTreeMap<_, _> = written
        .iter()
        .map(|(place, bytes)| (place, secrets.found_in(bytes)))
        .filter(|(_, found)| !found.is_empty())
        .collect();
    assert!(leaks.is_empty(), "secrets in clear: {leaks:#?}");
    // The search finds what is there: the test could not fail otherwise.
    let planted = secrets.0.values().next().unwrap();
    assert_eq!(secrets.found_in(format!("x{planted}x").as_bytes()).len(), 1);
}
