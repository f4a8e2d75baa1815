//! Random names and secrets, as texts of letters, digits, `-` and `_`: programs differ in what they encode and where
//! (RFC 6749, section 2.3.1), and these look the same both ways.
//!
//! A name has 128 bits: nobody meets another one. A secret has 256, and nobody guesses it. Either may stand behind a
//! prefix, by which people and scanners of published secrets know what it is.

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

/// The bytes of a name.
pub(crate) const NAME: usize = 16;

/// The bytes of a secret.
pub(crate) const SECRET: usize = 32;

/// Random bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// A new name: a prefix and 22 characters.
pub(crate) fn name(prefix: &str) -> String {
    format!("{prefix}{}", BASE64.encode(bytes::<NAME>()))
}

/// A new secret: a prefix and 43 characters.
pub(crate) fn secret(prefix: &str) -> SecretString {
    let bytes = Zeroizing::new(bytes::<SECRET>());
    let text = Zeroizing::new(BASE64.encode(bytes.as_slice()));
    format!("{prefix}{}", text.as_str()).into()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn random_texts_differ_and_need_no_encoding() {
        let (name, secret) = (|| name("dyn_"), || secret("pcs_").expose_secret().to_owned());
        for (one, two, length) in [(name(), name(), 26), (secret(), secret(), 47)] {
            assert!(one != two && one.len() == length);
            assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
        }
    }
}
