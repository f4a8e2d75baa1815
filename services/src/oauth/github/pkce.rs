//! Proof that whoever redeems a code is who asked for it (RFC 7636), towards GitHub.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use secrecy::{ExposeSecret, SecretString};

/// A verifier, and its challenge with method S256.
#[derive(Debug, Clone)]
pub struct Pkce {
    /// To keep, sealed or in memory, until the code comes.
    pub verifier: SecretString,
    /// To send with the request.
    pub challenge: String,
}

impl Pkce {
    /// A fresh one.
    ///
    /// # Errors
    ///
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, Unspecified> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes)?;
        Ok(Self::of(BASE64.encode(bytes).into()))
    }

    /// That of a verifier.
    fn of(verifier: SecretString) -> Self {
        let challenge = BASE64.encode(digest(&SHA256, verifier.expose_secret().as_bytes()));
        Self { verifier, challenge }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_rfc() {
        let pkce = Pkce::of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into());
        assert_eq!(pkce.challenge, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(!format!("{pkce:?}").contains("dBjft"));
    }

    #[test]
    fn no_two_are_the_same() {
        let [one, other] = [(); 2].map(|()| Pkce::generate().expect("randomness"));
        assert_eq!(one.verifier.expose_secret().len(), 43);
        assert_ne!(one.challenge, other.challenge);
    }
}
