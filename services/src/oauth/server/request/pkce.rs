//! Proof Key for Code Exchange (RFC 7636), `S256` only: with `plain`, who reads the authorization
//! request can redeem the code.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
use serde::{Deserialize, Serialize};

use super::invalid_request;
use crate::oauth::server::error::OAuthError;

/// What an authorization request commits itself to. To be kept with the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Challenge(String);

impl Challenge {
    /// Reads `code_challenge` and `code_challenge_method`.
    ///
    /// # Errors
    ///
    /// `invalid_request` when there is no challenge, or its method is not named as `S256`: one that is
    /// not named means `plain` (RFC 7636, section 4.3).
    pub fn parse(challenge: Option<&str>, method: Option<&str>) -> Result<Self, OAuthError> {
        let challenge = challenge.ok_or_else(|| invalid_request("code_challenge is required"))?;
        if method != Some("S256") {
            return Err(invalid_request("code_challenge_method must be S256"));
        }
        if !is_unreserved(challenge) {
            return Err(invalid_request("code_challenge must have 43 to 128 unreserved characters"));
        }
        Ok(Self(challenge.to_owned()))
    }

    /// Whether this verifier is the one behind the challenge (RFC 7636, section 4.6).
    pub fn is_met_by(&self, verifier: &str) -> bool {
        let digest = digest::digest(&digest::SHA256, verifier.as_bytes());
        let computed = BASE64_URL.encode(digest);
        is_unreserved(verifier) && verify_slices_are_equal(computed.as_bytes(), self.0.as_bytes()).is_ok()
    }
}

/// 43 to 128 unreserved characters: RFC 7636, sections 4.1 and 4.2, for both.
fn is_unreserved(text: &str) -> bool {
    (43..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::server::error::ErrorCode;

    // RFC 7636, appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    #[test]
    fn only_the_right_verifier_is_good() {
        let challenge = Challenge::parse(Some(CHALLENGE), Some("S256")).expect("valid");
        assert!(challenge.is_met_by(VERIFIER));
        for bad in ["", CHALLENGE, &VERIFIER[..42], &format!("{VERIFIER}="), &VERIFIER.to_uppercase()] {
            assert!(!challenge.is_met_by(bad), "{bad}");
        }
    }

    #[test]
    fn verifiers_of_any_allowed_length_and_no_other() {
        for (length, good) in [(42, false), (43, true), (128, true), (129, false)] {
            let verifier = "a".repeat(length);
            let digest = digest::digest(&digest::SHA256, verifier.as_bytes());
            let challenge = Challenge::parse(Some(&BASE64_URL.encode(digest)), Some("S256")).expect("valid");
            assert_eq!(challenge.is_met_by(&verifier), good, "{length}");
        }
    }

    #[test]
    fn no_challenge_and_plain_are_refused() {
        let (short, long) = ("a".repeat(42), "a".repeat(129));
        for (challenge, method) in [
            (None, None),
            (None, Some("S256")),
            (Some(CHALLENGE), None),
            (Some(CHALLENGE), Some("plain")),
            (Some(CHALLENGE), Some("s256")),
            (Some(short.as_str()), Some("S256")),
            (Some(long.as_str()), Some("S256")),
            (Some("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM="), Some("S256")),
        ] {
            let error = Challenge::parse(challenge, method).expect_err("refused");
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{challenge:?} {method:?}");
        }
    }
}
