//! What the record needs of a request, copied out of it before it is given away.
//!
//! One allocation holds all of it: reference-counted header values would keep the connection's whole
//! read buffer alive for as long as the answer takes. Lengths are bounded here, and what looks like a
//! credential in a query is replaced before it is stored anywhere.

use http::{HeaderMap, Request, Uri};

use super::record::truncated;

const MAX_PATH: usize = 2048;
const MAX_QUERY: usize = 2048;
/// The longest name of the DNS, RFC 1035, section 2.3.4.
const MAX_HOST: usize = 255;
const MAX_USER_AGENT: usize = 512;
const MAX_REFERER: usize = 1024;
const MAX_REQUEST_ID: usize = 128;

const REDACTED: &str = "[redacted]";

/// Words that make a parameter a secret wherever they stand in its name.
const SECRET_WORDS: [&[u8]; 10] = [
    b"token",
    b"secret",
    b"password",
    b"passwd",
    b"apikey",
    b"assertion",
    b"signature",
    b"credential",
    b"jwt",
    b"samlresponse",
];

/// Names that are too short to be looked for inside others. `code`, `state` and the rest of OAuth's are among them.
const SECRET_NAMES: [&[u8]; 17] = [
    b"auth",
    b"authorization",
    b"code",
    b"codeverifier",
    b"devicecode",
    b"key",
    b"nonce",
    b"otp",
    b"pass",
    b"pwd",
    b"session",
    b"sessionid",
    b"sid",
    b"sig",
    b"state",
    b"ticket",
    b"usercode",
];

/// Parameters with a URL that a browser is sent to: its query may have secrets of its own.
const PLACE_NAMES: [&[u8]; 3] = [b"returnurl", b"redirecturi", b"postlogoutredirecturi"];

/// The texts of a request, one behind the other in one allocation.
#[derive(Debug)]
pub(super) struct Captured {
    text: String,
    // The limits above add up to less than 2^16.
    ends: [u16; 6],
}

impl Captured {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self::new(request.uri(), request.headers())
    }

    fn new(uri: &Uri, headers: &HeaderMap) -> Self {
        let seen = Seen::scan(headers);
        let path = truncated(uri.path(), MAX_PATH);
        let query = uri.query().unwrap_or_default();
        let host = uri.host().map(str::as_bytes).or(seen.host).unwrap_or_default();
        let size = path.len()
            + query.len().min(MAX_QUERY)
            + host.len().min(MAX_HOST)
            + seen.user_agent.len().min(MAX_USER_AGENT)
            + seen.referer.len().min(MAX_REFERER)
            + seen.request_id().len().min(MAX_REQUEST_ID);
        let mut text = String::with_capacity(size);
        let mut ends = [0; 6];
        text.push_str(path);
        ends[0] = mark(&text);
        redact(&mut text, query, MAX_QUERY);
        ends[1] = mark(&text);
        push_host(&mut text, host);
        ends[2] = mark(&text);
        push_bounded(&mut text, seen.user_agent, MAX_USER_AGENT);
        ends[3] = mark(&text);
        push_referer(&mut text, seen.referer);
        ends[4] = mark(&text);
        push_request_id(&mut text, seen.request_id());
        ends[5] = mark(&text);
        Self { text, ends }
    }

    pub(super) fn path(&self) -> &str {
        &self.text[..usize::from(self.ends[0])]
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.part(1)
    }

    /// The host as the client wrote it, without port: for requests that `normalize` refused.
    pub(super) fn host(&self) -> Option<&str> {
        self.part(2)
    }

    pub(super) fn user_agent(&self) -> Option<&str> {
        self.part(3)
    }

    pub(super) fn referer(&self) -> Option<&str> {
        self.part(4)
    }

    pub(super) fn request_id(&self) -> Option<&str> {
        self.part(5)
    }

    fn part(&self, index: usize) -> Option<&str> {
        let part = &self.text[usize::from(self.ends[index - 1])..usize::from(self.ends[index])];
        (!part.is_empty()).then_some(part)
    }
}

/// The headers of interest, found in one pass.
#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a [u8]>,
    user_agent: &'a [u8],
    referer: &'a [u8],
    /// In the order in which they are believed.
    request_ids: [&'a [u8]; 4],
}

impl<'a> Seen<'a> {
    fn scan(headers: &'a HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            let value = value.as_bytes();
            match name.as_str() {
                "host" => seen.host = Some(value),
                "user-agent" => seen.user_agent = value,
                "referer" => seen.referer = value,
                "x-request-id" => seen.request_ids[0] = value,
                "x-correlation-id" => seen.request_ids[1] = value,
                "x-trace-id" => seen.request_ids[2] = value,
                "traceparent" => seen.request_ids[3] = value,
                _ => {}
            }
        }
        seen
    }

    fn request_id(&self) -> &'a [u8] {
        self.request_ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default()
    }
}

fn mark(text: &str) -> u16 {
    u16::try_from(text.len()).expect("the limits add up to less than 2^16")
}

fn push_bounded(text: &mut String, bytes: &[u8], max: usize) {
    let end = text.len() + max;
    let bytes = &bytes[..bytes.len().min(max)];
    if let Ok(bytes) = std::str::from_utf8(bytes) {
        return text.push_str(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text.truncate(text.floor_char_boundary(end));
}

fn push_host(text: &mut String, host: &[u8]) {
    let begin = text.len();
    let port = host.iter().rposition(|byte| *byte == b':');
    let host = match port {
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    };
    push_bounded(text, host, MAX_HOST);
    text[begin..].make_ascii_lowercase();
}

fn push_referer(text: &mut String, referer: &[u8]) {
    if referer.is_empty() {
        return;
    }
    let Ok(referer) = std::str::from_utf8(referer) else { return };
    let end = text.len() + MAX_REFERER;
    let (place, query) = referer.split_once('?').unwrap_or((referer, ""));
    let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    // Names and passwords before an `@` are nobody's business.
    let rest = authority.rfind('@').map_or(rest, |at| &rest[at + 1..]);
    if !scheme.is_empty() {
        text.push_str(truncated(scheme, 16));
        text.push_str("://");
    }
    text.push_str(truncated(rest, MAX_REFERER));
    if !query.is_empty() {
        text.push('?');
        redact(text, query, MAX_REFERER);
    }
    text.truncate(text.floor_char_boundary(end));
}

/// Ids of clients end in other systems' logs and command lines: only harmless characters pass.
fn push_request_id(text: &mut String, id: &[u8]) {
    text.extend(id.iter().take(MAX_REQUEST_ID).map(|&byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=' | b'@' => {
            char::from(byte)
        }
        _ => '_',
    }));
}

/// Appends a query of at most `max` bytes, in which the values of parameters that look like
/// credentials are replaced. Names are compared decoded and without regard to case, `_` and `-`.
pub fn redact(text: &mut String, query: &str, max: usize) {
    if query.is_empty() {
        return;
    }
    let end = text.len() + max;
    for pair in query.split_inclusive(['&', ';']) {
        match pair.split_once('=') {
            Some((name, value)) => match kind(name) {
                Kind::Plain => text.push_str(truncated(pair, max)),
                kind => {
                    let last = value.chars().next_back().filter(|last| matches!(last, '&' | ';'));
                    let value = value.strip_suffix(['&', ';']).unwrap_or(value);
                    let kept = if kind == Kind::Place { place(value) } else { "" };
                    text.push_str(name);
                    text.push('=');
                    text.push_str(truncated(kept, max));
                    if kind == Kind::Secret || kept.len() < value.len() {
                        text.push_str(REDACTED);
                    }
                    text.extend(last);
                }
            },
            None => text.push_str(truncated(pair, max)),
        }
        if text.len() >= end {
            text.truncate(text.floor_char_boundary(end));
            break;
        }
    }
}

/// What may be written of a URL, encoded or not: scheme, host and path. Nothing, if it has a name and a password.
fn place(value: &str) -> &str {
    let bytes = value.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = match bytes[at..] {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                hex_digit(high) << 4 | hex_digit(low)
            }
            [byte, ..] => byte,
            [] => break,
        };
        match byte {
            b'@' => return "",
            // A percent sign, if what is encoded was encoded before: it may hide any of these.
            b'?' | b'#' | b'%' => return &value[..at],
            _ => at += if bytes[at] == b'%' { 3 } else { 1 },
        }
    }
    value
}

/// How much of a parameter may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Place,
    Secret,
}

fn kind(name: &str) -> Kind {
    let mut plain = [0; 64];
    let mut length = 0;
    let mut rest = name.as_bytes();
    while length < plain.len() {
        let (byte, behind) = match *rest {
            [] => break,
            [b'%', high, low, ref behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(high) << 4 | hex_digit(low), behind)
            }
            [byte, ref behind @ ..] => (byte, behind),
        };
        rest = behind;
        if !matches!(byte, b'_' | b'-' | b'.') {
            plain[length] = byte.to_ascii_lowercase();
            length += 1;
        }
    }
    let plain = &plain[..length];
    let has = |word: &&[u8]| plain.windows(word.len()).any(|part| part == *word);
    if SECRET_NAMES.contains(&plain) || SECRET_WORDS.iter().any(has) {
        Kind::Secret
    } else if PLACE_NAMES.contains(&plain) {
        Kind::Place
    } else {
        Kind::Plain
    }
}

const fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(uri: &str, headers: &[(&'static str, &str)]) -> Captured {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Captured::of(&request.body(()).unwrap())
    }

    #[test]
    fn what_the_record_needs_is_copied() {
        let seen = captured(
            "/a/b?x=1",
            &[
                ("host", "App.Example.com:8443"),
                ("user-agent", "curl/8"),
                ("referer", "https://user:pw@example.com/from?code=abc&page=2"),
                ("traceparent", "00-aa-bb-01"),
                ("x-request-id", "id 1\"2"),
                ("authorization", "Bearer s3cret"),
                ("cookie", "session=s3cret"),
            ],
        );
        assert_eq!(seen.path(), "/a/b");
        assert_eq!(seen.query(), Some("x=1"));
        assert_eq!(seen.host(), Some("app.example.com"));
        assert_eq!(seen.user_agent(), Some("curl/8"));
        assert_eq!(seen.referer(), Some("https://example.com/from?code=[redacted]&page=2"));
        assert_eq!(seen.request_id(), Some("id_1_2"));
        assert!(!format!("{seen:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_absent_is_none() {
        let seen = captured("/", &[]);
        assert_eq!(
            (seen.query(), seen.host(), seen.user_agent(), seen.referer(), seen.request_id()),
            (None, None, None, None, None)
        );
        assert_eq!(captured("http://[::1]:80/", &[]).host(), Some("[::1]"));
        assert_eq!(captured("*", &[("host", "[::1]")]).host(), Some("[::1]"));
    }

    #[test]
    fn lengths_are_bounded() {
        let long = "x".repeat(20_000);
        let seen = captured(
            &format!("/{long}?{long}"),
            &[("host", &long), ("user-agent", &long), ("referer", &long), ("x-request-id", &long)],
        );
        assert_eq!(seen.path().len(), MAX_PATH);
        assert_eq!(seen.query().unwrap().len(), MAX_QUERY);
        assert_eq!(seen.host().unwrap().len(), MAX_HOST);
        assert_eq!(seen.user_agent().unwrap().len(), MAX_USER_AGENT);
        assert_eq!(seen.referer().unwrap().len(), MAX_REFERER);
        assert_eq!(seen.request_id().unwrap().len(), MAX_REQUEST_ID);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut request = Request::new(());
        let value = http::HeaderValue::from_bytes(b"caf\xe9 x").unwrap();
        request.headers_mut().insert(http::header::USER_AGENT, value);
        assert_eq!(Captured::of(&request).user_agent(), Some("caf\u{fffd} x"));
    }

    #[test]
    fn credentials_in_queries_are_redacted() {
        for (query, expected) in [
            ("a=1&b=2", "a=1&b=2"),
            ("code=x&state=y&page=3", "code=[redacted]&state=[redacted]&page=3"),
            ("access_token=x;a=1", "access_token=[redacted];a=1"),
            ("Access-Token=x", "Access-Token=[redacted]"),
            ("%61ccess%5Ftoken=x", "%61ccess%5Ftoken=[redacted]"),
            ("X-Amz-Signature=x&a", "X-Amz-Signature=[redacted]&a"),
            ("token==&&=", "token=[redacted]&&="),
            ("token", "token"),
            ("a%=1&%4=2&%zz=3", "a%=1&%4=2&%zz=3"),
            ("zipcode=1&keyboard=2", "zipcode=1&keyboard=2"),
            ("return_url=https://a.example/p&b=1", "return_url=https://a.example/p&b=1"),
            ("return_url=https://a.example/p?t=s3cret&b=1", "return_url=https://a.example/p[redacted]&b=1"),
            (
                "return_url=https%3A%2F%2Fa.example%2Fp%3Ft%3Ds",
                "return_url=https%3A%2F%2Fa.example%2Fp[redacted]",
            ),
            (
                "redirect_uri=http%3A%2F%2F[::1]:1%2fcb%23t=s;x",
                "redirect_uri=http%3A%2F%2F[::1]:1%2fcb[redacted];x",
            ),
            ("post_logout_redirect_uri=/a%253Ft%253Ds", "post_logout_redirect_uri=/a[redacted]"),
            ("return%5Furl=https://u:p%40a.example/", "return%5Furl=[redacted]"),
            ("return_url=https://a.example/%zz%3", "return_url=https://a.example/[redacted]"),
            ("return_url=", "return_url="),
        ] {
            let mut text = String::from("?");
            redact(&mut text, query, 100);
            assert_eq!(text, format!("?{expected}"));
        }
    }

    #[test]
    fn a_redacted_query_stays_within_its_bound() {
        let mut text = String::new();
        redact(&mut text, &"token=1&é=2&".repeat(1000), 333);
        assert!(text.len() <= 333 && text.len() > 329, "{}", text.len());
        redact(&mut text, &format!("{}=1", "é".repeat(1000)), 101);
    }
}
