//! Blobs that clients keep for us: they can't read them, change them or use them elsewhere.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No blob of ours is longer; what is longer isn't even decoded.
const MAX_SEALED: usize = 8 * 1024;

/// What a blob is for, and for which upstream: it opens for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purpose<'a> {
    pub(crate) kind: &'static str,
    pub(crate) upstream: &'a str,
}

impl Purpose<'_> {
    fn to_aad(self) -> Aad<String> {
        Aad::from(format!("portcullis mcp 1\0{}\0{}", self.kind, self.upstream))
    }
}

/// The keys of a deployment: the first seals, all of them open, so that a new one can be brought in front of the last.
///
/// Nonces are random: a key must be exchanged before it has sealed 2^32 blobs (NIST SP 800-38D, section 8.3).
#[derive(Clone)]
pub struct Keys(Arc<[RandomizedNonceKey]>);

/// No key to seal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no key to seal with")]
pub struct NoKey;

impl Keys {
    /// Keys of 32 random bytes, the newest first.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8; 32]>) -> Result<Self, NoKey> {
        let keys: Result<Arc<[_]>, _> =
            keys.into_iter().map(|key| RandomizedNonceKey::new(&AES_256_GCM, key)).collect();
        keys.ok().filter(|keys| !keys.is_empty()).map(Self).ok_or(NoKey)
    }

    /// None where the content is larger than a blob may be, or the machine has no randomness.
    pub(crate) fn seal(&self, purpose: Purpose<'_>, content: &impl Serialize) -> Option<String> {
        let mut sealed = serde_json::to_vec(content).ok()?;
        let nonce = self.0.first()?.seal_in_place_append_tag(purpose.to_aad(), &mut sealed).ok()?;
        sealed.extend_from_slice(nonce.as_ref());
        let text = URL_SAFE_NO_PAD.encode(sealed);
        (text.len() <= MAX_SEALED).then_some(text)
    }

    /// What was sealed for this purpose with one of these keys.
    pub(crate) fn open<T: DeserializeOwned>(&self, purpose: Purpose<'_>, text: &str) -> Option<T> {
        if text.len() > MAX_SEALED {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (sealed, nonce) = sealed.split_at_checked(sealed.len().checked_sub(NONCE_LEN)?)?;
        self.0.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut sealed = sealed.to_vec();
            let content = key.open_in_place(nonce, purpose.to_aad(), &mut sealed).ok()?;
            serde_json::from_slice(content).ok()
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Purpose<'_> = Purpose { kind: "session", upstream: "a" };

    #[test]
    fn a_blob_opens_for_its_purpose_and_upstream_only() {
        let keys = Keys::new([&[1; 32]]).expect("a key");
        let text = keys.seal(SESSION, &"content").expect("small");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(keys.open::<String>(SESSION, &text).as_deref(), Some("content"));
        for other in [Purpose { kind: "state", ..SESSION }, Purpose { upstream: "b", ..SESSION }] {
            assert_eq!(keys.open::<String>(other, &text), None, "{other:?}");
        }
        assert_ne!(keys.seal(SESSION, &"content").expect("small"), text, "nonces differ");
    }

    #[test]
    fn a_changed_blob_does_not_open() {
        let keys = Keys::new([&[1; 32]]).expect("a key");
        let text = keys.seal(SESSION, &"content").expect("small");
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(keys.open::<String>(SESSION, &changed), None, "{at}");
            assert_eq!(keys.open::<String>(SESSION, &text[..at]), None, "{at}");
        }
    }

    #[test]
    fn an_old_key_opens_but_does_not_seal() {
        let (old, new): ([u8; 32], [u8; 32]) = ([1; 32], [2; 32]);
        let before = Keys::new([&old]).expect("a key");
        let after = Keys::new([&new, &old]).expect("keys");
        let text = before.seal(SESSION, &1).expect("small");
        assert_eq!(after.open::<u8>(SESSION, &text), Some(1));
        let text = after.seal(SESSION, &2).expect("small");
        assert_eq!(before.open::<u8>(SESSION, &text), None);
        assert_eq!(Keys::new([]).map(|_| ()), Err(NoKey));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", Keys::new([&[7; 32]]).expect("a key")), "Keys(1)");
    }

    #[test]
    fn what_is_too_long_for_a_header_is_not_sealed() {
        let keys = Keys::new([&[1; 32]]).expect("a key");
        assert_eq!(keys.seal(SESSION, &"x".repeat(MAX_SEALED)), None);
        assert_eq!(keys.open::<String>(SESSION, &"A".repeat(MAX_SEALED + 1)), None);
    }
}
