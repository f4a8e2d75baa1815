//! The key that updates are signed with (TSIG, RFC 8945).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_proto::rr::{Name, TSigner};
use secrecy::{ExposeSecret, SecretString};

/// How many seconds the server's clock may be off (RFC 8945, section 10).
const FUDGE: u16 = 300;

/// The least length of a secret: 128 bits.
const LEAST: usize = 16;

/// How a message is signed (RFC 8945, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// HMAC-SHA256.
    #[default]
    HmacSha256,
    /// HMAC-SHA512.
    HmacSha512,
}

impl Algorithm {
    /// The name in the DNS.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha512 => "hmac-sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let text = text.to_ascii_lowercase();
        [Self::HmacSha256, Self::HmacSha512]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text.trim_end_matches('.'))
            .ok_or(InvalidKey::Algorithm)
    }
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// One that is not known here, or too weak.
    #[error("expected hmac-sha256 or hmac-sha512")]
    Algorithm,
    /// The name is none.
    #[error("the key's name is no DNS name")]
    Name,
    /// The secret is not Base64.
    #[error("the secret is not Base64")]
    Encoding,
    /// The secret can be guessed.
    #[error("the secret is shorter than 16 bytes")]
    Short,
}

/// A key that a DNS server knows too.
#[derive(Clone)]
pub struct TsigKey(TSigner);

impl TsigKey {
    /// `secret` is in Base64, as servers' files of keys have it.
    ///
    /// # Errors
    ///
    /// When it can't be a key.
    pub fn new(name: &str, algorithm: Algorithm, secret: &SecretString) -> Result<Self, InvalidKey> {
        let name: Name = super::parse(name).map_err(|_| InvalidKey::Name)?;
        let secret = STANDARD.decode(secret.expose_secret().trim()).map_err(|_| InvalidKey::Encoding)?;
        if secret.len() < LEAST {
            return Err(InvalidKey::Short);
        }
        let algorithm = match algorithm {
            Algorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        };
        TSigner::new(secret, algorithm, name, FUDGE).map(Self).map_err(|_| InvalidKey::Algorithm)
    }

    pub(super) fn signer(&self) -> &TSigner {
        &self.0
    }
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.signer_name().to_ascii();
        f.debug_struct("TsigKey").field("name", &name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0ISEhISE=";

    fn key(name: &str, secret: &str) -> Result<TsigKey, InvalidKey> {
        TsigKey::new(name, Algorithm::HmacSha512, &SecretString::from(secret))
    }

    #[test]
    fn a_key_has_a_name_and_a_secret_that_nobody_sees() {
        let shown = format!("{:?}", key("acme.example", SECRET).unwrap());
        assert_eq!(shown, r#"TsigKey { name: "acme.example.", .. }"#);
        assert_eq!(key("", SECRET).unwrap_err(), InvalidKey::Name);
        assert_eq!(key("acme", "not base64!").unwrap_err(), InvalidKey::Encoding);
        assert_eq!(key("acme", "c2hvcnQ=").unwrap_err(), InvalidKey::Short);
    }

    #[test]
    fn algorithms_are_known_by_their_names() {
        assert_eq!("HMAC-SHA256.".parse(), Ok(Algorithm::HmacSha256));
        assert_eq!("hmac-sha512".parse(), Ok(Algorithm::HmacSha512));
        assert_eq!("hmac-md5".parse::<Algorithm>(), Err(InvalidKey::Algorithm));
    }
}
