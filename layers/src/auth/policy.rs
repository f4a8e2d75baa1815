//! What one route demands of a token.

use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use smol_str::SmolStr;

use super::challenge::Challenge;
use super::paths::{self, Matcher};
use super::scopes::Grants;
use super::token::{Audience, TokenError, Verified};
use crate::context::Principal;

/// Everything but what RFC 3986 calls unreserved: the value goes into a query.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What happens to a request without a good token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is refused: 401, 403.
    #[default]
    Reject,
    /// A browser that navigates is sent to the login page, when there is one; everything else is refused.
    Redirect,
    /// It goes on, without a principal. A bad token counts as none.
    Pass,
}

/// What one route demands of a token. Without resources nothing is good enough.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What happens without a good token.
    pub mode: Mode,
    /// The resource URIs of this host; a token's `aud` must have one of them.
    pub resources: Vec<Audience>,
    /// Resources that stand in place of those for the tokens of one issuer: what another issuer calls
    /// this host. A token of any other issuer can't use them.
    pub issuer_resources: Vec<(SmolStr, Audience)>,
    /// The issuers that this host trusts; `None`: all that the verifier knows.
    pub issuers: Option<Vec<SmolStr>>,
    /// Requests that need no token, and get no principal unless `notes` says so.
    pub excepted: Vec<Matcher>,
    /// Whether an excepted request with a good token gets its principal all the same. A bad token counts as none.
    pub notes: bool,
    /// The scopes that requests need. All rules that are for a request add up.
    pub scopes: Vec<ScopeRule>,
    /// At least one of these is needed for every request; empty: none is.
    pub any_scope: Vec<SmolStr>,
    /// What this host's lists give to whom; `None`: every scope of the token holds.
    /// One value for all routes of a host.
    pub grants: Option<Arc<Grants>>,
    /// The constant part of `WWW-Authenticate`.
    pub challenge: Challenge,
    /// Where [`Mode::Redirect`] sends browsers; `None`: nowhere, they get 401.
    pub login: Option<Login>,
}

/// The scopes that some requests need.
#[derive(Debug, Clone)]
pub struct ScopeRule {
    /// Which requests.
    pub on: Matcher,
    /// All of these.
    pub scopes: Vec<SmolStr>,
}

/// The login page of [`Mode::Redirect`].
#[derive(Debug, Clone)]
pub struct Login {
    /// The page; the address to come back to is added to its query as `return_url`.
    pub page: Uri,
    /// This host's public origin, `https://app.example`. From configuration and not from the request, so
    /// that no `Host` can choose where the browser comes back to.
    pub origin: SmolStr,
}

impl Policy {
    /// A policy that refuses what has no token for one of these resources.
    pub fn new(resources: impl IntoIterator<Item = Audience>, challenge: Challenge) -> Self {
        Self {
            mode: Mode::Reject,
            resources: resources.into_iter().collect(),
            issuer_resources: Vec::new(),
            issuers: None,
            excepted: Vec::new(),
            notes: false,
            scopes: Vec::new(),
            any_scope: Vec::new(),
            grants: None,
            challenge,
            login: None,
        }
    }

    pub(super) fn excepts(&self, method: &Method, path: &str) -> bool {
        self.excepted.iter().any(|rule| rule.covers(method, path)) && paths::is_unambiguous(path)
    }

    /// The principal of a token as this host sees it.
    pub(super) fn admit(&self, verified: &Verified) -> Result<Arc<Principal>, TokenError> {
        let principal = verified.principal();
        if self.issuers.as_ref().is_some_and(|trusted| !trusted.contains(&principal.issuer)) {
            return Err(TokenError::Issuer(principal.issuer.clone()));
        }
        let own = self.issuer_resources.iter().find(|(issuer, _)| *issuer == principal.issuer);
        let resources = own.map_or(&self.resources[..], |(_, resource)| std::slice::from_ref(resource));
        if !verified.is_for(resources) {
            return Err(TokenError::Audience(principal.audience.clone()));
        }
        Ok(match &self.grants {
            Some(grants) => verified.effective(grants),
            None => Arc::clone(principal),
        })
    }

    /// Whether the principal has all scopes that the request needs.
    pub(super) fn satisfied(&self, principal: &Principal, method: &Method, path: &str) -> bool {
        (self.any_scope.is_empty() || self.any_scope.iter().any(|scope| principal.has_scope(scope)))
            && self.scopes.iter().all(|rule| {
                rule.scopes.iter().all(|s| principal.has_scope(s)) || !rule.on.covers(method, path)
            })
    }

    /// All scopes that the request needs, for a challenge.
    pub(super) fn required(&self, method: &Method, path: &str) -> String {
        let mut required: Vec<&str> = Vec::new();
        let ruled =
            self.scopes.iter().filter(|rule| rule.on.covers(method, path)).flat_map(|rule| &rule.scopes);
        // One of these would do; the first is named, because a challenge can only say "all of these".
        for scope in ruled.chain(self.any_scope.first()) {
            if !required.contains(&scope.as_str()) {
                required.push(scope);
            }
        }
        required.join(" ")
    }

    /// Where a request without a token is sent, if it is.
    pub(super) fn login_for(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
        let login = self.login.as_ref().filter(|_| self.mode == Mode::Redirect)?;
        if is_navigation(method, headers) { login.location(uri) } else { None }
    }
}

impl Login {
    fn location(&self, uri: &Uri) -> Option<HeaderValue> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let back = [self.origin.as_str(), path].concat();
        let separator = if self.page.query().is_some() { '&' } else { '?' };
        let back = utf8_percent_encode(&back, QUERY_VALUE);
        HeaderValue::try_from(format!("{}{separator}return_url={back}", self.page)).ok()
    }
}

/// Whether a browser asks for a page to show: a script's request must see the 401.
fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let accepts_html = || {
        headers
            .get_all(ACCEPT)
            .iter()
            .any(|value| value.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html")))
    };
    let navigates = || headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate");
    matches!(*method, Method::GET | Method::HEAD)
        && !headers.contains_key(AUTHORIZATION)
        && navigates()
        && accepts_html()
}
