//! The requests that all MCP clients send in one way or another, and what is wanted of the answers: what a strict
//! reader of any of them would trip over fails the test.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
use http::{Method, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::site::{MONA, Site, TOOLS};
use crate::support::client::{Answer, secure};
use crate::support::upstream::Upstream;
use crate::support::visitor::{Page, Visitor, form_of};

/// The first message of an MCP client.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"client","version":"1"}}}"#;

/// RFC 7636, appendix B.
pub(super) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// What RFC 8414 puts before the path of the issuer.
pub(super) const SERVER: &str = "/.well-known/oauth-authorization-server";
/// The same of RFC 9728, before the path of the resource.
pub(super) const RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// A maker's client. It knows nothing but the URL of the MCP server.
pub(super) struct Wire<'a> {
    pub(super) site: &'a Site,
    pub(super) url: String,
    /// What it sends with all its requests.
    headers: &'a [(&'a str, &'a str)],
}

/// What a client has found out.
#[derive(Debug)]
pub(super) struct Found {
    /// What the challenge asks for, else what the resource publishes.
    pub(super) scope: String,
    pub(super) resource: Value,
    pub(super) server: Value,
}

impl Found {
    /// An endpoint of the server.
    pub(super) fn endpoint(&self, name: &str) -> &str {
        self.server[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", self.server))
    }

    pub(super) fn resource(&self) -> &str {
        self.resource["resource"].as_str().unwrap()
    }

    /// Whether a list of the server has this.
    pub(super) fn lists(&self, member: &str, value: &str) -> bool {
        self.server[member].as_array().is_some_and(|list| list.iter().any(|item| item == value))
    }
}

/// Where the browser came back to.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) code: String,
    pub(super) consent: String,
}

impl<'a> Wire<'a> {
    /// A client that is given the URL of a protected host, for the first user only.
    pub(super) async fn to(site: &'a Site, upstream: &Upstream, headers: &'a [(&'a str, &'a str)]) -> Self {
        let fields = json!({
            "auth_enabled": true, "resource_endpoint": "/mcp", "resource_scopes": ["mcp"],
            "oauth_admin_users": [], "oauth_user_users": [], "oauth_mcp_users": [MONA],
        });
        site.daemon.host(TOOLS, &upstream.url(), fields).await;
        Self { site, url: site.url(TOOLS, "/mcp"), headers }
    }

    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let (host, path) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
        let mut request =
            http::Request::builder().method(method).uri(format!("/{path}")).header("host", host);
        for (name, value) in self.headers.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        secure(self.site.daemon.https, request.body(Full::new(body.into())).unwrap()).await
    }

    pub(super) async fn get(&self, url: &str) -> Answer {
        self.send(Method::GET, url, &[("accept", "application/json")], String::new()).await
    }

    /// A document that must be there.
    pub(super) async fn document(&self, url: &str) -> Value {
        let answer = self.get(url).await;
        assert_eq!(answer.status, StatusCode::OK, "{url}");
        strict(&answer)
    }

    /// A place where some clients look, too: it must have the same document, or be none.
    pub(super) async fn looks_at(&self, url: &str, found: &Found) {
        let answer = self.get(url).await;
        if answer.status == StatusCode::OK {
            assert_eq!(strict(&answer)["issuer"], found.server["issuer"], "{url}");
        } else {
            assert!(answer.status.is_client_error(), "{url}: {}", answer.status);
        }
    }

    /// The first request, without a token: the parameters of the challenge.
    pub(super) async fn knock(&self) -> BTreeMap<String, String> {
        let answer = self.post_message(&[]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges.len(), 1, "{challenges:?}");
        let challenge = challenges[0].to_str().unwrap();
        let parameters = challenge.strip_prefix("Bearer ").unwrap_or_else(|| panic!("{challenge}"));
        // As most clients do it, with a pattern.
        let pairs = parameters.split("\", ").filter_map(|pair| pair.split_once("=\""));
        pairs.map(|(name, value)| (name.trim().to_owned(), value.trim_end_matches('"').to_owned())).collect()
    }

    async fn post_message(&self, headers: &[(&str, &str)]) -> Answer {
        let own = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")];
        self.send(Method::POST, &self.url, &[&own[..], headers].concat(), INITIALIZE.to_owned()).await
    }

    /// From the challenge to the server's metadata.
    pub(super) async fn find(&self) -> Found {
        let challenge = self.knock().await;
        assert!(!challenge.contains_key("error"), "no token was sent: {challenge:?}");
        let resource = self.document(&challenge["resource_metadata"]).await;
        assert_eq!(resource["resource"], *self.url, "VS Code and Claude compare the whole URL");
        let issuer = resource["authorization_servers"][0].as_str().unwrap();
        let server = self.document(&format!("{issuer}{SERVER}")).await;
        assert_eq!(server["issuer"], issuer, "as a string");
        let published = resource["scopes_supported"].as_array().unwrap().iter();
        let published: Vec<_> = published.map(|scope| scope.as_str().unwrap()).collect();
        let scope = challenge.get("scope").cloned().unwrap_or_else(|| published.join(" "));
        assert_eq!(scope, "mcp");
        Found { scope, resource, server }
    }

    /// RFC 7591: what is registered, with what was asked for in it.
    pub(super) async fn register(&self, endpoint: &str, wanted: &Value) -> Value {
        let headers = [("content-type", "application/json"), ("accept", "application/json")];
        let answer = self.send(Method::POST, endpoint, &headers, wanted.to_string()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.header("cache-control"), "no-store");
        let registered = strict(&answer);
        for member in ["redirect_uris", "token_endpoint_auth_method", "response_types", "client_name"] {
            assert_eq!(registered[member], wanted[member], "{member}");
        }
        assert!(registered["client_id_issued_at"].is_number(), "{registered}");
        let secret = wanted["token_endpoint_auth_method"] != "none";
        assert_eq!(registered["client_secret"].is_string(), secret, "{registered}");
        assert_eq!(registered["client_secret_expires_at"].is_number(), secret, "{registered}");
        registered
    }

    /// Opens an authorization request in a browser, agrees, signs in, and comes back.
    pub(super) async fn authorize(&self, endpoint: &str, pairs: &[(&str, &str)], issuer: &str) -> Back {
        let asked = |wanted: &str| pairs.iter().find(|(name, _)| *name == wanted).expect("a parameter").1;
        let redirect = asked("redirect_uri");
        let challenge = challenge();
        let own = [
            ("response_type", "code"),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
        ];
        let url = format!("{endpoint}?{}", form_of(own.into_iter().chain(pairs.iter().copied())));
        let mut visitor = Visitor::new(self.site.daemon.https);
        let page = visitor.open(&url, redirect).await;
        assert_eq!(page.answer().status, StatusCode::OK, "{}", page.text());
        let consent = page.text();
        let page = visitor.submit(&page, ("decision", "approve"), redirect).await;
        assert!(page.url.starts_with(&self.site.github.url()), "at {}", page.url);
        let page = visitor.submit(&page, ("user", MONA), redirect).await;
        let back = |name: &str| page.param(name).unwrap_or_else(|| panic!("no {name}: {}", page.url));
        assert!(page.url.starts_with(&format!("{redirect}?")), "{}", page.url);
        assert_eq!(back("state"), asked("state"), "as it was");
        assert_eq!(back("iss"), issuer);
        Back { code: back("code"), consent }
    }

    /// An authorization request that must not be answered by a redirect.
    pub(super) async fn is_refused(&self, endpoint: &str, pairs: &[(&str, &str)]) {
        let challenge = challenge();
        let own = [
            ("response_type", "code"),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
        ];
        let url = format!("{endpoint}?{}", form_of(own.into_iter().chain(pairs.iter().copied())));
        let page: Page = Visitor::new(self.site.daemon.https).open(&url, "").await;
        assert_eq!(page.answer().status, StatusCode::BAD_REQUEST, "{pairs:?}");
        assert_eq!(page.url, url, "nobody is sent anywhere");
    }

    pub(super) async fn post_form(&self, endpoint: &str, pairs: &[(&str, &str)]) -> Answer {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        self.send(Method::POST, endpoint, &headers, form_of(pairs.iter().copied())).await
    }

    /// The token endpoint, which must say yes.
    pub(super) async fn tokens(&self, endpoint: &str, pairs: &[(&str, &str)]) -> Value {
        let answer = self.post_form(endpoint, pairs).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.header("cache-control"), "no-store");
        let tokens = strict(&answer);
        assert_eq!(tokens["token_type"], "Bearer");
        assert!(tokens["expires_in"].is_number(), "{tokens}");
        assert!(tokens["refresh_token"].is_string(), "{tokens}");
        tokens
    }

    /// Uses the MCP server, and looks at what the token is for.
    pub(super) async fn uses(&self, tokens: &Value) {
        let token = tokens["access_token"].as_str().unwrap();
        let payload = BASE64_URL.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(claims["aud"], json!([self.url]), "{claims}");
        let answer = self.post_message(&[("authorization", &format!("Bearer {token}"))]).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.header("www-authenticate"));
        assert_eq!(answer.seen("x-auth-user"), [MONA]);
    }
}

/// A JSON answer, as a strict reader takes it: a member without a value is absent (`null` stops every client that is
/// made with the TypeScript SDK).
fn strict(answer: &Answer) -> Value {
    let kind = answer.header("content-type");
    assert!(kind.starts_with("application/json"), "{kind}");
    let value = answer.json();
    let members = value.as_object().unwrap_or_else(|| panic!("{value}"));
    for (name, value) in members {
        assert!(!value.is_null(), "{name} of {members:?}");
    }
    value
}

/// S256 of the verifier (RFC 7636, section 4.2).
fn challenge() -> String {
    BASE64_URL.encode(digest::digest(&digest::SHA256, VERIFIER.as_bytes()))
}
