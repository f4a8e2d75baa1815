//! Seals what sessions leave in the store: results of tools may hold secrets that were just made.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use bytes::Bytes;
use secrecy::zeroize::Zeroizing;

/// Seals and opens; the same at all nodes of a deployment.
pub(super) struct Seal(RandomizedNonceKey);

impl Seal {
    /// With a key of its own that is derived from the deployment's.
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        let prk = Salt::new(HKDF_SHA256, b"portcullis mcp sessions 1").extract(secret);
        let mut key = Zeroizing::new([0; 32]);
        // The library fails only for outputs longer than 255 hashes.
        let filled = prk.expand(&[b"seal"], HKDF_SHA256).and_then(|okm| okm.fill(key.as_mut()));
        filled.expect("a short output of HKDF");
        Self(RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).expect("a key of 32 bytes"))
    }

    /// Seals what stands under a name: it opens under no other one. None where the machine has no randomness.
    pub(super) fn seal(&self, name: &str, mut content: Vec<u8>) -> Option<Bytes> {
        let nonce = self.0.seal_in_place_append_tag(Aad::from(name), &mut content).ok()?;
        content.extend_from_slice(nonce.as_ref());
        Some(content.into())
    }

    /// Opens what stands under a name; None where it was changed, or sealed by another key.
    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (sealed, nonce) = sealed.split_at_checked(sealed.len().checked_sub(NONCE_LEN)?)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut content = sealed.to_vec();
        let length = self.0.open_in_place(nonce, Aad::from(name), &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_by_the_same_key_and_under_its_name_only() {
        let seal = Seal::new(&[1; 32]);
        let sealed = seal.seal("one", b"secret".to_vec()).expect("sealed");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(Seal::new(&[1; 32]).open("one", &sealed).as_deref(), Some(&b"secret"[..]));
        assert_eq!(seal.open("two", &sealed), None);
        assert_eq!(Seal::new(&[2; 32]).open("one", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(seal.open("one", &sealed[..length]), None, "cut at {length}");
        }
    }
}
