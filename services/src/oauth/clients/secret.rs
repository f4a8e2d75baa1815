//! What of a secret is kept, and short names for long texts.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The SHA-256 of a secret that was made from randomness: what is stored of it. Too fast a hash for
/// passwords that people choose.
#[derive(Clone)]
pub struct Hashed([u8; 32]);

impl Hashed {
    /// What is kept of a secret.
    pub fn of(secret: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
        Self(hash)
    }

    /// Whether this is the secret, in a time that tells nothing.
    pub fn matches(&self, secret: &str) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &Self::of(secret).0).is_ok()
    }
}

impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashed")
    }
}

impl Serialize for Hashed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Hashed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = BASE64.decode(text).ok().and_then(|hash| hash.try_into().ok());
        hash.map(Self).ok_or_else(|| serde::de::Error::custom("expected 32 bytes in base64url"))
    }
}

/// A short name for a text of whatever length, for keys of the store.
pub(super) fn digest_of(parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        // The lengths keep the borders between the parts.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    BASE64.encode(context.finish())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::random;

    #[test]
    fn only_the_secret_matches_and_it_is_not_shown() {
        let made = random::secret("pcs_");
        let secret = made.expose_secret();
        let hashed = Hashed::of(secret);
        assert!(hashed.matches(secret) && !hashed.matches("") && !hashed.matches(&secret[1..]));
        assert_eq!(format!("{hashed:?}"), "Hashed");
        let json = serde_json::to_string(&hashed).expect("JSON");
        assert!(!json.contains(secret));
        assert!(serde_json::from_str::<Hashed>(&json).expect("read back").matches(secret));
        for bad in ["\"\"", "\"AAAA\"", "\"!\"", "1"] {
            assert!(serde_json::from_str::<Hashed>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_borders_between_parts_count() {
        assert_ne!(digest_of(&["a", "bc"]), digest_of(&["ab", "c"]));
    }
}
