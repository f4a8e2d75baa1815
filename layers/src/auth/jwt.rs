//! Verifies access tokens that are signed JWTs (RFC 7515, RFC 7519, RFC 9068; pitfalls: RFC 8725).
//!
//! An algorithm is bound to a key and a key to its issuer: the token's `alg` and `kid` only choose
//! among what the issuer published, and nothing in the token brings a key of its own. `alg` `none` and
//! shared secrets do not exist here. `exp` and `sub` are required.
//!
//! It does not fetch keys: who does calls [`Keys::replace`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ahash::RandomState;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smol_str::SmolStr;

use super::cache::{Entry, TokenCache};
use super::claims::{Claims, Header, shorten};
use super::keys::{Algorithm, Keys};
use super::revoked::Revoked;
use super::token::{TokenError, Verified, Verify};
use crate::context::Principal;
use crate::per_worker::PerWorker;

/// Beyond the header limits of common servers: longer ones come from no honest client.
const MAX_TOKEN: usize = 8 * 1024;
/// RFC 7519, section 4.1.4: "usually no more than a few minutes".
const LEEWAY: Duration = Duration::from_secs(60);
const MAX_LEEWAY: Duration = Duration::from_secs(300);
/// For each worker; about 8 MiB of tokens.
const CACHED: usize = 8 * 1024;

/// An issuer whose tokens are verified.
#[derive(Debug, Clone)]
pub struct Issuer {
    name: SmolStr,
    keys: Arc<Keys>,
    algorithms: &'static [Algorithm],
    foreign: bool,
}

impl Issuer {
    /// The deployment's own issuer: RS256 only, and only tokens that say that they are access tokens.
    pub fn own(name: impl Into<SmolStr>, keys: Arc<Keys>) -> Self {
        Self { name: name.into(), keys, algorithms: &[Algorithm::Rs256], foreign: false }
    }

    /// Another issuer: plain names on lists don't mean its users (see [`crate::users`]).
    pub fn foreign(name: impl Into<SmolStr>, keys: Arc<Keys>) -> Self {
        let algorithms = &[Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
        Self { name: name.into(), keys, algorithms, foreign: true }
    }

    /// The value of `iss`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Verifies the tokens of some issuers, each token's signature once.
#[derive(Debug)]
pub struct JwtVerifier {
    issuers: Vec<Issuer>,
    revoked: Arc<Revoked>,
    leeway: u64,
    hasher: RandomState,
    cache: PerWorker<TokenCache>,
}

impl JwtVerifier {
    /// A verifier with a cache for each worker. Of two issuers with one name the first is meant.
    ///
    /// Hosts that trust different keys for an issuer of one name need a verifier each.
    pub fn new(issuers: impl IntoIterator<Item = Issuer>, revoked: Arc<Revoked>, workers: usize) -> Self {
        Self {
            issuers: issuers.into_iter().collect(),
            revoked,
            leeway: LEEWAY.as_secs(),
            hasher: RandomState::new(),
            cache: PerWorker::new(workers, || TokenCache::new(CACHED)),
        }
    }

    /// Bears with clocks that differ by this much, at most five minutes; 60 s unless set.
    #[must_use]
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway.min(MAX_LEEWAY).as_secs();
        self
    }

    /// Keeps about this many verified tokens for each worker.
    #[must_use]
    pub fn cached(mut self, tokens: usize) -> Self {
        self.cache = PerWorker::new(self.cache.len(), || TokenCache::new(tokens));
        self
    }

    /// Verifies a token at a given time, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// The reason, when the token is not good at that time.
    pub fn verify_at(&self, token: &str, now: u64) -> Result<Arc<Verified>, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong(token.len()));
        }
        let hash = self.hasher.hash_one(token);
        if let Some(verdict) = self.cache.with(|cache| self.recall(cache, hash, token, now)) {
            return verdict;
        }
        let revoked = self.revoked.generation();
        let (issuer, keys, verified) = self.verify_signed(token)?;
        verified.check_time(now, self.leeway)?;
        self.check_revoked(&verified)?;
        let verified = Arc::new(verified);
        let entry = Entry::new(token, Arc::clone(&verified), issuer, keys, revoked);
        self.cache.with(|cache| cache.insert(hash, entry));
        Ok(verified)
    }

    /// The verdict on a token that was verified before; `None` when it has to be verified (again).
    fn recall(
        &self,
        cache: &mut TokenCache,
        hash: u64,
        token: &str,
        now: u64,
    ) -> Option<Result<Arc<Verified>, TokenError>> {
        let entry = cache.get(hash, token)?;
        if self.issuers[entry.issuer].keys.generation() != entry.keys {
            cache.remove(hash);
            return None;
        }
        let revoked = self.revoked.generation();
        let mut verdict = entry.verified.check_time(now, self.leeway);
        if verdict.is_ok() && entry.revoked != revoked {
            verdict = self.check_revoked(&entry.verified);
            entry.revoked = revoked;
        }
        match verdict {
            Ok(()) => Some(Ok(Arc::clone(&entry.verified))),
            Err(error) => {
                cache.remove(hash);
                Some(Err(error))
            }
        }
    }

    fn check_revoked(&self, verified: &Verified) -> Result<(), TokenError> {
        let principal = verified.principal();
        if self.revoked.contains(principal.token_id.as_deref(), principal.expires_at) {
            return Err(TokenError::Revoked);
        }
        Ok(())
    }

    /// Checks everything that does not change with time; also tells which keys were used.
    fn verify_signed(&self, token: &str) -> Result<(usize, u64, Verified), TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);

        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| TokenError::Header)?;
        header.check()?;
        let algorithm =
            Algorithm::from_name(&header.alg).ok_or_else(|| TokenError::Algorithm(shorten(&header.alg)))?;

        // Not believed yet: `iss` only chooses whose keys the signature must match.
        let claims: Claims<'_> = serde_json::from_slice(&payload).map_err(|_| TokenError::Claims)?;
        let name = claims.iss.as_deref().ok_or(TokenError::Missing("iss"))?;
        let (index, issuer) = self
            .issuers
            .iter()
            .enumerate()
            .find(|(_, issuer)| issuer.name == name)
            .ok_or_else(|| TokenError::Issuer(shorten(name)))?;
        if !issuer.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm(shorten(&header.alg)));
        }
        if !issuer.foreign {
            header.check_access_token()?;
        }
        let generation = issuer.keys.generation();
        let key_id = issuer.keys.with(|keys| {
            let key = keys.find(algorithm, header.kid.as_deref())?;
            key.verify(message.as_bytes(), &signature)?;
            Ok::<_, TokenError>(key.id.clone())
        })?;

        let (principal, not_before) = claims.into_principal(issuer.foreign)?;
        let principal = Principal { key_id, ..principal };
        Ok((index, generation, Verified::new(principal, not_before)))
    }
}

impl Verify for JwtVerifier {
    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        // A clock before 1970 finds every token not valid yet.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.verify_at(token, now)
    }
}

#[cfg(test)]
mod tests;
