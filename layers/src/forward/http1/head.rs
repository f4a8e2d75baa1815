//! The heads of HTTP/1.1 messages (RFC 9112, sections 2 to 6). Pure.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, Version};
use hyper::ext::ReasonPhrase;

use super::Invalid;
use crate::forward::hop::tokens;

/// Fields of a response, at most.
const MAX_FIELDS: usize = 100;

/// How the length of a body is known (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// Until the connection ends.
    Open,
}

/// Appends a request's head, in origin form.
pub(super) fn write(out: &mut Vec<u8>, method: &Method, uri: &Uri, headers: &HeaderMap) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(out, headers);
}

/// Appends fields and the empty line after them.
pub(super) fn write_fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// How the body of a request is framed, whose head says so already.
pub(super) fn framing_of(headers: &HeaderMap, is_empty: bool) -> Result<Framing, Invalid> {
    // What the head says holds, even when it shows meanwhile that nothing comes.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(Framing::Chunked);
    }
    match headers.get(header::CONTENT_LENGTH) {
        Some(value) => match (length(value)?, is_empty) {
            (0, true) => Ok(Framing::Empty),
            (_, true) => Err(Invalid("a body that is not there has a length")),
            (length, false) => Ok(Framing::Length(length)),
        },
        None if is_empty => Ok(Framing::Empty),
        None => Ok(Framing::Chunked),
    }
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) response: http::Response<()>,
    pub(crate) framing: Framing,
    /// Whether another request may follow on the connection.
    pub(crate) persistent: bool,
}

/// Where the first head in a buffer ends, if it is complete. Looks at no byte again that it has looked
/// at in `seen`.
pub(super) fn end(buffer: &[u8], seen: &mut usize) -> Option<usize> {
    let mut from = *seen;
    while let Some(at) = memchr::memchr(b'\n', &buffer[from..]) {
        let next = from + at + 1;
        match &buffer[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            // What decides is still to come.
            [] | [b'\r'] => {
                *seen = next - 1;
                return None;
            }
            _ => from = next,
        }
    }
    *seen = buffer.len();
    None
}

/// Reads a whole head. The fields go into `headers`, whose memory is used again.
pub(super) fn parse(head: &Bytes, to_head: bool, mut headers: HeaderMap) -> Result<Head, Invalid> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut fields)
        .map_err(|error| Invalid(meaning(error)))?;
    let (httparse::Status::Complete(end), Some(code), Some(minor)) = (status, parsed.code, parsed.version)
    else {
        return Err(Invalid("the head is not whole"));
    };
    if end != head.len() {
        return Err(Invalid("the head ends before its last line"));
    }
    read_fields(head, parsed.headers, &mut headers)?;
    let status = StatusCode::from_u16(code).map_err(|_| Invalid("a status that is none"))?;
    let (framing, sure) = framing(status, minor, to_head, &headers)?;
    let mut response = http::Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    if let Some(reason) = parsed.reason.filter(|reason| status.canonical_reason() != Some(reason))
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    let persistent = sure && framing != Framing::Open && is_persistent(minor, &headers);
    *response.headers_mut() = headers;
    Ok(Head { response, framing, persistent })
}

/// Reads the fields of a trailer section, which ends with an empty line.
pub(super) fn parse_trailers(section: &Bytes) -> Result<HeaderMap, Invalid> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((end, _))) if end != section.len() => {
            Err(Invalid("the trailers end before their section"))
        }
        Ok(httparse::Status::Complete((_, fields))) => {
            let mut headers = HeaderMap::with_capacity(fields.len());
            read_fields(section, fields, &mut headers)?;
            Ok(headers)
        }
        Ok(httparse::Status::Partial) => Err(Invalid("the trailers are not whole")),
        Err(error) => Err(Invalid(meaning(error))),
    }
}

fn read_fields(
    source: &Bytes,
    fields: &[httparse::Header<'_>],
    headers: &mut HeaderMap,
) -> Result<(), Invalid> {
    headers.reserve(fields.len());
    for field in fields {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Invalid("a field name is none"))?;
        // Slices of what was read: no copies.
        let value = if field.value.is_empty() { Bytes::new() } else { source.slice_ref(field.value) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Invalid("a field value is none"))?;
        headers.append(name, value);
    }
    Ok(())
}

const fn meaning(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a field name is none",
        httparse::Error::HeaderValue => "a field value is none",
        httparse::Error::Status => "a status line is none",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "a version that is none of HTTP/1",
        _ => "no HTTP/1 response",
    }
}

/// How a response's body is framed, and whether that can be read in one way only.
fn framing(
    status: StatusCode,
    minor: u8,
    to_head: bool,
    headers: &HeaderMap,
) -> Result<(Framing, bool), Invalid> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next().map(HeaderValue::as_bytes);
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next().map(length).transpose()?;
    for other in lengths {
        if Some(length(other)?) != first {
            return Err(Invalid("lengths disagree"));
        }
    }
    if to_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return Ok((Framing::Empty, true));
    }
    match (coding, first) {
        (Some(coding), _) if !coding.eq_ignore_ascii_case(b"chunked") || codings.next().is_some() => {
            Err(Invalid("a transfer coding that is not understood"))
        }
        (Some(_), _) if minor == 0 => Err(Invalid("HTTP/1.0 knows no transfer coding")),
        // The length means nothing then; whoever sends both may mean anything with what follows.
        (Some(_), length) => Ok((Framing::Chunked, length.is_none())),
        (None, Some(0)) => Ok((Framing::Empty, true)),
        (None, Some(length)) => Ok((Framing::Length(length), true)),
        (None, None) => Ok((Framing::Open, true)),
    }
}

fn length(value: &HeaderValue) -> Result<u64, Invalid> {
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Invalid("a length that is no number"));
    }
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    digits.iter().try_fold(0, add).ok_or(Invalid("a length that is too large"))
}

fn is_persistent(minor: u8, headers: &HeaderMap) -> bool {
    let says = |wanted: &[u8]| {
        headers
            .get_all(header::CONNECTION)
            .iter()
            .any(|field| tokens(field).any(|token| token.eq_ignore_ascii_case(wanted)))
    };
    !says(b"close") && (minor > 0 || says(b"keep-alive"))
}

/// Takes a line with its end off the buffer, if it is there; lines that are longer than `max` are refused.
pub(super) fn take_line(buffer: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, Invalid> {
    match memchr::memchr(b'\n', &buffer[..buffer.len().min(max)]) {
        Some(end) => {
            let mut line = buffer.split_to(end);
            buffer.advance(1);
            if line.last() != Some(&b'\r') {
                return Err(Invalid("a line that does not end with CR LF"));
            }
            line.truncate(end - 1);
            Ok(Some(line))
        }
        None if buffer.len() >= max => Err(Invalid("a line that does not end")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Head, Invalid> {
        parse(&Bytes::copy_from_slice(head.as_bytes()), false, HeaderMap::new())
    }

    #[test]
    fn a_head_ends_with_an_empty_line_however_it_arrives() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nbody", Some(19)),
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\n", Some(25)),
            ("HTTP/1.1 200 OK\n\nbody", Some(17)),
            ("HTTP/1.1 200 OK\r\na: b\r\n\r", None),
            ("HTTP/1.1 200 OK\r\na: b\r\n", None),
            ("", None),
        ] {
            assert_eq!(end(text.as_bytes(), &mut 0), expected, "{text:?}");
            let mut seen = 0;
            let found = (0..=text.len()).find_map(|upto| end(&text.as_bytes()[..upto], &mut seen));
            assert_eq!(found, expected, "{text:?} byte by byte");
        }
    }

    #[test]
    fn the_framing_of_responses() {
        for (head, framing, persistent) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Framing::Empty, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked, true),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
                Framing::Chunked,
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::Open, false),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Empty, true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", Framing::Empty, true),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", Framing::Empty, true),
            (
                "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", Framing::Length(1), false),
            (
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
                true,
            ),
        ] {
            let head = read(head).unwrap_or_else(|error| panic!("{error}: {head}"));
            assert_eq!((head.framing, head.persistent), (framing, persistent), "{:?}", head.response);
        }
        let to_head = Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
        let head = parse(&to_head, true, HeaderMap::new()).expect("valid");
        assert_eq!((head.framing, head.persistent), (Framing::Empty, true));
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for fields in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: -1\r\n",
            "content-length: \r\n",
            "content-length: 0x5\r\n",
            "content-length: 18446744073709551616\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding: chunked;q=1\r\n",
            "transfer-encoding: \r\ncontent-length: 5\r\n",
            "a b: c\r\n",
            "a : c\r\n",
            "a: b\r\n c\r\n",
            "a: \0\r\n",
            ": x\r\n",
        ] {
            assert!(read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).is_err(), "{fields:?}");
        }
        for line in
            ["HTTP/1.0 200 OK\r\ntransfer-encoding: chunked", "HTTP/2.0 200 OK", "HTTP/1.1 20 OK", "x"]
        {
            assert!(read(&format!("{line}\r\n\r\n")).is_err(), "{line:?}");
        }
        let many = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(read(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).err(), Some(Invalid("too many fields")));
    }

    #[test]
    fn a_reason_of_its_own_is_kept() {
        let reason = |head: &str| {
            let head = read(head).expect("valid");
            head.response.extensions().get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
        };
        assert_eq!(reason("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(reason("HTTP/1.1 404 Gone Fishing\r\n\r\n"), Some(b"Gone Fishing".to_vec()));
    }

    #[test]
    fn a_request_is_written_as_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("a.example"));
        headers.append("x", HeaderValue::from_static("1"));
        headers.append("x", HeaderValue::from_static("2"));
        let mut out = Vec::new();
        write(&mut out, &Method::PUT, &Uri::from_static("/a?b=c"), &headers);
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "PUT /a?b=c HTTP/1.1\r\nhost: a.example\r\nx: 1\r\nx: 2\r\n\r\n"
        );
    }

    #[test]
    fn a_request_is_framed_as_its_head_says() {
        let with = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            headers
        };
        for (value, is_empty, expected) in [
            (None, true, Some(Framing::Empty)),
            (Some("0"), true, Some(Framing::Empty)),
            (Some("5"), true, None),
            (Some("5"), false, Some(Framing::Length(5))),
            (None, false, Some(Framing::Chunked)),
            (Some("x"), false, None),
        ] {
            assert_eq!(framing_of(&with(value), is_empty).ok(), expected, "{value:?}, empty: {is_empty}");
        }
    }
}
