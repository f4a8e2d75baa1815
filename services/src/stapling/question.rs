//! What is asked about a certificate, and where. Pure.

use aws_lc_rs::digest;
use http::Uri;
use rustls_pki_types::CertificateDer;
use smol_str::SmolStr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_PKIX_ACCESS_DESCRIPTOR_OCSP, OID_PKIX_AUTHORITY_INFO_ACCESS};

use crate::config::TargetUrl;

/// The bytes of the hash that certificates are named by.
pub(super) const HASH: usize = digest::SHA1_OUTPUT_LEN;

/// A certificate, as responders know it (RFC 6960, section 4.1.1). They are asked with SHA-1 (RFC 5019, section 2.1.1):
/// nothing rests on its strength, because the answer is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertId {
    pub(super) issuer_name: [u8; HASH],
    pub(super) issuer_key: [u8; HASH],
    /// As it stands in the certificate.
    pub(super) serial: Vec<u8>,
}

/// Who knows whether a certificate is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Responder {
    /// The URL, as the certificate has it.
    pub(super) url: String,
    /// The server in it.
    pub(super) server: TargetUrl,
    /// What stands behind the server, beginning with a slash.
    pub(super) path: String,
}

/// A certificate that can be asked about.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) id: CertId,
    pub(super) responder: Responder,
    /// Who has issued it, and must have signed the answer or allowed somebody to do so.
    pub(super) issuer: CertificateDer<'static>,
}

/// Why a certificate that names a responder can't be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unaskable {
    #[error("the chain does not hold the certificate of its issuer, which answers are checked with")]
    NoIssuer,
    #[error("its responder is not at an http:// URL")]
    NoUrl,
}

impl Question {
    /// The question about the first certificate of a chain; `None` for one that names no responder.
    pub(super) fn of(chain: &[CertificateDer<'static>]) -> Option<Result<Self, Unaskable>> {
        let leaf = parsed(chain.first()?)?;
        let responders = responders(&leaf);
        if responders.is_empty() {
            return None;
        }
        Some(Self::at(&leaf, &responders, chain.get(1)))
    }

    fn at(
        leaf: &X509Certificate<'_>,
        responders: &[&str],
        issuer: Option<&CertificateDer<'static>>,
    ) -> Result<Self, Unaskable> {
        let responder = responders.iter().find_map(|url| Responder::of(url)).ok_or(Unaskable::NoUrl)?;
        let issuer = issuer.ok_or(Unaskable::NoIssuer)?;
        let authority = parsed(issuer).ok_or(Unaskable::NoIssuer)?;
        if authority.subject().as_raw() != leaf.issuer().as_raw() {
            return Err(Unaskable::NoIssuer);
        }
        let id = CertId {
            issuer_name: hash(leaf.issuer().as_raw()),
            issuer_key: hash(&authority.public_key().subject_public_key.data),
            serial: leaf.raw_serial().to_vec(),
        };
        Ok(Self { id, responder, issuer: issuer.clone() })
    }
}

impl Responder {
    /// None for what is no URL that is asked: over TLS there would be another certificate to be asked about.
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?;
        let server: TargetUrl = format!("{}://{authority}", uri.scheme_str()?).parse().ok()?;
        if server.https || url.contains('#') {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self { url: url.to_owned(), server: TargetUrl { path: SmolStr::default(), ..server }, path })
    }
}

/// A certificate with nothing behind it.
pub(super) fn parsed(der: &[u8]) -> Option<X509Certificate<'_>> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

/// The hash by which certificates, names and keys are told apart in questions and answers.
pub(super) fn hash(bytes: &[u8]) -> [u8; HASH] {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    digest.as_ref().try_into().expect("a hash has its length")
}

/// The responders that a certificate names (RFC 5280, section 4.2.2.1).
fn responders<'a>(leaf: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let extension = leaf.get_extension_unique(&OID_PKIX_AUTHORITY_INFO_ACCESS);
    let Ok(Some(extension)) = extension else { return Vec::new() };
    let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else {
        return Vec::new();
    };
    let named = access.iter().filter(|one| one.access_method == OID_PKIX_ACCESS_DESCRIPTOR_OCSP);
    named
        .filter_map(|one| match &one.access_location {
            GeneralName::URI(url) => Some(*url),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stapling::testing::Authority;

    #[test]
    fn the_responder_is_the_first_at_a_plain_url() {
        for (urls, server, path) in [
            (&["http://ocsp.example"][..], "http://ocsp.example", "/"),
            (&["http://ocsp.example:81/a/B/"], "http://ocsp.example:81", "/a/B/"),
            (&["ldap://x/", "https://x.example/", "http://10.0.0.1/q?x=1"], "http://10.0.0.1", "/q?x=1"),
        ] {
            let chain = Authority::new("ours").chain(urls);
            let question = Question::of(&chain).expect("a responder").expect("askable");
            assert_eq!(question.responder.server.to_string(), server);
            assert_eq!(question.responder.path, path);
        }
    }

    #[test]
    fn what_can_not_be_asked_says_why() {
        let authority = Authority::new("ours");
        assert!(Question::of(&authority.chain(&[])).is_none());
        assert!(Question::of(&[]).is_none());
        let mut chain = authority.chain(&["https://ocsp.example/"]);
        assert_eq!(Question::of(&chain).expect("a responder").unwrap_err(), Unaskable::NoUrl);
        chain = authority.chain(&["http://ocsp.example/"]);
        assert_eq!(Question::of(&chain[..1]).expect("a responder").unwrap_err(), Unaskable::NoIssuer);
        chain[1] = Authority::new("theirs").certificate();
        assert_eq!(Question::of(&chain).expect("a responder").unwrap_err(), Unaskable::NoIssuer);
    }
}
