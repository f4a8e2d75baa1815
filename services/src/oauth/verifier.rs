//! The verifiers of the `auth` layer: our own issuer for every host, and other issuers where a host
//! trusts them.
//!
//! A host that trusts other issuers gets a verifier of its own. One verifier for all hosts would let
//! the keys that one host trusts for an issuer speak on another host that trusts other keys for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::Principal;
use portcullis_layers::auth;
use portcullis_layers::auth::{Issuer, JwtVerifier, Revoked, TokenError, Verified};
use smol_str::SmolStr;

use super::keys::{Error, Keys};
use crate::config::Proxy;

/// Judges tokens as the hosts do: signature, issuer, life time, revocation.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Judges a token by the issuers that a host trusts.
    fn verify(&self, proxy: &Proxy, token: &str) -> Result<Arc<Verified>, TokenError>;
}

/// What all verifiers of a node share: our issuer, its keys as they rotate, the revoked tokens.
#[derive(Debug, Clone)]
pub struct Trust {
    issuer: SmolStr,
    keys: Arc<auth::Keys>,
    revoked: Arc<Revoked>,
    workers: usize,
    leeway: Option<Duration>,
}

impl Trust {
    /// Trusts our own issuer's keys.
    ///
    /// # Errors
    ///
    /// When the keys can't be used to verify.
    pub fn new(issuer: impl Into<SmolStr>, keys: &Keys, workers: usize) -> Result<Self, Error> {
        let keys = auth::Keys::new(keys.key_set()?);
        Ok(Self { issuer: issuer.into(), keys, revoked: Arc::default(), workers, leeway: None })
    }

    /// Bears with clocks that differ by this much.
    #[must_use]
    pub const fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = Some(leeway);
        self
    }

    /// Replaces our own keys in every verifier that was made, after a rotation.
    ///
    /// # Errors
    ///
    /// When the keys can't be used to verify; the old ones stay.
    pub fn replace_keys(&self, keys: &Keys) -> Result<(), Error> {
        self.keys.replace(keys.key_set()?);
        Ok(())
    }

    /// Whether a token of this principal's could be verified still: what a key has signed that was forgotten is over.
    /// Of the keys of other issuers nothing is said.
    pub fn knows_key_of(&self, principal: &Principal) -> bool {
        let Some(key) = principal.key_id.as_deref().filter(|_| !principal.foreign) else { return true };
        self.keys.current().ids().any(|id| id == Some(key))
    }

    /// A verifier for our own tokens and those of other issuers, each with the keys that one host trusts.
    pub fn verifier(&self, others: impl IntoIterator<Item = (SmolStr, Arc<auth::Keys>)>) -> JwtVerifier {
        // First, so that no other issuer can take our name.
        let own = Issuer::own(self.issuer.clone(), Arc::clone(&self.keys));
        let others = others.into_iter().map(|(name, keys)| Issuer::foreign(name, keys));
        let verifier =
            JwtVerifier::new(std::iter::once(own).chain(others), Arc::clone(&self.revoked), self.workers);
        match self.leeway {
            Some(leeway) => verifier.leeway(leeway),
            None => verifier,
        }
    }

    /// The set that all verifiers ask; [`Revocations`](super::Revocations) fills it.
    pub const fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// Our issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}
