//! Parameters as `application/x-www-form-urlencoded`: of a query, and of a body.
//!
//! A parameter without a value counts as absent, unknown ones are ignored, and one that is given twice
//! is an error for whoever reads it (RFC 6749, section 3.1), but for the few that may repeat.

use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::error::{ErrorCode, OAuthError};

/// The largest query or body. Signed assertions and long `state`s fit many times over.
pub const MAX_BYTES: usize = 64 * 1024;

/// The most parameters. No grant has more than twenty.
pub const MAX_PARAMS: usize = 100;

/// Parameters that may be given several times: RFC 8707, section 2, and RFC 8693, section 2.1.
const REPEATABLE: [&str; 2] = ["resource", "audience"];

/// The parameters of one request. Their values are secrets as often as not, so `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params {
    pairs: Vec<(String, String)>,
}

/// Why parameters can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// More than [`MAX_BYTES`].
    #[error("the parameters are larger than 64 KiB")]
    TooLarge,
    /// More than [`MAX_PARAMS`].
    #[error("there are more than 100 parameters")]
    TooMany,
    /// A `%` without two hexadecimal digits behind it.
    #[error("a parameter is not percent-encoded as it should be")]
    Encoding,
    /// Bytes that are no UTF-8 text.
    #[error("a parameter is not UTF-8 text")]
    Utf8,
    /// A parameter that may be given once is given twice.
    #[error("parameter {0} is given more than once")]
    Repeated(&'static str),
    /// A parameter that must be there is not.
    #[error("parameter {0} is missing")]
    Missing(&'static str),
}

impl Params {
    /// Reads a query (without its `?`) or a body.
    ///
    /// # Errors
    ///
    /// When it is too large, has too many parameters, or is not encoded as it should be.
    pub fn parse(text: &[u8]) -> Result<Self, ParamsError> {
        if text.len() > MAX_BYTES {
            return Err(ParamsError::TooLarge);
        }
        let mut pairs = Vec::new();
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            if pairs.len() == MAX_PARAMS {
                return Err(ParamsError::TooMany);
            }
            let (name, value) = match memchr::memchr(b'=', pair) {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self { pairs })
    }

    /// Whether the body of a request says that it is what [`parse`](Self::parse) reads.
    pub fn is_form(headers: &HeaderMap) -> bool {
        headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        })
    }

    /// A parameter that may be given once.
    ///
    /// # Errors
    ///
    /// When it is given more than once, be it without a value.
    pub fn get(&self, name: &'static str) -> Result<Option<&str>, ParamsError> {
        debug_assert!(!REPEATABLE.contains(&name), "{name} may repeat");
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(ParamsError::Repeated(name));
        }
        Ok(first.filter(|value| !value.is_empty()))
    }

    /// A parameter that must be given, once.
    ///
    /// # Errors
    ///
    /// When it is absent, empty, or given more than once.
    pub fn require(&self, name: &'static str) -> Result<&str, ParamsError> {
        self.get(name)?.ok_or(ParamsError::Missing(name))
    }

    /// A parameter that may repeat: `resource` or `audience`.
    pub fn all(&self, name: &'static str) -> Vec<String> {
        debug_assert!(REPEATABLE.contains(&name), "{name} may not repeat");
        self.values(name).filter(|value| !value.is_empty()).map(str::to_owned).collect()
    }

    fn values<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pairs.iter().map(|(name, _)| name)).finish()
    }
}

impl From<ParamsError> for OAuthError {
    fn from(error: ParamsError) -> Self {
        Self::new(ErrorCode::InvalidRequest, error.to_string())
    }
}

/// One name or value. Strict where browsers are lenient: what two readers read differently is refused.
pub(super) fn decode(text: &[u8]) -> Result<String, ParamsError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(ParamsError::Encoding) };
                u8::try_from(high * 16 + low).map_err(|_| ParamsError::Encoding)?
            }
            plain => *plain,
        });
    }
    String::from_utf8(decoded).map_err(|_| ParamsError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_empty_ones_are_absent() {
        for (text, name, value) in [
            ("a=b", "a", Some("b")),
            ("x=1&a=b%20c+d", "a", Some("b c d")),
            ("a=b=c", "a", Some("b=c")),
            ("a=%C3%A9%26%3d", "a", Some("é&=")),
            ("%61=b", "a", Some("b")),
            ("a=", "a", None),
            ("a", "a", None),
            ("&&a=b&", "a", Some("b")),
            ("A=b", "a", None),
            ("", "a", None),
            // An unknown parameter may say what it likes, even twice.
            ("z=1&z=2&a=b", "a", Some("b")),
        ] {
            let params = Params::parse(text.as_bytes()).expect(text);
            assert_eq!(params.get(name), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for (text, error) in [
            (&b"a=%"[..], ParamsError::Encoding),
            (b"a=%2", ParamsError::Encoding),
            (b"a=%zz", ParamsError::Encoding),
            (b"a=%+1", ParamsError::Encoding),
            (b"%=a", ParamsError::Encoding),
            (b"a=%ff", ParamsError::Utf8),
            (b"a=\xff", ParamsError::Utf8),
            (b"a=%ED%A0%80", ParamsError::Utf8),
        ] {
            assert_eq!(Params::parse(text), Err(error), "{text:?}");
        }
        for text in ["a=1&a=2", "a=1&a=1", "a=1&a=", "a=&a=", "a=1&%61=2"] {
            let params = Params::parse(text.as_bytes()).expect(text);
            assert_eq!(params.get("a"), Err(ParamsError::Repeated("a")), "{text}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert!(Params::parse(&vec![b'a'; MAX_BYTES]).is_ok());
        assert_eq!(Params::parse(&vec![b'a'; MAX_BYTES + 1]), Err(ParamsError::TooLarge));
        assert!(Params::parse("a=1&".repeat(MAX_PARAMS).as_bytes()).is_ok());
        assert_eq!(Params::parse("a=1&".repeat(MAX_PARAMS + 1).as_bytes()), Err(ParamsError::TooMany));
    }

    #[test]
    fn resources_may_repeat() {
        let params =
            Params::parse(b"resource=https%3A%2F%2Fa&x=y&resource=&resource=https://b").expect("valid");
        assert_eq!(params.all("resource"), ["https://a", "https://b"]);
        assert!(params.all("audience").is_empty());
        assert_eq!(params.require("client_id"), Err(ParamsError::Missing("client_id")));
    }

    #[test]
    fn secrets_do_not_show() {
        let params = Params::parse(b"client_secret=hush&code=quiet").expect("valid");
        let shown = format!("{params:?}");
        assert!(shown.contains("client_secret") && !shown.contains("hush") && !shown.contains("quiet"));
    }

    #[test]
    fn forms_are_known_by_their_type() {
        for (value, is_form) in [
            ("application/x-www-form-urlencoded", true),
            ("application/x-www-form-urlencoded; charset=UTF-8", true),
            ("Application/X-WWW-Form-Urlencoded", true),
            ("application/json", false),
            ("multipart/form-data", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().expect("a header"));
            assert_eq!(Params::is_form(&headers), is_form, "{value}");
        }
        assert!(!Params::is_form(&HeaderMap::new()));
    }
}
