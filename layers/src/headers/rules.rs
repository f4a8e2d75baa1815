//! Rules that edit headers. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that belong to the message's framing or to the connection (RFC 9110, section 7.6.1; RFC 9112,
/// section 6), and the one that says whom a request is for: whoever sends a message writes them.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The only header of this name.
    Set(HeaderName, HeaderValue),
    /// One more header of this name.
    Append(HeaderName, HeaderValue),
    /// No header of this name.
    Remove(HeaderName),
}

/// Why an edit is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Not a name.
    #[error("{0:?} is no header name")]
    Name(String),
    /// Not a value. It is not shown: it may be a secret.
    #[error("the value for header {0} has characters that no header may have")]
    Value(HeaderName),
    /// A header that frames the message or concerns the connection.
    #[error("header {0} belongs to the connection and can't be edited")]
    Framing(HeaderName),
}

impl Op {
    /// Sets a header.
    pub fn set(name: &str, value: &str) -> Result<Self, RulesError> {
        pair(name, value).map(|(name, value)| Self::Set(name, value))
    }

    /// Adds a header beside others of its name.
    pub fn append(name: &str, value: &str) -> Result<Self, RulesError> {
        pair(name, value).map(|(name, value)| Self::Append(name, value))
    }

    /// Removes a header.
    pub fn remove(name: &str) -> Result<Self, RulesError> {
        parse_name(name).map(Self::Remove)
    }

    const fn name(&self) -> &HeaderName {
        match self {
            Self::Set(name, _) | Self::Append(name, _) | Self::Remove(name) => name,
        }
    }
}

/// The edits of requests and of responses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    request: Vec<Op>,
    response: Vec<Op>,
}

impl Rules {
    /// Rules that leave framing alone.
    pub fn new(request: Vec<Op>, response: Vec<Op>) -> Result<Self, RulesError> {
        check(&request)?;
        check(&response)?;
        Ok(Self { request, response })
    }

    /// For requests.
    pub fn request(&self) -> &[Op] {
        &self.request
    }

    /// For responses.
    pub fn response(&self) -> &[Op] {
        &self.response
    }
}

pub(super) fn check(ops: &[Op]) -> Result<(), RulesError> {
    ops.iter().try_for_each(|op| check_name(op.name()))
}

/// Applies the edits in their order. Names and values are shared, not copied.
pub(super) fn apply(ops: &[Op], headers: &mut HeaderMap) {
    for op in ops {
        match op {
            Op::Set(name, value) => {
                headers.insert(name.clone(), value.clone());
            }
            Op::Append(name, value) => {
                headers.append(name.clone(), value.clone());
            }
            Op::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

fn pair(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), RulesError> {
    let name = parse_name(name)?;
    // Bytes and not only ASCII: what is UTF-8 in configuration is UTF-8 on the wire.
    match HeaderValue::from_bytes(value.trim().as_bytes()) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(RulesError::Value(name)),
    }
}

fn parse_name(text: &str) -> Result<HeaderName, RulesError> {
    let name = text.trim().parse().map_err(|_| RulesError::Name(text.to_owned()))?;
    check_name(&name)?;
    Ok(name)
}

fn check_name(name: &HeaderName) -> Result<(), RulesError> {
    if FRAMING.contains(&name.as_str()) { Err(RulesError::Framing(name.clone())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_made_in_their_order() {
        let ops = [
            Op::set("X-A", "1"),
            Op::append("x-a", "2"),
            Op::remove("X-Gone"),
            Op::set("x-b", "1"),
            Op::set("x-b", " 2 "),
            Op::append("x-c", "grün"),
        ];
        let ops: Vec<Op> = ops.into_iter().collect::<Result<_, _>>().expect("valid");
        let mut headers = HeaderMap::new();
        for name in ["x-a", "x-gone", "x-gone"] {
            headers.append(name, HeaderValue::from_static("old"));
        }
        apply(&ops, &mut headers);
        let all =
            |name: &str| headers.get_all(name).iter().map(|v| v.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(all("x-a"), [b"1", b"2"]);
        assert_eq!(all("x-b"), [b"2"]);
        assert_eq!(all("x-c"), ["grün".as_bytes()]);
        assert!(all("x-gone").is_empty());
    }

    #[test]
    fn bad_edits_are_refused_and_values_not_shown() {
        assert_eq!(Op::set("a b", "x"), Err(RulesError::Name("a b".into())));
        let error = Op::set("x-key", "secret\r\nx: y").expect_err("refused");
        assert!(!error.to_string().contains("secret"));
        let made_by_hand = vec![Op::Remove(http::header::TRANSFER_ENCODING)];
        assert!(matches!(Rules::new(made_by_hand.clone(), Vec::new()), Err(RulesError::Framing(_))));
        assert!(matches!(Rules::new(Vec::new(), made_by_hand), Err(RulesError::Framing(_))));
    }
}
