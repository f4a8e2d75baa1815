//! The cookies of a request (RFC 6265, section 4.2), read where they stand: nothing is copied. Pure.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// The pairs of one header, `name=value` each, without the blanks around them. Over HTTP/2 a request may
/// have several headers (RFC 9113, section 8.2.3).
pub fn pairs(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

/// The name of a pair, as the most generous reader would take it.
pub fn name(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or(pair).trim_ascii()
}

/// The value of the one cookie of a name. `None` when there is none, and when there are several: nobody knows
/// which of them is ours.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut found =
        headers.get_all(COOKIE).iter().flat_map(pairs).filter(|pair| self::name(pair) == name.as_bytes());
    let pair = found.next()?;
    if found.next().is_some() {
        return None;
    }
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_of_a_name_is_read() {
        for (sent, value) in [
            (&["sid=abc"][..], Some("abc")),
            (&["a=b; sid=abc;c"], Some("abc")),
            (&["a=sid=x", "sid=a=b"], Some("a=b")),
            (&["sid="], Some("")),
            (&["sid"], None),
            (&["sid =abc"], None),
            (&["SID=abc; asid=abc; sidx=abc"], None),
            (&["sid=abc; sid=abc"], None),
            (&["sid=abc", "sid =abd"], None),
            (&["sid=abc; sid"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for one in sent {
                headers.append(COOKIE, HeaderValue::from_static(one));
            }
            assert_eq!(only(&headers, "sid"), value.map(str::as_bytes), "{sent:?}");
        }
    }
}
