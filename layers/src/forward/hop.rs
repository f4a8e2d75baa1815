//! Hop-by-hop rules (RFC 9110, section 7.6.1). Pure.
//!
//! One scan of the names decides whether there is anything to do; most messages leave it untouched.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smol_str::SmolStr;

const CONNECTION: u16 = 1;
const KEEP_ALIVE: u16 = 1 << 1;
const PROXY_CONNECTION: u16 = 1 << 2;
const PROXY_CREDENTIALS: u16 = 1 << 3;
const TE: u16 = 1 << 4;
const TRANSFER_ENCODING: u16 = 1 << 5;
const UPGRADE: u16 = 1 << 6;
const EXPECT: u16 = 1 << 7;
const HTTP2_SETTINGS: u16 = 1 << 8;

/// Fields that say what a message means or who sends it: a `Connection` header that nominates one
/// of them would make us remove what layers before us decided on, so such a nomination is ignored.
const ESSENTIAL: [&str; 22] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "forwarded",
    "host",
    "location",
    "origin",
    "range",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "vary",
    "www-authenticate",
    "x-real-ip",
    "x-request-id",
    "via",
];

const ESSENTIAL_PREFIXES: [&str; 3] = ["x-forwarded-", "access-control-", "sec-"];

/// Two `Content-Length` fields that say different things: the message could be read two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("content lengths disagree")]
pub(super) struct AmbiguousLength;

fn kind(name: &HeaderName) -> u16 {
    match name.as_str() {
        "connection" => CONNECTION,
        "keep-alive" => KEEP_ALIVE,
        "proxy-connection" => PROXY_CONNECTION,
        "proxy-authorization" | "proxy-authenticate" | "proxy-authentication-info" => PROXY_CREDENTIALS,
        "te" => TE,
        "transfer-encoding" => TRANSFER_ENCODING,
        "upgrade" => UPGRADE,
        "expect" => EXPECT,
        "http2-settings" => HTTP2_SETTINGS,
        _ => 0,
    }
}

fn scan(headers: &HeaderMap) -> u16 {
    headers.keys().fold(0, |found, name| found | kind(name))
}

/// Makes a request's headers fit for the next hop.
///
/// `Expect` goes, too: our own server sends `100 Continue` as soon as the body is asked for, which
/// happens when the upstream is there to take it. Of `TE` only `trailers` stays, because trailers
/// are relayed. Several `Cookie` fields, as HTTP/2 has them, become one (RFC 9113, section 8.2.3).
pub(super) fn clean_request(headers: &mut HeaderMap, protected: &[SmolStr]) -> Result<(), AmbiguousLength> {
    let found = scan(headers);
    if found != 0 {
        let trailers = found & TE != 0 && accepts_trailers(headers);
        remove(headers, found, protected);
        if found & EXPECT != 0 {
            headers.remove(header::EXPECT);
        }
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    if headers.len() != headers.keys_len() {
        one_length(headers)?;
        join_cookies(headers);
    }
    Ok(())
}

/// Makes a response's headers fit for the client.
pub(super) fn clean_response(headers: &mut HeaderMap, protected: &[SmolStr]) -> Result<(), AmbiguousLength> {
    let found = scan(headers);
    if found != 0 {
        remove(headers, found, protected);
    }
    if headers.len() != headers.keys_len() {
        one_length(headers)?;
    }
    Ok(())
}

fn remove(headers: &mut HeaderMap, found: u16, protected: &[SmolStr]) {
    if found & CONNECTION != 0 {
        let fields: Vec<HeaderValue> = match headers.entry(header::CONNECTION) {
            header::Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
            header::Entry::Vacant(_) => Vec::new(),
        };
        for name in fields.iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b',')) {
            let name = name.trim_ascii();
            if !is_protected(name, protected)
                && let Ok(name) = HeaderName::from_bytes(name)
            {
                headers.remove(name);
            }
        }
    }
    if found & KEEP_ALIVE != 0 {
        headers.remove("keep-alive");
    }
    if found & PROXY_CONNECTION != 0 {
        headers.remove("proxy-connection");
    }
    if found & PROXY_CREDENTIALS != 0 {
        headers.remove(header::PROXY_AUTHORIZATION);
        headers.remove(header::PROXY_AUTHENTICATE);
        headers.remove("proxy-authentication-info");
    }
    if found & TE != 0 {
        headers.remove(header::TE);
    }
    if found & TRANSFER_ENCODING != 0 {
        // The body was framed by it, so that a length beside it means nothing (RFC 9112, section 6.3).
        headers.remove(header::TRANSFER_ENCODING);
        headers.remove(header::CONTENT_LENGTH);
    }
    if found & UPGRADE != 0 {
        headers.remove(header::UPGRADE);
    }
    if found & HTTP2_SETTINGS != 0 {
        headers.remove("http2-settings");
    }
}

fn is_protected(name: &[u8], protected: &[SmolStr]) -> bool {
    // Upstreams that speak CGI read `_` and `-` as one letter.
    let same = |a: &u8, b: &u8| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    let starts = |prefix: &str| {
        name.len() >= prefix.len() && name.iter().zip(prefix.as_bytes()).all(|(a, b)| same(a, b))
    };
    ESSENTIAL.iter().any(|essential| essential.len() == name.len() && starts(essential))
        || ESSENTIAL_PREFIXES.iter().any(|prefix| starts(prefix))
        || protected.iter().any(|prefix| starts(prefix))
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .any(|field| tokens(field).any(|token| token.eq_ignore_ascii_case(b"trailers")))
}

/// The members of a comma-separated list, without their parameters.
pub(super) fn tokens(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    field
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(|member| member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii())
        .filter(|token| !token.is_empty())
}

fn one_length(headers: &mut HeaderMap) -> Result<(), AmbiguousLength> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    let mut repeated = false;
    for length in lengths {
        if length != first {
            return Err(AmbiguousLength);
        }
        repeated = true;
    }
    if repeated {
        let first = first.clone();
        headers.insert(header::CONTENT_LENGTH, first);
    }
    Ok(())
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = Vec::with_capacity(256);
    joined.extend_from_slice(first.as_bytes());
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    let joined = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined))
        .expect("valid values with \"; \" between them are a valid value");
    headers.insert(header::COOKIE, joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_for_one_hop_is_removed() {
        for (fields, kept) in [
            (&[("connection", "close"), ("x", "1")][..], &["x"][..]),
            (&[("connection", "x-secret, Keep-Alive"), ("x-secret", "1"), ("keep-alive", "timeout=5")], &[]),
            (&[("connection", "a"), ("connection", "b"), ("a", "1"), ("b", "1"), ("c", "1")], &["c"]),
            (&[("proxy-connection", "keep-alive"), ("proxy-authorization", "Basic x")], &[]),
            (&[("transfer-encoding", "chunked"), ("content-length", "5")], &[]),
            (&[("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "x")], &[]),
            (&[("expect", "100-continue"), ("content-length", "5")], &["content-length"]),
            (&[("te", "gzip, Trailers;q=0.5")], &["te"]),
            (&[("te", "gzip")], &[]),
            (&[("te", "trailers"), ("connection", "te")], &["te"]),
            (&[("trailer", "x-sum"), ("connection", "trailer")], &["trailer"]),
        ] {
            let mut map = headers(fields);
            clean_request(&mut map, &[]).expect("unambiguous");
            assert_eq!(names(&map), kept, "{fields:?}");
        }
    }

    #[test]
    fn essential_and_identity_headers_cannot_be_nominated_away() {
        let fields = [
            ("authorization", "x"),
            (
                "connection",
                "Host, authorization,cookie, X-Auth-User, x_forwarded_for, content-length, nonsense ",
            ),
            ("content-length", "3"),
            ("cookie", "a=b"),
            ("host", "example"),
            ("nonsense", "x"),
            ("x-auth-user", "alice"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        let mut map = headers(&fields);
        clean_request(&mut map, &[SmolStr::new("x-auth-")]).expect("unambiguous");
        let kept = ["authorization", "content-length", "cookie", "host", "x-auth-user", "x-forwarded-for"];
        assert_eq!(names(&map), kept);
    }

    #[test]
    fn malformed_nominations_are_ignored() {
        let mut map = headers(&[("connection", ",, ,close; ,\u{7f}".trim_end_matches('\u{7f}')), ("x", "1")]);
        clean_request(&mut map, &[]).expect("unambiguous");
        assert_eq!(names(&map), ["x"]);
    }

    #[test]
    fn cookie_crumbs_become_one_cookie() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        clean_request(&mut map, &[]).expect("unambiguous");
        let cookies: Vec<_> = map.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn repeated_lengths_become_one_or_are_refused() {
        let mut map = headers(&[("content-length", "5"), ("content-length", "5")]);
        clean_request(&mut map, &[]).expect("they agree");
        assert_eq!(map.len(), 1);
        let mut map = headers(&[("content-length", "5"), ("content-length", "6")]);
        assert_eq!(clean_request(&mut map, &[]), Err(AmbiguousLength));
    }

    #[test]
    fn a_response_keeps_its_trailer_announcement_and_cookies() {
        let mut map = headers(&[
            ("connection", "close, set-cookie"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("content-length", "12"),
            ("proxy-authenticate", "Basic"),
        ]);
        clean_response(&mut map, &[]).expect("unambiguous");
        assert_eq!(names(&map), ["set-cookie", "trailer"]);
        assert_eq!(map.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn a_clean_message_is_untouched() {
        let map = headers(&[("host", "a"), ("accept", "*/*"), ("user-agent", "x")]);
        let mut cleaned = map.clone();
        clean_request(&mut cleaned, &[]).expect("unambiguous");
        assert_eq!(cleaned, map);
    }
}
