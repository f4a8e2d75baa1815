//! Secrets: who gets to read them beside those whom they are for.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use portcullis_services::store::{Keep, Range, Store, Stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;

use crate::standin::{field, pairs};
use crate::world::{
    APP, APP_SECRET, Authorization, Browser, CLIENT, ISSUER, REDIRECT, Setup, World, basic, header, text,
};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// It names a login for all to see; who has the cookie besides can go on with it.
const STATE: &str = "our state at GitHub";

/// What a deployment, its clients and its browsers had of secrets, by what they are.
type Secrets = Vec<(&'static str, String)>;

/// The part of a signed token that makes it one.
fn signature(token: &str) -> String {
    token.rsplit('.').next().expect("a JWT").to_owned()
}

/// What the cookie of the session has behind its id, which is no secret.
fn secret_of_session(browser: &Browser<'_>) -> String {
    let kept = browser.cookie("auth.example.com", "__Host-portcullis-session").expect("a session");
    kept[kept.len() - 43..].to_owned()
}

/// Lets everything happen that has to do with secrets; tells them.
async fn everything(world: &World) -> Secrets {
    let mut secrets: Secrets = vec![("the app's secret", APP_SECRET.to_owned())];
    let metadata = json!({ "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", "refresh_token", DEVICE] });
    let secret = world.put_client("conf", metadata).await.expect("a secret");
    secrets.push(("a client's secret", secret.clone()));
    world.put_app("one.example.com", "Iv1.one", json!({ "oauth_mcp_users": ["Mona"] })).await;
    secrets.push(("a host's app's secret", "secret-of-Iv1.one".to_owned()));

    let body = json!({ "redirect_uris": [REDIRECT] }).to_string();
    let kind = header("content-type", "application/json");
    let registered =
        world.request(CLIENT, Method::POST, &format!("{ISSUER}/register"), kind, body).await.json();
    for name in ["client_secret", "registration_access_token"] {
        secrets.push(("what was registered", text(&registered, name).to_owned()));
    }

    // A code, with all that it takes, step by step.
    let browser = world.browser();
    let asked = Authorization::new("conf", REDIRECT, &[("scope", "openid mcp"), ("resource", APP)]);
    let at_github = browser.to_github(&asked.url).await;
    secrets.extend(browser.cookies().into_iter().map(|value| ("the cookie of a login", value)));
    let back = world.at_github(&at_github).await.location().to_owned();
    let given = pairs(back.split_once('?').expect("a query").1);
    secrets.push(("GitHub's code", field(&given, "code").to_owned()));
    secrets.push((STATE, field(&given, "state").to_owned()));
    let done = browser.send(Method::GET, &back, None).await;
    let code = field(&done.redirected(), "code").to_owned();
    secrets.push(("the client's state", field(&done.redirected(), "state").to_owned()));
    secrets.push(("the session", secret_of_session(&browser)));
    secrets.push(("a code", code.clone()));
    secrets.push(("a verifier", asked.verifier.clone()));
    let fields = [("grant_type", "authorization_code"), ("code", &code), ("code_verifier", &asked.verifier)];
    let wrong = world.post_with("/token", &fields, basic("conf", "a-wrong-secret")).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    secrets.push(("a wrong secret", "a-wrong-secret".to_owned()));
    let tokens = world.post_with("/token", &fields, basic("conf", &secret)).await.json();
    for name in ["access_token", "id_token"] {
        secrets.push(("a token", signature(text(&tokens, name))));
    }
    let refresh = text(&tokens, "refresh_token").to_owned();
    let fields = [("grant_type", "refresh_token"), ("refresh_token", &refresh)];
    let next = world.post_with("/token", &fields, basic("conf", &secret)).await.json();
    let again = world.post_with("/token", &fields, basic("conf", &secret)).await.json();
    assert_eq!(again["refresh_token"], next["refresh_token"], "the successor is kept for a moment");
    secrets.push(("a token", signature(text(&next, "access_token"))));
    for token in [&refresh, text(&next, "refresh_token")] {
        // What stands behind the name of its family, which is no secret.
        secrets.push(("a refresh token", token[token.len() - 43..].to_owned()));
    }

    // A device, a browser on a host, and what ends tokens.
    let fields = [("scope", "mcp"), ("resource", APP)];
    let codes = world.post_with("/device/code", &fields, basic("conf", &secret)).await.json();
    secrets.push(("a device code", text(&codes, "device_code").to_owned()));
    secrets.push(("a user code", text(&codes, "user_code").to_owned()));
    let page = browser.go(text(&codes, "verification_uri_complete")).await;
    browser.submit(&page, &format!("{ISSUER}/device"), &[("decision", "approve")]).await;
    let poll = [("grant_type", DEVICE), ("device_code", text(&codes, "device_code"))];
    let device = world.post_with("/token", &poll, basic("conf", &secret)).await.json();
    secrets.push(("a token", signature(text(&device, "access_token"))));
    let (state, query) = ("s".repeat(43), ["return_url", "state"]);
    browser.set_cookie("app.example.com", "__Host-portcullis-state", &state);
    let query = crate::world::form(&[(query[0], &format!("{APP}/page")), (query[1], &state)]);
    let sent = browser.send(Method::GET, &format!("{ISSUER}/login?{query}"), None).await;
    let (_, ticket) = sent.location().split_once("ticket=").expect("a ticket");
    secrets.push(("a ticket", ticket.to_owned()));
    browser.send(Method::GET, sent.location(), None).await;
    let cookie =
        browser.cookie("app.example.com", "__Host-unified_auth_token").expect("a session on the host");
    secrets.push(("a host's session", signature(&cookie)));
    world.verify(&format!("{APP}/"), text(&next, "access_token")).await;
    world.verify(&format!("{APP}/"), &format!("{}x", text(&next, "access_token"))).await;
    for path in ["/introspect", "/revoke"] {
        let fields = [("token", text(&next, "access_token"))];
        assert_eq!(world.post_with(path, &fields, basic("conf", &secret)).await.status, StatusCode::OK);
    }
    for (what, secret) in &secrets {
        assert!(secret.len() >= 8, "{what} is too short to look for: {secret}");
    }
    secrets
}

/// Where the lines of a log go.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Number 38: logs held headers and bodies, the beginnings of tokens, whole claims, and the states of logins.
#[tokio::test]
async fn no_line_of_a_log_and_no_event_has_a_secret() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new().await;
    let secrets = everything(&world).await;
    tracing::info!("the end of the test");
    let log = String::from_utf8_lossy(&lines.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    assert!(log.contains("the end of the test") && log.contains("a client was refused"), "{log}");

    let stop = CancellationToken::new();
    let keep = Keep { entries: 10_000, age: Duration::from_secs(3600) };
    let store: Arc<dyn Store> = world.store.clone();
    let writing = tokio::spawn(world.events.clone().run(Arc::clone(&store), keep, stop.clone()));
    assert!(world.events.flush(Duration::from_secs(20)).await);
    let range =
        Range { after: None, since: 0, until: u64::MAX, tag: None, newest_first: false, limit: 10_000 };
    let events = store.range(Stream::Oauth, &range).await.expect("events");
    let events: String =
        events.iter().map(|event| String::from_utf8_lossy(&event.record).into_owned() + "\n").collect();
    for kind in
        ["auth_complete", "token_exchange", "token_refresh", "github_auth_success", "client_registration"]
    {
        assert!(events.contains(kind), "{kind}: {events}");
    }
    stop.cancel();
    writing.await.expect("written");

    for (place, told) in [("the log", &log), ("the events", &events)] {
        for (what, secret) in &secrets {
            let beginning = &secret[..secret.len().min(16)];
            assert!(!told.contains(beginning), "{place} has {what}, or its beginning: {beginning}");
        }
    }
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(std::fs::read(&path).expect("a file")) }
    }
    all
}

/// Numbers 23 and 37: refresh tokens were the names of keys, and secrets were kept as they came. Who has a copy of the
/// store gets nothing that opens a door.
#[tokio::test]
async fn a_copy_of_the_store_has_no_secret() {
    let directory = tempfile::tempdir().expect("a directory");
    let setup = Setup { directory: Some(directory.path().to_owned()), ..Setup::default() };
    let world = World::of(setup).await;
    let secrets = everything(&world).await;
    let files = files(directory.path());
    assert!(files.iter().any(|file| holds(file, b"client.example.com")), "what is no secret is found");
    for (what, secret) in secrets.iter().filter(|(what, _)| *what != STATE) {
        for file in &files {
            assert!(!holds(file, secret.as_bytes()), "the store has {what} in clear");
        }
    }
}
