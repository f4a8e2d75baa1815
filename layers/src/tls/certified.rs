//! A certificate that can be served: its chain, its key and what it says of itself.
//!
//! Loading checks what a server can know: the key belongs to the leaf, each certificate was issued by the next one,
//! and there is a name to serve. Whether clients trust the chain, and whether it is valid today, is not judged here.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys, ServerConfig};
use smol_str::SmolStr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::staple::Staple;
use crate::context::CertNames;
use crate::names::HostName;

/// A certificate with its key.
#[derive(Clone)]
pub struct Certified {
    /// What rustls serves, without the response that may be stapled to it.
    pub key: Arc<CertifiedKey>,
    /// The names that the leaf covers: DNS names in lower case, and addresses as hosts are written in URLs.
    pub names: CertNames,
    /// Whether this stands in for a certificate that a host does not have yet.
    pub fallback: bool,
    /// From when the leaf is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when the leaf is valid, in seconds since 1970.
    pub not_after: i64,
    staple: Staple,
    /// What was made of a layer's configuration and this, for all connections that it is served to.
    served: Served,
}

type Served = Arc<OnceLock<(Arc<ServerConfig>, Arc<ServerConfig>)>>;

impl Certified {
    /// Loads a chain, leaf first, and the leaf's key (PKCS #8, PKCS #1 or SEC 1; RSA, ECDSA or Ed25519).
    ///
    /// # Errors
    ///
    /// Tells which part is not what it must be; no text of the key is ever in the error.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertifiedError> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(CertifiedError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => CertifiedError::NoKey,
            // The source would quote lines of the key.
            _ => CertifiedError::KeyPem,
        })?;
        Self::from_der(chain, key)
    }

    /// As [`from_pem`](Self::from_pem), from what is decoded already.
    ///
    /// # Errors
    ///
    /// As for [`from_pem`](Self::from_pem).
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertifiedError> {
        let (names, not_before, not_after) = inspect(&chain)?;
        let key =
            provider().key_provider.load_private_key(key).map_err(|_| CertifiedError::UnsupportedKey)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) => {}
            Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(CertifiedError::KeyMismatch);
            }
            Err(TlsError::InconsistentKeys(_)) => return Err(CertifiedError::UnsupportedKey),
            Err(_) => return Err(CertifiedError::Malformed(0)),
        }
        let (staple, served) = (Staple::default(), Served::default());
        Ok(Self { key: Arc::new(key), names, fallback: false, not_before, not_after, staple, served })
    }

    /// The same certificate, to be served where there is no better one.
    #[must_use]
    pub fn as_fallback(mut self) -> Self {
        self.fallback = true;
        self
    }

    /// The same, with the staple of another one if that is of the same chain: what is stapled to either of them is stapled
    /// to both, so that loading a certificate anew leaves no moment without.
    #[must_use]
    pub fn sharing_staple_of(mut self, other: &Self) -> Self {
        if self.key.cert == other.key.cert {
            self.staple = other.staple.clone();
        }
        self
    }

    /// Staples a response of the certificate's OCSP responder, in DER, from the next handshake on and until this time, in
    /// seconds since 1970. What it says is for the caller to judge: clients refuse a handshake with a wrong one.
    pub fn staple(&self, response: Vec<u8>, until: i64) {
        self.staple.put(&self.key, response, until);
    }

    /// Staples nothing any more.
    pub fn unstaple(&self) {
        self.staple.clear();
    }

    /// Until when the response that is stapled is shown; `None`: there is none. It may be over.
    pub fn stapled_until(&self) -> Option<i64> {
        self.staple.until()
    }

    /// The configuration for connections that get this certificate: that of a layer, and this. Made once, as a rule:
    /// only where several layers serve one certificate, those after the first make it for each connection.
    pub(super) fn config(&self, base: &Arc<ServerConfig>) -> Arc<ServerConfig> {
        let make = || {
            let mut config = ServerConfig::clone(base);
            config.cert_resolver = Arc::new(Chosen { key: self.key.clone(), staple: self.staple.clone() });
            Arc::new(config)
        };
        let (of, config) = self.served.get_or_init(|| (base.clone(), make()));
        if Arc::ptr_eq(of, base) { config.clone() } else { make() }
    }
}

/// Shows this certificate to everybody.
pub(super) fn always(key: Arc<CertifiedKey>) -> Arc<dyn ResolvesServerCert> {
    Arc::new(Chosen { key, staple: Staple::default() })
}

/// The certificate of a connection is chosen before the handshake, so that it is known which one was served.
struct Chosen {
    key: Arc<CertifiedKey>,
    staple: Staple,
}

impl ResolvesServerCert for Chosen {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.staple.key().unwrap_or_else(|| self.key.clone()))
    }
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").field("stapled_until", &self.staple.until()).finish_non_exhaustive()
    }
}

// Not derived: whatever a key's own `Debug` prints, it has no business in a log.
impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified")
            .field("names", &self.names.0)
            .field("fallback", &self.fallback)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("stapled_until", &self.stapled_until())
            .finish_non_exhaustive()
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertifiedError {
    /// The chain is no PEM.
    #[error("certificate chain is not valid PEM")]
    Pem(#[source] pem::Error),
    /// There is PEM, but no certificate in it.
    #[error("no certificate found in the chain")]
    NoCertificate,
    /// A certificate that cannot be read; the leaf is number 0.
    #[error("certificate {0} of the chain is malformed")]
    Malformed(usize),
    /// A certificate that the next one did not issue.
    #[error("certificate {0} of the chain was not issued by the one after it")]
    Order(usize),
    /// No subject alternative name; the common name has not counted for years (RFC 9525, section 2).
    #[error("certificate has no DNS name or address among its subject alternative names")]
    NoNames,
    /// The key is no PEM.
    #[error("private key is not valid PEM")]
    KeyPem,
    /// There is PEM, but no key in it, or an encrypted one.
    #[error("no unencrypted private key found")]
    NoKey,
    /// A kind or size of key that cannot sign.
    #[error("private key is not RSA (2048 to 8192 bits), ECDSA (P-256, P-384, P-521) or Ed25519")]
    UnsupportedKey,
    /// The key belongs to another certificate.
    #[error("private key does not belong to the certificate")]
    KeyMismatch,
}

/// The cryptography of this layer. Named, so that no process-wide default decides.
pub(super) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Reads the chain; gives the leaf's names and validity.
fn inspect(chain: &[CertificateDer<'_>]) -> Result<(CertNames, i64, i64), CertifiedError> {
    let parsed =
        chain.iter().enumerate().map(|(index, der)| match x509_parser::parse_x509_certificate(der) {
            Ok(([], certificate)) => Ok(certificate),
            _ => Err(CertifiedError::Malformed(index)),
        });
    let parsed: Vec<X509Certificate<'_>> = parsed.collect::<Result<_, _>>()?;
    let leaf = parsed.first().ok_or(CertifiedError::NoCertificate)?;
    for (index, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            return Err(CertifiedError::Order(index));
        }
    }
    let names = names(leaf)?;
    Ok((names, leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp()))
}

fn names(leaf: &X509Certificate<'_>) -> Result<CertNames, CertifiedError> {
    let extension = leaf.subject_alternative_name().map_err(|_| CertifiedError::Malformed(0))?;
    let listed = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let names: Arc<[SmolStr]> = listed.iter().filter_map(name).collect();
    if names.is_empty() { Err(CertifiedError::NoNames) } else { Ok(CertNames(names)) }
}

/// A name as [`CertNames`] keeps it; `None` for what no host can match.
fn name(name: &GeneralName<'_>) -> Option<SmolStr> {
    let exact = |text: &str| text.parse::<HostName>().ok();
    match name {
        GeneralName::DNSName(text) => match text.strip_prefix("*.") {
            Some(parent) => exact(parent).map(|parent| smol_str::format_smolstr!("*.{parent}")),
            None => exact(text).map(|host| SmolStr::new(host.as_str())),
        },
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok()?;
            Some(match address {
                IpAddr::V4(address) => smol_str::format_smolstr!("{address}"),
                IpAddr::V6(address) => smol_str::format_smolstr!("[{address}]"),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, RsaKeySize};

    use super::*;

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        CertificateParams::new(names).expect("valid names")
    }

    fn names(certified: &Certified) -> Vec<&str> {
        certified.names.0.iter().map(SmolStr::as_str).collect()
    }

    #[test]
    fn the_names_and_validity_of_the_leaf_are_known() {
        let key = KeyPair::generate().expect("generates");
        let mut params = params(&["A.Example", "*.B.example", "192.0.2.1", "2001:db8::1"]);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let certificate = params.self_signed(&key).expect("signs");
        let certified =
            Certified::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("loads");
        assert_eq!(names(&certified), ["a.example", "*.b.example", "192.0.2.1", "[2001:db8::1]"]);
        assert_eq!((certified.not_before, certified.not_after), (1_767_225_600, 1_775_001_600));
        assert!(!certified.fallback && certified.as_fallback().fallback);
    }

    #[test]
    fn every_usual_kind_of_key_loads() {
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).expect("generates");
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("generates");
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("generates");
        for key in [rsa, p384, ed25519] {
            let certificate = params(&["a.example"]).self_signed(&key).expect("signs");
            Certified::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("loads");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_its_reason() {
        let key = KeyPair::generate().expect("generates");
        let key_pem = key.serialize_pem();
        let other_pem = KeyPair::generate().expect("generates").serialize_pem();
        let leaf = params(&["a.example"]).self_signed(&key).expect("signs").pem();
        let nameless = params(&[]).self_signed(&key).expect("signs").pem();
        let mut stranger = params(&["b.example"]);
        stranger.distinguished_name.push(rcgen::DnType::CommonName, "somebody else");
        let stranger = stranger.self_signed(&key).expect("signs").pem();
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n";
        let broken_key = "-----BEGIN PRIVATE KEY-----\nsecret?\n-----END PRIVATE KEY-----\n";
        let strange_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let key_pem = key_pem.as_str();
        for (chain, key, expected) in [
            ("", key_pem, "no certificate found"),
            (key_pem, key_pem, "no certificate found"),
            (broken, key_pem, "not valid PEM"),
            (garbage, key_pem, "certificate 0 of the chain is malformed"),
            (&(leaf.clone() + garbage), key_pem, "certificate 1 of the chain is malformed"),
            (&(leaf.clone() + &stranger), key_pem, "certificate 0 of the chain was not issued"),
            (&nameless, key_pem, "no DNS name"),
            (&leaf, "", "no unencrypted private key"),
            (&leaf, &leaf, "no unencrypted private key"),
            (&leaf, broken_key, "private key is not valid PEM"),
            (&leaf, strange_key, "private key is not RSA"),
            (&leaf, &other_pem, "does not belong"),
        ] {
            let error = Certified::from_pem(chain.as_bytes(), key.as_bytes()).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error} instead of {expected}");
            assert!(!format!("{error:?}").contains("secret"));
        }
    }

    #[test]
    fn a_chain_in_order_is_accepted() {
        let authority_key = KeyPair::generate().expect("generates");
        let mut authority = params(&[]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let authority_pem = authority.self_signed(&authority_key).expect("signs").pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("generates");
        let leaf = params(&["a.example"]).signed_by(&key, &issuer).expect("signs").pem();
        let key = key.serialize_pem();
        let certified =
            Certified::from_pem((leaf + &authority_pem).as_bytes(), key.as_bytes()).expect("loads");
        assert_eq!(certified.key.cert.len(), 2);
    }
}
