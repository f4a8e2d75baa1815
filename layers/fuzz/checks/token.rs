//! No token makes the verifier panic; one that is good stays good until it expires, is the same from
//! the cache, and is good with its own signature only. The input is judged as a token, and, where it
//! has two lines, as the header and the claims of one that is signed here.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_layers::auth::{Issuer, JwtVerifier, KeySet, Keys, Revoked};

/// In the year 2033.
const NOW: u64 = 2_000_000_000;
/// The most that clocks may differ.
const LEEWAY: u64 = 300;

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes are a seed"));

static KEYS: LazyLock<Arc<Keys>> = LazyLock::new(|| {
    let point = URL_SAFE_NO_PAD.encode(KEY.public_key());
    let jwks = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{point}"}}]}}"#);
    Keys::new(KeySet::from_jwks(&jwks).expect("the set is valid"))
});

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    judge(text);
    if let Some((header, claims)) = text.split_once('\n') {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(KEY.sign(message.as_bytes()));
        judge(&format!("{message}.{signature}"));
        let other = URL_SAFE_NO_PAD.encode(KEY.sign(b"something else"));
        assert!(verifier().verify_at(&format!("{message}.{other}"), NOW).is_err());
    }
}

fn verifier() -> JwtVerifier {
    let issuer = Issuer::foreign("https://issuer.example", Arc::clone(&KEYS));
    JwtVerifier::new([issuer], Arc::new(Revoked::default()), 1)
}

fn judge(token: &str) {
    let verifier = verifier();
    match verifier.verify_at(token, NOW) {
        Err(error) => {
            assert!(!error.description().is_empty());
            assert_eq!(verifier.verify_at(token, NOW).err(), Some(error));
        }
        Ok(verified) => {
            let again = verifier.verify_at(token, NOW).expect("it was good a moment ago");
            assert!(Arc::ptr_eq(&verified, &again), "a good token is kept");
            let principal = verified.principal();
            assert!(!principal.subject.is_empty() && principal.foreign);
            if let Some(late) = principal.expires_at.checked_add(LEEWAY) {
                assert!(verifier.verify_at(token, late).is_err(), "it has expired");
                assert!(self::verifier().verify_at(token, late).is_err(), "it has expired, cache or not");
            }
        }
    }
}
