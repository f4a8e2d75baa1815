//! The keys of other issuers, fetched from where they publish them (RFC 7517) and kept fresh.
//!
//! [`JwksFetcher::keys`] hands out a handle at once. It holds no key until the first fetch, so that
//! no token passes; after that it follows what the issuer publishes, and keeps the last good keys
//! while the issuer can't be reached. [`JwksFetcher::run`] does the fetching, [`Refreshing`] asks for
//! it when a token names a key that nobody knows yet.
//!
//! It does not look issuers up (no discovery document), and it does not judge tokens.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use portcullis_layers::auth::{Algorithm, JwksError, KeySet, Keys, TokenError, Verified, Verify};
use portcullis_layers::forward::Client;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::fetch::{FetchError, Fetched, fetch};
use crate::config::auth as config;

mod fetch;

/// All algorithms, in the order in which lists of them are compared.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

/// How many issuers are asked at once.
const AT_ONCE: usize = 16;

/// When keys are fetched again.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Unless the issuer says otherwise.
    usual: Duration,
    /// Whatever the issuer says: at least this long,
    shortest: Duration,
    /// and at most this long after the last time.
    longest: Duration,
    /// After the first failure; twice as long after each further one, up to `usual`.
    retry: Duration,
    /// When somebody asks for it, no sooner than this after the last time.
    asked: Duration,
}

const PACE: Pace = Pace {
    usual: Duration::from_secs(10 * 60),
    shortest: Duration::from_secs(60),
    longest: Duration::from_secs(24 * 60 * 60),
    retry: Duration::from_secs(5),
    asked: Duration::from_secs(30),
};

impl Pace {
    fn after_success(&self, max_age: Option<Duration>) -> Duration {
        max_age.unwrap_or(self.usual).clamp(self.shortest, self.longest)
    }

    /// `random` makes the pause up to a half shorter, so that nodes that failed together don't all
    /// come back at once.
    fn after_failure(&self, failures: u32, random: u8) -> Duration {
        let pause = self.retry.saturating_mul(1 << failures.min(16)).min(self.usual);
        pause - pause / 2 * u32::from(random) / 256
    }
}

/// Fetches the keys of issuers. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct JwksFetcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    ca: Option<Arc<str>>,
    pace: Pace,
    sources: Mutex<BTreeMap<String, Source>>,
    changed: Notify,
}

/// One URI with keys.
#[derive(Debug)]
struct Source {
    /// What the issuer sent last, to tell whether anything changed.
    document: String,
    set: KeySet,
    handles: Vec<(Vec<Algorithm>, Arc<Keys>)>,
    asked: Arc<AtomicBool>,
    due: Instant,
    begun: Option<Instant>,
    busy: bool,
    failures: u32,
    fetched_at: Option<Timestamp>,
    error: Option<String>,
}

/// How the fetching of one URI goes, for health and people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct JwksStatus {
    /// Where the keys are published.
    pub uri: String,
    /// How many keys are in use.
    pub keys: usize,
    /// When they were fetched last.
    pub fetched_at: Option<Timestamp>,
    /// Why the last attempt failed, or why the keys are of no use to a host.
    pub error: Option<String>,
}

/// Why the keys that a host's configuration holds for an issuer can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InlineKeysError {
    /// They are no key set.
    #[error("the keys of issuer {issuer} can't be read")]
    Invalid {
        /// Whose keys.
        issuer: String,
        /// What is wrong with them.
        #[source]
        source: JwksError,
    },
    /// None is for an algorithm that the host allows.
    #[error("issuer {issuer} has no key for {}", names(.algorithms))]
    NoneAllowed {
        /// Whose keys.
        issuer: String,
        /// What the host allows.
        algorithms: Vec<Algorithm>,
    },
    /// There are neither keys nor a place to fetch them from.
    #[error("issuer {issuer} has neither keys nor a URI to fetch them from")]
    Nowhere {
        /// Whose keys.
        issuer: String,
    },
}

impl JwksFetcher {
    /// A fetcher that calls issuers with this client. Their certificates must be good for the
    /// platform's authorities, or for those in `ca` (PEM) alone.
    pub fn new(client: Client, ca: Option<Arc<str>>) -> Self {
        Self::with_pace(client, ca, PACE)
    }

    fn with_pace(client: Client, ca: Option<Arc<str>>, pace: Pace) -> Self {
        let (sources, changed) = (Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { client, ca, pace, sources, changed }) }
    }

    /// The keys that a host trusts for an issuer: those in its configuration, or those at the URI there.
    ///
    /// # Errors
    ///
    /// When the keys in the configuration are of no use.
    pub fn trusted(&self, issuer: &config::TrustedIssuer) -> Result<Arc<Keys>, InlineKeysError> {
        let algorithms: Vec<_> = issuer.algorithms.iter().copied().map(Algorithm::from).collect();
        let name = || issuer.issuer.as_str().to_owned();
        match (&issuer.jwks, &issuer.jwks_uri) {
            (Some(jwks), _) => {
                let set = KeySet::from_jwks(&jwks.to_string())
                    .map_err(|source| InlineKeysError::Invalid { issuer: name(), source })?
                    .only(&algorithms);
                if set.is_empty() {
                    return Err(InlineKeysError::NoneAllowed { issuer: name(), algorithms });
                }
                Ok(Keys::new(set))
            }
            (None, Some(uri)) => Ok(self.keys(uri.as_str(), &algorithms)),
            (None, None) => Err(InlineKeysError::Nowhere { issuer: name() }),
        }
    }

    /// The keys at a URI that are for one of these algorithms. The same handle for the same question;
    /// a URI is registered when it is asked for first, and fetched as soon as [`Self::run`] gets to it.
    pub fn keys(&self, uri: &str, algorithms: &[Algorithm]) -> Arc<Keys> {
        let algorithms: Vec<_> = ALGORITHMS.into_iter().filter(|one| algorithms.contains(one)).collect();
        let mut sources = self.sources();
        if !sources.contains_key(uri) {
            sources.insert(uri.to_owned(), Source::new());
            self.shared.changed.notify_one();
        }
        let source = sources.get_mut(uri).expect("it was inserted if it was missing");
        if let Some((_, keys)) = source.handles.iter().find(|(known, _)| *known == algorithms) {
            return Arc::clone(keys);
        }
        let keys = Keys::new(source.set.clone().only(&algorithms));
        source.handles.push((algorithms, Arc::clone(&keys)));
        keys
    }

    /// Fetches the keys at a URI soon, at most once in 30 s however often it is asked for.
    pub fn refresh_soon(&self, uri: &str) {
        let asked = self.sources().get(uri).map(|source| Arc::clone(&source.asked));
        if let Some(asked) = asked {
            self.shared.ask(&asked);
        }
    }

    /// A verifier that has these URIs fetched again when a token names an unknown key.
    pub fn refreshing<'a, V>(&self, verifier: V, uris: impl IntoIterator<Item = &'a str>) -> Refreshing<V> {
        let sources = self.sources();
        let asked = uris.into_iter().filter_map(|uri| Some(Arc::clone(&sources.get(uri)?.asked))).collect();
        Refreshing { verifier, asked, shared: Arc::clone(&self.shared) }
    }

    /// Forgets all URIs but these. Call it when every host has the handles that it needs: a handle for
    /// a forgotten URI keeps its keys and is never refreshed again.
    pub fn retain(&self, used: &HashSet<String>) {
        self.sources().retain(|uri, _| used.contains(uri));
    }

    /// How the fetching goes, by URI.
    pub fn status(&self) -> Vec<JwksStatus> {
        let status = |(uri, source): (&String, &Source)| JwksStatus {
            uri: uri.clone(),
            keys: source.set.len(),
            fetched_at: source.fetched_at,
            error: source.error.clone().or_else(|| source.useless()),
        };
        self.sources().iter().map(status).collect()
    }

    /// Fetches what is due until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut fetches = FuturesUnordered::new();
        loop {
            let (begin, next) = self.begin_due(AT_ONCE - fetches.len(), Instant::now());
            for uri in begin {
                let (client, ca) = (self.shared.client.clone(), self.shared.ca.clone());
                fetches.push(async move {
                    let outcome = fetch(&client, ca, &uri).await;
                    (uri, outcome)
                });
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some((uri, outcome)) = fetches.next() => self.settle(&uri, outcome, Instant::now()),
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Marks what is due as being fetched, as far as there is room; also tells when to look again.
    fn begin_due(&self, room: usize, now: Instant) -> (Vec<String>, Instant) {
        let mut begin = Vec::new();
        let mut next = now + self.shared.pace.longest;
        for (uri, source) in self.sources().iter_mut().filter(|(_, source)| !source.busy) {
            let due = source.due_at(self.shared.pace.asked, now);
            if due > now {
                next = next.min(due);
            } else if begin.len() < room {
                source.busy = true;
                source.begun = Some(now);
                source.asked.store(false, Ordering::Relaxed);
                begin.push(uri.clone());
            }
            // What finds no room begins when something else has ended.
        }
        (begin, next)
    }

    fn settle(&self, uri: &str, outcome: Result<Fetched, FetchError>, now: Instant) {
        let pace = &self.shared.pace;
        let mut sources = self.sources();
        // Forgotten while it was fetched.
        let Some(source) = sources.get_mut(uri) else { return };
        source.busy = false;
        match outcome {
            Ok(fetched) => {
                source.due = now + pace.after_success(fetched.max_age);
                source.failures = 0;
                source.fetched_at = Some(Timestamp::now());
                if source.error.take().is_some() {
                    info!(uri, "keys of an issuer are fetched again");
                }
                source.take(uri, fetched);
            }
            Err(error) => {
                let pause = pace.after_failure(source.failures, random());
                source.due = now + pause;
                source.failures = source.failures.saturating_add(1);
                let error = chain(&error);
                warn!(uri, error, retry_in = ?pause, kept = source.set.len(), "keys of an issuer can't be fetched");
                source.error = Some(error);
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<String, Source>> {
        self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Cheap when it was asked for already, because anybody can send tokens that name unknown keys.
    fn ask(&self, asked: &AtomicBool) {
        if !asked.load(Ordering::Relaxed) && !asked.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}

impl Source {
    fn new() -> Self {
        Self {
            document: String::new(),
            set: KeySet::default(),
            handles: Vec::new(),
            asked: Arc::default(),
            due: Instant::now(),
            begun: None,
            busy: false,
            failures: 0,
            fetched_at: None,
            error: None,
        }
    }

    fn due_at(&self, asked_pause: Duration, now: Instant) -> Instant {
        if !self.asked.load(Ordering::Relaxed) {
            return self.due;
        }
        self.begun.map_or(now, |begun| begun + asked_pause).min(self.due)
    }

    /// Uses new keys, if they are new: verified tokens are verified again after each change.
    fn take(&mut self, uri: &str, fetched: Fetched) {
        if self.document == fetched.document {
            return;
        }
        info!(uri, ids = ?fetched.set.ids().collect::<Vec<_>>(), "keys of an issuer fetched");
        (self.document, self.set) = (fetched.document, fetched.set);
        for (algorithms, keys) in &self.handles {
            keys.replace(self.set.clone().only(algorithms));
        }
        if let Some(error) = self.useless() {
            warn!(uri, error, "keys of an issuer are of no use to a host");
        }
    }

    fn useless(&self) -> Option<String> {
        let empty = |(_, keys): &&(Vec<Algorithm>, Arc<Keys>)| keys.current().is_empty();
        let (algorithms, _) = self.handles.iter().find(empty).filter(|_| !self.set.is_empty())?;
        Some(format!("no key for {}", names(algorithms)))
    }
}

/// Verifies with `V`, and has keys fetched again when a token names one that is not known.
#[derive(Debug)]
pub struct Refreshing<V> {
    verifier: V,
    asked: Box<[Arc<AtomicBool>]>,
    shared: Arc<Shared>,
}

impl<V: Verify> Verify for Refreshing<V> {
    fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        let verdict = self.verifier.verify(token);
        if let Err(TokenError::UnknownKey { .. }) = verdict {
            self.asked.iter().for_each(|asked| self.shared.ask(asked));
        }
        verdict
    }
}

impl From<config::Algorithm> for Algorithm {
    fn from(algorithm: config::Algorithm) -> Self {
        match algorithm {
            config::Algorithm::RS256 => Self::Rs256,
            config::Algorithm::ES256 => Self::Es256,
            config::Algorithm::EdDSA => Self::EdDsa,
        }
    }
}

fn names(algorithms: &[Algorithm]) -> String {
    algorithms.iter().map(|algorithm| algorithm.as_str()).collect::<Vec<_>>().join(", ")
}

fn random() -> u8 {
    let mut byte = [0];
    // Without randomness the pause is only less spread.
    let _ = rand::fill(&mut byte);
    byte[0]
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
