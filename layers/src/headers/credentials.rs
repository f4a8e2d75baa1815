//! Credentials that are for us and not for the upstream. Pure.

use http::HeaderMap;
use http::HeaderValue;
use http::header::{AUTHORIZATION, COOKIE};
use smol_str::SmolStr;

use crate::cookies::{self, pairs};

/// What is kept from the upstream. Nothing by default; on a protected host it should be the token
/// and our own cookies, for a token that an upstream sees it could use elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The `Authorization` header.
    pub authorization: bool,
    /// Cookies of these names.
    pub cookies: Vec<SmolStr>,
    /// Cookies whose names start so. All others stay.
    pub cookie_prefixes: Vec<SmolStr>,
}

impl Credentials {
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        if self.authorization {
            headers.remove(AUTHORIZATION);
        }
        if !headers.get_all(COOKIE).iter().any(|value| self.is_in(value)) {
            return;
        }
        let kept: Vec<HeaderValue> =
            headers.get_all(COOKIE).iter().filter_map(|value| self.rest(value)).collect();
        headers.remove(COOKIE);
        for value in kept {
            headers.append(COOKIE, value);
        }
    }

    fn is_in(&self, value: &HeaderValue) -> bool {
        pairs(value).any(|pair| self.is_ours(pair))
    }

    /// The value without our cookies, if anything remains.
    fn rest(&self, value: &HeaderValue) -> Option<HeaderValue> {
        if !self.is_in(value) {
            return Some(value.clone());
        }
        let kept: Vec<&[u8]> = pairs(value).filter(|pair| !self.is_ours(pair)).collect();
        if kept.is_empty() { None } else { HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok() }
    }

    fn is_ours(&self, pair: &[u8]) -> bool {
        let name = cookies::name(pair);
        self.cookies.iter().any(|ours| ours.as_bytes() == name)
            || self.cookie_prefixes.iter().any(|ours| name.starts_with(ours.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_cookies_are_taken_away() {
        let credentials = Credentials {
            authorization: true,
            cookies: vec!["sid".into(), "__Host-x".into()],
            cookie_prefixes: vec!["__Host-gate-".into()],
        };
        for (before, after) in [
            (&["a=1; b=2"][..], &["a=1; b=2"][..]),
            (&["a=1;sid=s; b=2"], &["a=1; b=2"]),
            (&["sid=s"], &[]),
            (&["sid=s; __Host-x=y", "a=sid=1"], &["a=sid=1"]),
            (&["sidecar=1; SID=2; asid=3"], &["sidecar=1; SID=2; asid=3"]),
            (&["  sid =s;;a=1"], &["a=1"]),
            (&["sid"], &[]),
            (&["__Host-gate-a=1; __Host-gate-b.c=2; __Host-gate=3"], &["__Host-gate=3"]),
            (&["__host-gate-a=1; x__Host-gate-a=1"], &["__host-gate-a=1; x__Host-gate-a=1"]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
            for value in before {
                headers.append(COOKIE, HeaderValue::from_static(value));
            }
            credentials.strip(&mut headers);
            assert!(!headers.contains_key(AUTHORIZATION));
            assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), after, "{before:?}");
        }
    }

    #[test]
    fn by_default_nothing_is_taken_away() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        Credentials::default().strip(&mut headers);
        assert!(headers.contains_key(AUTHORIZATION));
    }
}
