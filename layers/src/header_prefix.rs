//! A prefix of header names that belongs to us, matched in every spelling.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use smol_str::SmolStr;

/// Longer prefixes are a mistake; header names have no limit of their own.
const MAX_LENGTH: usize = 64;

/// The start of the names of headers that only we may set, such as `X-Auth-`.
///
/// CGI and its heirs turn every character of a header name that is no letter and no digit into `_`
/// (RFC 3875, section 4.1.18), so `X_Auth-User` and `x.auth.user` reach an application as the same
/// variable as `X-Auth-User`. They are all matched here.
///
/// ```
/// use http::HeaderName;
/// use portcullis_layers::HeaderPrefix;
///
/// let prefix: HeaderPrefix = "X-Auth-".parse()?;
/// assert!(prefix.matches(&HeaderName::from_static("x_auth_user")));
/// assert!(!prefix.matches(&HeaderName::from_static("x-authority")));
/// # Ok::<(), portcullis_layers::header_prefix::InvalidHeaderPrefix>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderPrefix(SmolStr);

/// Why a text is no [`HeaderPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaderPrefix {
    /// It would match every header.
    #[error("header prefix is empty")]
    Empty,
    /// More than 64 characters.
    #[error("header prefix is longer than {MAX_LENGTH} characters")]
    TooLong,
    /// Something else than letters, digits and `-`.
    #[error("header prefix {0:?} has a character that is not a letter, a digit or '-'")]
    Character(String),
}

impl HeaderPrefix {
    /// The prefix, lower-cased.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name starts with the prefix in any spelling.
    pub fn matches(&self, name: &HeaderName) -> bool {
        let (name, prefix) = (name.as_str().as_bytes(), self.0.as_bytes());
        name.len() >= prefix.len() && name.iter().zip(prefix).all(|(&byte, &ours)| fold(byte) == ours)
    }

    /// The header whose name is the prefix and then this word: `X-Auth-` and `User` make `x-auth-user`.
    pub fn header(&self, word: &'static str) -> HeaderName {
        HeaderName::try_from(format!("{}{word}", self.0))
            .expect("letters, digits and '-' are a valid header name")
    }
}

/// A byte of a header name as CGI would see it, with `-` for what CGI writes as `_`.
pub(crate) const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

impl FromStr for HeaderPrefix {
    type Err = InvalidHeaderPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidHeaderPrefix::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(InvalidHeaderPrefix::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(InvalidHeaderPrefix::Character(text.to_owned()));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl Default for HeaderPrefix {
    /// `X-Auth-`
    fn default() -> Self {
        Self(SmolStr::new_static("x-auth-"))
    }
}

impl fmt::Display for HeaderPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HeaderPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for HeaderPrefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for HeaderPrefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for HeaderPrefix {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HeaderPrefix".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9-]+$", "maxLength": MAX_LENGTH })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_matches() {
        let prefix = HeaderPrefix::default();
        for (name, matched) in [
            ("X-Auth-User", true),
            ("x-auth-", true),
            ("x_auth_user", true),
            ("X-Auth_User", true),
            ("x.auth.user", true),
            ("x~auth!user", true),
            ("x-auth", false),
            ("x-authority", false),
            ("authorization", false),
        ] {
            let name: HeaderName = name.parse().expect("valid");
            assert_eq!(prefix.matches(&name), matched, "{name}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        let long = "x".repeat(65);
        for text in ["", "X Auth", "X_Auth", "x:", "x\r\n", "ü-", long.as_str()] {
            assert!(text.parse::<HeaderPrefix>().is_err(), "{text:?} was taken for a prefix");
        }
    }

    #[test]
    fn a_header_is_the_prefix_and_a_word() {
        assert_eq!(HeaderPrefix::default().header("Client-Id"), "x-auth-client-id");
    }
}
