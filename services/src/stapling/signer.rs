//! Whether an answer is signed by somebody who may answer: the issuer of the certificate, or who has a certificate of
//! that issuer for it (RFC 6960, section 4.2.2.2). Pure.

use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use super::der::{Malformed, Reader};
use super::question::{Question, hash, parsed};
use super::response::{ResponderId, SKEW};
use super::schedule::after;

/// More certificates than anybody needs to show for an answer.
const MAX_CERTIFICATES: usize = 8;

/// Something that is signed: a certificate (RFC 5280, section 4.1) or an answer.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    /// What is signed, with its head.
    message: &'a [u8],
    /// The same without it.
    pub(super) content: &'a [u8],
    /// The content of the algorithm's identifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// The certificates that an answer brings.
    certificates: Vec<&'a [u8]>,
}

impl<'a> Signed<'a> {
    /// The one that these bytes are.
    pub(super) fn read(outer: &mut Reader<'a>) -> Result<Self, Malformed> {
        let mut signed = outer.inner(Tag::Sequence)?;
        outer.end()?;
        let message = signed.whole(Tag::Sequence)?;
        let content = Reader::new(message).take(Tag::Sequence)?;
        let algorithm = signed.take(Tag::Sequence)?;
        let signature = signed.bits()?;
        let mut certificates = Vec::new();
        if let Some(mut inner) = signed.optional(0)? {
            let mut list = inner.inner(Tag::Sequence)?;
            inner.end()?;
            while !list.is_empty() {
                if certificates.len() == MAX_CERTIFICATES {
                    return Err(Malformed);
                }
                certificates.push(list.whole(Tag::Sequence)?);
            }
        }
        signed.end()?;
        Ok(Self { message, content, algorithm, signature, certificates })
    }

    /// Whether the owner of a key has signed it. What browsers don't accept any more, such as SHA-1, is not accepted here.
    fn is_by(&self, signer: &X509Certificate<'_>) -> bool {
        let key = signer.public_key();
        let kind = Reader::only(key.raw, Tag::Sequence).and_then(|mut key| key.take(Tag::Sequence));
        let Ok(kind) = kind else { return false };
        let known = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let mut fits = known.iter().filter(|one| {
            one.public_key_alg_id().as_ref() == kind && one.signature_alg_id().as_ref() == self.algorithm
        });
        let bits = &key.subject_public_key.data;
        fits.any(|one| one.verify_signature(bits, self.message, self.signature).is_ok())
    }
}

/// Who has signed an answer, and may do so now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signer {
    /// The issuer of the certificate.
    Issuer,
    /// Somebody who may do so for it, until this time.
    Delegate(Timestamp),
}

/// Who has signed an answer; none if that is somebody who may not.
pub(super) fn check(
    question: &Question,
    answer: &Signed<'_>,
    responder: ResponderId<'_>,
    now: Timestamp,
) -> Option<Signer> {
    let issuer = parsed(&question.issuer)?;
    if is_meant(&issuer, responder) && answer.is_by(&issuer) {
        return Some(Signer::Issuer);
    }
    answer.certificates.iter().find_map(|der| {
        let delegate = parsed(der).filter(|delegate| is_meant(delegate, responder))?;
        let until = delegated(der, &delegate, &issuer, now)?;
        answer.is_by(&delegate).then_some(Signer::Delegate(until))
    })
}

/// Whether an answer names this one as who has signed it: clients look for nobody else.
fn is_meant(signer: &X509Certificate<'_>, responder: ResponderId<'_>) -> bool {
    match responder {
        ResponderId::Name(name) => signer.subject().as_raw() == name,
        ResponderId::Key(key) => hash(&signer.public_key().subject_public_key.data) == key,
    }
}

/// Until when a certificate lets its owner answer for an issuer. Whether it was revoked is not asked: such certificates are
/// made for a short time, and say that it need not be (section 4.2.2.2.1).
fn delegated(
    der: &[u8],
    delegate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    now: Timestamp,
) -> Option<Timestamp> {
    let usage = delegate.extended_key_usage().ok().flatten()?;
    let signs = match delegate.key_usage() {
        Ok(Some(usage)) => usage.value.digital_signature() || usage.value.non_repudiation(),
        Ok(None) => true,
        Err(_) => false,
    };
    let understood = delegate.extensions().iter().all(|extension| {
        let unknown = matches!(
            extension.parsed_extension(),
            ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
        );
        !(extension.critical && unknown)
    });
    let [from, until] = [delegate.validity().not_before, delegate.validity().not_after]
        .map(|time| Timestamp::from_second(time.timestamp()).ok());
    let (from, until) = (from?, until?);
    let may = usage.value.ocsp_signing
        && signs
        && understood
        && from <= after(now, SKEW)
        && now < until
        && delegate.issuer().as_raw() == issuer.subject().as_raw()
        && Signed::read(&mut Reader::new(der)).is_ok_and(|signed| signed.is_by(issuer));
    may.then_some(until)
}
