//! Host names, parsed once at the border.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use smol_str::SmolStr;

/// The longest name that DNS can carry in text form (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host without its port, lower-cased: a DNS name, an IPv4 address, or an IPv6 address in brackets.
///
/// A trailing dot is removed, so that `example.com.` and `example.com` are one host.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(SmolStr);

/// Why a text is no [`HostName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostName {
    /// Nothing between the start and the port.
    #[error("host name is empty")]
    Empty,
    /// Longer than 253 characters, or a label longer than 63.
    #[error("host name or one of its labels is too long")]
    TooLong,
    /// Two dots in a row, or a leading dot.
    #[error("host name has an empty label")]
    EmptyLabel,
    /// Something else than letters, digits, `-` and `_`; international names must be given as A-labels (RFC 5890).
    #[error("host name has a character that is not a letter, a digit, '-' or '_'")]
    Character,
    /// A label starts or ends with `-`.
    #[error("host name has a label that starts or ends with '-'")]
    Hyphen,
    /// Only digits in the last label, but no IPv4 address; or brackets around something else than an IPv6 address.
    #[error("host looks like an IP address but is none")]
    Address,
}

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the host is an address literal and not a name.
    pub fn is_ip(&self) -> bool {
        self.0.starts_with('[') || self.0.parse::<IpAddr>().is_ok()
    }

    /// The name without its first label: what a wildcard `*.parent` would have to cover.
    pub fn parent(&self) -> Option<&str> {
        if self.is_ip() { None } else { self.0.split_once('.').map(|(_, rest)| rest) }
    }

    /// The number of labels, for depth rules such as "one label below the wildcard".
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').ok_or(InvalidHostName::Address)?;
            let address: Ipv6Addr = address.parse().map_err(|_| InvalidHostName::Address)?;
            return Ok(Self(smol_str::format_smolstr!("[{address}]")));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(InvalidHostName::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(InvalidHostName::TooLong);
        }
        let mut upper = false;
        let mut last = "";
        for label in text.split('.') {
            check_label(label, &mut upper)?;
            last = label;
        }
        if last.bytes().all(|b| b.is_ascii_digit()) && text.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(InvalidHostName::Address);
        }
        Ok(Self(if upper { text.to_ascii_lowercase().into() } else { SmolStr::new(text) }))
    }
}

fn check_label(label: &str, upper: &mut bool) -> Result<(), InvalidHostName> {
    let bytes = label.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(InvalidHostName::EmptyLabel);
    };
    if bytes.len() > MAX_LABEL {
        return Err(InvalidHostName::TooLong);
    }
    if *first == b'-' || *last == b'-' {
        return Err(InvalidHostName::Hyphen);
    }
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => *upper = true,
            _ => return Err(InvalidHostName::Character),
        }
    }
    Ok(())
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for HostName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for HostName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.trim().parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for HostName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "hostname", "maxLength": MAX_NAME })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lower_cased_and_lose_their_trailing_dot() {
        for (text, expected) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("a_b.example", "a_b.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(text.parse::<HostName>().as_ref().map(HostName::as_str), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = format!("{}.com", "a".repeat(64));
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "-a.b",
            "a-.b",
            "a b",
            "a:80",
            "user@a",
            "a/b",
            "1.2.3",
            "[1.2.3.4]",
            "[::1",
            "ü.de",
            "a%41",
            long.as_str(),
        ] {
            assert!(text.parse::<HostName>().is_err(), "{text:?} was taken for a host");
        }
    }

    #[test]
    fn the_parent_is_what_a_wildcard_covers() {
        let host: HostName = "a.b.example".parse().expect("valid");
        assert_eq!(host.parent(), Some("b.example"));
        let address: HostName = "10.0.0.1".parse().expect("valid");
        assert_eq!(address.parent(), None);
    }
}
