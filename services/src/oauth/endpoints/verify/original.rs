//! The request that another proxy asks about, as the headers tell it.
//!
//! Traefik and Caddy send `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri`, nginx what it is told to:
//! `X-Original-URL` and `X-Original-Method`. A proxy that sets the ones may let the others through from its own
//! clients. So none of them wins: where two say something of the same, they have to say the same, and what
//! nobody says is not guessed.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Uri};
use portcullis_layers::HostName;
use portcullis_layers::normalize::Authority;
use portcullis_layers::normalize::path::{PathRules, normalize};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");

/// All of them.
const NAMES: [HeaderName; 6] =
    [FORWARDED_HOST, FORWARDED_METHOD, FORWARDED_PROTO, FORWARDED_URI, ORIGINAL_METHOD, ORIGINAL_URL];

/// The headers that tell of another request. Whoever is in front of the identity firewall, which removes them,
/// saves them for `/verify` and puts this into the request's extensions.
#[derive(Debug, Clone)]
pub struct Original(HeaderMap);

/// A request, as another proxy got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stated {
    pub(super) host: HostName,
    pub(super) https: bool,
    pub(super) method: Method,
    /// Path and query, the path in normal form.
    pub(super) uri: Uri,
}

/// Why it is not clear which request is meant. The text is for who sets up the other proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unclear {
    #[error("no header says the {0} of the request: see the documentation of forward authentication")]
    Missing(&'static str),
    #[error("the headers contradict each other about the {0} of the request")]
    Contradiction(&'static str),
    #[error("the {0} of the request can't be read")]
    Malformed(&'static str),
    #[error("the path of the request can be read in two ways")]
    Path,
}

impl Original {
    /// What a request says of another one; `None` if it says nothing.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut saved = HeaderMap::new();
        for name in NAMES {
            for value in headers.get_all(&name) {
                saved.append(name.clone(), value.clone());
            }
        }
        (!saved.is_empty()).then_some(Self(saved))
    }

    /// The request, if it is clear.
    pub(super) fn stated(&self) -> Result<Stated, Unclear> {
        let url = self.one(&ORIGINAL_URL, "URL")?.map(parse_url).transpose()?;
        let host = agreed(
            "host",
            self.one(&FORWARDED_HOST, "host")?.map(parse_host).transpose()?,
            url.as_ref().map(|url| url.0.clone()),
        )?;
        let https = agreed(
            "scheme",
            self.one(&FORWARDED_PROTO, "scheme")?.map(parse_scheme).transpose()?,
            url.as_ref().map(|url| url.1),
        )?;
        let method = |name| {
            let text = self.one(name, "method")?;
            text.map(|text| text.parse::<Method>().map_err(|_| Unclear::Malformed("method"))).transpose()
        };
        let method = agreed("method", method(&FORWARDED_METHOD)?, method(&ORIGINAL_METHOD)?)?;
        let uri = agreed(
            "path",
            self.one(&FORWARDED_URI, "path")?.map(parse_target).transpose()?,
            url.map(|url| url.2),
        )?;
        Ok(Stated { host, https, method, uri })
    }

    /// A header that comes once, as text.
    fn one(&self, name: &HeaderName, what: &'static str) -> Result<Option<&str>, Unclear> {
        let mut values = self.0.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Unclear::Contradiction(what));
        }
        value.to_str().map(Some).map_err(|_| Unclear::Malformed(what))
    }
}

/// What is said, by the one, the other, or both alike.
fn agreed<T: PartialEq>(what: &'static str, one: Option<T>, other: Option<T>) -> Result<T, Unclear> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(Unclear::Contradiction(what)),
        (Some(said), _) | (None, Some(said)) => Ok(said),
        (None, None) => Err(Unclear::Missing(what)),
    }
}

/// The port says nothing: a host is the same on all of them.
fn parse_host(text: &str) -> Result<HostName, Unclear> {
    Authority::parse(text).map(|authority| authority.host().clone()).map_err(|_| Unclear::Malformed("host"))
}

/// Traefik names the scheme of a WebSocket.
fn parse_scheme(text: &str) -> Result<bool, Unclear> {
    match text {
        "https" | "wss" => Ok(true),
        "http" | "ws" => Ok(false),
        _ => Err(Unclear::Malformed("scheme")),
    }
}

fn parse_url(text: &str) -> Result<(HostName, bool, Uri), Unclear> {
    let (scheme, rest) = text.split_once("://").ok_or(Unclear::Malformed("URL"))?;
    let (authority, target) = rest.split_at(rest.find('/').ok_or(Unclear::Malformed("URL"))?);
    Ok((parse_host(authority)?, parse_scheme(scheme)?, parse_target(target)?))
}

/// The path is judged in its normal form, as for our own hosts; but the other proxy forwards what it got. So its
/// segments must be the same before and after: who removes dot segments later would come out elsewhere.
fn parse_target(text: &str) -> Result<Uri, Unclear> {
    let target: PathAndQuery = text.parse().map_err(|_| Unclear::Malformed("path"))?;
    let path = target.path();
    let normal = normalize(path, PathRules::default()).map_err(|_| Unclear::Path)?;
    let shape = |path: &str| path.split('/').map(str::is_empty).collect::<Vec<_>>();
    if shape(path) != shape(&normal) {
        return Err(Unclear::Path);
    }
    let query = target.query().map_or(String::new(), |query| format!("?{query}"));
    format!("{normal}{query}").parse().map_err(|_| Unclear::Malformed("path"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn stated(headers: &[(&'static str, &'static str)]) -> Result<Stated, Unclear> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        Original::of(&map).ok_or(Unclear::Missing("host"))?.stated()
    }

    const TRAEFIK: [(&str, &str); 4] = [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "App.example.com"),
        ("x-forwarded-uri", "/a/%7Eb?c=d"),
    ];

    const NGINX: [(&str, &str); 2] =
        [("x-original-url", "https://app.example.com:8443/a/~b?c=d"), ("x-original-method", "POST")];

    fn meant() -> Stated {
        Stated {
            host: "app.example.com".parse().expect("a host"),
            https: true,
            method: Method::POST,
            uri: Uri::from_static("/a/~b?c=d"),
        }
    }

    #[test]
    fn both_ways_of_telling_are_read() {
        assert_eq!(stated(&TRAEFIK), Ok(meant()));
        assert_eq!(stated(&NGINX), Ok(meant()));
        assert_eq!(stated(&[&TRAEFIK[..], &NGINX].concat()), Ok(meant()));
        let socket =
            stated(&[&TRAEFIK[2..], &[("x-forwarded-proto", "wss"), ("x-forwarded-method", "GET")]].concat());
        assert!(socket.expect("clear").https);
    }

    #[test]
    fn a_client_of_the_other_proxy_can_not_say_otherwise() {
        for (said, more, what) in [
            (&TRAEFIK[..], ("x-original-url", "https://open.example.com/a/~b?c=d"), "host"),
            (&TRAEFIK, ("x-original-url", "https://app.example.com/open"), "path"),
            (&TRAEFIK, ("x-original-url", "http://app.example.com/a/~b?c=d"), "scheme"),
            (&TRAEFIK, ("x-original-method", "GET"), "method"),
            (&TRAEFIK, ("x-forwarded-host", "open.example.com"), "host"),
            (&TRAEFIK, ("x-forwarded-uri", "/open"), "path"),
            (&NGINX, ("x-forwarded-host", "open.example.com"), "host"),
            (&NGINX, ("x-forwarded-uri", "/open"), "path"),
            (&NGINX, ("x-forwarded-method", "GET"), "method"),
            (&NGINX, ("x-original-url", "https://app.example.com:8443/a/~b?c=d"), "URL"),
        ] {
            assert_eq!(stated(&[said, &[more]].concat()), Err(Unclear::Contradiction(what)), "{more:?}");
        }
    }

    #[test]
    fn what_nobody_says_is_not_guessed() {
        for left_out in 0..TRAEFIK.len() {
            let mut said = TRAEFIK.to_vec();
            said.remove(left_out);
            assert!(matches!(stated(&said), Err(Unclear::Missing(_))), "{left_out}");
        }
        assert_eq!(stated(&NGINX[..1]), Err(Unclear::Missing("method")));
        assert_eq!(stated(&[]), Err(Unclear::Missing("host")));
    }

    #[test]
    fn a_path_that_another_may_read_otherwise_is_refused() {
        for (path, outcome) in [
            ("/a/../open", Err(Unclear::Path)),
            ("/open/%2e%2e/a", Err(Unclear::Path)),
            ("/a/.", Err(Unclear::Path)),
            ("/..", Err(Unclear::Path)),
            ("/a%2fb", Err(Unclear::Path)),
            ("/a%00", Err(Unclear::Path)),
            ("/a\\b", Err(Unclear::Path)),
            ("*", Err(Unclear::Path)),
            ("https://app.example.com/", Err(Unclear::Malformed("path"))),
            ("", Err(Unclear::Malformed("path"))),
            ("/a/%c3%a9", Ok("/a/%C3%A9")),
            ("/%61?x=%2e%2e/", Ok("/a?x=%2e%2e/")),
            ("/", Ok("/")),
        ] {
            let said = [("x-forwarded-uri", path)];
            let parsed = stated(&[&TRAEFIK[..3], &said].concat()).map(|stated| stated.uri.to_string());
            assert_eq!(parsed, outcome.map(str::to_owned), "{path}");
        }
        for url in [
            "",
            "app.example.com/",
            "https://app.example.com",
            "https://a@app.example.com/",
            "ftp://x/",
            "https:///",
        ] {
            let said = [("x-original-url", url), NGINX[1]];
            assert!(matches!(stated(&said), Err(Unclear::Malformed(_))), "{url}");
        }
    }
}
