//! Keys of certificates, and what an authority is asked for with them.

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize,
};
use secrecy::zeroize::Zeroizing;

use crate::config::HostPattern;
use crate::config::certificate::KeyType;

/// A new key, as PEM. An RSA key takes a second: the caller's thread serves others meanwhile.
///
/// # Errors
///
/// When the system gives no random numbers.
pub(super) async fn generate(kind: KeyType, rsa_bits: u32) -> Result<Zeroizing<String>, rcgen::Error> {
    let made = tokio::task::spawn_blocking(move || {
        let pair = match kind {
            KeyType::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            KeyType::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rsa_size(rsa_bits)),
        };
        Ok(Zeroizing::new(pair?.serialize_pem()))
    });
    made.await.map_err(|_| rcgen::Error::RingUnspecified)?
}

const fn rsa_size(bits: u32) -> RsaKeySize {
    match bits {
        ..=2048 => RsaKeySize::_2048,
        2049..=3072 => RsaKeySize::_3072,
        3073.. => RsaKeySize::_4096,
    }
}

/// The request for a certificate (RFC 2986) for these names, as DER. The names stand in the extension alone.
///
/// # Errors
///
/// When a name can't stand in a certificate, or the key is none.
pub(super) fn request(names: &[HostPattern], key_pem: &str) -> Result<Vec<u8>, rcgen::Error> {
    let names = names.iter().map(|name| bare(name).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&KeyPair::from_pem(key_pem)?)?.der().to_vec())
}

/// A name as certificates have it: addresses without brackets.
pub(super) fn bare(name: &HostPattern) -> &str {
    name.as_str().trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[tokio::test]
    async fn a_request_is_for_its_names_and_signed_with_its_key() {
        let names: Vec<HostPattern> =
            ["a.example", "*.b.example", "[2001:db8::1]"].map(|name| name.parse().expect("valid")).into();
        for kind in [KeyType::Ecdsa, KeyType::Rsa] {
            let key = generate(kind, 2048).await.expect("a key");
            let der = request(&names, &key).expect("a request");
            let (_, parsed) = X509CertificationRequest::from_der(&der).expect("parses");
            let pair = KeyPair::from_pem(&key).expect("a key");
            let asked = parsed.certification_request_info.subject_pki.raw;
            assert!(asked.ends_with(pair.public_key_raw()), "{kind:?}");
            assert_eq!(parsed.certification_request_info.subject.iter().count(), 0);
            let text = format!("{:?}", parsed.requested_extensions().expect("names").next());
            assert!(text.contains("a.example") && text.contains("*.b.example"), "{text}");
        }
    }
}
