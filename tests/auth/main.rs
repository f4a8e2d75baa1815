//! Who may pass: tokens, scopes, lists, modes, named tokens. Driven through the built daemon.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod browsers;
mod issuer_host;
mod issuers;
mod keys;
mod metadata;
mod origins;
mod paths;
mod statements;
mod tokens;

use serde_json::{Value, json};

use support::client::{self, Answer, get, get_as};
use support::daemon::Daemon;
use support::issuer::{Key, at, jwks, with};
use support::upstream::Upstream;

/// Another issuer, which the test is.
const IDP: &str = "https://idp.test";
/// The protected host.
const HOST: &str = "app.test";
const RESOURCE: &str = "https://app.test";
/// How every challenge of the host begins.
const CHALLENGE: &str = r#"Bearer realm="auth.localhost", resource_metadata="https://app.test/.well-known/oauth-protected-resource""#;

/// A daemon with one protected host that trusts the test's issuer.
struct Site {
    daemon: Daemon,
    upstream: Upstream,
    rsa: Key,
}

impl Site {
    /// With further fields of the host. Everybody who has a good token may pass, unless they say otherwise.
    async fn start(fields: Value) -> Self {
        let site = Self::without_hosts(|_| ()).await;
        site.host(HOST, &fields);
        site
    }

    async fn without_hosts(change: impl FnOnce(&mut std::process::Command)) -> Self {
        let rsa = Key::rsa("rsa");
        let daemon = Daemon::start_with(|command| {
            command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
            change(command);
        });
        Self { daemon, upstream: Upstream::start("app").await, rsa }
    }

    /// A site whose own tokens the test can sign, because it brings the key. It has no hosts.
    async fn own() -> Self {
        let key = Key::rsa("own");
        let site = Self::without_hosts(|command| {
            command.env("OAUTH_JWT_PRIVATE_KEY_B64", key.private_b64());
            command.env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1");
        })
        .await;
        Self { rsa: key, ..site }
    }

    /// A token of our own issuer, at a site that [`own`](Self::own) made. It names no key, because there is only one.
    fn own_token(&self, changes: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "iss": "https://auth.localhost", "sub": "7", "aud": RESOURCE, "exp": at(600), "username": "Alice",
            "email": "Alice@Example.com", "groups": ["staff", "ops"],
        });
        for (name, value) in changes {
            claims = with(claims, name, value.clone());
        }
        self.rsa.sign_text(r#"{"alg":"RS256","typ":"at+jwt"}"#, &claims.to_string())
    }

    fn host(&self, host: &str, fields: &Value) {
        self.host_of(host, &[json!({ "issuer": IDP, "jwks": jwks([&self.rsa]) })], fields);
    }

    fn host_of(&self, host: &str, issuers: &[Value], fields: &Value) {
        let mut all =
            json!({ "auth_enabled": true, "trusted_issuers": issuers, "auth_required_users": ["*"] });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.daemon.proxy(host, &self.upstream.url(), &all);
    }

    async fn get(&self, path: &str) -> Answer {
        client::plain(self.daemon.http, get(HOST, path)).await
    }

    async fn get_as(&self, path: &str, token: &str) -> Answer {
        client::plain(self.daemon.http, get_as(HOST, path, token)).await
    }

    fn token(&self, claims: &Value) -> String {
        self.rsa.sign(claims)
    }
}

/// Claims of a good token of the test's issuer.
fn claims() -> Value {
    json!({
        "iss": IDP, "sub": "42", "aud": RESOURCE, "exp": at(600), "iat": at(-5), "jti": "t1",
        "preferred_username": "alice", "email": "alice@example.com", "email_verified": true,
        "name": "Alice A", "groups": ["staff", "ops"], "scope": "read", "client_id": "cli",
    })
}
