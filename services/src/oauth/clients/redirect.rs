//! Where a client may send a browser back to: what may be registered, and what a request may name.
//!
//! Registered are `https` URIs, `http` URIs of the machine that the browser runs on, and private-use schemes
//! of native applications (RFC 8252, section 7). At use a URI is compared as a string; only the
//! port of an `http` loopback URI is free, because a native client listens where there is room
//! (RFC 8252, section 7.3). The name `localhost` counts as loopback: clients in use rely on it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use portcullis_layers::HostName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many URIs one client may have. Editors register four, test tools about ten.
pub const MAX_URIS: usize = 20;

/// The longest URI.
pub const MAX_URI: usize = 1024;

/// Schemes that a browser or the system acts upon by itself, or that name no application.
const FORBIDDEN: [&str; 37] = [
    "about",
    "blob",
    "chrome",
    "chrome-extension",
    "chrome-untrusted",
    "cid",
    "content",
    "data",
    "devtools",
    "dns",
    "edge",
    "feed",
    "file",
    "filesystem",
    "ftp",
    "gopher",
    "intent",
    "jar",
    "javascript",
    "ldap",
    "ldaps",
    "mailto",
    "moz-extension",
    "opaque",
    "resource",
    "search-ms",
    "shell",
    "sms",
    "ssh",
    "tel",
    "telnet",
    "urn",
    "vbscript",
    "view-source",
    "wasm",
    "ws",
    "wss",
];

/// A redirect URI that may be registered.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RedirectUri {
    text: String,
    place: Place,
}

/// Whom a redirect reaches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A program on the machine of the browser, whichever listens there.
    Loopback,
    /// A web server.
    Host(HostName),
    /// Whichever application has registered this scheme on the machine of the browser.
    App(String),
}

/// Why a URI can't be registered, in words for the client's developer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedirectUri {
    /// Empty, or longer than [`MAX_URI`].
    #[error("a redirect URI must have 1 to {MAX_URI} characters")]
    Length,
    /// White space, control characters, or what no URI has (RFC 3986, section 2).
    #[error("a redirect URI must be absolute and have only the characters of RFC 3986")]
    Syntax,
    /// RFC 6749, section 3.1.2.
    #[error("a redirect URI must not have a fragment")]
    Fragment,
    /// `user@host` hides the host from people.
    #[error("a redirect URI must not have user information")]
    UserInfo,
    /// A scheme that the browser acts upon.
    #[error("redirect URIs of scheme {0} are not accepted")]
    Scheme(String),
    /// The host or port is not valid.
    #[error("the host or port of a redirect URI is not valid")]
    Host,
    /// Plain http to another machine.
    #[error("http redirect URIs are only accepted for 127.0.0.1, [::1] and localhost; use https")]
    Plain,
    /// Too many of them.
    #[error("at most {MAX_URIS} redirect URIs are accepted")]
    TooMany,
    /// None, where one is needed.
    #[error("at least one redirect URI is needed")]
    None,
}

impl RedirectUri {
    /// The URI, as it was registered.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whom it reaches: what the consent page has to show.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Whether a request may name `requested` where this URI is registered: the same string
    /// (OAuth 2.1, section 2.3.1), or the same but for the port of an `http` loopback URI.
    pub fn allows(&self, requested: &str) -> bool {
        if self.text == requested {
            return true;
        }
        let (Some(registered), Ok(other)) = (self.portless(), requested.parse::<Self>()) else {
            return false;
        };
        other.portless().is_some_and(|other| other == registered)
    }

    /// Host and rest of an `http` loopback URI.
    fn portless(&self) -> Option<(&str, &str)> {
        if self.place != Place::Loopback {
            return None;
        }
        let (scheme, rest) = split_scheme(&self.text)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        let (authority, tail) = split_authority(rest)?;
        let (host, _) = split_port(authority)?;
        Some((host, tail))
    }
}

/// Reads the list of a registration, each URI once. May be empty.
///
/// # Errors
///
/// When one is not acceptable, or there are too many.
pub fn parse_all<'a>(
    uris: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<RedirectUri>, InvalidRedirectUri> {
    let mut parsed: Vec<RedirectUri> = Vec::new();
    for uri in uris {
        let uri: RedirectUri = uri.parse()?;
        if !parsed.contains(&uri) {
            parsed.push(uri);
        }
        if parsed.len() > MAX_URIS {
            return Err(InvalidRedirectUri::TooMany);
        }
    }
    Ok(parsed)
}

/// The registered URI that lets a request name `requested`.
pub fn find<'a>(registered: &'a [RedirectUri], requested: &str) -> Option<&'a RedirectUri> {
    registered.iter().find(|uri| uri.allows(requested))
}

/// Whom a list of URIs reaches, each once.
pub fn places(uris: &[RedirectUri]) -> BTreeSet<&Place> {
    uris.iter().map(RedirectUri::place).collect()
}

/// Whether nothing but programs on the user's machine is reached, so that anyone there may be the
/// client: the consent page warns.
pub fn all_local(uris: &[RedirectUri]) -> bool {
    !uris.is_empty() && uris.iter().all(|uri| uri.place == Place::Loopback)
}

impl FromStr for RedirectUri {
    type Err = InvalidRedirectUri;

    fn from_str(text: &str) -> Result<Self, InvalidRedirectUri> {
        if text.is_empty() || text.len() > MAX_URI {
            return Err(InvalidRedirectUri::Length);
        }
        if text.contains('#') {
            return Err(InvalidRedirectUri::Fragment);
        }
        if !text.bytes().all(is_uri_byte) || !percents_are_complete(text) {
            return Err(InvalidRedirectUri::Syntax);
        }
        let (scheme, rest) = split_scheme(text).ok_or(InvalidRedirectUri::Syntax)?;
        let scheme = scheme.to_ascii_lowercase();
        let place = match scheme.as_str() {
            "https" => web(rest)?,
            "http" => match web(rest)? {
                Place::Loopback => Place::Loopback,
                Place::Host(_) | Place::App(_) => return Err(InvalidRedirectUri::Plain),
            },
            _ => app(scheme, rest)?,
        };
        Ok(Self { text: text.to_owned(), place })
    }
}

/// The part after `http:` or `https:`.
fn web(rest: &str) -> Result<Place, InvalidRedirectUri> {
    let (authority, _) = split_authority(rest).ok_or(InvalidRedirectUri::Syntax)?;
    if authority.contains('@') {
        return Err(InvalidRedirectUri::UserInfo);
    }
    let (text, port) = split_port(authority).ok_or(InvalidRedirectUri::Host)?;
    if port.is_some_and(|port| !is_port(port)) {
        return Err(InvalidRedirectUri::Host);
    }
    let host: HostName = text.parse().map_err(|_| InvalidRedirectUri::Host)?;
    // Browsers read such a name as an address, whatever it looks like.
    if host.as_str().rsplit('.').next().is_some_and(|label| label.starts_with("0x")) {
        return Err(InvalidRedirectUri::Host);
    }
    // Not `localhost.` nor `a.localhost`: where those lead is the resolver's choice. `HostName` drops a dot at the end.
    let local = if host.is_ip() {
        host.as_str().trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    } else {
        text.eq_ignore_ascii_case("localhost")
    };
    Ok(if local { Place::Loopback } else { Place::Host(host) })
}

/// RFC 8252, section 7.1. Its dot in the scheme is no rule here: editors in use have none.
fn app(scheme: String, rest: &str) -> Result<Place, InvalidRedirectUri> {
    // `ms-…` open dialogs and tools of the system, with arguments.
    if FORBIDDEN.contains(&scheme.as_str()) || scheme.starts_with("ms-") {
        return Err(InvalidRedirectUri::Scheme(scheme));
    }
    // `scheme:anything` is how `javascript:` and its relatives are written.
    if !rest.starts_with('/') {
        return Err(InvalidRedirectUri::Syntax);
    }
    if split_authority(rest).is_some_and(|(authority, _)| authority.contains('@')) {
        return Err(InvalidRedirectUri::UserInfo);
    }
    Ok(Place::App(scheme))
}

/// RFC 3986, section 3.1.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut bytes = scheme.bytes();
    let fine = bytes.next()?.is_ascii_alphabetic()
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    fine.then_some((scheme, rest))
}

/// The authority behind `//`, and what follows it.
fn split_authority(rest: &str) -> Option<(&str, &str)> {
    let rest = rest.strip_prefix("//")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let after_host = if authority.starts_with('[') { authority.find(']')? + 1 } else { 0 };
    match authority[after_host..].find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(after_host + colon);
            Some((host, Some(&port[1..])))
        }
        None => Some((authority, None)),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

/// RFC 3986, section 2. Browsers read `\` as `/`, so it must not pass here.
const fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#')
}

fn percents_are_complete(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().all(|(at, byte)| *byte != b'%' || (hex(at + 1) && hex(at + 2)))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("localhost"),
            Self::Host(host) => f.write_str(host.as_str()),
            Self::App(scheme) => write!(f, "{scheme}:"),
        }
    }
}

impl fmt::Debug for RedirectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Serialize for RedirectUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for RedirectUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_of_clients_in_use_are_accepted() {
        for (uri, place) in [
            ("https://claude.ai/api/mcp/auth_callback", "claude.ai"),
            ("https://vscode.dev/redirect", "vscode.dev"),
            ("https://App.Example:8443/cb?a=b", "app.example"),
            ("https://[2001:db8::1]/cb", "[2001:db8::1]"),
            ("https://app.example", "app.example"),
            ("https://localhost/cb", "localhost"),
            ("http://127.0.0.1/", "localhost"),
            ("http://127.0.0.1:33418/", "localhost"),
            ("http://127.8.9.1/cb", "localhost"),
            ("http://[::1]:6274/oauth/callback", "localhost"),
            ("http://localhost/callback", "localhost"),
            ("HTTP://LOCALHOST:1/callback", "localhost"),
            ("cursor://anysphere.cursor-retrieval/oauth/user-x/callback", "cursor:"),
            ("com.example.app:/oauth2redirect", "com.example.app:"),
            ("vscode-insiders://ext.id/did-authenticate?windowId=1", "vscode-insiders:"),
        ] {
            let parsed: RedirectUri = uri.parse().expect(uri);
            assert_eq!((parsed.as_str(), parsed.place().to_string().as_str()), (uri, place));
        }
    }

    #[test]
    fn what_could_lead_astray_is_refused() {
        use InvalidRedirectUri::{Fragment, Host, Length, Plain, Scheme, Syntax, UserInfo};
        let long = format!("https://app.example/{}", "a".repeat(MAX_URI));
        let scheme = |name: &str| Scheme(name.to_owned());
        for (uri, reason) in [
            ("", Length),
            (long.as_str(), Length),
            ("https://app.example/cb#", Fragment),
            ("https://app.example/#a", Fragment),
            ("https://user@app.example/cb", UserInfo),
            ("https://claude.ai:x@evil.example/cb", UserInfo),
            ("http://localhost@evil.example/", UserInfo),
            ("cursor://user@x/cb", UserInfo),
            ("http://app.example/cb", Plain),
            ("http://localhost.evil.example/cb", Plain),
            ("http://localhost./cb", Plain),
            ("http://app.localhost/cb", Plain),
            ("http://127.0.0.1.evil.example/cb", Plain),
            ("http://10.0.0.1/cb", Plain),
            ("http://0.0.0.0/cb", Plain),
            ("http://[::ffff:127.0.0.1]/cb", Plain),
            ("http://[::]/cb", Plain),
            ("https://", Host),
            ("https:///cb", Host),
            ("https://?x", Host),
            ("https://a..b/", Host),
            ("https://*.example/cb", Host),
            ("https://app.example:/cb", Host),
            ("https://app.example:0/cb", Host),
            ("https://app.example:65536/cb", Host),
            ("https://app.example:+1/cb", Host),
            ("https://[::1/cb", Host),
            ("https://[::1]x/cb", Host),
            ("http://2130706433/cb", Host),
            ("http://0x7f.1/cb", Host),
            ("https://0x7f000001/cb", Host),
            ("https://127.0.0.0X1/cb", Host),
            ("https:app.example/cb", Syntax),
            ("https:/app.example/cb", Syntax),
            ("https:\\\\app.example/cb", Syntax),
            ("https://app.example\\@evil.example/", Syntax),
            ("https://app.example/a b", Syntax),
            ("https://app.example/\n", Syntax),
            ("https://app.example/\u{e4}", Syntax),
            ("https://app.example/%zz", Syntax),
            ("https://app.example/%a", Syntax),
            ("/callback", Syntax),
            ("app.example/cb", Syntax),
            ("1a://x/cb", Syntax),
            (" https://app.example/", Syntax),
            ("myapp:callback", Syntax),
            ("myapp:", Syntax),
            ("javascript:alert(1)", scheme("javascript")),
            ("JavaScript://x/%0aalert(1)", scheme("javascript")),
            ("data:text/html,x", scheme("data")),
            ("file:///etc/passwd", scheme("file")),
            ("about:blank", scheme("about")),
            ("blob:https://x/1", scheme("blob")),
            ("vbscript:x", scheme("vbscript")),
            ("urn:ietf:wg:oauth:2.0:oob", scheme("urn")),
            ("ms-settings://x", scheme("ms-settings")),
            ("wss://x/y", scheme("wss")),
        ] {
            assert_eq!(uri.parse::<RedirectUri>().expect_err(uri), reason, "{uri:?}");
        }
    }

    #[test]
    fn use_is_compared_exactly_but_for_the_loopback_port() {
        for (registered, requested, allowed) in [
            ("https://app.example/cb", "https://app.example/cb", true),
            ("https://app.example/cb", "https://app.example/cb/", false),
            ("https://app.example/cb", "https://app.example/CB", false),
            ("https://app.example/cb", "https://APP.example/cb", false),
            ("https://app.example/cb", "https://app.example:443/cb", false),
            ("https://app.example/cb", "https://app.example/cb?x=1", false),
            ("https://app.example/cb", "https://app.example/cb#", false),
            ("https://app.example/cb", "https://app.example.evil.example/cb", false),
            ("https://localhost/cb", "https://localhost:8443/cb", false),
            ("http://127.0.0.1/", "http://127.0.0.1:33419/", true),
            ("http://127.0.0.1:33418/", "http://127.0.0.1:5/", true),
            ("http://127.0.0.1:33418/", "http://127.0.0.1/", true),
            ("http://[::1]/cb?x=1", "http://[::1]:9/cb?x=1", true),
            ("http://localhost/callback", "http://localhost:51234/callback", true),
            ("http://localhost/callback", "http://127.0.0.1:51234/callback", false),
            ("http://localhost/callback", "http://localhost:51234/callback/x", false),
            ("http://localhost/callback", "http://localhost:51234/callback?x", false),
            ("http://localhost/callback", "https://localhost:51234/callback", false),
            ("http://localhost/callback", "http://localhost:51234@evil.example/callback", false),
            ("http://localhost/callback", "http://localhost:1#/callback", false),
            ("http://localhost/callback", "http://localhost:99999/callback", false),
            ("cursor://a/cb", "cursor://a/cb", true),
            ("cursor://a/cb", "cursor://a:1/cb", false),
        ] {
            let uri: RedirectUri = registered.parse().expect(registered);
            assert_eq!(uri.allows(requested), allowed, "{registered} {requested}");
            assert_eq!(find(&[uri], requested).is_some(), allowed);
        }
    }

    #[test]
    fn a_list_is_bounded_and_tells_whom_it_reaches() {
        let many: Vec<_> = (0..=MAX_URIS).map(|n| format!("https://app.example/{n}")).collect();
        assert_eq!(parse_all(many.iter().map(String::as_str)), Err(InvalidRedirectUri::TooMany));
        let editor = parse_all([
            "https://vscode.dev/redirect",
            "http://127.0.0.1/",
            "http://127.0.0.1:33418/",
            "http://127.0.0.1/",
        ])
        .expect("valid");
        assert_eq!(editor.len(), 3, "each is kept once");
        assert_eq!(
            places(&editor).into_iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["localhost", "vscode.dev"]
        );
        assert!(!all_local(&editor) && all_local(&editor[1..]) && !all_local(&[]));
        let json = serde_json::to_string(&editor).expect("JSON");
        assert_eq!(serde_json::from_str::<Vec<RedirectUri>>(&json).expect("read back"), editor);
        assert!(serde_json::from_str::<RedirectUri>("\"javascript:x\"").is_err());
    }
}
