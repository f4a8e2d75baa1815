//! GitHub, or GitHub Enterprise, as the place where people sign in.
//!
//! [`Github`] speaks its wire protocol: the authorization code flow with PKCE (RFC 7636),
//! who a token belongs to, and the end of a token. [`Apps`] chooses the OAuth app for a host. Nothing here decides who may
//! use what, and nothing is kept: whoever calls sends the token back with [`Github::revoke`] as soon as the [`Identity`]
//! is known, or keeps it ([`upstream_tokens`](super::upstream_tokens)).
//!
//! A user is known by the numeric id, for ever: logins are renamed, and given to others.

mod answer;
mod app;
mod apps;
mod error;
mod identity;
mod pages;
mod pkce;
mod token;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, Method, Request, StatusCode, header};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_layers::Body;
use portcullis_layers::forward::Client;
use secrecy::{ExposeSecret, SecretString};
use smol_str::SmolStr;

pub(crate) use self::app::SealedApp;
pub use self::app::{App, InvalidApp};
pub use self::apps::{AppError, Apps};
pub use self::error::{Error, Refusal};
pub use self::identity::{Email, Identity};
pub use self::pkce::Pkce;
pub use self::token::Token;

use self::answer::Fields;
use crate::config::TargetUrl;
use crate::outbound::{Answer, Limits, Outbound, SetupError};

/// Where people sign in unless a deployment says otherwise.
pub const GITHUB_URL: &str = "https://github.com";

/// What most calls may take; GitHub answers in a tenth of a second.
const TIME: Duration = Duration::from_secs(10);

/// The largest page that the API sends is a tenth of this.
const MAX_BODY: usize = 1 << 20;

/// Scopes for who somebody is.
const SCOPES: [&str; 2] = ["read:user", "user:email"];

/// The further one for organisations and teams.
const GROUP_SCOPE: &str = "read:org";

/// What stands for itself in forms and queries (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The scopes to ask for; organisations and teams only where some list has groups.
pub fn scopes(groups: bool) -> Vec<&'static str> {
    let group = groups.then_some(GROUP_SCOPE);
    SCOPES.into_iter().chain(group).collect()
}

/// Where GitHub is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where people sign in.
    pub url: TargetUrl,
    /// Where the REST API is.
    pub api_url: TargetUrl,
    /// Certificates (PEM) to trust instead of the platform's.
    pub ca: Option<Arc<str>>,
    /// How long one call may take.
    pub time: Duration,
}

impl Settings {
    /// Settings with the platform's authorities. Without an address of its own the API is looked for
    /// where the product at `url` has it: github.com, its data residency hosts, or a server of one's own.
    pub fn new(url: TargetUrl, api_url: Option<TargetUrl>) -> Self {
        let api_url = api_url.unwrap_or_else(|| api_of(&url));
        Self { url, api_url, ca: None, time: TIME }
    }
}

fn api_of(url: &TargetUrl) -> TargetUrl {
    let host = url.host.as_str();
    if (host == "github.com" || host.ends_with(".ghe.com"))
        && let Ok(host) = format!("api.{host}").parse()
    {
        return TargetUrl { host, ..url.clone() };
    }
    TargetUrl { path: smol_str::format_smolstr!("{}/api/v3", url.path), ..url.clone() }
}

/// A login to send a browser to.
#[derive(Debug, Clone, Copy)]
pub struct Authorize<'a> {
    /// The app that asks.
    pub app: &'a App,
    /// Where the browser comes back to, exactly as in [`Exchange`].
    pub redirect_uri: &'a str,
    /// What comes back with it.
    pub state: &'a str,
    /// Whether organisations and teams are needed.
    pub groups: bool,
    /// The challenge of a [`Pkce`].
    pub code_challenge: &'a str,
    /// Whom to suggest.
    pub login: Option<&'a str>,
    /// Whether to ask which account even if somebody is signed in (`prompt=select_account`).
    pub choose_account: bool,
}

/// A code that came back, and what proves that it is ours.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The app that asked.
    pub app: &'a App,
    /// The code.
    pub code: &'a SecretString,
    /// The verifier of the [`Pkce`].
    pub verifier: &'a SecretString,
    /// Where the browser was sent back to.
    pub redirect_uri: &'a str,
}

/// A client of GitHub. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Github {
    url: TargetUrl,
    web: Outbound,
    api: Outbound,
    /// What stands before each path of the API.
    api_path: SmolStr,
    time: Duration,
}

impl Github {
    /// A client that calls GitHub through this one.
    ///
    /// # Errors
    ///
    /// When an address is neither https nor on this machine, or the authorities can't be read.
    pub fn new(client: &Client, settings: Settings) -> Result<Self, SetupError> {
        let Settings { url, api_url, ca, time } = settings;
        let limits = Limits { time, body: MAX_BODY };
        let web = Outbound::new(client, &url, ca.clone(), limits)?;
        let api = Outbound::new(client, &api_url, ca, limits)?;
        Ok(Self { url, web, api, api_path: api_url.path, time })
    }

    /// Where the pages of GitHub are, for who may be sent there.
    pub fn origin(&self) -> String {
        self.url.to_string()
    }

    /// Where to send a browser to (RFC 6749, section 4.1.1). GitHub wants no `response_type`.
    pub fn authorize_url(&self, authorize: &Authorize<'_>) -> String {
        let scope = scopes(authorize.groups).join(" ");
        let mut query = vec![
            ("client_id", authorize.app.client_id()),
            ("redirect_uri", authorize.redirect_uri),
            ("state", authorize.state),
            ("scope", &scope),
            ("code_challenge", authorize.code_challenge),
            ("code_challenge_method", "S256"),
        ];
        query.extend(authorize.login.map(|login| ("login", login)));
        query.extend(authorize.choose_account.then_some(("prompt", "select_account")));
        format!("{}/login/oauth/authorize?{}", self.url, form(&query))
    }

    /// Redeems a code (RFC 6749, section 4.1.3). A code is good for one attempt, whatever comes of it.
    ///
    /// # Errors
    ///
    /// When GitHub refuses, or there is no answer of use.
    pub async fn exchange(&self, exchange: &Exchange<'_>) -> Result<Token, Error> {
        let Exchange { app, code, verifier, redirect_uri } = *exchange;
        let fields = self
            .login(
                "/login/oauth/access_token",
                &[
                    ("client_id", app.client_id()),
                    ("client_secret", app.client_secret().expose_secret()),
                    ("code", code.expose_secret()),
                    ("redirect_uri", redirect_uri),
                    ("code_verifier", verifier.expose_secret()),
                ],
            )
            .await?;
        fields.refusal()?;
        Token::of(&fields)
    }

    /// Ends a token. One that GitHub does not know any longer has ended already.
    ///
    /// # Errors
    ///
    /// When GitHub refuses the app's credentials, or there is no answer of use: the token lives on.
    pub async fn revoke(&self, app: &App, token: &Token) -> Result<(), Error> {
        const WHAT: &str = "the end of a token";
        let credentials = format!("{}:{}", app.client_id(), app.client_secret().expose_secret());
        let body = serde_json::json!({ "access_token": token.expose() }).to_string();
        let path = format!("/applications/{}/token", app.client_id());
        let mut request = api_request(Method::DELETE, &path, body.into());
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            header::AUTHORIZATION,
            secret_header(&format!("Basic {}", BASE64_STANDARD.encode(credentials)), WHAT)?,
        );
        let answer = self.api.send(request).await.map_err(Error::Unreachable)?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            StatusCode::UNAUTHORIZED => Err(Error::Refused(Refusal::IncorrectClientCredentials)),
            status => Err(trouble(&answer).unwrap_or(Error::Unexpected { what: WHAT, status })),
        }
    }

    /// Calls an endpoint of the login flows, which answer refusals with 200, too.
    async fn login(&self, path: &'static str, fields: &[(&str, &str)]) -> Result<Fields, Error> {
        let mut request = Request::new(Body::from(form(fields)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        let answer = self.web.send(request).await.map_err(Error::Unreachable)?;
        match trouble(&answer) {
            Some(error) => Err(error),
            None if answer.status == StatusCode::NOT_FOUND => Err(Error::Refused(Refusal::UnknownApp)),
            None => Fields::read(&answer),
        }
    }
}

/// A request to the REST API.
fn api_request(method: Method, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // Paths are ours, or were parsed before; a wrong one gets a 404.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
    // The oldest version: every server of one's own knows it.
    headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
    request
}

fn secret_header(value: &str, what: &'static str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(value).map_err(|_| Error::Malformed { what })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is wrong with GitHub itself, whatever was asked.
fn trouble(answer: &Answer) -> Option<Error> {
    let unavailable = || answer.status.is_server_error().then_some(Error::Unavailable(answer.status));
    error::rate_limit(answer, Timestamp::now()).or_else(unavailable)
}

/// Pairs as a form has them.
fn form(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_where_the_product_has_it() {
        for (url, api) in [
            ("https://github.com", "https://api.github.com"),
            ("https://acme.ghe.com", "https://api.acme.ghe.com"),
            ("https://git.example.com", "https://git.example.com/api/v3"),
            ("https://git.example.com:8443/", "https://git.example.com:8443/api/v3"),
            ("https://evilghe.com", "https://evilghe.com/api/v3"),
        ] {
            let settings = Settings::new(url.parse().unwrap(), None);
            assert_eq!(settings.api_url.to_string(), api);
        }
        let elsewhere =
            Settings::new(GITHUB_URL.parse().unwrap(), Some("https://a.example".parse().unwrap()));
        assert_eq!(elsewhere.api_url.to_string(), "https://a.example");
    }

    #[test]
    fn groups_are_asked_for_only_where_they_are_used() {
        assert_eq!(scopes(false), ["read:user", "user:email"]);
        assert_eq!(scopes(true), ["read:user", "user:email", "read:org"]);
    }

    #[test]
    fn a_form_has_nothing_but_its_pairs() {
        assert_eq!(form(&[("a", "x y&b=1+2"), ("c", "ü~-._")]), "a=x%20y%26b%3D1%2B2&c=%C3%BC~-._");
    }
}
