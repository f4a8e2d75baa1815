//! The form of a refresh token: which family it is of, that it is of that family, and a secret.
//!
//! `pcr_` and 64 bytes in base64: 16 name the family, 16 are the same in all tokens of a family, 256
//! bits are the token's own. So every token that a family ever had is known as such without a list of
//! them: who presents one that is no more current has kept or stolen it, and the family ends. Who only
//! knows the id of a family, as administrators do, can't end it this way.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use secrecy::SecretString;
use secrecy::zeroize::{Zeroize, Zeroizing};

use crate::oauth::opaque;
use crate::random::{self, NAME as ID, SECRET};

/// What refresh tokens begin with, so that scanners of published secrets find them.
pub const PREFIX: &str = "pcr_";

/// A refresh token in parts.
pub(super) struct RefreshToken {
    family: [u8; ID],
    lineage: [u8; ID],
    secret: [u8; SECRET],
}

impl Drop for RefreshToken {
    fn drop(&mut self) {
        self.lineage.zeroize();
        self.secret.zeroize();
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshToken").field("family", &self.family_id()).finish_non_exhaustive()
    }
}

/// The id of a new grant: 22 characters of `[A-Za-z0-9_-]`.
pub fn new_id() -> String {
    random::name("")
}

impl RefreshToken {
    /// The first token of a family; none if the id is not from [`new_id`].
    pub(super) fn first(family: &str) -> Option<Self> {
        let family = BASE64.decode(family).ok()?.try_into().ok()?;
        Some(Self { family, lineage: random::bytes(), secret: random::bytes() })
    }

    /// Another token of the same family.
    pub(super) fn successor(&self) -> Self {
        Self { family: self.family, lineage: self.lineage, secret: random::bytes() }
    }

    /// Reads what came from outside.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; ID + ID + SECRET + 2]);
        let written = BASE64.decode_slice(text.strip_prefix(PREFIX)?, bytes.as_mut()).ok()?;
        let (family, rest) = bytes.get(..written)?.split_first_chunk::<ID>()?;
        let (lineage, secret) = rest.split_first_chunk::<ID>()?;
        Some(Self { family: *family, lineage: *lineage, secret: secret.try_into().ok()? })
    }

    /// The token as the client gets it.
    pub(super) fn text(&self) -> SecretString {
        let bytes = Zeroizing::new([&self.family[..], &self.lineage, &self.secret].concat());
        format!("{PREFIX}{}", BASE64.encode(bytes.as_slice())).into()
    }

    /// The id of the family.
    pub(super) fn family_id(&self) -> String {
        BASE64.encode(self.family)
    }

    /// What the store knows of the family's tokens.
    pub(super) fn lineage_hash(&self) -> String {
        opaque::hash(&self.lineage)
    }

    /// What the store knows of this token.
    pub(super) fn hash(&self) -> String {
        opaque::hash(&self.secret)
    }

    /// Seals the successor such that only who has this token can open it.
    pub(super) fn seal(&self, successor: &Self) -> Option<String> {
        let mut data = successor.secret.to_vec();
        let nonce = self.key()?.seal_in_place_append_tag(self.aad(), &mut data).ok()?;
        Some(BASE64.encode([&nonce.as_ref()[..], &data].concat()))
    }

    /// Opens what [`Self::seal`] made with the same token.
    pub(super) fn open(&self, sealed: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new(BASE64.decode(sealed).ok()?);
        let (nonce, data) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let secret = self.key()?.open_in_place(nonce, self.aad(), data).ok()?;
        Some(Self { family: self.family, lineage: self.lineage, secret: (&*secret).try_into().ok()? })
    }

    /// HKDF (RFC 5869): says nothing of [`Self::hash`], and that says nothing of it.
    fn key(&self) -> Option<RandomizedNonceKey> {
        let prk = Salt::new(HKDF_SHA256, b"portcullis refresh 1").extract(&self.secret);
        let mut key = Zeroizing::new([0; 32]);
        prk.expand(&[b"successor"], &AES_256_GCM).ok()?.fill(key.as_mut()).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).ok()
    }

    fn aad(&self) -> Aad<[u8; ID]> {
        Aad::from(self.family)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_token_is_read_back_and_nothing_else_is() {
        let id = new_id();
        let token = RefreshToken::first(&id).expect("an id");
        let text = token.text();
        let text = text.expose_secret();
        assert!(text.starts_with("pcr_") && text.len() == 90);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')));
        let again = RefreshToken::parse(text).expect("a token");
        assert_eq!(
            (again.family_id(), again.hash(), again.lineage_hash()),
            (id, token.hash(), token.lineage_hash())
        );
        assert!(!format!("{token:?}").contains(&text[30..]));
        let (shorter, longer, other) = (&text[..89], format!("{text}A"), text.replace("pcr_", "pct_"));
        for bad in
            ["", "pcr_", shorter, &longer, &format!("{text}AA"), &other, &text[4..], &format!("{text}=")]
        {
            assert!(RefreshToken::parse(bad).is_none(), "{bad}");
        }
        assert!(RefreshToken::first("short").is_none());
    }

    #[test]
    fn only_the_predecessor_opens_its_successor() {
        let first = RefreshToken::first(&new_id()).expect("an id");
        let second = first.successor();
        assert_eq!(first.lineage_hash(), second.lineage_hash());
        assert_ne!(first.hash(), second.hash());
        let sealed = first.seal(&second).expect("sealed");
        assert_eq!(first.open(&sealed).expect("opened").hash(), second.hash());
        assert!(second.open(&sealed).is_none());
        assert!(RefreshToken::first(&new_id()).expect("an id").open(&sealed).is_none());
        for bad in ["", "AAAA", &sealed[1..]] {
            assert!(first.open(bad).is_none());
        }
    }
}
