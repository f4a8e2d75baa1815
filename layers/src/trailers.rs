//! What must not come behind a body. Pure.

use http::{HeaderMap, HeaderName};

/// Fields that say how to frame, route, authorise, read or answer a message (RFC 9110, section 6.5.1):
/// whoever merges trailers into headers would believe them too late, after others have decided.
const FORBIDDEN: [&str; 41] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
];

/// Removes the fields that may stand in headers only, and tells how many names that were.
///
/// What tells who a client is, is no concern of this function: in requests `normalize::Firewall` removes it.
pub fn strip(trailers: &mut HeaderMap) -> usize {
    let found: Vec<HeaderName> =
        trailers.keys().filter(|name| FORBIDDEN.binary_search(&name.as_str()).is_ok()).cloned().collect();
    for name in &found {
        trailers.remove(name);
    }
    found.len()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_list_is_sorted_for_the_search() {
        assert!(FORBIDDEN.is_sorted());
    }

    #[test]
    fn framing_is_removed_and_the_rest_stays() {
        let mut trailers = HeaderMap::new();
        for name in ["content-length", "transfer-encoding", "set-cookie", "x-sum", "grpc-status", "etag"] {
            trailers.append(name, HeaderValue::from_static("1"));
            trailers.append(name, HeaderValue::from_static("2"));
        }
        assert_eq!(strip(&mut trailers), 3);
        let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["etag", "grpc-status", "x-sum"]);
        assert_eq!(strip(&mut trailers), 0);
    }
}
