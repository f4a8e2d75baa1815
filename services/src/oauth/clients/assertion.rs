//! Signed assertions by which clients prove who they are: `private_key_jwt` (RFC 7523, section 2.2).

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

/// How many clients' keys are kept.
const CAPACITY: usize = 256;

/// How soon keys are fetched again when an assertion names one that is not known.
const REFETCH: Duration = Duration::from_secs(30);

/// Verifies assertions.
#[derive(Debug)]
pub struct Assertions {
    keys: HttpCache<KeySet, JwksError>,
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
    /// The client's keys can't be had.
    #[error("the keys of the client can not be used")]
    Keys(#[source] Arc<CacheError<JwksError>>),
    /// No key, or not its signature.
    #[error("the signature of the assertion can not be verified")]
    Signature(#[source] TokenError),
    /// The store.
    #[error("the assertion can not be checked for having been used")]
    Store(#[from] crate::store::Error),
}

#[derive(Deserialize)]
struct Header<'a> {
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

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Assertions {
    /// Takes assertions for these audiences: the issuer, and the endpoints that clients prove themselves at.
    /// Keys are fetched through the guard; ids that were used are remembered in the store.
    pub fn new(guard: Arc<Guard>, store: Arc<dyn ClientStore>, audiences: Vec<String>) -> Self {
        Self { keys: HttpCache::new(guard, CAPACITY, read_keys), store, audiences }
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
        header.check()?;
        let left = claims.check(&client.id, &self.audiences, now)?;
        self.check_signature(client, &header, message, &signature, now).await?;
        // Last, so that nobody else can use up an id.
        let counter = format!("assertion/{}", digest_of(&[&client.id, &claims.jti]));
        if self.store.count(&counter, left).await? > 1 {
            return Err(AssertionError::Replayed);
        }
        Ok(())
    }

    async fn check_signature(
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
        let verify =
            |keys: &KeySet| keys.verify(&header.alg, header.kid.as_deref(), message.as_bytes(), signature);
        if let Some(jwks) = &client.metadata.jwks {
            let keys = KeySet::from_jwks(&jwks.to_string()).map_err(|_| AssertionError::NoKeys)?;
            return verify(&keys).map_err(AssertionError::Signature);
        }
        let uri = client.metadata.jwks_uri.as_deref().ok_or(AssertionError::NoKeys)?;
        let uri: HttpsUrl = uri.parse().map_err(|_| AssertionError::NoKeys)?;
        let keys = self.keys.get(&uri, now).await.map_err(AssertionError::Keys)?;
        match verify(&keys) {
            Err(TokenError::UnknownKey { .. }) => {
                let since = now.checked_sub(jiff::SignedDuration::try_from(REFETCH).unwrap_or_default());
                let since = since.unwrap_or(Timestamp::MIN);
                let keys = self.keys.get_newer(&uri, since, now).await.map_err(AssertionError::Keys)?;
                verify(&keys).map_err(AssertionError::Signature)
            }
            verdict => verdict.map_err(AssertionError::Signature),
        }
    }
}

impl Header<'_> {
    fn check(&self) -> Result<(), AssertionError> {
        if self.crit.is_some() || self.b64.is_some() {
            return Err(AssertionError::Critical);
        }
        // An access token or an ID token must not pass for an assertion (RFC 8725, section 3.11).
        let known = |typ: &str| {
            typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("client-authentication+jwt")
        };
        if self.typ.as_deref().is_none_or(known) { Ok(()) } else { Err(AssertionError::Type) }
    }
}

impl Claims<'_> {
    /// Everything but the signature. Returns for how long the id has to be remembered.
    fn check(&self, client: &str, audiences: &[String], now: Timestamp) -> Result<Duration, AssertionError> {
        if self.iss != client || self.sub != client {
            return Err(AssertionError::Subject);
        }
        let ours = |audience: &String| audiences.contains(audience);
        // One that is also for others could be used here by them.
        let fits = match &self.aud {
            Audience::One(audience) => ours(audience),
            Audience::Many(all) => !all.is_empty() && all.iter().all(ours),
        };
        if !fits {
            return Err(AssertionError::Audience);
        }
        if self.jti.is_empty() || self.jti.len() > MAX_JTI {
            return Err(AssertionError::Id);
        }
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
struct Parts<'a> {
    header: Vec<u8>,
    payload: Vec<u8>,
    message: &'a str,
    signature: Vec<u8>,
}

fn split(assertion: &str) -> Result<Parts<'_>, AssertionError> {
    if assertion.len() > MAX_ASSERTION {
        return Err(AssertionError::Malformed);
    }
    let decode = |part: &str| BASE64.decode(part).map_err(|_| AssertionError::Malformed);
    let (message, signature) = assertion.rsplit_once('.').ok_or(AssertionError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(AssertionError::Malformed)?;
    Ok(Parts { header: decode(header)?, payload: decode(payload)?, message, signature: decode(signature)? })
}

fn read_keys(_: &HttpsUrl, body: &[u8]) -> Result<KeySet, JwksError> {
    KeySet::from_jwks(&String::from_utf8_lossy(body))
}

#[cfg(test)]
mod tests;
