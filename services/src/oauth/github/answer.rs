//! What the endpoints of the login flows answer: an object in JSON, or a form where something on the
//! way took away that we accept JSON only. Refusals have the status of success.

use std::borrow::Cow;

use http::{StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::error::{Error, Refusal};
use crate::outbound::Answer;

const WHAT: &str = "a request of the login flow";

/// The fields of an answer. It has no `Debug`, because one of them may be a token.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn read(answer: &Answer) -> Result<Self, Error> {
        let kind = answer.headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        let is_form = kind.is_some_and(|kind| kind.starts_with(b"application/x-www-form-urlencoded"));
        let fields = if is_form { form(&answer.body) } else { serde_json::from_slice(&answer.body).ok() };
        match fields {
            // GitHub answers some refusals with 4xx, in the same form.
            Some(fields) if answer.status == StatusCode::OK || fields.contains_key("error") => {
                Ok(Self(fields))
            }
            // The error of the parser is left out: it would repeat what it can't read.
            _ if answer.status == StatusCode::OK => Err(Error::Malformed { what: WHAT }),
            _ => Err(Error::Unexpected { what: WHAT, status: answer.status }),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// An error, when the answer is one.
    pub(super) fn refusal(&self) -> Result<(), Error> {
        match self.0.get("error") {
            None | Some(Value::Null) => Ok(()),
            Some(code) => Err(Error::Refused(Refusal::of_code(code.as_str().unwrap_or_default()))),
        }
    }
}

fn form(body: &[u8]) -> Option<Map<String, Value>> {
    let text = str::from_utf8(body).ok()?;
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8().map(Cow::into_owned).ok()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, Value::String(decode(value)?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn read(status: u16, kind: &'static str, body: &'static str) -> Result<Fields, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        let status = StatusCode::from_u16(status).expect("a status");
        Fields::read(&Answer { status, headers, body: body.into() })
    }

    #[test]
    fn both_forms_mean_the_same() {
        for (kind, body) in [
            ("application/json; charset=utf-8", r#"{"scope":"a,b c","interval":5}"#),
            ("application/x-www-form-urlencoded; charset=utf-8", "scope=a%2Cb+c&interval=5&&"),
        ] {
            let Ok(fields) = read(200, kind, body) else { panic!("{kind}") };
            assert_eq!(fields.text("scope"), Some("a,b c"));
            assert!(fields.refusal().is_ok());
        }
    }

    #[test]
    fn what_can_not_be_read_is_not_repeated() {
        for (status, kind, body) in [
            (200, "application/json", r#"["gho_secret"]"#),
            (200, "application/json", r#"{"access_token": "gho_secret""#),
            (200, "text/html", "<html>gho_secret</html>"),
            (200, "application/x-www-form-urlencoded", "access_token=%ffgho_secret"),
            (302, "application/json", r#"{"access_token": "gho_secret"}"#),
            (418, "text/plain", "gho_secret"),
        ] {
            let error = read(status, kind, body).err().expect(body);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("gho_secret"), "{shown}");
            assert_eq!(matches!(error, Error::Malformed { .. }), status == 200, "{shown}");
        }
    }

    #[test]
    fn a_refusal_is_one_with_every_status() {
        for status in [200, 400, 401] {
            let Ok(fields) = read(status, "application/json", r#"{"error":"access_denied"}"#) else {
                panic!("{status}")
            };
            assert!(matches!(fields.refusal(), Err(Error::Refused(Refusal::AccessDenied))));
        }
        let Ok(odd) = read(200, "application/json", r#"{"error":{"a":1}}"#) else { panic!("an object") };
        assert!(matches!(odd.refusal(), Err(Error::Refused(Refusal::Other(_)))));
    }
}
