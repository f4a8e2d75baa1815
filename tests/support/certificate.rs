//! Certificates that the tests sign themselves.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const DAY: Duration = Duration::from_secs(86_400);

/// An authority of the test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A chain and its key, in PEM.
pub struct Pair {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The key that signs, in PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for these names that names an OCSP responder, by a URL of less than 100 bytes.
    pub fn sign_naming(&self, names: &[&str], responder: &str) -> Pair {
        let length = u8::try_from(responder.len()).unwrap();
        assert!(length < 100, "a length of one byte");
        // RFC 5280, section 4.2.2.1: a list of one description, of id-ad-ocsp and a URL.
        let mut access =
            vec![0x30, length + 14, 0x30, length + 12, 6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 0x86, length];
        access.extend(responder.as_bytes());
        self.sign_changed(names, |params| {
            let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access);
            params.custom_extensions.push(extension);
        })
    }

    /// A certificate of somebody who answers for this authority (RFC 6960, section 4.2.2.2).
    pub fn sign_responder(&self) -> Pair {
        self.sign_changed(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, "Test responder");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        })
    }

    /// A certificate for these names, good for a month.
    pub fn sign(&self, names: &[&str]) -> Pair {
        self.sign_between(names, SystemTime::now() - DAY, SystemTime::now() + 30 * DAY)
    }

    pub fn sign_between(&self, names: &[&str], from: SystemTime, until: SystemTime) -> Pair {
        self.sign_changed(names, |params| {
            params.not_before = from.into();
            params.not_after = until.into();
        })
    }

    fn sign_changed(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + 30 * DAY).into();
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Pair { chain: format!("{}{}", leaf.pem(), self.pem), key: key.serialize_pem() }
    }
}

impl Pair {
    /// The host's certificate, as it is shown in a handshake.
    pub fn leaf(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }

    /// Writes both into files, as `cert upload` wants them: `--cert=@…` and `--key=@…`.
    pub fn flags(&self, dir: &Path, name: &str) -> [String; 2] {
        let (chain, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&chain, &self.chain).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        [format!("--cert=@{}", chain.display()), format!("--key=@{}", key.display())]
    }
}
