//! What outlives every reload and is handed to the stacks when they are built: pools, verifiers, built-in targets.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_layers::HttpService;
use portcullis_layers::auth::{JwtVerifier, KeySet, Keys};
use portcullis_layers::forward::{Client, Timeouts};
use portcullis_services::config::access::Site;
use portcullis_services::config::auth::TrustedIssuer;
use portcullis_services::config::{Builtin, Proxy};
use portcullis_services::oauth::Trust;
use portcullis_services::oauth::jwks::{JwksFetcher, Refreshing};
use portcullis_services::vault::Vault;
use smol_str::SmolStr;

/// Judges tokens, and has keys fetched that it does not know.
pub type Verifier = Refreshing<JwtVerifier>;

/// Live handles; configuration is never in here.
pub struct Runtime {
    /// Calls upstreams.
    pub client: Client,
    /// Our issuer, its keys, and what was revoked.
    pub trust: Trust,
    /// Judges our own tokens, for every host that trusts nobody else.
    pub verifier: Arc<Verifier>,
    /// Keys of other issuers.
    pub jwks: JwksFetcher,
    /// Opens the private keys of certificates.
    pub vault: Arc<Vault>,
    /// What the deployment says about every host.
    pub site: Site,
    /// How long exchanges may take where a host does not say.
    pub timeouts: Timeouts,
    /// The largest request body where a host does not say, in bytes.
    pub max_body: u64,
    /// The HTTPS port that clients see.
    pub public_https_port: u16,
    builtins: HashMap<Builtin, HttpService>,
    verifiers: Mutex<Vec<(Vec<TrustedIssuer>, Arc<Verifier>)>>,
}

/// What [`Runtime::new`] needs.
#[derive(Debug)]
pub struct Parts {
    /// See [`Runtime::client`].
    pub client: Client,
    /// See [`Runtime::trust`].
    pub trust: Trust,
    /// See [`Runtime::jwks`].
    pub jwks: JwksFetcher,
    /// See [`Runtime::vault`].
    pub vault: Arc<Vault>,
    /// See [`Runtime::site`].
    pub site: Site,
    /// See [`Runtime::timeouts`].
    pub timeouts: Timeouts,
    /// See [`Runtime::max_body`].
    pub max_body: u64,
    /// See [`Runtime::public_https_port`].
    pub public_https_port: u16,
    /// The built-in targets.
    pub builtins: HashMap<Builtin, HttpService>,
}

impl Runtime {
    /// Collects the handles.
    pub fn new(parts: Parts) -> Self {
        let Parts { client, trust, jwks, vault, site, timeouts, max_body, public_https_port, builtins } =
            parts;
        let verifier = Arc::new(jwks.refreshing(trust.verifier([]), []));
        let verifiers = Mutex::default();
        Self {
            client,
            trust,
            verifier,
            jwks,
            vault,
            site,
            timeouts,
            max_body,
            public_https_port,
            builtins,
            verifiers,
        }
    }

    /// A built-in target.
    pub fn builtin(&self, builtin: Builtin) -> Option<HttpService> {
        self.builtins.get(&builtin).cloned()
    }

    /// The verifier of a host: the shared one, or one of its own where it trusts other issuers, too. Hosts that
    /// trust the same ones share it, and it outlives reloads, because its cache of tokens is worth keeping.
    pub fn verifier_of(&self, proxy: &Proxy) -> Arc<Verifier> {
        if proxy.trusted_issuers.is_empty() {
            return Arc::clone(&self.verifier);
        }
        let mut verifiers = self.verifiers.lock().unwrap_or_else(PoisonError::into_inner);
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
    pub fn retain_verifiers<'a>(&self, proxies: impl Iterator<Item = &'a Proxy> + Clone) {
        let mut verifiers = self.verifiers.lock().unwrap_or_else(PoisonError::into_inner);
        verifiers.retain(|(issuers, _)| proxies.clone().any(|proxy| proxy.trusted_issuers == *issuers));
        let uris = proxies.flat_map(|proxy| &proxy.trusted_issuers);
        self.jwks.retain(&uris.filter_map(|issuer| Some(issuer.jwks_uri.as_ref()?.to_string())).collect());
    }

    fn keys_of(&self, issuer: &TrustedIssuer) -> Arc<Keys> {
        // Checked when it was written; should it be no good all the same, nobody gets in by it.
        self.jwks.trusted(issuer).unwrap_or_else(|_| Keys::new(KeySet::default()))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("site", &self.site).finish_non_exhaustive()
    }
}
