//! What a responder has answered (RFC 6960, section 4.2), and whether that is of use. Pure.

use std::time::Duration;

use jiff::Timestamp;
use x509_parser::asn1_rs::Tag;

use super::der::{Malformed, Reader};
use super::question::{CertId, Question};
use super::request::SHA1;
use super::schedule::after;
use super::signer::{self, Signed, Signer};

/// 1.3.6.1.5.5.7.48.1.1, id-pkix-ocsp-basic.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// By how much a responder's clock may be ahead of ours.
pub(super) const SKEW: Duration = Duration::from_secs(300);

/// How long an answer counts that does not say how long: newer ones are always there (RFC 6960, section 4.2.2.1), and a
/// client can't know either.
const UNSAID: Duration = Duration::from_secs(3600);

/// Of a question that can't be read, or is not found where it stands.
const MALFORMED_REQUEST: &str = "malformedRequest";

/// More answers at once than anybody gives to one question.
const MAX_ANSWERS: usize = 64;

/// What a responder says of a certificate, after all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// When it was revoked, if it was.
    pub(super) revoked_at: Option<Timestamp>,
    /// From when on this is known to be so.
    pub(super) this_update: Timestamp,
    /// Before this it may be shown, and not after it.
    pub(super) until: Timestamp,
}

/// Why an answer is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Useless {
    #[error("the answer is no OCSP response")]
    Malformed(#[from] Malformed),
    #[error("the responder refuses: {0}")]
    Refused(&'static str),
    #[error("the answer is of another kind than id-pkix-ocsp-basic")]
    Kind,
    #[error("the answer is not about this certificate")]
    Other,
    #[error("the answer says two things about this certificate")]
    Ambiguous,
    #[error("the answer has a critical extension that is not known here")]
    Critical,
    #[error("the answer is not signed by the issuer of the certificate, nor by who may do so for it")]
    Signature,
    #[error("the responder does not know the certificate")]
    Unknown,
    #[error("the answer is from the future: it begins at {0}")]
    Early(Timestamp),
    #[error("the answer has ended at {0}")]
    Late(Timestamp),
}

/// Checks an answer to a question.
pub(super) fn judge(question: &Question, answer: &[u8], now: Timestamp) -> Result<Verdict, Useless> {
    let basic = successful(answer)?;
    let signed = Signed::read(&mut Reader::new(basic))?;
    let data = Data::read(signed.content)?;
    let signer = signer::check(question, &signed, data.responder, now).ok_or(Useless::Signature)?;
    let one = data.about(&question.id)?;
    let until = one.next_update.unwrap_or_else(|| after(one.this_update, UNSAID));
    let until = match signer {
        Signer::Issuer => until,
        Signer::Delegate(end) => until.min(end),
    };
    if one.this_update > after(now, SKEW) {
        return Err(Useless::Early(one.this_update));
    }
    if until <= now {
        return Err(Useless::Late(until));
    }
    let revoked_at = match one.status {
        Status::Good => None,
        Status::Revoked(at) => Some(at),
        Status::Unknown => return Err(Useless::Unknown),
    };
    Ok(Verdict { revoked_at, this_update: one.this_update, until })
}

/// Whether a responder has understood the question, whatever it says to it.
pub(super) fn is_understood(answer: &[u8]) -> bool {
    match successful(answer) {
        Ok(_) => true,
        Err(Useless::Refused(why)) => why != MALFORMED_REQUEST,
        Err(_) => false,
    }
}

/// What a successful answer is made of.
fn successful(answer: &[u8]) -> Result<&[u8], Useless> {
    let mut response = Reader::only(answer, Tag::Sequence)?;
    match response.take(Tag::Enumerated)? {
        [0] => {}
        [1] => return Err(Useless::Refused(MALFORMED_REQUEST)),
        [2] => return Err(Useless::Refused("internalError")),
        [3] => return Err(Useless::Refused("tryLater")),
        [5] => return Err(Useless::Refused("sigRequired")),
        [6] => return Err(Useless::Refused("unauthorized")),
        _ => return Err(Malformed.into()),
    }
    let mut bytes = response.optional(0)?.ok_or(Malformed)?;
    response.end()?;
    let mut typed = bytes.inner(Tag::Sequence)?;
    bytes.end()?;
    if typed.take(Tag::Oid)? != BASIC {
        return Err(Useless::Kind);
    }
    let basic = typed.take(Tag::OctetString)?;
    typed.end()?;
    Ok(basic)
}

/// By what the one who signed is found.
#[derive(Debug, Clone, Copy)]
pub(super) enum ResponderId<'a> {
    Name(&'a [u8]),
    Key(&'a [u8]),
}

/// What was signed.
struct Data<'a> {
    responder: ResponderId<'a>,
    answers: Vec<Single<'a>>,
}

/// What is said of one certificate.
struct Single<'a> {
    hash: &'a [u8],
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    serial: &'a [u8],
    status: Status,
    this_update: Timestamp,
    next_update: Option<Timestamp>,
}

#[derive(Clone, Copy)]
enum Status {
    Good,
    Revoked(Timestamp),
    Unknown,
}

impl<'a> Data<'a> {
    fn read(content: &'a [u8]) -> Result<Self, Useless> {
        let mut data = Reader::new(content);
        if let Some(mut version) = data.optional(0)? {
            // Version 1 is the only one.
            if version.take(Tag::Integer)? != [0] {
                return Err(Malformed.into());
            }
            version.end()?;
        }
        let responder = match data.choice()? {
            (1, name) => ResponderId::Name(name),
            (2, key) => {
                let mut inner = Reader::new(key);
                let key = inner.take(Tag::OctetString)?;
                inner.end()?;
                ResponderId::Key(key)
            }
            _ => return Err(Malformed.into()),
        };
        let _produced_at = data.time()?;
        let mut list = data.inner(Tag::Sequence)?;
        let mut answers = Vec::new();
        while !list.is_empty() {
            if answers.len() == MAX_ANSWERS {
                return Err(Malformed.into());
            }
            answers.push(Single::read(list.inner(Tag::Sequence)?)?);
        }
        extensions(&mut data)?;
        data.end()?;
        Ok(Self { responder, answers })
    }

    /// The one answer about a certificate.
    fn about(&self, id: &CertId) -> Result<&Single<'a>, Useless> {
        let mut found = self.answers.iter().filter(|one| one.is_about(id));
        let one = found.next().ok_or(Useless::Other)?;
        // Some clients would take the other one.
        if found.next().is_some() { Err(Useless::Ambiguous) } else { Ok(one) }
    }
}

impl<'a> Single<'a> {
    fn read(mut single: Reader<'a>) -> Result<Self, Useless> {
        let mut id = single.inner(Tag::Sequence)?;
        let mut algorithm = id.inner(Tag::Sequence)?;
        let hash = algorithm.whole(Tag::Oid)?;
        let [issuer_name, issuer_key] = [id.take(Tag::OctetString)?, id.take(Tag::OctetString)?];
        let serial = id.take(Tag::Integer)?;
        id.end()?;
        let status = match single.choice()? {
            (0, []) => Status::Good,
            (1, info) => {
                let mut info = Reader::new(info);
                let at = info.time()?;
                // Why it was revoked is told to nobody here.
                let _reason = info.optional(0)?;
                info.end()?;
                Status::Revoked(at)
            }
            (2, []) => Status::Unknown,
            _ => return Err(Malformed.into()),
        };
        let this_update = single.time()?;
        let next_update = match single.optional(0)? {
            Some(mut next) => {
                let time = next.time()?;
                next.end()?;
                Some(time)
            }
            None => None,
        };
        extensions(&mut single)?;
        single.end()?;
        Ok(Self { hash, issuer_name, issuer_key, serial, status, this_update, next_update })
    }

    fn is_about(&self, id: &CertId) -> bool {
        // With or without the empty parameter.
        SHA1.starts_with(self.hash)
            && self.issuer_name == id.issuer_name
            && self.issuer_key == id.issuer_key
            && self.serial == id.serial
    }
}

/// Reads over extensions. None is needed here, and none that must be understood is (RFC 6960, section 4.4).
fn extensions(reader: &mut Reader<'_>) -> Result<(), Useless> {
    let Some(mut outer) = reader.optional(1)? else { return Ok(()) };
    let mut list = outer.inner(Tag::Sequence)?;
    outer.end()?;
    while !list.is_empty() {
        let mut extension = list.inner(Tag::Sequence)?;
        extension.take(Tag::Oid)?;
        if extension.take(Tag::Boolean).is_ok_and(|critical| critical != [0]) {
            return Err(Useless::Critical);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
