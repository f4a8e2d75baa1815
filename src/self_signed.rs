//! Certificates that we sign ourselves: the fallback, and those of the demo's own authority.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize,
};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

use crate::settings::KeyKind;

/// The name of the secret that holds the fallback certificate and its key.
pub const FALLBACK: &str = "fallback_certificate";

/// Clocks of clients may be behind ours.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// A chain and its key, both in PEM.
#[derive(Debug)]
pub struct Pair {
    /// The certificates, leaf first.
    pub chain: String,
    /// The private key.
    pub key: SecretString,
}

impl Pair {
    /// Both as one JSON text: what is sealed.
    pub fn to_json(&self) -> Zeroizing<String> {
        let key = self.key.expose_secret();
        Zeroizing::new(serde_json::json!({ "chain": self.chain, "key": key }).to_string())
    }
}

/// A certificate for a name, signed with its own key.
pub fn fallback(name: &str, days: u32, kind: KeyKind, rsa_bits: u32) -> Result<Pair, rcgen::Error> {
    let key = generate(kind, rsa_bits)?;
    let certificate = leaf(name, &[name.to_owned()], days)?.self_signed(&key)?;
    Ok(Pair { chain: certificate.pem(), key: key.serialize_pem().into() })
}

/// An authority of this machine, and a certificate that it signed.
pub fn with_authority(names: &[String], days: u32) -> Result<(Pair, String), rcgen::Error> {
    let authority_key = generate(KeyKind::Ecdsa, 0)?;
    let mut params = leaf("Portcullis demo authority", &[], days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = Vec::new();
    let authority = params.self_signed(&authority_key)?;
    let issuer = Issuer::new(params, authority_key);
    let key = generate(KeyKind::Ecdsa, 0)?;
    let first = names.first().map_or("localhost", String::as_str);
    let certificate = leaf(first, names, days)?.signed_by(&key, &issuer)?;
    Ok((Pair { chain: certificate.pem(), key: key.serialize_pem().into() }, authority.pem()))
}

fn generate(kind: KeyKind, rsa_bits: u32) -> Result<KeyPair, rcgen::Error> {
    match kind {
        KeyKind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyKind::Rsa => {
            let size = match rsa_bits {
                ..=2048 => RsaKeySize::_2048,
                2049..=3072 => RsaKeySize::_3072,
                3073.. => RsaKeySize::_4096,
            };
            KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size)
        }
    }
}

fn leaf(common_name: &str, names: &[String], days: u32) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = std::time::SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + Duration::from_secs(u64::from(days) * 24 * 3600)).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallbacks_of_both_kinds_are_made() {
        for kind in [KeyKind::Ecdsa, KeyKind::Rsa] {
            let pair = fallback("localhost", 30, kind, 2048).unwrap();
            assert!(pair.chain.starts_with("-----BEGIN CERTIFICATE-----"), "{kind:?}");
        }
    }

    #[test]
    fn an_authority_is_another_certificate_than_what_it_signs() {
        let (pair, authority) = with_authority(&["app.localhost".to_owned()], 30).unwrap();
        assert_ne!(pair.chain, authority);
    }
}
