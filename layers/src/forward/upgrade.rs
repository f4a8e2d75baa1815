//! Which requests ask for a tunnel, and how the two sides' handshakes translate. No I/O.
//!
//! Two kinds are understood: an upgrade of an HTTP/1.1 connection (RFC 9110, section 7.8) to any
//! protocol but another HTTP, and a WebSocket over one stream of HTTP/2 (RFC 8441), which becomes
//! an HTTP/1.1 upgrade towards the upstream. Everything else that says `Upgrade` is forwarded as
//! the plain request that it also is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use super::hop::tokens;

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request for a tunnel.
pub(super) struct Handshake {
    protocol: HeaderValue,
    /// Of a WebSocket over HTTP/2: the key that we made up for the upstream.
    key: Option<HeaderValue>,
    pub(super) client: OnUpgrade,
}

/// Why a request for a tunnel is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("CONNECT without a protocol")]
    Connect,
    #[error("CONNECT with a protocol that is not websocket")]
    Protocol,
}

/// Why an upstream's answer to a handshake is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUpgrade {
    /// 101 to a request that asked for nothing.
    #[error("it switched protocols without having been asked")]
    Unasked,
    /// 101 with an `Upgrade` that was not asked for.
    #[error("it switched to another protocol than was asked for")]
    Protocol,
    /// A WebSocket handshake without the proof of RFC 6455, section 4.2.2.
    #[error("its Sec-WebSocket-Accept does not match")]
    Accept,
    /// 2xx to a handshake that came over HTTP/2, where it would mean success.
    #[error("it answered a handshake as if it were a plain request")]
    NotSwitched,
}

impl Handshake {
    /// Takes the handshake out of a request, which is made the one that goes to the upstream.
    /// Call before the hop-by-hop headers are removed, and [`apply`](Self::apply) after.
    pub(super) fn take(parts: &mut Parts) -> Result<Option<Self>, Refused> {
        if parts.method == Method::CONNECT {
            return Self::take_connect(parts).map(Some);
        }
        if !parts.headers.contains_key(header::UPGRADE) || !asks_properly(parts) {
            return Ok(None);
        }
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        Ok(parts.extensions.remove::<OnUpgrade>().zip(protocol).map(|(client, protocol)| Self {
            protocol,
            key: None,
            client,
        }))
    }

    fn take_connect(parts: &mut Parts) -> Result<Self, Refused> {
        let protocol = parts.extensions.remove::<hyper::ext::Protocol>().ok_or(Refused::Connect)?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Err(Refused::Protocol);
        }
        let client = parts.extensions.remove::<OnUpgrade>().ok_or(Refused::Connect)?;
        parts.method = Method::GET;
        parts.headers.remove(header::CONTENT_LENGTH);
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).expect("the system has randomness");
        let key = HeaderValue::try_from(STANDARD.encode(nonce)).expect("base64 is a valid value");
        Ok(Self { protocol: HeaderValue::from_static("websocket"), key: Some(key), client })
    }

    /// Writes the handshake into the headers that go to the upstream.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        headers.remove(header::TE);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
        if let Some(key) = &self.key {
            headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
            if !headers.contains_key(header::SEC_WEBSOCKET_VERSION) {
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
        }
    }

    /// Whether the upstream's 101 is the answer to this handshake.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), BadUpgrade> {
        let switched = headers
            .get_all(header::UPGRADE)
            .iter()
            .any(|field| tokens(field).any(|token| token.eq_ignore_ascii_case(self.protocol.as_bytes())));
        if !switched {
            return Err(BadUpgrade::Protocol);
        }
        match &self.key {
            Some(key) if headers.get(header::SEC_WEBSOCKET_ACCEPT).is_none_or(|got| *got != *accept(key)) => {
                Err(BadUpgrade::Accept)
            }
            _ => Ok(()),
        }
    }

    /// What the client is told after a good 101, whose own hop-by-hop headers are gone already.
    pub(super) fn answer(&self, headers: &mut HeaderMap) -> StatusCode {
        headers.remove(header::CONTENT_LENGTH);
        if self.key.is_some() {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            return StatusCode::OK;
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
        StatusCode::SWITCHING_PROTOCOLS
    }

    /// Whether an answer other than 101 may be relayed. Over HTTP/2 success would open a tunnel.
    pub(super) fn check_refusal(&self, status: StatusCode) -> Result<(), BadUpgrade> {
        if self.key.is_some() && status.is_success() { Err(BadUpgrade::NotSwitched) } else { Ok(()) }
    }
}

/// A GET over HTTP/1.1 without a body, that says `Connection: upgrade` and names one protocol.
/// Never another HTTP: behind `h2c` requests would pass that no layer has seen.
fn asks_properly(parts: &Parts) -> bool {
    let mut protocols = parts.headers.get_all(header::UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return false };
    let protocol = protocol.as_bytes();
    let is_token = !protocol.is_empty()
        && protocol.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(byte));
    let starts =
        |prefix: &[u8]| protocol.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let connection = parts
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|field| tokens(field).any(|token| token.eq_ignore_ascii_case(b"upgrade")));
    let no_body = !parts.headers.contains_key(header::TRANSFER_ENCODING)
        && parts.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && is_token
        && !(starts(b"h2") || starts(b"http") || starts(b"tls"))
        && connection
        && no_body
}

fn accept(key: &HeaderValue) -> String {
    let mut proof = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    proof.update(key.as_bytes());
    proof.update(GUID);
    STANDARD.encode(proof.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, version: Version, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = http::Request::builder().method(method).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("valid").into_parts().0
    }

    #[test]
    fn only_a_proper_handshake_is_one() {
        const GOOD: [(&str, &str); 2] = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        for (method, version, fields, expected) in [
            (Method::GET, Version::HTTP_11, &GOOD[..], true),
            (Method::GET, Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "SPDY/3.1")], true),
            (Method::POST, Version::HTTP_11, &GOOD, false),
            (Method::GET, Version::HTTP_10, &GOOD, false),
            (Method::GET, Version::HTTP_11, &[("connection", "close"), ("upgrade", "websocket")], false),
            (Method::GET, Version::HTTP_11, &[("upgrade", "websocket")], false),
            (Method::GET, Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (Method::GET, Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "HTTP/2.0")], false),
            (Method::GET, Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "TLS/1.2")], false),
            (
                Method::GET,
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
                false,
            ),
            (
                Method::GET,
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
                false,
            ),
            (Method::GET, Version::HTTP_11, &[GOOD[0], GOOD[1], ("content-length", "3")], false),
            (Method::GET, Version::HTTP_11, &[GOOD[0], GOOD[1], ("transfer-encoding", "chunked")], false),
        ] {
            let asks = asks_properly(&parts(method.clone(), version, fields));
            assert_eq!(asks, expected, "{method} {version:?} {fields:?}");
        }
    }

    #[test]
    fn connect_needs_a_protocol_that_we_know() {
        let mut plain = parts(Method::CONNECT, Version::HTTP_2, &[]);
        assert_eq!(Handshake::take(&mut plain).err(), Some(Refused::Connect));
        let mut other = parts(Method::CONNECT, Version::HTTP_2, &[]);
        other.extensions.insert(hyper::ext::Protocol::from_static("connect-udp"));
        assert_eq!(Handshake::take(&mut other).err(), Some(Refused::Protocol));
    }

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        // RFC 6455, section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
