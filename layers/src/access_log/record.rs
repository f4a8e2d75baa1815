//! One request as a record, and the record as one line of JSON.
//!
//! The encoder writes into a buffer that the caller reuses: no allocation, no formatting machinery
//! but for IPv6 addresses. Everything that a client could choose is bounded in length before it gets
//! here, and control characters are escaped, so that no record can forge another one.
//!
//! A record never holds credentials: there is no field for them, and the query is redacted when it
//! is captured (see [`redact`](super::capture::redact)).

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{Method, Version};

use crate::check::Check;
use crate::context::{ClientAddr, McpCall, Principal, RequestId, TlsInfo, Verdict};
use crate::names::HostName;

/// The longest internal cause that is kept, in bytes.
const MAX_CAUSE: usize = 1024;

/// The longest list of scopes that is kept, in bytes.
const MAX_SCOPES: usize = 1024;

/// The longest name that is kept of a call, in bytes.
const MAX_NAME: usize = 256;

/// Everything that is known of a request when its answer has ended.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When the answer ended, milliseconds since 1970. The request began `total` earlier.
    pub time: u64,
    /// Our own id of the request.
    pub id: RequestId,
    /// What the client called the request, sanitised: never trusted, only kept beside ours.
    pub client_request_id: Option<&'a str>,
    /// Whom we believe to be the client.
    pub client: Option<ClientAddr>,
    /// The other end of the socket.
    pub peer: Option<SocketAddr>,
    /// The host that was asked for.
    pub host: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The path as it came in, bounded.
    pub path: &'a str,
    /// The query, redacted and bounded.
    pub query: Option<&'a str>,
    /// The version of HTTP between the client and us.
    pub version: Version,
    /// `None` on a plain connection.
    pub tls: Option<&'a TlsInfo>,
    /// The status of the answer; 499 when the client left before there was one.
    pub status: u16,
    /// The code of the rejection that was answered in the upstream's place.
    pub code: Option<&'a str>,
    /// Why, for the log only.
    pub cause: Option<&'a str>,
    /// The check of who asks that has failed.
    pub check: Option<Check>,
    /// The host that a question about another one's request was about.
    pub about: Option<&'a str>,
    /// The route that matched.
    pub route: Option<&'a str>,
    /// Who asked.
    pub principal: Option<&'a Principal>,
    /// The upstream that was asked, the last one of several.
    pub upstream: Option<&'a str>,
    /// How many were asked, where it was more than one.
    pub attempts: Option<u32>,
    /// From the call of the upstream until its response head.
    pub upstream_time: Option<Duration>,
    /// From the arrival of the request until the response head was handed to the server.
    pub first_byte: Option<Duration>,
    /// From the arrival of the request until the answer ended.
    pub total: Duration,
    /// Bytes of the request body, or those that a tunnel took from the client.
    pub received: u64,
    /// Bytes of the response body, or those that a tunnel gave to the client.
    pub sent: u64,
    /// `User-Agent`, bounded.
    pub user_agent: Option<&'a str>,
    /// `Referer`, redacted and bounded.
    pub referer: Option<&'a str>,
    /// The client left before it had the whole answer.
    pub client_gone: bool,
    /// The answer broke off because its body failed.
    pub body_failed: bool,
    /// The connection became a tunnel; times and bytes are those of the tunnel.
    pub tunnel: bool,
    /// The call of an MCP server that the request is, where that is known.
    pub call: Option<&'a McpCall>,
}

impl Record<'_> {
    /// Appends the record as one compact JSON object, without a line end.
    ///
    /// Absent values are left out. `tls_sni` is left out, too, where it is the host, and `peer_ip`
    /// where it is the client's.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"timestamp\":");
        decimal(out, self.time);
        out.extend_from_slice(b",\"trace_id\":\"");
        out.extend_from_slice(&self.id.digits());
        out.push(b'"');
        text(out, b",\"client_request_id\":\"", self.client_request_id);
        self.encode_addresses(out);
        text(out, b",\"proxy_hostname\":\"", self.host);
        text(out, b",\"request_method\":\"", Some(self.method.as_str()));
        text(out, b",\"request_path\":\"", Some(self.path));
        text(out, b",\"request_query\":\"", self.query);
        text(out, b",\"http_version\":\"", Some(version(self.version)));
        if let Some(tls) = self.tls {
            text(out, b",\"tls_version\":\"", Some(tls.version));
            let sni = tls.sni.as_ref().map(HostName::as_str);
            text(out, b",\"tls_sni\":\"", sni.filter(|name| Some(*name) != self.host));
        }
        out.extend_from_slice(b",\"status_code\":");
        decimal(out, u64::from(self.status));
        milliseconds(out, b",\"response_time_ms\":", Some(self.total));
        milliseconds(out, b",\"first_byte_ms\":", self.first_byte);
        milliseconds(out, b",\"upstream_ms\":", self.upstream_time);
        out.extend_from_slice(b",\"bytes_sent\":");
        decimal(out, self.sent);
        out.extend_from_slice(b",\"bytes_received\":");
        decimal(out, self.received);
        text(out, b",\"route_id\":\"", self.route);
        text(out, b",\"backend_url\":\"", self.upstream);
        if let Some(attempts) = self.attempts {
            out.extend_from_slice(b",\"upstream_attempts\":");
            decimal(out, u64::from(attempts));
        }
        text(out, b",\"error_type\":\"", self.code);
        text(out, b",\"error\":\"", self.cause.map(|cause| truncated(cause, MAX_CAUSE)));
        text(out, b",\"auth_check\":\"", self.check.map(Check::as_str));
        text(out, b",\"auth_hostname\":\"", self.about);
        if let Some(principal) = self.principal {
            encode_principal(out, principal);
        }
        text(out, b",\"user_agent\":\"", self.user_agent);
        text(out, b",\"referer\":\"", self.referer);
        flag(out, b",\"client_gone\":true", self.client_gone);
        flag(out, b",\"body_failed\":true", self.body_failed);
        flag(out, b",\"tunnel\":true", self.tunnel);
        if let Some(call) = self.call {
            encode_call(out, call);
        }
        out.push(b'}');
    }

    fn encode_addresses(&self, out: &mut Vec<u8>) {
        if let Some(client) = self.client {
            out.extend_from_slice(b",\"client_ip\":\"");
            address(out, client.ip());
            out.extend_from_slice(b"\",\"client_port\":");
            decimal(out, u64::from(client.0.port()));
        }
        let peer = self.peer.map(|peer| peer.ip().to_canonical());
        if let Some(peer) = peer.filter(|peer| Some(*peer) != self.client.map(|client| client.ip())) {
            out.extend_from_slice(b",\"peer_ip\":\"");
            address(out, peer);
            out.push(b'"');
        }
    }
}

fn encode_principal(out: &mut Vec<u8>, principal: &Principal) {
    text(out, b",\"auth_user\":\"", Some(&principal.full_name()));
    text(out, b",\"auth_subject\":\"", Some(&principal.full_subject()));
    text(out, b",\"auth_email\":\"", principal.email.as_deref());
    text(out, b",\"auth_client_id\":\"", principal.client_id.as_deref());
    if principal.scopes.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"auth_scopes\":\"");
    let mut room = MAX_SCOPES;
    for (index, scope) in principal.scopes.iter().enumerate() {
        let Some(left) = room.checked_sub(scope.len() + 1) else { break };
        room = left;
        if index > 0 {
            out.push(b' ');
        }
        escape(out, scope);
    }
    out.push(b'"');
}

/// What a call was, what was decided, and how it went.
pub(crate) fn encode_call(out: &mut Vec<u8>, call: &McpCall) {
    text(out, b",\"traceparent\":\"", call.trace.as_deref());
    text(out, b",\"mcp_session\":\"", call.session.as_deref());
    text(out, b",\"mcp_protocol\":\"", short(call.protocol.as_deref()));
    text(out, b",\"mcp_method\":\"", short(Some(&call.method)).filter(|method| !method.is_empty()));
    text(out, b",\"mcp_name\":\"", short(call.name.as_deref()));
    text(out, b",\"mcp_call_id\":\"", short(call.id.as_deref()));
    text(out, b",\"decision\":\"", Some(call.verdict.as_str()));
    text(out, b",\"rule\":\"", short(call.rule.as_deref()));
    if let Some(code) = call.outcome.error {
        out.extend_from_slice(b",\"rpc_error\":");
        if code < 0 {
            out.push(b'-');
        }
        decimal(out, code.unsigned_abs());
    }
    flag(out, b",\"is_error\":true", call.outcome.is_error);
    flag(out, b",\"unanswered\":true", call.verdict == Verdict::Allow && !call.outcome.answered);
}

/// As much of a name as a record of a call holds.
pub(crate) fn short(name: Option<&str>) -> Option<&str> {
    name.map(|name| truncated(name, MAX_NAME))
}

/// Cuts a text to at most `max` bytes, at the border of a character.
pub(super) fn truncated(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

fn flag<const N: usize>(out: &mut Vec<u8>, json: &[u8; N], set: bool) {
    if set {
        out.extend_from_slice(json);
    }
}

/// A function of its own: it is called for each of many fields, and what all of them share stays in the cache.
#[inline(never)]
pub(crate) fn text(out: &mut Vec<u8>, key: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        escape(out, value);
        out.push(b'"');
    }
}

/// Milliseconds with three digits behind the point: microseconds.
pub(crate) fn milliseconds<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], value: Option<Duration>) {
    let Some(value) = value else { return };
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(key);
    decimal(out, micros / 1000);
    let rest = micros % 1000;
    out.extend([b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

const fn digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

/// The decimal digits of 0 to 99, two each.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut value = 0;
    while value < 100 {
        pairs[value * 2] = digit(value as u64 / 10);
        pairs[value * 2 + 1] = digit(value as u64);
        value += 1;
    }
    pairs
};

pub(crate) fn decimal(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        return out.push(digit(value));
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    while value >= 10 {
        let pair = (value % 100) as usize * 2;
        value /= 100;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if value > 0 {
        at -= 1;
        digits[at] = digit(value);
    }
    out.extend_from_slice(&digits[at..]);
}

pub(crate) fn address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(ip) => write!(out, "{ip}").expect("a vector takes every byte"),
    }
}

/// What a byte needs inside a JSON string (RFC 8259, section 7).
const PLAIN: u8 = 0;
const SHORT: u8 = 1;
const CONTROL: u8 = 2;
/// The lead byte of U+0080 to U+00BF, of which the first half are control characters as well.
const LEAD_C2: u8 = 3;

const ESCAPES: [u8; 256] = {
    let mut table = [PLAIN; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = CONTROL;
        byte += 1;
    }
    table[0x7f] = CONTROL;
    table[b'"' as usize] = SHORT;
    table[b'\\' as usize] = SHORT;
    table[0xc2] = LEAD_C2;
    table
};

/// Appends a text as the inside of a JSON string. All control characters are escaped, also those
/// that JSON would let pass (DEL and U+0080 to U+009F): a terminal may obey them.
pub fn escape(out: &mut Vec<u8>, value: &str) {
    let bytes = value.as_bytes();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        // Blanks behind the end change nothing.
        let eight = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut eight = [b' '; 8];
            eight[..rest.len()].copy_from_slice(rest);
            eight
        });
        if are_plain(u64::from_ne_bytes(eight)) {
            at += 8;
            continue;
        }
        let byte = rest[0];
        match ESCAPES[usize::from(byte)] {
            PLAIN => {}
            SHORT => {
                out.extend_from_slice(&bytes[copied..at]);
                out.extend([b'\\', byte]);
                copied = at + 1;
            }
            CONTROL => {
                out.extend_from_slice(&bytes[copied..at]);
                unicode_escape(out, byte);
                copied = at + 1;
            }
            // The continuation byte of U+0080 to U+00BF is the code point itself.
            _ => {
                let next = bytes[at + 1];
                if next < 0xa0 {
                    out.extend_from_slice(&bytes[copied..at]);
                    unicode_escape(out, next);
                    copied = at + 2;
                }
                at += 1;
            }
        }
        at += 1;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Whether eight bytes, seen as one number, are all printable ASCII that JSON leaves alone. Each
/// byte is compared within its own eight bits; the highest of them tells.
const fn are_plain(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    // With this bit turned over a quote comes right behind the control characters.
    let controls_and_quote = (eight ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    let delete = (eight ^ (ONES * 0x7f)).wrapping_sub(ONES);
    (eight | controls_and_quote | backslash | delete) & (ONES * 0x80) == 0
}

fn unicode_escape(out: &mut Vec<u8>, code: u8) {
    match code {
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => write!(out, "\\u{code:04x}").expect("a vector takes every byte"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::context::CertNames;

    pub(in super::super) fn plain() -> Record<'static> {
        Record {
            time: 1_700_000_000_123,
            id: RequestId(1, 0xab),
            client_request_id: None,
            client: None,
            peer: None,
            host: Some("app.example.com"),
            method: &Method::GET,
            path: "/",
            query: None,
            version: Version::HTTP_11,
            tls: None,
            status: 200,
            code: None,
            cause: None,
            check: None,
            about: None,
            route: None,
            principal: None,
            upstream: None,
            attempts: None,
            upstream_time: None,
            first_byte: None,
            total: Duration::from_micros(1_234_005),
            received: 0,
            sent: 17,
            user_agent: None,
            referer: None,
            client_gone: false,
            body_failed: false,
            tunnel: false,
            call: None,
        }
    }

    fn encoded(record: &Record<'_>) -> Value {
        let mut out = Vec::new();
        record.encode(&mut out);
        serde_json::from_slice(&out).expect("a record is valid JSON")
    }

    #[test]
    fn absent_values_are_left_out() {
        assert_eq!(
            encoded(&plain()),
            json!({
                "timestamp": 1_700_000_000_123u64,
                "trace_id": "000000000000000100000000000000ab",
                "proxy_hostname": "app.example.com",
                "request_method": "GET",
                "request_path": "/",
                "http_version": "1.1",
                "status_code": 200,
                "response_time_ms": 1234.005,
                "bytes_sent": 17,
                "bytes_received": 0,
            })
        );
    }

    #[test]
    fn all_that_is_known_is_written() {
        let principal = Principal {
            subject: "4711".into(),
            username: Some("alice".into()),
            email: Some("alice@example.com".into()),
            scopes: vec!["user".into(), "mcp".into()],
            client_id: Some("cli".into()),
            ..Principal::default()
        };
        let tls = TlsInfo {
            version: "TLSv1.3",
            sni: Some("other.example.com".parse().unwrap()),
            alpn: None,
            names: CertNames(Arc::new([])),
        };
        let value = encoded(&Record {
            client_request_id: Some("abc"),
            client: Some(ClientAddr("[2001:db8::1]:40000".parse().unwrap())),
            peer: Some("[::ffff:10.0.0.255]:2".parse().unwrap()),
            query: Some("a=1"),
            version: Version::HTTP_2,
            tls: Some(&tls),
            status: 403,
            code: Some("insufficient_scope"),
            cause: Some("no \"admin\""),
            check: Some(Check::Scope),
            about: Some("guarded.example.com"),
            route: Some("api"),
            principal: Some(&principal),
            upstream: Some("http://10.0.0.9:80"),
            attempts: Some(2),
            upstream_time: Some(Duration::from_micros(7)),
            first_byte: Some(Duration::from_millis(20)),
            user_agent: Some("curl/8"),
            referer: Some("https://example.com/"),
            client_gone: true,
            body_failed: true,
            tunnel: true,
            ..plain()
        });
        for (field, expected) in [
            ("client_request_id", json!("abc")),
            ("client_ip", json!("2001:db8::1")),
            ("client_port", json!(40000)),
            ("peer_ip", json!("10.0.0.255")),
            ("request_query", json!("a=1")),
            ("http_version", json!("2")),
            ("tls_version", json!("TLSv1.3")),
            ("tls_sni", json!("other.example.com")),
            ("status_code", json!(403)),
            ("error_type", json!("insufficient_scope")),
            ("error", json!("no \"admin\"")),
            ("auth_check", json!("scope_check")),
            ("auth_hostname", json!("guarded.example.com")),
            ("route_id", json!("api")),
            ("backend_url", json!("http://10.0.0.9:80")),
            ("upstream_attempts", json!(2)),
            ("upstream_ms", json!(0.007)),
            ("first_byte_ms", json!(20.0)),
            ("auth_user", json!("alice")),
            ("auth_subject", json!("4711")),
            ("auth_email", json!("alice@example.com")),
            ("auth_client_id", json!("cli")),
            ("auth_scopes", json!("user mcp")),
            ("user_agent", json!("curl/8")),
            ("referer", json!("https://example.com/")),
            ("client_gone", json!(true)),
            ("body_failed", json!(true)),
            ("tunnel", json!(true)),
        ] {
            assert_eq!(value[field], expected, "{field}");
        }
    }

    #[test]
    fn no_text_can_forge_a_record() {
        let nasty = "a\"b\\c\n{\"status_code\":200}\r\u{0}\u{1b}[31m\u{7f}\u{9b}\u{a0}é\u{10ffff}";
        let mut out = Vec::new();
        Record { path: nasty, ..plain() }.encode(&mut out);
        assert!(!out.iter().any(u8::is_ascii_control), "{out:?}");
        let text = std::str::from_utf8(&out).expect("UTF-8");
        assert!(!text.chars().any(char::is_control), "{text}");
        let value: Value = serde_json::from_str(text).expect("valid JSON");
        assert_eq!(value["request_path"], nasty);
    }

    #[test]
    fn every_byte_is_escaped_wherever_it_stands() {
        for code in 0..=0x17f {
            let char = char::from_u32(code).expect("no surrogate");
            for place in 0..20 {
                let text: String = (0..20).map(|at| if at == place { char } else { 'x' }).collect();
                let mut out = vec![b'"'];
                escape(&mut out, &text);
                out.push(b'"');
                let json = std::str::from_utf8(&out).expect("UTF-8");
                assert!(!json.chars().any(char::is_control), "{code:x}");
                assert_eq!(serde_json::from_str::<String>(json).expect("valid JSON"), text, "{code:x}");
            }
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let principal = Principal {
            scopes: (0..1000).map(|n| format!("scope:{n}").into()).collect(),
            ..Principal::default()
        };
        let value = encoded(&Record { principal: Some(&principal), ..plain() });
        let scopes = value["auth_scopes"].as_str().unwrap();
        assert!(scopes.starts_with("scope:0 scope:1 ") && scopes.len() <= MAX_SCOPES, "{}", scopes.len());
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in (0..2000).chain([9999, 10_000, 123_456, 1_000_000, u64::MAX]) {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
