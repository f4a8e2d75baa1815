//! The public keys of an issuer (RFC 7517), each bound to one algorithm.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use smol_str::SmolStr;

use super::token::TokenError;

/// The largest providers publish about ten keys.
const MAX_KEYS: usize = 64;
const MAX_JWKS: usize = 256 * 1024;
/// NIST SP 800-131A; RFC 7518, section 3.3.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A signature algorithm that we verify. There is none for shared secrets, and no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519 (RFC 8037).
    EdDsa,
}

impl Algorithm {
    /// The name in `alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Names are compared exactly (RFC 7515, section 4.1.1); `Ed25519` is the newer name (RFC 9864).
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// The keys of an issuer at one time.
#[derive(Clone, Default)]
pub struct KeySet(Vec<Key>);

#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: Option<SmolStr>,
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

impl Key {
    /// Verifies a signature.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        self.key.verify_sig(message, signature).map_err(|_| TokenError::Signature)
    }
}

/// Why a JSON Web Key Set can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Longer than 256 KiB.
    #[error("key set of {0} bytes is too long")]
    TooLong(usize),
    /// Not an object with a list `keys` of objects with the usual members.
    #[error("key set is not valid JSON of the expected form")]
    Json(#[source] serde_json::Error),
    /// More than 64 keys.
    #[error("key set has {0} keys, more than 64")]
    TooMany(usize),
    /// None of the keys is for verifying RS256, ES256 or EdDSA.
    #[error("key set has no key for RS256, ES256 or EdDSA")]
    NoneUsable,
    /// Two keys have the same id and algorithm.
    #[error("key {id:?} comes twice")]
    Twice {
        /// `kid`.
        id: SmolStr,
    },
    /// One key is not as its type demands.
    #[error("key {index} ({id:?}): {reason}")]
    Key {
        /// Its place in the list.
        index: usize,
        /// `kid`.
        id: Option<SmolStr>,
        /// What is wrong.
        reason: &'static str,
    },
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys of other types, curves, algorithms or uses are left out, as RFC 7517,
    /// section 5, wants it; a key that should be good and is not is an error.
    ///
    /// # Errors
    ///
    /// See [`JwksError`].
    pub fn from_jwks(json: &str) -> Result<Self, JwksError> {
        if json.len() > MAX_JWKS {
            return Err(JwksError::TooLong(json.len()));
        }
        let jwks: Jwks = serde_json::from_str(json).map_err(JwksError::Json)?;
        if jwks.keys.len() > MAX_KEYS {
            return Err(JwksError::TooMany(jwks.keys.len()));
        }
        let mut keys: Vec<Key> = Vec::new();
        for (index, jwk) in jwks.keys.iter().enumerate() {
            let error = |reason| JwksError::Key { index, id: jwk.kid.clone(), reason };
            let Some(algorithm) = jwk.algorithm().map_err(error)? else { continue };
            let key = jwk.parse(algorithm).map_err(error)?;
            if let Some(id) = &jwk.kid
                && keys.iter().any(|known| known.id.as_ref() == Some(id) && known.algorithm == algorithm)
            {
                return Err(JwksError::Twice { id: id.clone() });
            }
            keys.push(Key { id: jwk.kid.clone(), algorithm, key });
        }
        if keys.is_empty() { Err(JwksError::NoneUsable) } else { Ok(Self(keys)) }
    }

    /// The keys for some algorithms only, where not all that an issuer publishes are wanted.
    #[must_use]
    pub fn only(mut self, algorithms: &[Algorithm]) -> Self {
        self.0.retain(|key| algorithms.contains(&key.algorithm));
        self
    }

    /// How many keys there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key, so that no token can be good.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids of the keys, for logs.
    pub fn ids(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(|key| key.id.as_deref())
    }

    /// Verifies what was signed by the key that a JOSE header names by `alg` and `kid`: for tokens that are no access
    /// tokens, whose claims the caller judges.
    ///
    /// # Errors
    ///
    /// When the algorithm is not one that we verify, no key fits, or the signature is not the key's.
    pub fn verify(
        &self,
        algorithm: &str,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenError> {
        let known = Algorithm::from_name(algorithm);
        let known = known.ok_or_else(|| TokenError::Algorithm(super::claims::shorten(algorithm)))?;
        self.find(known, id)?.verify(message, signature)
    }

    /// The key that a token names. Keys without an id can be meant by any token, but only when one alone fits.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Result<&Key, TokenError> {
        let fit = || self.0.iter().filter(|key| key.algorithm == algorithm);
        let unknown =
            || TokenError::UnknownKey { kid: id.map(super::claims::shorten), algorithm: algorithm.as_str() };
        if let Some(id) = id {
            if let Some(named) = fit().find(|key| key.id.as_deref() == Some(id)) {
                return Ok(named);
            }
            let mut nameless = fit().filter(|key| key.id.is_none());
            return match (nameless.next(), nameless.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(unknown()),
            };
        }
        let mut candidates = fit();
        match (candidates.next(), candidates.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(unknown()),
            (Some(_), Some(_)) => Err(TokenError::KeyNotNamed),
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

/// The keys of an issuer as they rotate. One value is shared by all verifiers that trust the issuer.
#[derive(Debug)]
pub struct Keys {
    set: ArcSwap<KeySet>,
    // Read before the set and moved after it, so that nothing verified with old keys counts as new.
    generation: AtomicU64,
}

impl Keys {
    /// The first keys.
    pub fn new(set: KeySet) -> Arc<Self> {
        Arc::new(Self { set: ArcSwap::from_pointee(set), generation: AtomicU64::new(0) })
    }

    /// Replaces all keys. Tokens verified with the old ones are verified again at their next use.
    pub fn replace(&self, set: KeySet) {
        self.set.store(Arc::new(set));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The keys as they are now.
    pub fn current(&self) -> Arc<KeySet> {
        self.set.load_full()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn with<R>(&self, work: impl FnOnce(&KeySet) -> R) -> R {
        work(&self.set.load())
    }
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: SmolStr,
    kid: Option<SmolStr>,
    alg: Option<SmolStr>,
    #[serde(rename = "use")]
    usage: Option<SmolStr>,
    key_ops: Option<Vec<SmolStr>>,
    crv: Option<SmolStr>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

impl Jwk {
    /// The algorithm that the key is for; `None` when it is none of ours.
    fn algorithm(&self) -> Result<Option<Algorithm>, &'static str> {
        let verifies = self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if self.usage.as_ref().is_some_and(|usage| usage != "sig") || !verifies {
            return Ok(None);
        }
        let by_type = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Algorithm::Rs256,
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            _ => return Ok(None),
        };
        let fits = self.alg.as_deref().is_none_or(|name| Algorithm::from_name(name) == Some(by_type));
        if !fits {
            return Ok(None);
        }
        if self.d.is_some() {
            return Err("it is a private key, which belongs nowhere but to its issuer");
        }
        Ok(Some(by_type))
    }

    fn parse(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, &'static str> {
        let invalid = |_| "it is not a valid point";
        match algorithm {
            Algorithm::Rs256 => {
                let n = number(self.n.as_deref(), "n is missing or not base64url")?;
                let e = number(self.e.as_deref(), "e is missing or not base64url")?;
                let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
                if !RSA_BITS.contains(&bits) {
                    return Err("the modulus must have 2048 to 8192 bits");
                }
                // An exponent of 1 would make every message its own signature.
                if e.len() > 4 || e.last().is_none_or(|byte| byte % 2 == 0) || e == [1] {
                    return Err("the exponent must be odd, greater than 1 and at most 32 bits long");
                }
                RsaPublicKeyComponents { n, e }
                    .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
                    .map_err(|_| "it is not a valid RSA key")
            }
            Algorithm::Es256 => {
                let x = coordinate(self.x.as_deref(), "x is missing or not 32 bytes of base64url")?;
                let y = coordinate(self.y.as_deref(), "y is missing or not 32 bytes of base64url")?;
                // SEC 1, section 2.3.3: 4 stands for an uncompressed point.
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(invalid)
            }
            Algorithm::EdDsa => {
                let x = coordinate(self.x.as_deref(), "x is missing or not 32 bytes of base64url")?;
                ParsedPublicKey::new(&ED25519, x).map_err(invalid)
            }
        }
    }
}

fn decode(text: Option<&str>) -> Option<Vec<u8>> {
    // Some servers pad, which RFC 7515, section 2, forbids; it changes nothing.
    URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok()
}

fn number(text: Option<&str>, error: &'static str) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(text).ok_or(error)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}

fn coordinate(text: Option<&str>, error: &'static str) -> Result<Vec<u8>, &'static str> {
    decode(text).filter(|bytes| bytes.len() == 32).ok_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: &str = "\
        0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs\
        tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5haj\
        rn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn rsa(members: &str) -> String {
        format!("{{\"kty\":\"RSA\",\"n\":\"{N}\",\"e\":\"AQAB\"{members}}}")
    }

    fn set(keys: &[String]) -> Result<KeySet, JwksError> {
        KeySet::from_jwks(&format!("{{\"keys\":[{}]}}", keys.join(",")))
    }

    #[test]
    fn keys_of_other_kinds_are_left_out() {
        for other in [
            "{\"kty\":\"oct\",\"k\":\"AAAA\"}".to_owned(),
            "{\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AA\",\"y\":\"AA\"}".to_owned(),
            "{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"AA\"}".to_owned(),
            "{\"kty\":\"new\"}".to_owned(),
            rsa(",\"use\":\"enc\""),
            rsa(",\"alg\":\"RS512\""),
            rsa(",\"alg\":\"HS256\""),
            rsa(",\"alg\":\"none\""),
            rsa(",\"alg\":\"ES256\""),
            rsa(",\"key_ops\":[\"encrypt\"]"),
        ] {
            let both = set(&[other.clone(), rsa(",\"kid\":\"good\"")]).expect("one is good");
            assert_eq!(both.ids().collect::<Vec<_>>(), [Some("good")], "{other}");
            assert!(matches!(set(std::slice::from_ref(&other)), Err(JwksError::NoneUsable)), "{other}");
        }
    }

    #[test]
    fn keys_that_should_be_good_and_are_not_are_named() {
        let short = "A".repeat(170);
        for (key, reason) in [
            (rsa(",\"d\":\"AAAA\""), "private"),
            (rsa("").replace(N, &short), "2048"),
            (rsa("").replace(N, &format!("AQ{short}")), "2048"),
            (rsa("").replace("AQAB", "AQ"), "exponent"),
            (rsa("").replace("AQAB", "Ag"), "exponent"),
            (rsa("").replace("AQAB", ""), "exponent"),
            (rsa("").replace("AQAB", "AQABAQAB"), "exponent"),
            (rsa("").replace("AQAB", "!"), "e is missing"),
            (rsa("").replace("\"n\"", "\"m\""), "n is missing"),
            (format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{}\"}}", &X[2..]), "32 bytes"),
            (
                format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{X}\",\"y\":\"{X}\"}}"),
                "not a valid point",
            ),
        ] {
            let error = set(&[rsa(",\"kid\":\"good\""), key.clone()]).expect_err("a bad key").to_string();
            assert!(error.contains("key 1") && error.contains(reason), "{key}: {error}");
        }
    }

    #[test]
    fn a_key_set_is_bounded_and_its_ids_are_unique() {
        assert!(matches!(set(&vec![rsa(""); 65]), Err(JwksError::TooMany(65))));
        assert!(matches!(set(&[]), Err(JwksError::NoneUsable)));
        assert!(matches!(set(&[rsa(",\"kid\":\"a\""), rsa(",\"kid\":\"a\"")]), Err(JwksError::Twice { .. })));
        assert!(matches!(KeySet::from_jwks(&" ".repeat(MAX_JWKS + 1)), Err(JwksError::TooLong(_))));
        for json in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[1]}", "{\"keys\":[{}]}"] {
            assert!(matches!(KeySet::from_jwks(json), Err(JwksError::Json(_))), "{json}");
        }
    }

    #[test]
    fn only_keys_for_the_wanted_algorithms_are_left() {
        let okp = format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{X}\",\"kid\":\"ed\"}}");
        let both = set(&[rsa(",\"kid\":\"rsa\""), okp]).expect("valid");
        assert_eq!(both.len(), 2);
        let ed = both.clone().only(&[Algorithm::EdDsa, Algorithm::Es256]);
        assert_eq!(ed.ids().collect::<Vec<_>>(), [Some("ed")]);
        assert!(ed.find(Algorithm::Rs256, Some("rsa")).is_err());
        assert!(both.only(&[]).is_empty());
    }

    #[test]
    fn a_token_names_its_key_where_several_could_be_meant() {
        let named = |id| rsa(&format!(",\"kid\":\"{id}\""));
        let nameless = || rsa("");
        for (keys, id, found) in [
            (vec![named("a")], Some("a"), true),
            (vec![named("a")], None, true),
            (vec![named("a")], Some("b"), false),
            (vec![named("a")], Some(""), false),
            (vec![named("a")], Some("A"), false),
            (vec![named("a"), named("b")], Some("b"), true),
            (vec![named("a"), named("b")], None, false),
            (vec![nameless()], Some("a"), true),
            (vec![nameless(), named("b")], Some("a"), true),
            (vec![nameless(), nameless()], Some("a"), false),
            (vec![nameless(), nameless()], None, false),
        ] {
            let set = set(&keys).expect("valid");
            assert_eq!(set.find(Algorithm::Rs256, id).is_ok(), found, "{set:?} {id:?}");
            assert!(set.find(Algorithm::EdDsa, id).is_err(), "a key was used with another algorithm");
        }
    }
}
