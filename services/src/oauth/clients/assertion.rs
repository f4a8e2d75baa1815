//! Signed assertions by which clients prove who they are: `private_key_jwt` (RFC 7523, section 2.2). Those of
//! other issuers about users are in [`id_jag`](super::id_jag), and are verified here as well.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use portcullis_layers::auth::{JwksError, KeySet, TokenError};
use serde::Deserialize;
use serde_json::Value;

use super::Client;
use super::cache::{CacheError, HttpCache};
use super::client_keys::{self, ClientKeys};
use super::metadata::AuthMethod;
use super::secret::digest_of;
use super::ssrf::{Guard, HttpsUrl};
use super::store::ClientStore;

/// What `client_assertion_type` has to be.
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The longest assertion.
const MAX_ASSERTION: usize = 8 * 1024;

/// The longest id of one.
const MAX_JTI: usize = 512;

/// How far ahead an assertion may end: as long as its id has to be remembered.
const LONGEST: u64 = 10 * 60;

/// How much clocks may differ.
const LEEWAY: u64 = 60;

/// What `typ` a client may give. An access token or an ID token must not pass for an assertion.
const CLIENT_TYPES: [&str; 2] = ["JWT", "client-authentication+jwt"];

/// How many issuers' keys are kept.
const CAPACITY: usize = 256;

/// How soon keys are fetched again when an assertion names one that is not known.
const REFETCH: Duration = Duration::from_secs(30);

/// For how long keys that could not be fetched are not tried again: an assertion that is no good costs nothing.
const BACK_OFF: Duration = Duration::from_secs(10);

/// Verifies assertions.
#[derive(Debug)]
pub struct Assertions {
    clients: ClientKeys,
    /// Apart from those of clients, so that no stranger takes their places.
    issuers: HttpCache<KeySet, JwksError>,
    store: Arc<dyn ClientStore>,
    audiences: Vec<String>,
}

/// Why an assertion is refused. For logs: strangers need not know.
#[derive(Debug, thiserror::Error)]
pub enum AssertionError {
    /// No compact JWS, too long, or members of the wrong type.
    #[error("the assertion is no JWT of the expected form")]
    Malformed,
    /// `typ` says that it is for something else.
    #[error("the assertion is of another type")]
    Type,
    /// `crit` or `b64`.
    #[error("the assertion has critical extensions")]
    Critical,
    /// `iss` or `sub` is not the client.
    #[error("the assertion does not speak for the client")]
    Subject,
    /// `aud` names somebody else.
    #[error("the assertion is for another audience")]
    Audience,
    /// It has ended, has not begun, or lasts too long.
    #[error("the assertion is not valid at this time, or for longer than {LONGEST} seconds")]
    Time,
    /// It has no id.
    #[error("the assertion has no usable jti")]
    Id,
    /// Its id was used before.
    #[error("the assertion was used before")]
    Replayed,
    /// The client has no keys.
    #[error("the client has no keys")]
    NoKeys,
    /// The keys can't be had.
    #[error("the keys can not be used")]
    Keys(#[source] Arc<CacheError<JwksError>>),
    /// No key, or not its signature.
    #[error("the signature of the assertion can not be verified")]
    Signature(#[source] TokenError),
    /// Its issuer is none that is trusted with users.
    #[error("the issuer of the assertion is not trusted")]
    Issuer,
    /// It was given to another client.
    #[error("the assertion is for another client")]
    Client,
    /// Its user has a name that can't stand on a list of users.
    #[error("the subject of the assertion can not stand on a list of users")]
    User,
    /// Whoever presents it has to prove to have a key, which we can't verify.
    #[error("the assertion is bound to a key")]
    Bound,
    /// The store.
    #[error("the assertion can not be checked for having been used")]
    Store(#[from] crate::store::Error),
}

impl AssertionError {
    /// Whether it says nothing about the assertion: the keys were not even asked for, because too much is fetched.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Keys(error) if matches!(**error, CacheError::Busy))
    }

    /// Whether it can't be read, or is something else than such an assertion: nothing that it says was looked at.
    pub const fn is_unreadable(&self) -> bool {
        matches!(self, Self::Malformed | Self::Type | Self::Critical)
    }
}

#[derive(Deserialize)]
pub(super) struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    typ: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(default)]
    crit: Option<Value>,
    #[serde(default)]
    b64: Option<Value>,
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    aud: Audience,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    iat: Option<f64>,
    #[serde(borrow)]
    jti: Cow<'a, str>,
}

/// One text, or several (RFC 7519, section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Where the keys are that an assertion may be signed with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Inline(&'a KeySet),
    At(Publisher<'a>, &'a HttpsUrl),
}

/// Who publishes keys.
#[derive(Debug, Clone, Copy)]
pub(super) enum Publisher<'a> {
    /// A client, which anybody can be.
    Client(&'a Client),
    /// An issuer that is trusted with users.
    Issuer,
}

/// When an assertion holds.
#[derive(Clone, Copy)]
pub(super) struct Validity {
    pub(super) exp: f64,
    pub(super) nbf: Option<f64>,
    pub(super) iat: Option<f64>,
}

impl Assertions {
    /// Takes assertions for these audiences: the issuer, and the endpoints that clients prove themselves at.
    /// Keys are fetched through the guard; ids that were used are remembered in the store.
    pub fn new(guard: Arc<Guard>, store: Arc<dyn ClientStore>, audiences: Vec<String>) -> Self {
        let clients = ClientKeys::new(Arc::clone(&guard));
        let issuers = HttpCache::new(guard, CAPACITY, client_keys::read).backing_off(BACK_OFF);
        Self { clients, issuers, store, audiences }
    }

    /// The client that an assertion says to be of, to find its keys by. Not verified.
    pub fn claimed_client(assertion: &str) -> Option<String> {
        let Parts { payload, .. } = split(assertion).ok()?;
        let claims: Claims<'_> = serde_json::from_slice(&payload).ok()?;
        Some(claims.sub.into_owned())
    }

    /// Verifies the assertion of a client. It is good once.
    ///
    /// # Errors
    ///
    /// See [`AssertionError`].
    pub async fn verify(
        &self,
        client: &Client,
        assertion: &str,
        now: Timestamp,
    ) -> Result<(), AssertionError> {
        let Parts { header, payload, message, signature } = split(assertion)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| AssertionError::Malformed)?;
        let claims: Claims<'_> = serde_json::from_slice(&payload).map_err(|_| AssertionError::Malformed)?;
        header.check(&CLIENT_TYPES, true)?;
        let left = claims.check(&client.id, &self.audiences, now)?;
        self.check_client_signature(client, &header, message, &signature, now).await?;
        self.use_up("assertion", &client.id, &claims.jti, left).await
    }

    /// Remembers the id of an assertion as long as it could be used again. Last of all, so that nobody else can use
    /// up an id.
    pub(super) async fn use_up(
        &self,
        kind: &str,
        owner: &str,
        jti: &str,
        left: Duration,
    ) -> Result<(), AssertionError> {
        let counter = format!("{kind}/{}", digest_of(&[owner, jti]));
        if self.store.count(&counter, left).await? > 1 {
            return Err(AssertionError::Replayed);
        }
        Ok(())
    }

    async fn check_client_signature(
        &self,
        client: &Client,
        header: &Header<'_>,
        message: &str,
        signature: &[u8],
        now: Timestamp,
    ) -> Result<(), AssertionError> {
        if client.metadata.token_endpoint_auth_method != AuthMethod::PrivateKeyJwt {
            return Err(AssertionError::NoKeys);
        }
        if let Some(jwks) = &client.metadata.jwks {
            let keys = KeySet::from_jwks(&jwks.to_string()).map_err(|_| AssertionError::NoKeys)?;
            return self.check_signature(Source::Inline(&keys), header, message, signature, now).await;
        }
        let uri = client.metadata.jwks_uri.as_deref().ok_or(AssertionError::NoKeys)?;
        let uri: HttpsUrl = uri.parse().map_err(|_| AssertionError::NoKeys)?;
        self.check_signature(Source::At(Publisher::Client(client), &uri), header, message, signature, now)
            .await
    }

    /// Whether one of the keys has signed a message. Keys that are fetched are fetched again for one that is not
    /// known.
    pub(super) async fn check_signature(
        &self,
        keys: Source<'_>,
        header: &Header<'_>,
        message: &str,
        signature: &[u8],
        now: Timestamp,
    ) -> Result<(), AssertionError> {
        let verify =
            |keys: &KeySet| keys.verify(&header.alg, header.kid.as_deref(), message.as_bytes(), signature);
        let (publisher, uri) = match keys {
            Source::Inline(keys) => return verify(keys).map_err(AssertionError::Signature),
            Source::At(publisher, uri) => (publisher, uri),
        };
        let keys = self.fetched(publisher, uri, Timestamp::MIN, now).await?;
        match verify(&keys) {
            Err(TokenError::UnknownKey { .. }) => {
                let since = now.checked_sub(jiff::SignedDuration::try_from(REFETCH).unwrap_or_default());
                let since = since.unwrap_or(Timestamp::MIN);
                let keys = self.fetched(publisher, uri, since, now).await?;
                verify(&keys).map_err(AssertionError::Signature)
            }
            verdict => verdict.map_err(AssertionError::Signature),
        }
    }

    async fn fetched(
        &self,
        publisher: Publisher<'_>,
        uri: &HttpsUrl,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, AssertionError> {
        let keys = match publisher {
            Publisher::Client(client) => self.clients.get(client, uri, since, now).await,
            Publisher::Issuer => self.issuers.get_newer(uri, since, now).await,
        };
        keys.map_err(AssertionError::Keys)
    }
}

impl Header<'_> {
    /// Whether it is of one of these types; `untyped` tells whether it may be of none.
    pub(super) fn check(&self, types: &[&str], untyped: bool) -> Result<(), AssertionError> {
        if self.crit.is_some() || self.b64.is_some() {
            return Err(AssertionError::Critical);
        }
        // An access token or an ID token must not pass for an assertion (RFC 8725, section 3.11).
        let known = match self.typ.as_deref() {
            Some(own) => types.iter().any(|typ| typ.eq_ignore_ascii_case(own)),
            None => untyped,
        };
        if known { Ok(()) } else { Err(AssertionError::Type) }
    }
}

impl Claims<'_> {
    /// Everything but the signature. Returns for how long the id has to be remembered.
    fn check(&self, client: &str, audiences: &[String], now: Timestamp) -> Result<Duration, AssertionError> {
        if self.iss != client || self.sub != client {
            return Err(AssertionError::Subject);
        }
        // One that is also for others could be used here by them.
        if !self.aud.is_only(|audience| audiences.iter().any(|own| own == audience)) {
            return Err(AssertionError::Audience);
        }
        check_id(&self.jti)?;
        Validity { exp: self.exp, nbf: self.nbf, iat: self.iat }.check(now)
    }
}

impl Audience {
    /// Whether there is one, and all fulfil a condition.
    pub(super) fn is_only(&self, ours: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::One(audience) => ours(audience),
            Self::Many(all) => !all.is_empty() && all.iter().all(|audience| ours(audience)),
        }
    }

    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(audience) => vec![audience],
            Self::Many(all) => all,
        }
    }
}

/// Whether an id can be remembered.
pub(super) const fn check_id(jti: &str) -> Result<(), AssertionError> {
    if jti.is_empty() || jti.len() > MAX_JTI { Err(AssertionError::Id) } else { Ok(()) }
}

impl Validity {
    /// Whether it holds now, and not for too long. Returns for how long the id has to be remembered.
    pub(super) fn check(self, now: Timestamp) -> Result<Duration, AssertionError> {
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        let begun = |time: Option<f64>| {
            time.is_none_or(|time| seconds(time).is_some_and(|time| time <= now + LEEWAY))
        };
        let ends = seconds(self.exp).ok_or(AssertionError::Time)?;
        let in_time = now < ends + LEEWAY && ends <= now + LONGEST + LEEWAY;
        if !in_time || !begun(self.nbf) || !begun(self.iat) {
            return Err(AssertionError::Time);
        }
        // A second more than it can pass: ids are forgotten by another clock.
        Ok(Duration::from_secs(ends + LEEWAY + 1 - now.min(ends + LEEWAY)))
    }
}

/// RFC 7519, section 2, allows fractions. Beyond 2^53 a float is no exact number of seconds.
fn seconds(time: f64) -> Option<u64> {
    (0.0..9_007_199_254_740_992.0).contains(&time).then_some(time as u64)
}

/// A compact JWS (RFC 7515, section 7.1), decoded but for what is signed.
pub(super) struct Parts<'a> {
    pub(super) header: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) message: &'a str,
    pub(super) signature: Vec<u8>,
}

pub(super) fn split(assertion: &str) -> Result<Parts<'_>, AssertionError> {
    if assertion.len() > MAX_ASSERTION {
        return Err(AssertionError::Malformed);
    }
    let decode = |part: &str| BASE64.decode(part).map_err(|_| AssertionError::Malformed);
    let (message, signature) = assertion.rsplit_once('.').ok_or(AssertionError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(AssertionError::Malformed)?;
    Ok(Parts { header: decode(header)?, payload: decode(payload)?, message, signature: decode(signature)? })
}

#[cfg(test)]
mod tests;
