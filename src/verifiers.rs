//! Who judges tokens: one verifier for all hosts that trust our issuer only, one more for each set of other issuers.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_layers::auth::{JwtVerifier, KeySet, Keys, TokenError, Verified, Verify};
use portcullis_services::config::Proxy;
use portcullis_services::config::auth::TrustedIssuer;
use portcullis_services::oauth::Judge;
use portcullis_services::oauth::Trust;
use portcullis_services::oauth::jwks::{JwksFetcher, Refreshing};
use smol_str::SmolStr;

/// Judges tokens, and has keys fetched that it does not know.
pub type Verifier = Refreshing<JwtVerifier>;

/// The verifiers of a node.
pub struct Verifiers {
    /// Our issuer, its keys, and what was revoked.
    pub trust: Trust,
    jwks: JwksFetcher,
    own: Arc<Verifier>,
    others: Mutex<Vec<(Vec<TrustedIssuer>, Arc<Verifier>)>>,
}

impl Verifiers {
    /// Trusts our issuer, and others with the keys that are fetched of them.
    pub fn new(trust: Trust, jwks: JwksFetcher) -> Self {
        let own = Arc::new(jwks.refreshing(trust.verifier([]), []));
        Self { trust, jwks, own, others: Mutex::default() }
    }

    /// The verifier of our own tokens alone.
    pub fn own(&self) -> Arc<Verifier> {
        Arc::clone(&self.own)
    }

    /// The verifier of a host: the shared one, or one of its own where it trusts other issuers, too. Hosts that
    /// trust the same ones share it, and it outlives reloads, because its cache of tokens is worth keeping.
    pub fn of(&self, proxy: &Proxy) -> Arc<Verifier> {
        if proxy.trusted_issuers.is_empty() {
            return Arc::clone(&self.own);
        }
        let mut verifiers = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, verifier)) = verifiers.iter().find(|(issuers, _)| *issuers == proxy.trusted_issuers) {
            return Arc::clone(verifier);
        }
        let issuers = &proxy.trusted_issuers;
        let others =
            issuers.iter().map(|issuer| (SmolStr::new(issuer.issuer.as_str()), self.keys_of(issuer)));
        let uris = issuers.iter().filter_map(|issuer| Some(issuer.jwks_uri.as_ref()?.as_str()));
        let verifier = Arc::new(self.jwks.refreshing(self.trust.verifier(others), uris));
        verifiers.push((proxy.trusted_issuers.clone(), Arc::clone(&verifier)));
        verifier
    }

    /// Forgets verifiers that no host uses any more.
    pub fn retain<'a>(&self, proxies: impl Iterator<Item = &'a Proxy> + Clone) {
        let mut verifiers = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        verifiers.retain(|(issuers, _)| proxies.clone().any(|proxy| proxy.trusted_issuers == *issuers));
        let uris = proxies.flat_map(|proxy| &proxy.trusted_issuers);
        self.jwks.retain(&uris.filter_map(|issuer| Some(issuer.jwks_uri.as_ref()?.to_string())).collect());
    }

    fn keys_of(&self, issuer: &TrustedIssuer) -> Arc<Keys> {
        // Checked when it was written; should it be no good all the same, nobody gets in by it.
        self.jwks.trusted(issuer).unwrap_or_else(|_| Keys::new(KeySet::default()))
    }
}

impl Judge for Verifiers {
    fn verify(&self, proxy: &Proxy, token: &str) -> Result<Arc<Verified>, TokenError> {
        self.of(proxy).verify(token)
    }
}

impl fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifiers").field("issuer", &self.trust.issuer()).finish_non_exhaustive()
    }
}
