//! The words of configuration, each parsed once at the border: what could be swapped has a type of its own.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use http::header::HeaderName;
use portcullis_layers::users::Users;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use super::address::TargetUrl;

/// What a kind of word looks like.
pub trait Rule: Ord + Clone + std::hash::Hash + 'static {
    /// The name in schemas.
    const NAME: &'static str;
    /// What would be right, for complaints and schemas.
    const EXPECTED: &'static str;

    /// The normal form of a text, `None` when it is no such word.
    fn normal(text: &str) -> Option<SmolStr>;
}

/// A short text that keeps a [`Rule`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<R>(SmolStr, PhantomData<R>);

/// A text that breaks the rule of its kind; says what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Expected(pub &'static str);

impl<R> Text<R> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<R: Rule> FromStr for Text<R> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        R::normal(text).map(|text| Self(text, PhantomData)).ok_or(Expected(R::EXPECTED))
    }
}

impl<R> fmt::Display for Text<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<R> fmt::Debug for Text<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<R> AsRef<str> for Text<R> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<R> std::borrow::Borrow<str> for Text<R> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<R> Serialize for Text<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, R: Rule> Deserialize<'de> for Text<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl<R: Rule> JsonSchema for Text<R> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        R::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": R::NAME, "description": R::EXPECTED })
    }
}

pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.trim().parse().map_err(serde::de::Error::custom)
}

fn is_word(text: &str, max: usize, more: &[u8]) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// The rule of a [`RouteId`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteIdRule {}
/// The name of a route.
pub type RouteId = Text<RouteIdRule>;
impl Rule for RouteIdRule {
    const NAME: &'static str = "RouteId";
    const EXPECTED: &'static str =
        "a route id: 1 to 128 letters, digits, '.', '-' or '_', starting with a letter or a digit";
    fn normal(text: &str) -> Option<SmolStr> {
        is_word(text, 128, b".-_").then(|| text.into())
    }
}

/// The rule of a [`CertName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertNameRule {}
/// The name of a certificate.
pub type CertName = Text<CertNameRule>;
impl Rule for CertNameRule {
    const NAME: &'static str = "CertName";
    const EXPECTED: &'static str =
        "a certificate name: 1 to 128 letters, digits, '.', '-' or '_', starting with a letter or a digit";
    fn normal(text: &str) -> Option<SmolStr> {
        is_word(text, 128, b".-_").then(|| text.into())
    }
}

/// The rule of a [`ServiceName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceNameRule {}
/// The name of a service; lower case.
pub type ServiceName = Text<ServiceNameRule>;
impl Rule for ServiceNameRule {
    const NAME: &'static str = "ServiceName";
    const EXPECTED: &'static str =
        "a service name: 1 to 63 letters, digits, '-' or '_', starting with a letter or a digit";
    fn normal(text: &str) -> Option<SmolStr> {
        is_word(text, 63, b"-_").then(|| text.to_ascii_lowercase().into())
    }
}

/// The rule of a [`NodeName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeNameRule {}
/// The name of a node.
pub type NodeName = Text<NodeNameRule>;
impl Rule for NodeNameRule {
    const NAME: &'static str = "NodeName";
    const EXPECTED: &'static str =
        "the name of a node: 1 to 63 letters, digits, '.', '-' or '_', starting with a letter or a digit";
    fn normal(text: &str) -> Option<SmolStr> {
        is_word(text, 63, b".-_").then(|| text.to_ascii_lowercase().into())
    }
}

/// The rule of a [`PortName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortNameRule {}
/// The name of a published port among those of its service.
pub type PortName = Text<PortNameRule>;
impl Rule for PortNameRule {
    const NAME: &'static str = "PortName";
    const EXPECTED: &'static str =
        "a port name: 1 to 32 letters, digits, '-' or '_', starting with a letter or a digit";
    fn normal(text: &str) -> Option<SmolStr> {
        is_word(text, 32, b"-_").then(|| text.to_ascii_lowercase().into())
    }
}

/// The rule of a [`TokenName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenNameRule {}
/// The name of a named token; its identity is `service:NAME`.
pub type TokenName = Text<TokenNameRule>;
impl Rule for TokenNameRule {
    const NAME: &'static str = "TokenName";
    const EXPECTED: &'static str = "a token name: 1 to 63 letters, digits, '.', '-' or '_', starting with a letter or a digit, not ADMIN";
    fn normal(text: &str) -> Option<SmolStr> {
        // The old system's bootstrap token had this name; a token called so would be taken for it.
        (is_word(text, 63, b".-_") && !text.eq_ignore_ascii_case("admin"))
            .then(|| text.to_ascii_lowercase().into())
    }
}

/// The rule of a [`Scope`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScopeRuleText {}
/// An OAuth scope (RFC 6749, section 3.3).
pub type Scope = Text<ScopeRuleText>;
impl Rule for ScopeRuleText {
    const NAME: &'static str = "Scope";
    const EXPECTED: &'static str =
        "a scope: 1 to 128 printable characters without blanks, '\"' and '\\' (RFC 6749, section 3.3)";
    fn normal(text: &str) -> Option<SmolStr> {
        (!text.is_empty()
            && text.len() <= 128
            && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)))
        .then(|| text.into())
    }
}

/// The rule of a [`UserPattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserRule {}
/// Whom a list of users names (see [`Users`]); logins in lower case, because GitHub compares them so.
pub type UserPattern = Text<UserRule>;
impl Rule for UserRule {
    const NAME: &'static str = "UserPattern";
    const EXPECTED: &'static str = "a GitHub login, `github:ID`, `service:NAME` for a named token, `service:client/ID` for an \
                                    OAuth client that acts for itself, `ISSUER/USER` or `ISSUER/*` for users of another \
                                    issuer, or `*` for everyone";
    fn normal(text: &str) -> Option<SmolStr> {
        // Compared as they are: another issuer may tell `Alice` from `alice`.
        if ["https://", "http://", "github:"].iter().any(|start| text.starts_with(start)) {
            return Users::parse([text]).is_ok().then(|| text.into());
        }
        // The ids of clients are compared as they are, too.
        if let Some(id) = text.strip_prefix("service:client/") {
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            return (!id.is_empty() && id.len() <= 128 && id.bytes().all(fine)).then(|| text.into());
        }
        let login = |text: &str| is_word(text, 100, b"-_.@");
        let holds = text == "*" || text.strip_prefix("service:").map_or_else(|| login(text), login);
        holds.then(|| text.to_ascii_lowercase().into())
    }
}

impl UserPattern {
    /// Whether this is `*`.
    pub fn is_everyone(&self) -> bool {
        self.as_str() == "*"
    }
}

/// The rule of an [`EmailPattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EmailRule {}
/// An e-mail address in which `*` stands for any characters; compared as a whole, in lower case.
pub type EmailPattern = Text<EmailRule>;
impl Rule for EmailRule {
    const NAME: &'static str = "EmailPattern";
    const EXPECTED: &'static str = "an e-mail address, a pattern such as `*@example.com`, or `*`";
    fn normal(text: &str) -> Option<SmolStr> {
        let holds = text == "*"
            || (text.len() <= 254
                && text.bytes().all(|b| b.is_ascii_graphic())
                && text
                    .split_once('@')
                    .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains('@')));
        holds.then(|| text.to_ascii_lowercase().into())
    }
}

/// The rule of a [`LabelPattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelRule {}
/// A label of a host name in which `*` stands for any characters; lower case.
pub type LabelPattern = Text<LabelRule>;
impl Rule for LabelRule {
    const NAME: &'static str = "LabelPattern";
    const EXPECTED: &'static str = "one label of a host name: 1 to 63 letters, digits, '-' or '_', or a pattern such as `tenant-*`, or `*`";
    fn normal(text: &str) -> Option<SmolStr> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
        let holds = (1..=63).contains(&text.len()) && text.bytes().all(fine);
        holds.then(|| text.to_ascii_lowercase().into())
    }
}

impl LabelPattern {
    /// Whether a label is meant, which is in lower case.
    pub fn matches(&self, label: &str) -> bool {
        let mut parts = self.as_str().split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = label.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // Each part in the middle where it stands first: what is left for the others is then the longest.
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// The rule of a [`Group`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupRule {}
/// A group or an organisation.
pub type Group = Text<GroupRule>;
impl Rule for GroupRule {
    const NAME: &'static str = "Group";
    const EXPECTED: &'static str = "a group: 1 to 128 printable characters without blanks";
    fn normal(text: &str) -> Option<SmolStr> {
        (!text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic()))
            .then(|| text.into())
    }
}

/// The rule of a [`GithubClientId`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GithubClientIdRule {}
/// The client id of an OAuth app at GitHub.
pub type GithubClientId = Text<GithubClientIdRule>;
impl Rule for GithubClientIdRule {
    const NAME: &'static str = "GithubClientId";
    const EXPECTED: &'static str = "the client id of a GitHub app: 1 to 128 letters, digits, '.', '-' or '_', starting with a letter or a digit";
    fn normal(text: &str) -> Option<SmolStr> {
        // It stands in paths and before the ':' of Basic credentials.
        is_word(text, 128, b".-_").then(|| text.into())
    }
}

/// The rule of a [`PathPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathRule {}
/// A path, or the start of paths, in normal form.
pub type PathPrefix = Text<PathRule>;
impl Rule for PathRule {
    const NAME: &'static str = "PathPrefix";
    const EXPECTED: &'static str = "a path that starts with '/', without '?', '#', blanks and '.' or '..' segments, up to 1024 characters";
    fn normal(text: &str) -> Option<SmolStr> {
        let holds = text.starts_with('/')
            && text.len() <= 1024
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\'))
            // The data path matches normalised paths, in which these can't occur: such a pattern would never match.
            && !text.split('/').any(|segment| segment == "." || segment == "..");
        holds.then(|| text.into())
    }
}

/// The rule of a [`HeaderKey`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeaderKeyRule {}
/// The name of a header that a rule may touch; lower case.
pub type HeaderKey = Text<HeaderKeyRule>;
impl Rule for HeaderKeyRule {
    const NAME: &'static str = "HeaderKey";
    const EXPECTED: &'static str = "a header name that does not frame messages or connections (so not Connection, \
         Content-Length, Host, Keep-Alive, Proxy-Connection, TE, Trailer, Transfer-Encoding or Upgrade)";
    fn normal(text: &str) -> Option<SmolStr> {
        const FRAMING: [&str; 9] = [
            "connection",
            "content-length",
            "host",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        let name = HeaderName::from_bytes(text.as_bytes()).ok()?;
        (text.len() <= 256 && !FRAMING.contains(&name.as_str())).then(|| name.as_str().into())
    }
}

/// The rule of a [`HeaderText`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeaderTextRule {}
/// The value of a header.
pub type HeaderText = Text<HeaderTextRule>;
impl Rule for HeaderTextRule {
    const NAME: &'static str = "HeaderText";
    const EXPECTED: &'static str =
        "a header value: up to 8192 printable ASCII characters, blanks and tabs inside";
    fn normal(text: &str) -> Option<SmolStr> {
        (text.len() <= 8192 && text.bytes().all(|b| matches!(b, b'\t' | 0x20..=0x7e)))
            .then(|| text.trim().into())
    }
}

/// The rule of an [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OriginRule {}
/// A web origin (RFC 6454), or `*`.
pub type Origin = Text<OriginRule>;
impl Rule for OriginRule {
    const NAME: &'static str = "Origin";
    const EXPECTED: &'static str = "an origin such as `https://app.example.com`, without a path, or `*`";
    fn normal(text: &str) -> Option<SmolStr> {
        if text == "*" || text == "null" {
            return (text == "*").then(|| text.into());
        }
        let url: TargetUrl = text.parse().ok()?;
        (url.path.is_empty() && !text.ends_with('/')).then(|| text.to_ascii_lowercase().into())
    }
}

/// The rule of a [`SecureUrl`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecureUrlRule {}
/// A URL that may be trusted with keys and identities.
pub type SecureUrl = Text<SecureUrlRule>;
impl Rule for SecureUrlRule {
    const NAME: &'static str = "SecureUrl";
    const EXPECTED: &'static str = "an https:// URL (http:// only for localhost and loopback addresses)";
    fn normal(text: &str) -> Option<SmolStr> {
        let url: TargetUrl = text.parse().ok()?;
        (url.https || url.is_loopback()).then(|| text.into())
    }
}

/// The rule of a [`ResourceUri`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceUriRule {}
/// The URI of a protected resource (RFC 8707): absolute, without a fragment. `https://` is added when there is no scheme.
pub type ResourceUri = Text<ResourceUriRule>;
impl Rule for ResourceUriRule {
    const NAME: &'static str = "ResourceUri";
    const EXPECTED: &'static str = "an http:// or https:// URI without a fragment";
    fn normal(text: &str) -> Option<SmolStr> {
        let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let url: TargetUrl = full.parse().ok()?;
        Some(smol_str::format_smolstr!("{url}"))
    }
}

/// The rule of a [`MethodName`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MethodRule {}
/// A request method, upper case; `*` (or `ALL`) for every method.
pub type MethodName = Text<MethodRule>;
impl Rule for MethodRule {
    const NAME: &'static str = "MethodName";
    const EXPECTED: &'static str = "a request method such as GET, or `*` for all";
    fn normal(text: &str) -> Option<SmolStr> {
        let upper = text.to_ascii_uppercase();
        if upper == "*" || upper == "ALL" {
            return Some("*".into());
        }
        (upper.len() <= 32
            && !upper.is_empty()
            && upper.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_'))
        .then(|| upper.into())
    }
}

impl MethodName {
    /// Whether this is `*`.
    pub fn is_every(&self) -> bool {
        self.as_str() == "*"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_match_as_a_whole() {
        for (pattern, yes, no) in [
            ("www", &["www"][..], &["", "ww", "wwww"][..]),
            ("*", &["a", "xn--a"], &[]),
            ("Tenant-*", &["tenant-", "tenant-1"], &["tenant", "a-tenant-1"]),
            ("*-dev", &["a-dev", "-dev"], &["a-dev-b", "dev"]),
            ("a*b*b", &["abb", "axbxb", "abbb"], &["ab", "abx", "axb"]),
            ("a**a", &["aa", "aba"], &["a"]),
        ] {
            let pattern: LabelPattern = pattern.parse().expect("valid");
            for label in yes {
                assert!(pattern.matches(label), "{pattern} {label}");
            }
            for label in no {
                assert!(!pattern.matches(label), "{pattern} {label}");
            }
        }
        let long = "a".repeat(64);
        for wrong in ["", "a.b", "a b", "*.*", "\u{e4}", long.as_str()] {
            assert!(wrong.parse::<LabelPattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_keep_their_rules() {
        assert!("a-route_1.x".parse::<RouteId>().is_ok());
        assert!("-a".parse::<RouteId>().is_err());
        assert!("a/b".parse::<RouteId>().is_err());
        assert!("".parse::<CertName>().is_err());
        assert_eq!("Web".parse::<ServiceName>().expect("valid").as_str(), "web");
        assert!("Admin".parse::<TokenName>().is_err());
        assert!("mcp:read".parse::<Scope>().is_ok());
        assert!("a b".parse::<Scope>().is_err());
        assert!("a\"b".parse::<Scope>().is_err());
        assert_eq!("OctoCat".parse::<UserPattern>().expect("valid").as_str(), "octocat");
        assert!("service:ci".parse::<UserPattern>().is_ok());
        assert!("service:".parse::<UserPattern>().is_err());
        assert!("oct*".parse::<UserPattern>().is_err());
        for exact in
            ["https://idp.example/Alice", "https://idp.example/*", "github:42", "service:client/Job.1_a-b"]
        {
            assert_eq!(exact.parse::<UserPattern>().expect("valid").as_str(), exact);
        }
        for wrong in [
            "https://idp.example",
            "https://idp.example/a*",
            "github:me",
            "ftp://idp.example/a",
            "service:client/",
            "service:client/*",
            "service:client/a/b",
            "service:other/a",
        ] {
            assert!(wrong.parse::<UserPattern>().is_err(), "{wrong}");
        }
        assert!("Iv1.0123456789abcdef".parse::<GithubClientId>().is_ok());
        assert!("a/../b".parse::<GithubClientId>().is_err());
        assert!("*@example.com".parse::<EmailPattern>().is_ok());
        assert!("@example.com".parse::<EmailPattern>().is_err());
        assert!("/a/../b".parse::<PathPrefix>().is_err());
        assert!("a".parse::<PathPrefix>().is_err());
        assert_eq!("X-Foo".parse::<HeaderKey>().expect("valid").as_str(), "x-foo");
        for framing in ["Connection", "content-length", "Host", "transfer-encoding", ":path", "a b"] {
            assert!(framing.parse::<HeaderKey>().is_err(), "{framing}");
        }
        assert!("a\r\nb".parse::<HeaderText>().is_err());
        assert!("https://a.example:8443".parse::<Origin>().is_ok());
        assert!("https://a.example/".parse::<Origin>().is_err());
        assert!("null".parse::<Origin>().is_err());
        assert!("http://issuer.example".parse::<SecureUrl>().is_err());
        assert!("http://localhost:3000".parse::<SecureUrl>().is_ok());
        assert_eq!("a.example/x".parse::<ResourceUri>().expect("valid").as_str(), "https://a.example/x");
        assert_eq!("all".parse::<MethodName>().expect("valid").as_str(), "*");
    }
}
