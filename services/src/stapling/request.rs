//! How a question is written (RFC 6960, section 4.1; RFC 5019, section 2.1). Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use x509_parser::asn1_rs::Tag;

use super::der::write;
use super::question::{CertId, Responder};

/// 1.3.14.3.2.26, with the empty parameter that responders expect.
pub(super) const SHA1: &[u8] = &[6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];

/// The longest URL that a question is put into (RFC 5019, section 5).
const LONGEST_URL: usize = 255;

impl CertId {
    /// The name of the certificate in questions.
    pub(super) fn encode(&self) -> Vec<u8> {
        write(
            Tag::Sequence,
            &[
                &write(Tag::Sequence, &[SHA1]),
                &write(Tag::OctetString, &[&self.issuer_name]),
                &write(Tag::OctetString, &[&self.issuer_key]),
                &write(Tag::Integer, &[&self.serial]),
            ],
        )
    }

    /// The question about one certificate. Without a nonce, and signed by nobody: responders hand out answers that
    /// they have made before (RFC 5019, section 2.1.1), and these are guarded against use after their time.
    pub(super) fn request(&self) -> Vec<u8> {
        let one = write(Tag::Sequence, &[&self.encode()]);
        write(Tag::Sequence, &[&write(Tag::Sequence, &[&write(Tag::Sequence, &[&one])])])
    }
}

impl Responder {
    /// The path that a question can be asked by with `GET`, which caches on the way may answer; `None` for one that is
    /// too long, or has no place for it.
    pub(super) fn path_for(&self, request: &[u8]) -> Option<String> {
        let text = BASE64_STANDARD.encode(request);
        let text = utf8_percent_encode(&text, NON_ALPHANUMERIC);
        let path = format!("{}/{text}", self.path.trim_end_matches('/'));
        let fits = self.server.to_string().len() + path.len() <= LONGEST_URL && !self.path.contains('?');
        fits.then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stapling::question::Question;
    use crate::stapling::testing::Authority;

    #[test]
    fn a_question_is_written_as_others_write_it() {
        let id = CertId { issuer_name: [1; 20], issuer_key: [2; 20], serial: vec![0, 0x80] };
        let written = id.request();
        let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        let (name, key) = ("01".repeat(20), "02".repeat(20));
        assert_eq!(
            hex,
            format!("3043304130 3f303d303b300906052b0e03021a05000414{name}0414{key}02020080")
                .replace(' ', "")
        );
    }

    #[test]
    fn short_questions_fit_into_urls() {
        let ask = |url: &str| {
            let chain = Authority::new("ours").chain(&[url]);
            let question = Question::of(&chain).expect("a responder").expect("askable");
            question.responder.path_for(&question.id.request())
        };
        let path = ask("http://ocsp.example/a/").expect("fits");
        assert!(path.starts_with("/a/MF") && !path.contains('+') && !path[3..].contains('/'), "{path}");
        assert!(ask("http://ocsp.example").expect("fits").starts_with("/MF"));
        assert_eq!(ask("http://ocsp.example/?of=x"), None);
        assert_eq!(ask(&format!("http://ocsp.example/{}", "x".repeat(150))), None);
    }
}
