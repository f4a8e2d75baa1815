//! What one route demands of a token.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Uri};
use smol_str::SmolStr;

use super::challenge::Challenge;
use super::login::{Departure, Login, is_navigation};
use super::paths::{self, Matcher, PathPattern};
use super::scopes::{Grants, OFFLINE_ACCESS};
use super::session::Session;
use super::token::{Audience, TokenError, Verified};
use crate::allowlist::Allowlist;
use crate::context::{Asked, Principal};

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
    /// Who may use the host at all. `allowlist` decides that; here it keeps who may not from being told which scopes
    /// to ask for. `None`: everybody who lacks a scope is told.
    pub members: Option<Arc<Allowlist>>,
    /// What this host's lists give to whom; `None`: every scope of the token holds.
    /// One value for all routes of a host.
    pub grants: Option<Arc<Grants>>,
    /// The constant part of `WWW-Authenticate`.
    pub challenge: Challenge,
    /// Where [`Mode::Redirect`] sends browsers; `None`: nowhere, they get 401.
    pub login: Option<Login>,
    /// How browsers keep their session; `None`: no cookie is looked at.
    pub session: Option<Session>,
    /// Where the cookie does not count, and nobody is sent to the login page: what is there is for programs, which
    /// have their token in the header.
    pub bearer_only: Vec<PathPattern>,
    /// Whether scripts of every origin may read refusals with a challenge. Preflights of requests with a token are
    /// answered then, so it is for nobody who takes an answer of 2xx for a yes.
    pub readable: bool,
}

/// The scopes that some requests need.
#[derive(Debug, Clone)]
pub struct ScopeRule {
    /// Which requests.
    pub on: Matcher,
    /// All of these.
    pub scopes: Vec<SmolStr>,
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
            members: None,
            grants: None,
            challenge,
            login: None,
            session: None,
            bearer_only: Vec::new(),
            readable: false,
        }
    }

    /// Whether anybody may make this request.
    pub(super) fn is_open(&self, method: &Method, path: &str) -> bool {
        self.mode == Mode::Pass || self.excepts(method, path)
    }

    pub(super) fn excepts(&self, method: &Method, path: &str) -> bool {
        self.excepted.iter().any(|rule| rule.covers(method, path)) && paths::is_unambiguous(path)
    }

    /// The principal of a token as this host sees it.
    pub(super) fn admit(&self, verified: &Verified) -> Result<Arc<Principal>, TokenError> {
        let principal = verified.principal();
        self.check_issuer(principal)?;
        let own = self.issuer_resources.iter().find(|(issuer, _)| *issuer == principal.issuer);
        let resources = own.map_or(&self.resources[..], |(_, resource)| std::slice::from_ref(resource));
        let of_session = |session: &Session| verified.is_for(std::slice::from_ref(&session.audience));
        // What a browser keeps in its cookie is for no script and no program, whatever the resources are.
        if !verified.is_for(resources) || self.session.as_ref().is_some_and(of_session) {
            return Err(TokenError::Audience(principal.audience.clone()));
        }
        Ok(self.granted(verified))
    }

    /// The principal of the token in a browser's cookie.
    pub(super) fn admit_session(
        &self,
        session: &Session,
        verified: &Verified,
    ) -> Result<Arc<Principal>, TokenError> {
        let principal = verified.principal();
        self.check_issuer(principal)?;
        if !session.takes(verified) {
            return Err(TokenError::Audience(principal.audience.clone()));
        }
        Ok(self.granted(verified))
    }

    fn check_issuer(&self, principal: &Principal) -> Result<(), TokenError> {
        if self.issuers.as_ref().is_some_and(|trusted| !trusted.contains(&principal.issuer)) {
            return Err(TokenError::Issuer(principal.issuer.clone()));
        }
        Ok(())
    }

    fn granted(&self, verified: &Verified) -> Arc<Principal> {
        match &self.grants {
            Some(grants) => verified.effective(grants),
            None => Arc::clone(verified.principal()),
        }
    }

    /// Whether the session of a browser may stand for a request to this path.
    pub(super) fn takes_session(&self, path: &str) -> bool {
        !self.bearer_only.iter().any(|programs| programs.may_cover(path))
    }

    /// Whether the principal has all scopes that the request needs.
    pub(super) fn satisfied(&self, principal: &Principal, method: &Method, path: &str) -> bool {
        (self.any_scope.is_empty() || self.any_scope.iter().any(|scope| principal.has_scope(scope)))
            && self.scopes.iter().all(|rule| {
                rule.scopes.iter().all(|s| principal.has_scope(s)) || !rule.on.may_cover(method, path)
            })
    }

    /// Whether the lists give the principal all scopes that the request needs, so that another token could help.
    pub(super) fn is_attainable(&self, principal: &Principal, method: &Method, path: &str) -> bool {
        let Some(grants) = &self.grants else { return true };
        let gives = |scope: &SmolStr| grants.give(principal, scope);
        (self.any_scope.is_empty() || self.any_scope.iter().any(gives))
            && self
                .scopes
                .iter()
                .all(|rule| rule.scopes.iter().all(gives) || !rule.on.may_cover(method, path))
    }

    /// Whether what a request has opened may go on under this policy: as long as anybody may ask for it, or its
    /// principal would be let in again.
    pub fn allows(&self, asked: Option<&Asked>, principal: Option<&Arc<Principal>>) -> bool {
        if self.mode == Mode::Pass || asked.is_some_and(|asked| self.excepts(asked.method(), asked.path())) {
            return true;
        }
        let (Some(asked), Some(principal)) = (asked, principal) else { return false };
        // Good until its own end, which is for others to watch.
        let verified = Verified::of(Arc::clone(principal));
        let of_session = |session: &Session| session.takes(&verified);
        let admitted = match self.session.as_ref().filter(|session| of_session(session)) {
            Some(_) if !self.takes_session(asked.path()) => return false,
            Some(session) => self.admit_session(session, &verified),
            None => self.admit(&verified),
        };
        admitted.is_ok_and(|now| self.satisfied(&now, asked.method(), asked.path()))
    }

    /// All scopes that the request needs, for a challenge: but `offline_access`, which no challenge may ask for.
    pub fn required(&self, method: &Method, path: &str) -> String {
        let mut required: Vec<&str> = Vec::new();
        let ruled =
            self.scopes.iter().filter(|rule| rule.on.may_cover(method, path)).flat_map(|rule| &rule.scopes);
        // One of these would do; the first is named, because a challenge can only say "all of these".
        for scope in ruled.chain(self.any_scope.first()) {
            if scope != OFFLINE_ACCESS && !required.contains(&scope.as_str()) {
                required.push(scope);
            }
        }
        required.join(" ")
    }

    /// Where a request without a token is sent, if it is.
    pub(super) fn departure(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Departure> {
        let login = self.login.as_ref().filter(|_| self.mode == Mode::Redirect)?;
        // The session that it would come back with is none there.
        if !self.takes_session(uri.path()) {
            return None;
        }
        let browser = !headers.contains_key(AUTHORIZATION) && is_navigation(method, headers);
        if browser { login.departure(uri, headers) } else { None }
    }
}
