//! Where things are: public names, upstreams, networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use ipnet::IpNet;
use portcullis_layers::HostName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use super::names::{Expected, ServiceName, parsed};

/// A public name that a proxy answers for: a host, or `*.parent` for every name one label below it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern(SmolStr);

impl HostPattern {
    /// The name as text, `*.` included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parent of a wildcard.
    pub fn wildcard_parent(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// The host, when this is no wildcard.
    pub fn host(&self) -> Option<HostName> {
        if self.wildcard_parent().is_some() { None } else { self.0.parse().ok() }
    }

    /// Whether it is an address.
    pub fn is_ip(&self) -> bool {
        self.host().is_some_and(|host| host.is_ip())
    }

    /// Whether requests for `host` are meant.
    pub fn covers(&self, host: &HostName) -> bool {
        match self.wildcard_parent() {
            Some(parent) => host.parent() == Some(parent),
            None => host.as_str() == self.as_str(),
        }
    }

    /// Whether a certificate for this name serves everything that `other` names (RFC 6125, section 6.4.3).
    pub fn serves(&self, other: &Self) -> bool {
        self == other || other.host().is_some_and(|host| self.covers(&host))
    }
}

impl FromStr for HostPattern {
    type Err = portcullis_layers::names::InvalidHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("*.") {
            Some(parent) => {
                let parent: HostName = parent.parse()?;
                if parent.is_ip() {
                    return Err(Self::Err::Address);
                }
                Ok(Self(smol_str::format_smolstr!("*.{parent}")))
            }
            None => Ok(Self(text.parse::<HostName>()?.as_str().into())),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl std::borrow::Borrow<str> for HostPattern {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<HostName> for HostPattern {
    fn from(host: HostName) -> Self {
        Self(host.as_str().into())
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.trim().parse().map_err(|error| {
            serde::de::Error::custom(format_args!(
                "{error}: expected a host name such as app.example.com or *.example.com"
            ))
        })
    }
}

impl JsonSchema for HostPattern {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostPattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "HostPattern", "description": "a host name, or *.parent" })
    }
}

/// Where an upstream is: scheme, host, port and a base path that is put before the request's.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetUrl {
    /// TLS to the upstream?
    pub https: bool,
    /// The host to connect to.
    pub host: HostName,
    /// The port to connect to.
    pub port: u16,
    /// The base path, without a slash at its end; empty for none.
    pub path: SmolStr,
}

const TARGET_URL: &str =
    "an http:// or https:// URL such as http://10.0.0.5:8080, without user, query and fragment";

impl TargetUrl {
    /// Whether the upstream is on this machine, going by its name.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.as_str();
        host == "localhost"
            || host.ends_with(".localhost")
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The port of the scheme.
    const fn default_port(https: bool) -> u16 {
        if https { 443 } else { 80 }
    }
}

impl FromStr for TargetUrl {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let wrong = Expected(TARGET_URL);
        // `Uri` drops a fragment silently.
        if text.contains(['#', '@', '\\']) || text.len() > 2048 {
            return Err(wrong);
        }
        let uri: Uri = text.parse().map_err(|_| wrong)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong),
        };
        let authority = uri.authority().ok_or(wrong)?;
        let host = authority.host().parse().map_err(|_| wrong)?;
        // `Authority::port` is silent about ports that are none.
        let after_host = authority.as_str().strip_prefix(authority.host()).ok_or(wrong)?;
        let port = match after_host.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(wrong)?,
            None => Self::default_port(https),
        };
        if uri.query().is_some() {
            return Err(wrong);
        }
        let path = uri.path().trim_end_matches('/');
        if path.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(wrong);
        }
        Ok(Self { https, host, port, path: path.into() })
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.host)?;
        if self.port != Self::default_port(self.https) {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for TargetUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TargetUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl JsonSchema for TargetUrl {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TargetUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "TargetUrl", "description": TARGET_URL })
    }
}

/// A service inside the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// The management API.
    Api,
    /// Answers with what it was asked: for demonstrations and tests.
    Echo,
    /// The issuer's own host: the authorization server and nothing else.
    OAuth,
    /// The gateway's own MCP server, at `/mcp`.
    Mcp,
}

impl FromStr for Builtin {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "api" => Ok(Self::Api),
            "echo" => Ok(Self::Echo),
            "oauth" => Ok(Self::OAuth),
            "mcp" => Ok(Self::Mcp),
            _ => Err(Expected("`api`, `echo`, `mcp` or `oauth`")),
        }
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Api => "api",
            Self::Echo => "echo",
            Self::OAuth => "oauth",
            Self::Mcp => "mcp",
        })
    }
}

/// Where a proxy's requests go: `http(s)://…`, `builtin:api`, `builtin:echo`, `builtin:mcp` or `builtin:oauth`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An upstream.
    Url(TargetUrl),
    /// A service inside the daemon.
    Builtin(Builtin),
    /// A service by its name: what a node runs in containers, or an external one.
    Service(ServiceName),
}

const TARGET: &str = "an http:// or https:// URL such as http://10.0.0.5:8080 (without user, query and fragment), \
     `service:NAME`, `builtin:api`, `builtin:mcp`, `builtin:echo`, or `builtin:oauth` for the issuer's own host";

impl Target {
    /// The URL, when the target is an upstream.
    pub const fn url(&self) -> Option<&TargetUrl> {
        match self {
            Self::Url(url) => Some(url),
            Self::Builtin(_) | Self::Service(_) => None,
        }
    }
}

impl FromStr for Target {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.split_once(':') {
            Some(("builtin", name)) => name.parse().map(Self::Builtin),
            Some(("service", name)) => name.parse().map(Self::Service),
            _ => text.parse().map(Self::Url),
        }
        .map_err(|_| Expected(TARGET))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Builtin(builtin) => write!(f, "builtin:{builtin}"),
            Self::Service(name) => write!(f, "service:{name}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl JsonSchema for Target {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "Target", "description": TARGET })
    }
}

/// A network of clients; a single address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(|net| Self(net.trunc()))
            .map_err(|_| Expected("a network such as 10.0.0.0/8 or 2001:db8::/32, or a single address"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl JsonSchema for Network {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "Network", "description": "a network (CIDR) or an address" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_urls_have_one_normal_form() {
        for (text, expected) in [
            ("http://10.0.0.5:8080", "http://10.0.0.5:8080"),
            ("HTTP://Backend:80/", "http://backend"),
            ("https://a.example/base/", "https://a.example/base"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(
                text.parse::<TargetUrl>().map(|url| url.to_string()).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            "backend:8080",
            "ftp://a",
            "http://",
            "http://user@a",
            "http://a?b",
            "http://a#b",
            "http://a:0",
            "http://a:70000",
            "http://a:",
            "http://a b",
            "http://a/../b",
            "builtin:shell",
            "/a",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?} was taken for a target");
        }
        assert_eq!("builtin:api".parse(), Ok(Target::Builtin(Builtin::Api)));
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let wildcard: HostPattern = "*.Example.com".parse().expect("valid");
        assert_eq!(wildcard.as_str(), "*.example.com");
        for (host, covered) in [("a.example.com", true), ("a.b.example.com", false), ("example.com", false)] {
            assert_eq!(wildcard.covers(&host.parse().expect("valid")), covered, "{host}");
        }
        assert!("*.10.0.0.1".parse::<HostPattern>().is_err());
        assert!("*".parse::<HostPattern>().is_err());
        assert!("a.*.b".parse::<HostPattern>().is_err());
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        assert_eq!("10.1.2.3/8".parse::<Network>().expect("valid").to_string(), "10.0.0.0/8");
        assert_eq!("::1".parse::<Network>().expect("valid").to_string(), "::1/128");
    }
}
