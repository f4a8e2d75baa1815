//! The one authority of a request. Pure.

use std::fmt;

use http::header::HOST;
use http::{HeaderMap, Uri};

use crate::names::{HostName, InvalidHostName};

/// Host and port as the request names them, in `Host`, in `:authority` or in an absolute target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    host: HostName,
    port: Option<u16>,
    canonical: bool,
}

/// Why a request has no one authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Neither `Host` nor an authority in the target.
    #[error("no host is named")]
    Missing,
    /// `Host` more than once (RFC 9112, section 3.2).
    #[error("several Host headers")]
    Several,
    /// `Host` and the target name different ones.
    #[error("the Host header disagrees with the request target")]
    Disagree,
    /// The port is no number from 1 to 65535.
    #[error("invalid port")]
    Port,
    /// A user name or password before the host, which HTTP forbids (RFC 9110, section 4.2.4).
    #[error("user information before the host")]
    UserInfo,
    /// The host itself.
    #[error(transparent)]
    Host(#[from] InvalidHostName),
}

impl Authority {
    /// What the request names, if every place that names one agrees.
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, AuthorityError> {
        let mut hosts = headers.get_all(HOST).iter();
        let (host, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(AuthorityError::Several);
        }
        let host = match host {
            Some(value) => Some(value.to_str().map_err(|_| InvalidHostName::Character)?),
            None => None,
        };
        match (host, uri.authority().map(http::uri::Authority::as_str)) {
            (None, None) => Err(AuthorityError::Missing),
            (Some(text), None) | (None, Some(text)) => Self::parse(text),
            (Some(text), Some(target)) if text == target => Self::parse(text),
            (Some(text), Some(target)) => {
                let (named, target) = (Self::parse(text)?, Self::parse(target)?);
                let default = default_port(uri);
                if named.host == target.host && named.port.or(default) == target.port.or(default) {
                    Ok(named)
                } else {
                    Err(AuthorityError::Disagree)
                }
            }
        }
    }

    /// `host` or `host:port`.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.contains('@') {
            return Err(AuthorityError::UserInfo);
        }
        let colon = match text.strip_prefix('[') {
            Some(rest) => {
                let end = rest.find(']').ok_or(InvalidHostName::Address)? + 2;
                if end == text.len() { None } else { Some(end) }
            }
            None => text.find(':'),
        };
        let (name, port) = match colon {
            Some(at) => {
                let digits = text[at..].strip_prefix(':').ok_or(InvalidHostName::Address)?;
                (&text[..at], Some(parse_port(digits)?))
            }
            None => (text, None),
        };
        let host: HostName = name.parse()?;
        let canonical = host.as_str() == name && !text[name.len()..].starts_with(":0");
        Ok(Self { host, port, canonical })
    }

    /// The host.
    pub const fn host(&self) -> &HostName {
        &self.host
    }

    /// The port, where one is named.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether the text was just what [`fmt::Display`] writes.
    pub const fn is_canonical(&self) -> bool {
        self.canonical
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

/// Digits only: `u16::from_str` would take a `+`. An empty port is valid in RFC 3986, but no client
/// sends it and readers differ about it.
fn parse_port(digits: &str) -> Result<u16, AuthorityError> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(AuthorityError::Port),
        Ok(port) => Ok(port),
    }
}

fn default_port(uri: &Uri) -> Option<u16> {
    match uri.scheme_str() {
        Some("https" | "wss") => Some(443),
        Some("http" | "ws") => Some(80),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn authorities_are_parsed() {
        for (text, host, port, canonical) in [
            ("example.com", "example.com", None, true),
            ("Example.com", "example.com", None, false),
            ("example.com.", "example.com", None, false),
            ("example.com:8443", "example.com", Some(8443), true),
            ("example.com:08443", "example.com", Some(8443), false),
            ("[::1]", "[::1]", None, true),
            ("[::1]:80", "[::1]", Some(80), true),
            ("[0::1]:80", "[::1]", Some(80), false),
            ("10.0.0.1:1", "10.0.0.1", Some(1), true),
        ] {
            let authority = Authority::parse(text).expect(text);
            assert_eq!(authority.host().as_str(), host);
            assert_eq!((authority.port(), authority.is_canonical()), (port, canonical), "{text}");
            assert!(!canonical || authority.to_string() == text);
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for text in [
            "",
            ":80",
            "a:",
            "a:abc",
            "a:+80",
            "a:-1",
            "a:0",
            "a:65536",
            "a:80:80",
            "a: 80",
            "user@a",
            "user:pw@a",
            "a@",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[::1]x:80",
            "[]",
            "::1",
            "a/b",
            "a,b",
            "a b",
            "a\tb",
            "a%2eb",
            "a?b",
            "a#b",
            "a\\b",
            "é.com",
            "..",
        ] {
            assert!(Authority::parse(text).is_err(), "{text:?} was taken for an authority");
        }
    }

    #[test]
    fn every_place_must_agree() {
        for (target, hosts, expected) in [
            ("/", &["a.example"][..], Ok("a.example")),
            ("/", &[], Err(AuthorityError::Missing)),
            ("/", &["a.example", "a.example"], Err(AuthorityError::Several)),
            ("http://a.example/", &[], Ok("a.example")),
            ("http://a.example/", &["a.example"], Ok("a.example")),
            ("http://A.example:80/", &["a.example"], Ok("a.example")),
            ("https://a.example/", &["a.example:443"], Ok("a.example:443")),
            ("http://a.example/", &["b.example"], Err(AuthorityError::Disagree)),
            ("http://a.example:81/", &["a.example"], Err(AuthorityError::Disagree)),
            ("http://user@a.example/", &[], Err(AuthorityError::UserInfo)),
            ("/", &[""], Err(AuthorityError::Host(InvalidHostName::Empty))),
        ] {
            let headers = hosts.iter().map(|host| (HOST, HeaderValue::from_static(host))).collect();
            let authority = Authority::of(&target.parse().expect("valid"), &headers);
            assert_eq!(
                authority.map(|a| a.to_string()).as_deref(),
                expected.as_ref().copied(),
                "{target} {hosts:?}"
            );
        }
    }
}
