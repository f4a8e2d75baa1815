//! The identity firewall: headers by which others would believe what only we may say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName};

use crate::header_prefix::{HeaderPrefix, fold};

/// Names that start so say who the client is, how it came, or what it asked for before somebody rewrote it.
const PREFIXES: [&str; 4] = ["x-forwarded", "x-original-", "x-ssl-client-", "ssl-client-"];

/// Single names of that kind. `Proxy` becomes `HTTP_PROXY` in CGI (httpoxy); `Client-Cert` and its
/// chain are of RFC 9440, which demands just this.
const NAMES: [&str; 25] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "proxy",
    "remote-addr",
    "remote-user",
    "true-client-ip",
    "x-azure-clientip",
    "x-client-cert",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-internal-request",
    "x-originating-ip",
    "x-proxied-request",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-remote-user",
    "x-rewrite-url",
];

/// How many headers were removed since the start.
#[derive(Debug, Default)]
pub struct Dropped {
    underscored: AtomicU64,
    spoofed: AtomicU64,
}

impl Dropped {
    /// Headers with `_` in their name, which applications can't tell from `-`.
    pub fn underscored(&self) -> u64 {
        self.underscored.load(Ordering::Relaxed)
    }

    /// Identity and forwarding headers from outside.
    pub fn spoofed(&self) -> u64 {
        self.spoofed.load(Ordering::Relaxed)
    }
}

/// Removes identity and forwarding headers in every spelling, and every header with `_` in its name.
///
/// Removed are names that start with one of the prefixes, `X-Forwarded…`, `X-Original-…` or a TLS
/// client's `SSL-Client-…`, `Forwarded`, `X-Real-IP` and the other headers by which a client's address
/// or identity is told, `Proxy`, and what the settings add. Trailers need it as much as headers do.
#[derive(Debug, Clone)]
pub struct Firewall {
    prefixes: Box<[HeaderPrefix]>,
    names: Box<[HeaderName]>,
    dropped: Arc<Dropped>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Underscored,
    Spoofed,
}

impl Firewall {
    /// A firewall for these prefixes and names, beside its fixed list.
    pub fn new(prefixes: impl Into<Box<[HeaderPrefix]>>, names: impl Into<Box<[HeaderName]>>) -> Self {
        Self { prefixes: prefixes.into(), names: names.into(), dropped: Arc::default() }
    }

    /// The counters, shared by all clones.
    pub fn dropped(&self) -> Arc<Dropped> {
        self.dropped.clone()
    }

    /// Removes what is not to be believed. One scan of the names, no allocation when nothing is found.
    pub fn scrub(&self, headers: &mut HeaderMap) {
        let found: Vec<(HeaderName, Verdict)> = headers
            .keys()
            .filter_map(|name| match self.judge(name) {
                Verdict::Keep => None,
                verdict => Some((name.clone(), verdict)),
            })
            .collect();
        for (name, verdict) in found {
            headers.remove(name);
            let counter = match verdict {
                Verdict::Underscored => &self.dropped.underscored,
                Verdict::Keep | Verdict::Spoofed => &self.dropped.spoofed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn judge(&self, name: &HeaderName) -> Verdict {
        let text = name.as_str();
        let mut odd = false;
        for byte in text.bytes() {
            if byte == b'_' {
                return Verdict::Underscored;
            }
            odd |= !byte.is_ascii_alphanumeric() && byte != b'-';
        }
        let listed = if odd {
            // Rare: `x.real.ip` reaches some applications as `X_REAL_IP`.
            let folded: String = text.bytes().map(|byte| char::from(fold(byte))).collect();
            is_listed(&folded)
        } else {
            is_listed(text)
        };
        if listed || self.prefixes.iter().any(|prefix| prefix.matches(name)) || self.names.contains(name) {
            Verdict::Spoofed
        } else {
            Verdict::Keep
        }
    }
}

impl Default for Firewall {
    fn default() -> Self {
        Self::new([HeaderPrefix::default()], [])
    }
}

/// The first letter spares most headers the comparison with the list.
fn is_listed(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'p' | b'r' | b's' | b't' | b'x'))
        && (NAMES.binary_search(&name).is_ok() || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_list_is_sorted_for_the_search() {
        assert!(NAMES.is_sorted());
    }

    #[test]
    fn every_spelling_is_removed() {
        let firewall = Firewall::default();
        for name in [
            "X-Auth-User",
            "x-auth-scopes",
            "X-AUTH-EMAIL",
            "x.auth.user",
            "X-Forwarded-For",
            "x-forwarded",
            "x.forwarded.for",
            "Forwarded",
            "X-Real-IP",
            "x.real.ip",
            "X-Internal-Request",
            "X-Proxied-Request",
            "X-Original-URL",
            "X-Rewrite-URL",
            "Client-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "Proxy",
            "Remote-User",
            "SSL-Client-S-DN",
            "Client-Cert",
        ] {
            let name: HeaderName = name.parse().expect("valid");
            let mut headers = HeaderMap::new();
            headers.append(name.clone(), HeaderValue::from_static("a"));
            headers.append(name.clone(), HeaderValue::from_static("b"));
            firewall.scrub(&mut headers);
            assert!(headers.is_empty(), "{name} stayed");
        }
        assert_eq!((firewall.dropped().spoofed(), firewall.dropped().underscored()), (21, 0));
    }

    #[test]
    fn underscores_are_removed_and_counted() {
        let firewall = Firewall::default();
        let mut headers = HeaderMap::new();
        for name in ["x_auth_user", "x-auth_user", "any_thing", "content_length"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("a"));
        }
        firewall.scrub(&mut headers);
        assert!(headers.is_empty());
        assert_eq!(firewall.dropped().underscored(), 4);
    }

    #[test]
    fn what_is_innocent_stays() {
        let firewall = Firewall::new([], [HeaderName::from_static("x-method-override")]);
        let mut headers = HeaderMap::new();
        for name in [
            "host",
            "authorization",
            "cookie",
            "x-auth-user",
            "x-request-id",
            "proxy-authorization",
            "x.y",
            "te",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("a"));
        }
        let before = headers.clone();
        headers.insert("x-method-override", HeaderValue::from_static("DELETE"));
        firewall.scrub(&mut headers);
        assert_eq!(headers, before);
    }
}
