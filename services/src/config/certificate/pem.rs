//! Checks of a chain and its key, wherever they come from. Pure.

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::config::{FieldError, HostPattern};

/// More certificates are no chain.
const MAX_CHAIN: usize = 10;

/// What a chain and a key say.
#[derive(Debug)]
pub struct Facts {
    /// The names that the certificate covers.
    pub domains: Vec<HostPattern>,
    /// When its validity starts.
    pub not_before: Timestamp,
    /// When its validity ends.
    pub not_after: Timestamp,
    /// `sha256:` and the hash of the host's certificate.
    pub fingerprint: String,
    /// Who issued it.
    pub issuer: String,
    /// The chain, without whatever else stood in the file.
    pub chain_pem: String,
    /// The key, as it was given.
    pub key_pem: SecretString,
}

const CHAIN: &str = "fullchain_pem";

/// How far whoever dates a certificate may be ahead of us.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
const KEY: &str = "private_key_pem";

/// Checks that a chain is one, that the key belongs to it, that it names hosts and is valid now.
///
/// # Errors
///
/// Names the part that is not what it must be; nothing of the key is in it.
pub fn check(chain_pem: &str, key_pem: &str, now: Timestamp) -> Result<Facts, FieldError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| FieldError::bare(CHAIN, format!("is no PEM: {error}")))?;
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        let detail = format!("has {} certificates: expected 1 to {MAX_CHAIN}, the host's first", chain.len());
        return Err(FieldError::bare(CHAIN, detail));
    }
    let parsed: Vec<X509Certificate<'_>> = chain
        .iter()
        .enumerate()
        .map(|(index, der)| match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(error) => {
                Err(FieldError::bare(CHAIN, format!("certificate {} can't be read: {error}", index + 1)))
            }
        })
        .collect::<Result<_, _>>()?;
    check_order(&parsed)?;
    let leaf = &parsed[0];
    let (not_before, not_after) = validity(leaf)?;
    if not_after <= now {
        return Err(FieldError::bare(CHAIN, format!("expired at {not_after}: expected one that is valid")));
    }
    // Some authorities date what they issue by a clock that is ahead of ours.
    if not_before.duration_since(now) > SKEW {
        return Err(FieldError::bare(CHAIN, format!("is not valid before {not_before}")));
    }
    let domains = domains(leaf)?;
    let fingerprint = fingerprint(&chain[0]);
    let issuer = leaf.issuer().to_string();
    let clean = chain.iter().map(|der| to_pem(der)).collect();
    drop(parsed);
    check_key(chain, key_pem)?;
    Ok(Facts {
        domains,
        not_before,
        not_after,
        fingerprint,
        issuer,
        chain_pem: clean,
        key_pem: key_pem.into(),
    })
}

/// By which a certificate (DER) is known in documents.
pub fn fingerprint(certificate: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, certificate);
    hash.as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Each certificate must be issued by the next one (RFC 8446, section 4.4.2).
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), FieldError> {
    for (index, pair) in chain.windows(2).enumerate() {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            let detail = format!(
                "certificate {} is issued by {:?}, but the next one is {:?}: expected each to be issued by the next",
                index + 1,
                pair[0].issuer().to_string(),
                pair[1].subject().to_string()
            );
            return Err(FieldError::bare(CHAIN, detail));
        }
        if !pair[1].is_ca() {
            return Err(FieldError::bare(CHAIN, format!("certificate {} may not issue others", index + 2)));
        }
    }
    Ok(())
}

fn validity(leaf: &X509Certificate<'_>) -> Result<(Timestamp, Timestamp), FieldError> {
    let validity = leaf.validity();
    let time = |seconds| {
        Timestamp::from_second(seconds)
            .map_err(|_| FieldError::bare(CHAIN, "has a validity that no calendar knows"))
    };
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

/// The names of the subject alternative name; the common name counts no longer (RFC 6125, section 6.4.4).
fn domains(leaf: &X509Certificate<'_>) -> Result<Vec<HostPattern>, FieldError> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|error| FieldError::bare(CHAIN, format!("names its hosts twice: {error}")))?;
    let mut domains = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let domain = match name {
            GeneralName::DNSName(name) => name.parse().ok(),
            GeneralName::IPAddress([a, b, c, d]) => format!("{a}.{b}.{c}.{d}").parse().ok(),
            GeneralName::IPAddress(bytes) => <[u8; 16]>::try_from(*bytes)
                .ok()
                .and_then(|bytes| format!("[{}]", std::net::Ipv6Addr::from(bytes)).parse().ok()),
            _ => None,
        };
        domains.extend(domain);
    }
    if domains.is_empty() {
        let detail = "names no host: expected DNS names in its subject alternative name";
        return Err(FieldError::bare(CHAIN, detail));
    }
    Ok(domains)
}

fn check_key(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> Result<(), FieldError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|_| FieldError::bare(KEY, "expected an unencrypted private key as PEM"))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).map(drop).map_err(
        |error| match error {
            rustls::Error::InconsistentKeys(_) => {
                FieldError::bare(KEY, "does not belong to the first certificate: expected its key")
            }
            _ => FieldError::bare(KEY, "can't be used: expected an RSA, ECDSA or Ed25519 key"),
        },
    )
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        CertificateParams::new(vec![name.to_owned()]).expect("valid")
    }

    #[test]
    fn a_pair_is_read() {
        let key = KeyPair::generate().expect("a key");
        let certificate = params("*.example.com").self_signed(&key).expect("signs");
        let facts = check(&format!("junk\n{}", certificate.pem()), &key.serialize_pem(), Timestamp::now())
            .expect("valid");
        assert_eq!(facts.domains, ["*.example.com".parse().expect("valid")]);
        assert!(facts.fingerprint.starts_with("sha256:") && facts.fingerprint.len() == 71);
        assert!(facts.chain_pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
        assert_eq!(
            check(&facts.chain_pem, &key.serialize_pem(), Timestamp::now()).expect("valid").fingerprint,
            facts.fingerprint
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let key = KeyPair::generate().expect("a key");
        let other = KeyPair::generate().expect("a key");
        let good = params("a.example").self_signed(&key).expect("signs").pem();
        let foreign = params("b.example").self_signed(&other).expect("signs").pem();
        let mut old = params("a.example");
        old.not_after = date_time_ymd(2001, 1, 1);
        let old = old.self_signed(&key).expect("signs").pem();
        let mut early = params("a.example");
        early.not_before = date_time_ymd(2999, 1, 1);
        early.not_after = date_time_ymd(2999, 2, 1);
        let early = early.self_signed(&key).expect("signs").pem();
        let nameless = CertificateParams::default().self_signed(&key).expect("signs").pem();
        let (key, other) = (key.serialize_pem(), other.serialize_pem());
        for (chain, key, field, word) in [
            ("", key.as_str(), CHAIN, "1 to 10"),
            ("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", &key, CHAIN, "can't be read"),
            (&good, &other, KEY, "does not belong"),
            (&good, "x", KEY, "unencrypted"),
            (&good, &good, KEY, "unencrypted"),
            (&format!("{good}{foreign}"), &key, CHAIN, "may not issue"),
            (&old, &key, CHAIN, "expired"),
            (&early, &key, CHAIN, "not valid before"),
            (&nameless, &key, CHAIN, "names no host"),
        ] {
            let error = check(chain, key, Timestamp::now()).expect_err(word);
            assert_eq!(error.field, field, "{error}");
            assert!(error.detail.contains(word), "{error}");
            assert!(!error.to_string().contains("PRIVATE"), "{error}");
        }
    }

    #[test]
    fn a_chain_in_order_passes() {
        let authority = KeyPair::generate().expect("a key");
        let mut ca = params("ca.example");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&authority).expect("signs").pem();
        let key = KeyPair::generate().expect("a key");
        let leaf = params("a.example").signed_by(&key, &Issuer::new(ca, authority)).expect("signs").pem();
        let key = key.serialize_pem();
        assert!(check(&format!("{leaf}{ca_pem}"), &key, Timestamp::now()).is_ok());
        assert!(check(&format!("{ca_pem}{leaf}"), &key, Timestamp::now()).is_err());
    }
}
