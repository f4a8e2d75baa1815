//! What verifying a token gives, and why a token may be refused.

use std::sync::{Arc, Mutex};

use smol_str::SmolStr;

use super::scopes::{self, Grants};
use crate::check::Check;
use crate::context::Principal;

/// Tells whether a token is good: a plug point. It decides at once and in memory.
pub trait Verify: Send + Sync + 'static {
    /// Verifies a token: signature, issuer, life time, revocation. Whom it was made for (`aud`) and what
    /// it may do is for the [`Policy`](super::Policy) to judge.
    ///
    /// # Errors
    ///
    /// The reason, when the token is not good now.
    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError>;
}

impl<V: Verify + ?Sized> Verify for Arc<V> {
    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        (**self).verify(token)
    }
}

/// What a good token says.
#[derive(Debug)]
pub struct Verified {
    principal: Arc<Principal>,
    audience: Vec<Audience>,
    not_before: u64,
    // The last answer of `effective`: requests with one token mostly meet one host.
    held: Mutex<Option<(Arc<Grants>, Arc<Principal>)>>,
}

impl Verified {
    /// The facts of a token, good from `not_before` until the principal's `expires_at` (seconds since
    /// 1970). Adds the scopes that the token's scopes imply: `admin` implies `user` and `mcp`.
    pub fn new(mut principal: Principal, not_before: u64) -> Self {
        scopes::add_implied(&mut principal.scopes);
        Self { not_before, ..Self::of(Arc::new(principal)) }
    }

    /// What a token said whose principal was let in before.
    pub(super) fn of(principal: Arc<Principal>) -> Self {
        let audience = principal.audience.iter().map(|audience| Audience::new(audience)).collect();
        Self { principal, audience, not_before: 0, held: Mutex::default() }
    }

    /// Who sent the token, with all scopes that it carries.
    pub const fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// Who sent the token, with those of its scopes that the lists give. The answer for the last lists is
    /// kept, so that a further request on the same host looks nothing up and copies nothing.
    pub fn effective(&self, grants: &Arc<Grants>) -> Arc<Principal> {
        let Ok(mut held) = self.held.try_lock() else {
            return scopes::effective(&self.principal, grants);
        };
        if let Some((known, principal)) = &*held
            && Arc::ptr_eq(known, grants)
        {
            return Arc::clone(principal);
        }
        let principal = scopes::effective(&self.principal, grants);
        *held = Some((Arc::clone(grants), Arc::clone(&principal)));
        principal
    }

    /// Whether the token was made for one of these resources.
    pub fn is_for(&self, resources: &[Audience]) -> bool {
        self.audience.iter().any(|audience| resources.contains(audience))
    }

    /// Whether the token was made for this and for nothing else.
    pub fn is_only_for(&self, audience: &Audience) -> bool {
        self.audience == std::slice::from_ref(audience)
    }

    /// Whether the token is good at this time, within a tolerance for clocks that differ.
    ///
    /// # Errors
    ///
    /// [`TokenError::Expired`] or [`TokenError::NotYetValid`].
    pub fn check_time(&self, now: u64, leeway: u64) -> Result<(), TokenError> {
        if self.principal.expires_at.saturating_add(leeway) <= now {
            return Err(TokenError::Expired);
        }
        if self.not_before > now.saturating_add(leeway) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

/// A resource's URI in the form in which two of them are compared: scheme and host in lower case, one
/// trailing slash removed. Never compared by prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Audience(SmolStr);

impl Audience {
    /// Brings a URI into that form; an audience that is no URI stays as it is.
    pub fn new(text: &str) -> Self {
        let Some((scheme, rest)) = text.split_once("://") else { return Self(text.into()) };
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let tail = if tail.contains(['?', '#']) { tail } else { tail.strip_suffix('/').unwrap_or(tail) };
        let (scheme, authority) = (scheme.to_ascii_lowercase(), authority.to_ascii_lowercase());
        Self(smol_str::format_smolstr!("{scheme}://{authority}{tail}"))
    }

    /// The compared form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a token was refused. The value is for logs; [`TokenError::description`] is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is longer than any honest token.
    #[error("token of {0} bytes is too long")]
    TooLong(usize),
    /// No JWS in compact form (RFC 7515, section 7.1).
    #[error("token is no compact JWS")]
    Malformed,
    /// The header is no JSON object, or a member is of the wrong type.
    #[error("token header is not valid")]
    Header,
    /// The payload is no JSON object, or a claim is of the wrong type.
    #[error("claims are not valid")]
    Claims,
    /// `alg` is not one that we verify: `none` and shared secrets among them.
    #[error("algorithm {0:?} is not accepted")]
    Algorithm(SmolStr),
    /// `typ` names something else than a JWT or an access token.
    #[error("type {0:?} is not an access token")]
    Type(SmolStr),
    /// `crit` asks for an extension; we know none (RFC 7515, section 4.1.11).
    #[error("token has critical extensions")]
    Critical,
    /// A claim that must be there is not.
    #[error("claim {0:?} is missing")]
    Missing(&'static str),
    /// `iss` is none that we trust, or none that this host trusts.
    #[error("issuer {0:?} is not trusted here")]
    Issuer(SmolStr),
    /// The issuer has no key of this id and algorithm.
    #[error("no key {kid:?} for {algorithm} at the issuer")]
    UnknownKey {
        /// `kid`.
        kid: Option<SmolStr>,
        /// `alg`.
        algorithm: &'static str,
    },
    /// There is no `kid`, and more than one key could be meant.
    #[error("token names no key and the issuer has several")]
    KeyNotNamed,
    /// The signature is not the key's.
    #[error("signature does not match")]
    Signature,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The token's id is on the list of revoked ones.
    #[error("token was revoked")]
    Revoked,
    /// `aud` does not name this resource.
    #[error("token is for {0:?}, not for this resource")]
    Audience(Vec<SmolStr>),
}

impl TokenError {
    /// The check that the token has failed.
    pub const fn check(&self) -> Check {
        match self {
            Self::TooLong(_)
            | Self::Malformed
            | Self::Header
            | Self::Claims
            | Self::Algorithm(_)
            | Self::Type(_)
            | Self::Critical
            | Self::Missing(_) => Check::Decode,
            Self::Issuer(_)
            | Self::UnknownKey { .. }
            | Self::KeyNotNamed
            | Self::Signature
            | Self::Expired
            | Self::NotYetValid
            | Self::Revoked => Check::Token,
            Self::Audience(_) => Check::Audience,
        }
    }

    /// What the client may know.
    pub const fn description(&self) -> &'static str {
        match self {
            Self::Expired => "The access token expired",
            Self::NotYetValid => "The access token is not valid yet",
            Self::Revoked => "The access token was revoked",
            Self::Audience(_) => "The access token was issued for another resource",
            Self::Issuer(_) => "The access token is from an issuer that is not trusted here",
            Self::TooLong(_) | Self::Malformed | Self::Header | Self::Claims => {
                "The access token is malformed"
            }
            Self::Algorithm(_)
            | Self::Type(_)
            | Self::Critical
            | Self::Missing(_)
            | Self::UnknownKey { .. }
            | Self::KeyNotNamed
            | Self::Signature => "The access token is invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Users;

    #[test]
    fn each_host_gives_its_own_scopes_and_a_repeated_question_costs_nothing() {
        let principal =
            Principal { username: Some("alice".into()), scopes: vec!["user".into()], ..Principal::default() };
        let verified = Verified::new(principal, 0);
        let (gives, denies) =
            (Arc::new(Grants { user: Users::everyone(), ..Grants::default() }), Arc::new(Grants::default()));
        for _ in 0..2 {
            assert_eq!(verified.effective(&gives).scopes, ["user"]);
            assert!(verified.effective(&denies).scopes.is_empty());
        }
        assert!(Arc::ptr_eq(&verified.effective(&denies), &verified.effective(&denies)));
    }

    #[test]
    fn audiences_are_compared_after_lower_case_and_one_trailing_slash() {
        for (one, other, same) in [
            ("https://app.example", "HTTPS://App.Example/", true),
            ("https://app.example/mcp", "https://APP.example/mcp/", true),
            ("https://app.example:8443", "https://App.example:8443/", true),
            ("https://app.example/mcp", "https://app.example/MCP", false),
            ("https://app.example", "https://app.example//", false),
            ("https://app.example", "https://app.example/mcp", false),
            ("https://app.example", "https://app.example.evil", false),
            ("https://app.example", "http://app.example", false),
            ("https://app.example", "https://app.example:8443", false),
            ("https://app.example/?a=/", "https://app.example/?a=", false),
            ("client-id", "client-id", true),
            ("client-id", "Client-ID", false),
        ] {
            assert_eq!(Audience::new(one) == Audience::new(other), same, "{one} {other}");
        }
    }
}
