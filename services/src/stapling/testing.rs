//! An authority, and what its responder says, for tests.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use portcullis_layers::tls::Certified;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SigningKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::asn1_rs::{Any, Class, Header, Length, Tag, ToDer};

use super::der::write;
use super::question::{CertId, hash, parsed};

/// id-pe-authorityInfoAccess.
const ACCESS: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 1];

/// id-ad-ocsp.
const OCSP: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1];

/// ecdsa-with-SHA256, as an algorithm's identifier.
const ALGORITHM: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

pub(super) struct Authority {
    pub(super) key: KeyPair,
    params: CertificateParams,
    certificate: CertificateDer<'static>,
}

/// Who answers for an authority.
pub(super) struct Delegate {
    pub(super) key: KeyPair,
    pub(super) certificate: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("generates");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signs").der().clone();
        Self { key, params, certificate }
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).expect("signs").der().clone()
    }

    fn leaf(&self, urls: &[&str]) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().expect("generates");
        let mut params = CertificateParams::new(["a.example".to_owned()]).expect("valid");
        if !urls.is_empty() {
            let access = urls.iter().map(|url| {
                let url = part(6, false, &[url.as_bytes()]);
                write(Tag::Sequence, &[&write(Tag::Oid, &[OCSP]), &url])
            });
            let access: Vec<_> = access.collect();
            let access = write(Tag::Sequence, &[&access.concat()]);
            params.custom_extensions.push(CustomExtension::from_oid_content(ACCESS, access));
        }
        (self.sign(&params, &key), key)
    }

    /// A certificate that names these responders, and the authority's own.
    pub(super) fn chain(&self, urls: &[&str]) -> Vec<CertificateDer<'static>> {
        vec![self.leaf(urls).0, self.certificate()]
    }

    /// The same with its key.
    pub(super) fn certified(&self, urls: &[&str]) -> Certified {
        let (leaf, key) = self.leaf(urls);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        Certified::from_der(vec![leaf, self.certificate()], key).expect("loads")
    }

    /// Somebody who may answer, after a change of what the certificate says.
    pub(super) fn delegate(&self, change: impl FnOnce(&mut CertificateParams)) -> Delegate {
        let key = KeyPair::generate().expect("generates");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a responder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        change(&mut params);
        Delegate { certificate: self.sign(&params, &key), key }
    }
}

/// An object with a number in the context.
pub(super) fn part(number: u32, constructed: bool, parts: &[&[u8]]) -> Vec<u8> {
    let data = parts.concat();
    let header = Header::new(Class::ContextSpecific, constructed, Tag(number), Length::Definite(data.len()));
    Any::new(header, &data).to_der_vec().expect("memory")
}

pub(super) fn time(time: Timestamp) -> Vec<u8> {
    let text = time.to_zoned(TimeZone::UTC).strftime("%Y%m%d%H%M%SZ").to_string();
    write(Tag::GeneralizedTime, &[text.as_bytes()])
}

pub(super) fn good() -> Vec<u8> {
    part(0, false, &[])
}

pub(super) fn revoked(at: Timestamp) -> Vec<u8> {
    part(1, true, &[&time(at), &part(0, true, &[&write(Tag::Enumerated, &[&[1]])])])
}

pub(super) fn unknown() -> Vec<u8> {
    part(2, false, &[])
}

/// What is said of one certificate; `more` stands at its end.
pub(super) fn single(
    id: &CertId,
    status: &[u8],
    this_update: Timestamp,
    next_update: Option<Timestamp>,
    more: &[u8],
) -> Vec<u8> {
    let next = next_update.map(|next| part(0, true, &[&time(next)])).unwrap_or_default();
    write(Tag::Sequence, &[&id.encode(), status, &time(this_update), &next, more])
}

/// Names who signs by the subject of a certificate.
pub(super) fn by_name(signer: &[u8]) -> Vec<u8> {
    part(1, true, &[parsed(signer).expect("a certificate").subject().as_raw()])
}

/// Names who signs by the key.
pub(super) fn by_key(signer: &[u8]) -> Vec<u8> {
    let key = hash(&parsed(signer).expect("a certificate").public_key().subject_public_key.data);
    part(2, true, &[&write(Tag::OctetString, &[&key])])
}

/// A whole answer.
pub(super) fn response(responder: &[u8], singles: &[Vec<u8>], signer: &KeyPair, shown: &[&[u8]]) -> Vec<u8> {
    assert_eq!(signer.algorithm(), &rcgen::PKCS_ECDSA_P256_SHA256);
    let data = write(
        Tag::Sequence,
        &[responder, &time(Timestamp::now()), &write(Tag::Sequence, &[&singles.concat()])],
    );
    let signature = signer.sign(&data).expect("signs");
    let shown = match shown {
        [] => Vec::new(),
        shown => part(0, true, &[&write(Tag::Sequence, shown)]),
    };
    let basic =
        write(Tag::Sequence, &[&data, ALGORITHM, &write(Tag::BitString, &[&[0], &signature]), &shown]);
    let kind = write(Tag::Oid, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]]);
    let typed = write(Tag::Sequence, &[&kind, &write(Tag::OctetString, &[&basic])]);
    write(Tag::Sequence, &[&write(Tag::Enumerated, &[&[0]]), &part(0, true, &[&typed])])
}
