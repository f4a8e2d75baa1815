//! A daemon whose people sign in at a stand-in for GitHub, and a client that asks for access.

use std::process::Command;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{self, Answer};
use crate::support::daemon::Daemon;
use crate::support::github::{App, Github, Person, User};
use crate::support::upstream::Upstream;
use crate::support::visitor::{Page, Visitor, form_of};

/// The issuer's host.
pub(crate) const ISSUER: &str = "auth.localhost";

/// A protected host, with an MCP server behind it.
pub(crate) const HOST: &str = "app.localhost";

/// Where the client wants its codes.
pub(crate) const REDIRECT: &str = "https://client.example/callback";

/// RFC 7636, appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// The port that clients see, whichever one the node listens on.
pub(crate) const PORT: u16 = 8443;

/// A deployment with one node.
pub(crate) struct World {
    pub(crate) daemon: Daemon,
    pub(crate) github: Github,
    pub(crate) upstream: Upstream,
}

/// A client that has registered itself.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: String,
}

/// What a client was given.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Tokens {
    /// Those of a good answer.
    pub(crate) fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        let all = answer.json();
        let text = |name: &str| all[name].as_str().unwrap_or_default().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

impl World {
    /// One where `alice` (1) and `bob` (2) have accounts at GitHub, and `alice` may use the host.
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// The same with a changed command.
    pub(crate) async fn with(change: impl FnOnce(&mut Command)) -> Self {
        let github = github().await;
        let daemon = start(&github, None, change);
        let upstream = Upstream::start("app").await;
        let world = Self { daemon, github, upstream };
        world.protect(HOST, json!({})).await;
        world
    }

    /// Makes a protected host, with `alice` on its list.
    pub(crate) async fn protect(&self, host: &str, more: Value) {
        let mut fields = json!({
            "auth_enabled": true,
            "auth_required_users": ["alice"],
            "resource_endpoint": "/mcp",
            "resource_scopes": ["mcp:read", "mcp:write"],
        });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.daemon.host(host, &self.upstream.url(), fields).await;
    }

    /// The URL of a path at the issuer.
    pub(crate) fn at_issuer(&self, path: &str) -> String {
        self.url(ISSUER, path)
    }

    /// The URL of a path on a host.
    #[expect(
        clippy::unused_self,
        reason = "all worlds have the same port, but that is not for tests to know"
    )]
    pub(crate) fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{PORT}{path}")
    }

    /// The resource that a protected host is.
    pub(crate) fn resource(&self, host: &str) -> String {
        self.url(host, "/mcp")
    }

    /// A new browser.
    pub(crate) fn visitor(&self) -> Visitor {
        Visitor::new(self.daemon.https)
    }

    /// Posts a form to the issuer.
    pub(crate) async fn post(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        self.visitor().send(Method::POST, &self.at_issuer(path), &[], form_of(pairs.iter().copied())).await
    }

    /// Registers a public client (RFC 7591).
    pub(crate) async fn register(&self, more: Value) -> Client {
        let mut body = json!({
            "client_name": "Test client",
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = http::Request::post("/register")
            .header("host", format!("{ISSUER}:{PORT}"))
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(body.to_string().into()))
            .unwrap();
        let answer = client::secure(self.daemon.https, request).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer.body));
        let registered = answer.json();
        Client { id: registered["client_id"].as_str().unwrap().to_owned() }
    }

    /// The URL of an authorization request; what `more` has stands in place of the usual parameters.
    pub(crate) fn authorize_url(&self, client: &Client, more: &[(&str, &str)]) -> String {
        let (challenge, resource) = (challenge(VERIFIER), self.resource(HOST));
        let usual = [
            ("response_type", "code"),
            ("client_id", client.id.as_str()),
            ("redirect_uri", REDIRECT),
            ("state", "xyz"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &resource),
            ("scope", "mcp:read"),
        ];
        let usual = usual.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        let pairs: Vec<_> =
            usual.chain(more.iter().copied().filter(|(_, value)| !value.is_empty())).collect();
        format!("{}?{}", self.at_issuer("/authorize"), form_of(pairs))
    }

    /// Opens an authorization request, agrees, signs in, and comes back to the client.
    pub(crate) async fn authorize(&self, visitor: &mut Visitor, url: &str, login: &str) -> Page {
        let page = visitor.open(url, REDIRECT).await;
        assert_eq!(page.answer().status, StatusCode::OK, "{}", page.text());
        let page = visitor.submit(&page, ("decision", "approve"), REDIRECT).await;
        self.sign_in(visitor, page, login).await
    }

    /// Signs in where the visitor has been sent to GitHub.
    pub(crate) async fn sign_in(&self, visitor: &mut Visitor, page: Page, login: &str) -> Page {
        assert!(page.url.starts_with(&self.github.url()), "at {}", page.url);
        visitor.submit(&page, ("user", login), REDIRECT).await
    }

    /// A code for a client, by `alice`.
    pub(crate) async fn code(&self, client: &Client) -> String {
        let url = self.authorize_url(client, &[]);
        let back = self.authorize(&mut self.visitor(), &url, "alice").await;
        back.param("code").unwrap_or_else(|| panic!("no code: {}", back.url))
    }

    /// Tokens for a client, by somebody in a browser of their own.
    pub(crate) async fn tokens_of(&self, client: &Client, login: &str, more: &[(&str, &str)]) -> Tokens {
        let url = self.authorize_url(client, more);
        let back = self.authorize(&mut self.visitor(), &url, login).await;
        let code = back.param("code").unwrap_or_else(|| panic!("no code: {}", back.url));
        Tokens::of(&self.redeem(client, &code).await)
    }

    /// Redeems a code.
    pub(crate) async fn redeem(&self, client: &Client, code: &str) -> Answer {
        let pairs = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("client_id", &client.id),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        self.post("/token", &pairs).await
    }

    /// Tokens for a client, by `alice`.
    pub(crate) async fn tokens(&self, client: &Client) -> Value {
        let answer = self.redeem(client, &self.code(client).await).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// Uses a refresh token.
    pub(crate) async fn refresh(&self, client: &Client, token: &str) -> Answer {
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", &client.id)];
        self.post("/token", &pairs).await
    }

    /// Asks a host for a path with a bearer token.
    pub(crate) async fn get_as(&self, host: &str, path: &str, token: &str) -> Answer {
        let host = format!("{host}:{PORT}");
        client::secure(self.daemon.https, client::get_as(&host, path, token)).await
    }
}

/// A stand-in for GitHub with an app and two users.
pub(crate) async fn github() -> Github {
    let github = Github::start().await;
    github.add_app(App::new("Iv1.test", "app-secret", "https://auth.localhost:8443"));
    github.add_user(User::new(1, "alice"));
    github.add_user(User::new(2, "bob"));
    github.person(Person::AtThePage);
    github
}

/// A node whose people sign in there.
pub(crate) fn start(github: &Github, dir: Option<Arc<TempDir>>, change: impl FnOnce(&mut Command)) -> Daemon {
    let dir = dir.unwrap_or_else(|| Arc::new(tempfile::tempdir().unwrap()));
    Daemon::start_in(dir, |command| {
        command.env("GITHUB_CLIENT_ID", "Iv1.test").env("GITHUB_CLIENT_SECRET", "app-secret");
        command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", PORT.to_string());
        command.env("GITHUB_URL", github.url()).env("GITHUB_API_URL", github.api_url());
        change(command);
    })
}

/// The S256 challenge of a verifier (RFC 7636, section 4.2).
pub(crate) fn challenge(verifier: &str) -> String {
    BASE64_URL.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
}

/// The claims of a token, not verified.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL.decode(payload).unwrap()).unwrap()
}

/// The id of the key that has signed a token, by the token's word.
pub(crate) fn key_id(token: &str) -> String {
    let header = BASE64_URL.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}
