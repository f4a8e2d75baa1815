//! Lets a request through when it carries a good OAuth access token (RFC 6750, RFC 9068).
//!
//! The token comes from the `Authorization` header and is judged in memory by a [`Verify`]; a
//! [`Policy`] says whom it must have been made for and which scopes the request needs. A refusal
//! is a [`Rejection`] with the `WWW-Authenticate` of RFC 6750 and RFC 9728. The principal of a good
//! token goes into the [`RequestContext`], its scopes cut down to what the host's lists give it.
//!
//! It does not fetch keys, does not write identity headers, does not remove `Authorization`, and
//! does not decide who may use the host: that is `allowlist`, which stands inside. `OPTIONS` is a
//! method like any other, so an answer to CORS preflights must stand outside; only where [`Policy::readable`] says so
//! are refusals for the scripts of every origin, and preflights of requests with a token answered here.
//!
//! A request without `Authorization` may have its token in the cookie of a browser's session instead, where
//! [`Policy::session`] says so. A cookie that is no good counts as none, and a good one never stands for a
//! request that changes something and was made by a page of another origin: that one gets 403.
//!
//! Who lacks a scope is told to get it only where that can help: not who is kept out by [`Policy::members`], nor from
//! whom the lists withhold the scope. They get 403 without a challenge, which would send clients round in circles.
//!
//! Where it stands: inside `normalize` (excepted paths are compared with the path as it is) and
//! `route`, outside `allowlist` and `headers`, and somewhere inside `respond`, which writes the refusal.
//!
//! A request with several `Authorization` headers is refused with 400 in every mode, because the
//! upstream could read another one than we do. An excepted path is not looked at, not even for a token,
//! unless [`Policy::notes`] says so.
//!
//! ```
//! use std::sync::Arc;
//! use portcullis_layers::auth::{Audience, AuthLayer, Challenge, Policy, TokenError, Verified, Verify};
//! use portcullis_layers::{Body, Principal, Rejection, RequestContext};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! // Stands for `JwtVerifier`: one token is good.
//! struct OnlySecret;
//!
//! impl Verify for OnlySecret {
//!     fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
//!         if token != "secret" {
//!             return Err(TokenError::Signature);
//!         }
//!         let principal = Principal {
//!             username: Some("alice".into()),
//!             audience: vec!["https://app.example".into()],
//!             expires_at: u64::MAX,
//!             ..Principal::default()
//!         };
//!         Ok(Arc::new(Verified::new(principal, 0)))
//!     }
//! }
//!
//! # tokio_test::block_on(async {
//! let policy = Policy::new([Audience::new("https://app.example")], Challenge::new("app"));
//! let service = ServiceBuilder::new().layer(AuthLayer::new(OnlySecret, policy)).service(service_fn(
//!     async |mut request: http::Request<Body>| {
//!         let principal = RequestContext::of(request.extensions_mut()).principal.clone();
//!         Ok::<_, Rejection>(http::Response::new(principal.and_then(|p| p.username.clone())))
//!     },
//! ));
//!
//! let request = http::Request::get("/").header("authorization", "Bearer secret").body(Body::empty())?;
//! assert_eq!(service.clone().oneshot(request).await?.body().as_deref(), Some("alice"));
//!
//! let refusal = service.oneshot(http::Request::get("/").body(Body::empty())?).await.expect_err("no token");
//! let refusal = refusal.downcast::<Rejection>().expect("refusals are rejections");
//! assert_eq!(refusal.headers()["www-authenticate"], "Bearer realm=\"app\"");
//! # Ok::<_, portcullis_layers::BoxError>(())
//! # }).expect("served");
//! ```

pub mod bearer;
mod cache;
mod challenge;
mod claims;
mod jwt;
mod keys;
mod login;
mod paths;
mod policy;
mod readable;
mod revoked;
mod scopes;
mod session;
mod token;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, CACHE_CONTROL, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

pub use challenge::{Challenge, InvalidParam};
pub use jwt::{Issuer, JwtVerifier};
pub use keys::{Algorithm, JwksError, KeySet, Keys};
pub use login::{Login, STATE_COOKIE};
pub use paths::{InvalidPattern, Matcher, PathPattern};
pub use policy::{Mode, Policy, ScopeRule};
pub use revoked::Revoked;
pub use scopes::{ADMIN, Grants, MCP, OFFLINE_ACCESS, OwnScope, USER, effective};
pub use session::{SESSION_PATH, Session};
pub use token::{Audience, TokenError, Verified, Verify};

use self::login::Departure;
use crate::allowlist::AllowlistError;
use crate::body::BoxError;
use crate::check::Check;
use crate::context::{Asked, Principal, RequestContext};
use crate::future::Gate;
use crate::rejection::Rejection;

/// Adds [`Auth`] to a stack.
#[derive(Debug)]
pub struct AuthLayer<V> {
    shared: Arc<Shared<V>>,
}

#[derive(Debug)]
struct Shared<V> {
    verifier: V,
    policy: Policy,
}

impl<V> AuthLayer<V> {
    /// Judges tokens with this verifier by this policy.
    pub fn new(verifier: V, policy: Policy) -> Self {
        Self { shared: Arc::new(Shared { verifier, policy }) }
    }
}

impl<V> Clone for AuthLayer<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S, V> Layer<S> for AuthLayer<V> {
    type Service = Auth<S, V>;

    fn layer(&self, inner: S) -> Self::Service {
        Auth { inner, shared: Arc::clone(&self.shared) }
    }
}

/// Lets requests with a good access token through.
#[derive(Debug)]
pub struct Auth<S, V> {
    inner: S,
    shared: Arc<Shared<V>>,
}

impl<S: Clone, V> Clone for Auth<S, V> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S, V, B, R> Service<http::Request<B>> for Auth<S, V>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    V: Verify,
{
    type Response = http::Response<R>;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let open = self.shared.policy.is_open(request.method(), request.uri().path());
        match self.shared.decide(&request) {
            Ok(principal) => {
                let path = request.uri().path_and_query().cloned();
                let asked = path.map(|path| Asked::new(request.method().clone(), path));
                let context = RequestContext::of(request.extensions_mut());
                context.open = open;
                context.asked = asked;
                if let Some(principal) = principal {
                    if let Some(facts) = &context.facts {
                        // The first writer wins: a request meets this layer once.
                        let _ = facts.principal.set(Arc::clone(&principal));
                    }
                    context.principal = Some(principal);
                }
                Gate::pass(self.inner.call(request))
            }
            Err(error) => {
                if let Some(principal) = error.principal()
                    && let Some(facts) = &RequestContext::of(request.extensions_mut()).facts
                {
                    let _ = facts.principal.set(Arc::clone(principal));
                }
                let refusal = Rejection::from(error);
                Gate::refuse(if self.shared.policy.readable {
                    readable::readable(refusal, request.method(), request.headers())
                } else {
                    refusal
                })
            }
        }
    }
}

impl<V: Verify> Shared<V> {
    /// Whose request it is; `None` where nobody needs to know.
    fn decide<B>(&self, request: &http::Request<B>) -> Result<Option<Arc<Principal>>, AuthError> {
        let policy = &self.policy;
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        if policy.excepts(method, path) {
            return Ok(if policy.notes { self.known(method, path, headers) } else { None });
        }
        let pass = policy.mode == Mode::Pass;
        let Ok(token) = bearer::token(headers) else {
            let description = "The request has more than one Authorization header";
            let challenge = policy.challenge.with_error("invalid_request", description, "");
            return Err(AuthError::Repeated { challenge });
        };
        let Some(token) = token else {
            return match self.in_session(path, headers) {
                Some(principal) if self.is_vouched_for(method, headers) => {
                    self.let_in(principal, method, path)
                }
                _ if pass => Ok(None),
                Some(principal) => Err(AuthError::CrossSite { principal }),
                None => Err(self.unknown(request)),
            };
        };
        let verified = self.verifier.verify(token);
        let cause = match verified.as_ref().map_err(TokenError::clone).and_then(|one| policy.admit(one)) {
            Ok(principal) => return self.let_in(principal, method, path),
            Err(_) if pass => return Ok(None),
            Err(cause) => cause,
        };
        // Whoever has a good token for another resource is known; whom an issuer names that is not trusted here is not.
        let known = verified.ok().filter(|_| matches!(cause, TokenError::Audience(_)));
        let principal = known.map(|one| Arc::clone(one.principal()));
        let required = policy.required(method, path);
        let challenge = policy.challenge.with_error("invalid_token", cause.description(), &required);
        Err(AuthError::Refused { cause, principal, challenge })
    }

    /// Lets a principal in that has the scopes that the request needs.
    fn let_in(
        &self,
        principal: Arc<Principal>,
        method: &Method,
        path: &str,
    ) -> Result<Option<Arc<Principal>>, AuthError> {
        let policy = &self.policy;
        if policy.mode == Mode::Pass || policy.satisfied(&principal, method, path) {
            return Ok(Some(principal));
        }
        let members = policy.members.as_ref();
        if let Some(Err(cause)) = members.map(|members| members.check_identity(&principal)) {
            return Err(AuthError::Stranger { cause, principal });
        }
        let required = policy.required(method, path);
        if !policy.is_attainable(&principal, method, path) {
            return Err(AuthError::Withheld { required, principal });
        }
        let challenge = policy.challenge.insufficient_scope(&required);
        Err(AuthError::Scope { required, principal, challenge })
    }

    /// What a request without a token is answered.
    fn unknown<B>(&self, request: &http::Request<B>) -> AuthError {
        let policy = &self.policy;
        let (method, path) = (request.method(), request.uri().path());
        if let Some(Departure { location, cookie }) =
            policy.departure(method, request.uri(), request.headers())
        {
            return AuthError::Login { location, cookie };
        }
        AuthError::Missing { challenge: policy.challenge.without_error(&policy.required(method, path)) }
    }

    /// Who calls, where nobody has to say.
    fn known(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Arc<Principal>> {
        match bearer::token(headers).ok()? {
            Some(token) => self.verifier.verify(token).and_then(|one| self.policy.admit(&one)).ok(),
            None => self.in_session(path, headers).filter(|_| self.is_vouched_for(method, headers)),
        }
    }

    /// Whose session the browser has, if its cookie is good, and good there.
    fn in_session(&self, path: &str, headers: &HeaderMap) -> Option<Arc<Principal>> {
        let session = self.policy.session.as_ref().filter(|_| self.policy.takes_session(path))?;
        if headers.contains_key(AUTHORIZATION) {
            return None;
        }
        let verified = self.verifier.verify(session.token(headers)?).ok()?;
        self.policy.admit_session(session, &verified).ok()
    }

    fn is_vouched_for(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.policy.session.as_ref().is_some_and(|session| session.vouches_for(method, headers))
    }
}

/// Why a request was refused, with the challenge for it.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No access token was sent.
    #[error("no access token was sent")]
    Missing {
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// More than one `Authorization` header was sent.
    #[error("more than one authorization header was sent")]
    Repeated {
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// The token is no good, or none for this resource.
    #[error("the access token was refused")]
    Refused {
        /// Why.
        #[source]
        cause: TokenError,
        /// Who sent it, where it is good elsewhere.
        principal: Option<Arc<Principal>>,
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// The token lacks a scope that the request needs.
    #[error("the access token lacks one of the scopes {required:?}")]
    Scope {
        /// All scopes that the request needs.
        required: String,
        /// Who sent it.
        principal: Arc<Principal>,
        /// The value of `WWW-Authenticate`.
        challenge: HeaderValue,
    },
    /// The user is on none of the host's lists.
    #[error("the host's lists do not let the user in")]
    Stranger {
        /// Which list.
        #[source]
        cause: AllowlistError,
        /// Who it is.
        principal: Arc<Principal>,
    },
    /// The host's lists keep a scope from the user that the request needs, whatever token it has.
    #[error("the host's lists give the user not all of the scopes {required:?}")]
    Withheld {
        /// All scopes that the request needs.
        required: String,
        /// Who it is.
        principal: Arc<Principal>,
    },
    /// The browser is sent to the login page.
    #[error("login is needed")]
    Login {
        /// The page, with the address to come back to.
        location: HeaderValue,
        /// The value of `Set-Cookie`: what the browser is known by when it comes back.
        cookie: HeaderValue,
    },
    /// A page of another origin made the browser send its cookie with a request that changes something.
    #[error("another origin's page made the request")]
    CrossSite {
        /// Whose browser it was.
        principal: Arc<Principal>,
    },
}

impl AuthError {
    /// Who made the request, where that is known.
    const fn principal(&self) -> Option<&Arc<Principal>> {
        match self {
            Self::Scope { principal, .. }
            | Self::Stranger { principal, .. }
            | Self::Withheld { principal, .. }
            | Self::CrossSite { principal } => Some(principal),
            Self::Refused { principal, .. } => principal.as_ref(),
            Self::Missing { .. } | Self::Repeated { .. } | Self::Login { .. } => None,
        }
    }

    /// The check that has failed. Who is sent to the login has not been asked anything yet.
    const fn check(&self) -> Option<Check> {
        match self {
            Self::Missing { .. } | Self::Repeated { .. } | Self::CrossSite { .. } => Some(Check::Token),
            Self::Refused { cause, .. } => Some(cause.check()),
            Self::Scope { .. } | Self::Withheld { .. } => Some(Check::Scope),
            Self::Stranger { .. } => Some(Check::User),
            Self::Login { .. } => None,
        }
    }

    /// What it means to the client.
    fn into_rejection(self) -> Rejection {
        let error = self;
        let (status, code, detail, challenge) = match &error {
            Self::Missing { challenge } => {
                (StatusCode::UNAUTHORIZED, "token_required", "An access token is required", challenge)
            }
            Self::Repeated { challenge } => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "The request has more than one Authorization header",
                challenge,
            ),
            Self::Refused { cause, challenge, .. } => {
                (StatusCode::UNAUTHORIZED, "invalid_token", cause.description(), challenge)
            }
            Self::Scope { challenge, .. } => {
                (StatusCode::FORBIDDEN, "insufficient_scope", "The access token lacks a scope", challenge)
            }
            Self::Login { location, cookie } => {
                return Rejection::new(StatusCode::FOUND, "login_required", "Login is required")
                    .with_header(LOCATION, location.clone())
                    .with_header(SET_COOKIE, cookie.clone())
                    .with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
                    .with_source(error);
            }
            // No challenge: another token would not help.
            Self::Stranger { cause, .. } => return Rejection::from(cause.clone()),
            Self::Withheld { .. } => {
                let detail = "Scope not authorized";
                return Rejection::new(StatusCode::FORBIDDEN, "access_denied", detail).with_source(error);
            }
            Self::CrossSite { .. } => {
                let detail = "The session does not count for a request that another site has made";
                return Rejection::new(StatusCode::FORBIDDEN, "cross_site", detail).with_source(error);
            }
        };
        Rejection::new(status, code, detail)
            .with_header(WWW_AUTHENTICATE, challenge.clone())
            .with_source(error)
    }
}

impl From<AuthError> for Rejection {
    fn from(error: AuthError) -> Self {
        let check = error.check();
        let rejection = error.into_rejection();
        match check {
            Some(check) => rejection.with_check(check),
            None => rejection,
        }
    }
}

#[cfg(test)]
mod tests;
