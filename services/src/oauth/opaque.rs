//! Opaque secrets: 256 random bits that the store knows by their SHA-256 only.
//!
//! A random secret needs no slow hash: there is nothing to guess.

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use secrecy::SecretString;

use crate::random;

/// 256 bits in base64 without padding.
pub(super) const LENGTH: usize = 43;

/// A new secret: 43 characters of `[A-Za-z0-9_-]`.
pub(super) fn generate() -> SecretString {
    random::secret("")
}

/// What stands for a secret in the store: 43 characters of `[A-Za-z0-9_-]`.
pub(super) fn hash(secret: &[u8]) -> String {
    BASE64.encode(digest::digest(&digest::SHA256, secret))
}

/// The hash of what came from outside, if it can be one of our secrets.
pub(super) fn hash_of_presented(text: &str) -> Option<String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (text.len() == LENGTH && text.bytes().all(fine)).then(|| hash(text.as_bytes()))
}

/// Whether two texts are the same, in a time that tells nothing of where they differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn secrets_differ_and_are_found_by_their_hash() {
        let (one, two) = (generate(), generate());
        assert_ne!(one.expose_secret(), two.expose_secret());
        assert_eq!(hash_of_presented(one.expose_secret()), Some(hash(one.expose_secret().as_bytes())));
        assert_ne!(hash(b"a"), hash(b"b"));
        // FIPS 180-2, appendix B.1.
        assert_eq!(hash(b"abc"), "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
        for bad in ["", "short", &"x".repeat(44), &"+".repeat(43), &"é".repeat(22)] {
            assert_eq!(hash_of_presented(bad), None, "{bad:?}");
        }
        assert!(same("a", "a") && !same("a", "b") && !same("a", "aa"));
    }
}
