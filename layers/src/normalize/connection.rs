//! The `Connection` header of a request: what it nominates is taken away here, and not later. Pure.
//!
//! A forwarder removes the headers that `Connection` nominates (RFC 9110, section 7.6.1). If a client's
//! nominations lived that long, `Connection: x-auth-user` would remove the header that we set ourselves.

use http::header::{CONNECTION, HeaderMap};
use http::{HeaderName, HeaderValue};

/// Options that concern the connection and name no header of the application.
const OPTIONS: [&str; 8] = [
    "close",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "transfer-encoding",
    "http2-settings",
    "proxy-connection",
];

/// Headers that a request would mean something else without, and that no sender may nominate
/// (RFC 9110, section 7.6.1 on fields intended for all recipients).
const END_TO_END: [&str; 9] = [
    "host",
    "authorization",
    "cookie",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "expect",
    "origin",
];

/// Removes nominated headers and leaves only connection options in `Connection`.
pub(super) fn settle(headers: &mut HeaderMap) {
    if headers.get_all(CONNECTION).iter().all(|value| tokens(value).all(is_option)) {
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for token in values.iter().flat_map(tokens) {
        if is_option(token) {
            if let Ok(value) = HeaderValue::from_bytes(token) {
                headers.append(CONNECTION, value);
            }
        } else if let Ok(name) = HeaderName::from_bytes(token)
            && !END_TO_END.contains(&name.as_str())
        {
            headers.remove(name);
        }
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn is_option(token: &[u8]) -> bool {
    OPTIONS.iter().any(|option| token.eq_ignore_ascii_case(option.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn nominations_are_carried_out_at_once_and_forgotten() {
        for (before, after) in [
            (&[("connection", "keep-alive, Upgrade")][..], &[("connection", "keep-alive, Upgrade")][..]),
            (
                &[("connection", "close, x-hop"), ("x-hop", "1"), ("x-end", "2")],
                &[("x-end", "2"), ("connection", "close")],
            ),
            (&[("connection", "X-Auth-User")], &[]),
            (&[("connection", "host, authorization,content-length"), ("host", "a")], &[("host", "a")]),
            (&[("connection", "close"), ("connection", ",x-a, ,"), ("x-a", "1")], &[("connection", "close")]),
            (&[("connection", "no token")], &[]),
        ] {
            let mut headers = map(before);
            settle(&mut headers);
            assert_eq!(headers, map(after), "{before:?}");
        }
    }
}
