//! Single lines of an HTTP/1 request: pure functions on complete lines without their CR LF.

use http::Uri;

use super::violation::Violation;

const TOKEN: [bool; 256] = token_table();

// RFC 9110, section 5.6.2.
const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || is_token_mark(b);
        byte += 1;
    }
    table
}

const fn is_token_mark(b: u8) -> bool {
    matches!(
        b,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    )
}

pub(super) const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const PATH: u8 = 1;
const QUERY: u8 = 2;

/// Where a byte may stand raw in an origin-form target, by the rules of the parser above hyper: what
/// it does not take it answers by itself, with a 400 that nobody sees. RFC 3986 allows even less, but
/// browsers and JSON in links are not as strict; `normalize` encodes the rest of a path or refuses it.
const TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = match byte {
            b'#' | b'<' | b'>' => 0,
            b'`' | b'?' => QUERY,
            b'"' => PATH,
            _ => PATH | QUERY,
        };
        byte += 1;
    }
    table
};

/// Whether a target without control characters and `#` can be parsed (RFC 9112, section 3.2).
fn is_target(target: &[u8]) -> bool {
    if target[0] != b'/' {
        // `*`, an authority, or an absolute URI: rare enough to be parsed twice.
        return Uri::try_from(target).is_ok();
    }
    let path = target.iter().position(|b| TARGET[*b as usize] & PATH == 0).unwrap_or(target.len());
    match &target[path..] {
        [] => true,
        [b'?', query @ ..] => query.iter().all(|b| TARGET[*b as usize] & QUERY != 0),
        _ => false,
    }
}

/// What of the request line decides about framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestLine {
    pub(super) http11: bool,
    pub(super) connect: bool,
}

/// `method SP request-target SP HTTP-version` (RFC 9112, section 3), nothing more lenient.
pub(super) fn request_line(line: &[u8], max_target: usize) -> Result<RequestLine, Violation> {
    let method = line.iter().position(|b| !is_token(*b)).ok_or(Violation::RequestLine)?;
    if method == 0 || line[method] != b' ' {
        return Err(control(line).unwrap_or(Violation::RequestLine));
    }
    let rest = &line[method + 1..];
    // No target has a fragment (section 3.2). hyper drops one, others read a path on behind it.
    let ends = |b: &u8| !b.is_ascii_graphic() || *b == b'#';
    let target = rest.iter().position(ends).ok_or(Violation::RequestLine)?;
    if target == 0 || rest[target] != b' ' {
        return Err(control(line).unwrap_or(Violation::RequestLine));
    }
    if target > max_target {
        return Err(Violation::TargetTooLong);
    }
    if !is_target(&rest[..target]) {
        return Err(Violation::Target);
    }
    let http11 = match &rest[target + 1..] {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Violation::Version);
        }
        _ => return Err(control(line).unwrap_or(Violation::RequestLine)),
    };
    Ok(RequestLine { http11, connect: &line[..method] == b"CONNECT" })
}

/// What the `http` crate holds; hyper would answer longer names by itself.
const MAX_NAME: usize = u16::MAX as usize - 1;

/// `field-name ":" OWS field-value OWS` (RFC 9112, section 5), split and without the outer whitespace.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    let end = line.iter().position(|b| !is_token(*b)).ok_or(Violation::FieldName)?;
    match line[end] {
        b':' if end > 0 => {}
        b' ' | b'\t' if end == 0 => return Err(Violation::Fold),
        b' ' | b'\t' => return Err(Violation::SpaceBeforeColon),
        b'\r' => return Err(Violation::BareCr),
        _ => return Err(Violation::FieldName),
    }
    if end > MAX_NAME {
        return Err(Violation::HeadTooLarge);
    }
    let value = &line[end + 1..];
    if has_control(value) {
        return Err(control(value).unwrap_or(Violation::FieldValue));
    }
    Ok((&line[..end], value))
}

pub(super) const fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A value of `Content-Length`. Eighteen digits are an exabyte: enough, and they fit.
pub(super) fn content_length(value: &[u8]) -> Result<u64, Violation> {
    let value = trim(value);
    if value.contains(&b',') {
        return Err(Violation::SeveralLengths);
    }
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::ContentLength);
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// A value of `Transfer-Encoding`: exactly `chunked`.
pub(super) fn transfer_encoding(value: &[u8]) -> Result<(), Violation> {
    let value = trim(value);
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|b| *b == b',').map(trim).rev();
    let chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let last = codings.next().is_some_and(chunked);
    let named = |coding: &[u8]| !coding.is_empty() && coding.iter().all(|b| is_token(*b));
    // Codings under `chunked` have a clear end, so the client is only told that we do not know them.
    if last && codings.all(|coding| named(coding) && !chunked(coding)) {
        Err(Violation::UnsupportedCoding)
    } else {
        Err(Violation::TransferEncoding)
    }
}

pub(super) const fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

// Eight bytes at once, because values are most of a head. A block that may contain a control
// character is looked at again byte by byte; a tab is the only one that passes then.
fn has_control(value: &[u8]) -> bool {
    let any = |block: &[u8]| block.iter().any(|b| is_control(*b));
    let suspect = |block: &[u8; 8]| may_have_control(u64::from_ne_bytes(*block));
    let (blocks, rest) = value.as_chunks::<8>();
    if blocks.iter().any(|block| suspect(block) && any(block)) {
        return true;
    }
    // The last eight bytes cover the rest and, harmlessly, some that were looked at.
    match value.last_chunk::<8>() {
        Some(_) if rest.is_empty() => false,
        Some(last) => suspect(last) && any(last),
        None => any(rest),
    }
}

/// Whether any of eight bytes is less than a space, or DEL.
const fn may_have_control(block: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let del = block ^ (ONES * 0x7f);
    ((block.wrapping_sub(ONES * 0x20) & !block) | (del.wrapping_sub(ONES) & !del)) & HIGH != 0
}

fn control(line: &[u8]) -> Option<Violation> {
    line.iter().copied().find(|b| is_control(*b)).map(|b| match b {
        b'\r' => Violation::BareCr,
        _ => Violation::FieldValue,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines() {
        let ok = |http11, connect| Ok(RequestLine { http11, connect });
        for (line, expected) in [
            ("GET / HTTP/1.1", ok(true, false)),
            ("M-SEARCH * HTTP/1.0", ok(false, false)),
            ("CONNECT a:1 HTTP/1.1", ok(true, true)),
            ("GET  / HTTP/1.1", Err(Violation::RequestLine)),
            ("GET /  HTTP/1.1", Err(Violation::RequestLine)),
            ("GET / HTTP/1.1 ", Err(Violation::RequestLine)),
            (" GET / HTTP/1.1", Err(Violation::RequestLine)),
            ("GET\t/ HTTP/1.1", Err(Violation::RequestLine)),
            ("GET /", Err(Violation::RequestLine)),
            ("GET", Err(Violation::RequestLine)),
            ("G(T / HTTP/1.1", Err(Violation::RequestLine)),
            ("GET /a b HTTP/1.1", Err(Violation::RequestLine)),
            ("GET /\u{e4} HTTP/1.1", Err(Violation::RequestLine)),
            ("GET /\0 HTTP/1.1", Err(Violation::FieldValue)),
            ("GET /\r HTTP/1.1", Err(Violation::BareCr)),
            ("GET / http/1.1", Err(Violation::RequestLine)),
            ("GET / HTTP/1.10", Err(Violation::RequestLine)),
            ("GET / HTTP/1.2", Err(Violation::Version)),
            ("PRI * HTTP/2.0", Err(Violation::Version)),
            ("GET /#/../a HTTP/1.1", Err(Violation::RequestLine)),
            ("GET # HTTP/1.1", Err(Violation::RequestLine)),
            ("GET /12345678901 HTTP/1.1", Err(Violation::TargetTooLong)),
            ("GET /\"{}|^[]\\ HTTP/1.1", ok(true, false)),
            ("GET /?`{}|^[] HTTP/1.1", ok(true, false)),
            ("GET /a?b?c=/ HTTP/1.1", ok(true, false)),
            ("GET /< HTTP/1.1", Err(Violation::Target)),
            ("GET /> HTTP/1.1", Err(Violation::Target)),
            ("GET /` HTTP/1.1", Err(Violation::Target)),
            ("GET /?\" HTTP/1.1", Err(Violation::Target)),
            ("GET /?< HTTP/1.1", Err(Violation::Target)),
            ("GET /?> HTTP/1.1", Err(Violation::Target)),
            ("GET ?a HTTP/1.1", Err(Violation::Target)),
            ("GET a/b HTTP/1.1", Err(Violation::Target)),
            ("GET a:b:c HTTP/1.1", Err(Violation::Target)),
            ("GET a@ HTTP/1.1", Err(Violation::Target)),
            ("GET [::1 HTTP/1.1", Err(Violation::Target)),
            ("GET http:// HTTP/1.1", Err(Violation::Target)),
            ("GET x://a/< HTTP/1.1", Err(Violation::Target)),
            ("GET x://a/> HTTP/1.2", Err(Violation::Target)),
        ] {
            assert_eq!(request_line(line.as_bytes(), 11), expected, "{line:?}");
        }
    }

    #[test]
    fn a_target_is_what_the_parser_above_takes() {
        for byte in (b'!'..=b'~').filter(|byte| *byte != b'#') {
            for before in ["", "/", "/a?", "http://a", "http://a/", "a", "*"] {
                let target = [before.as_bytes(), &[byte]].concat();
                let text = String::from_utf8_lossy(&target);
                assert_eq!(is_target(&target), Uri::try_from(&*target).is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn fields() {
        for (line, expected) in [
            ("a: b", Ok(("a", " b"))),
            ("a:", Ok(("a", ""))),
            ("a:\tb c\t", Ok(("a", "\tb c\t"))),
            ("x-ü: 1", Err(Violation::FieldName)),
            ("a: ü", Ok(("a", " ü"))),
            (":b", Err(Violation::FieldName)),
            ("a", Err(Violation::FieldName)),
            ("a b: c", Err(Violation::SpaceBeforeColon)),
            ("a : b", Err(Violation::SpaceBeforeColon)),
            ("a\t: b", Err(Violation::SpaceBeforeColon)),
            (" a: b", Err(Violation::Fold)),
            ("\ta: b", Err(Violation::Fold)),
            ("a(: b", Err(Violation::FieldName)),
            ("a\0: b", Err(Violation::FieldName)),
            ("a: b\0", Err(Violation::FieldValue)),
            ("a: 0123456789abcdef\u{1}0123456789abcdef", Err(Violation::FieldValue)),
            ("a: b\u{7f}", Err(Violation::FieldValue)),
            ("a: 01234567\u{7f}", Err(Violation::FieldValue)),
            ("a: 0123456\u{0}", Err(Violation::FieldValue)),
            ("a: 01234567\t89\tab", Ok(("a", " 01234567\t89\tab"))),
            ("a: b\rc: d", Err(Violation::BareCr)),
        ] {
            let expected = expected.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            assert_eq!(field(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn a_name_is_what_the_parser_above_takes() {
        for (length, fits) in [(MAX_NAME, true), (MAX_NAME + 1, false)] {
            let name = "x".repeat(length);
            let line = format!("{name}: 1");
            // It may take one byte more; nobody needs that one.
            assert!(!fits || http::HeaderName::from_bytes(name.as_bytes()).is_ok());
            assert_eq!(field(line.as_bytes()).err(), (!fits).then_some(Violation::HeadTooLarge));
        }
    }

    #[test]
    fn lengths() {
        for (value, expected) in [
            ("0", Ok(0)),
            (" 10\t", Ok(10)),
            ("0010", Ok(10)),
            ("999999999999999999", Ok(999_999_999_999_999_999)),
            ("", Err(Violation::ContentLength)),
            ("+5", Err(Violation::ContentLength)),
            ("-5", Err(Violation::ContentLength)),
            ("0x5", Err(Violation::ContentLength)),
            ("5 5", Err(Violation::ContentLength)),
            ("1_0", Err(Violation::ContentLength)),
            ("9999999999999999999999", Err(Violation::ContentLength)),
            ("5,5", Err(Violation::SeveralLengths)),
            ("5, 6", Err(Violation::SeveralLengths)),
        ] {
            assert_eq!(content_length(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn codings() {
        for (value, expected) in [
            ("chunked", Ok(())),
            (" Chunked ", Ok(())),
            ("gzip, chunked", Err(Violation::UnsupportedCoding)),
            ("gzip", Err(Violation::TransferEncoding)),
            ("identity", Err(Violation::TransferEncoding)),
            ("chunked, gzip", Err(Violation::TransferEncoding)),
            ("chunked, chunked", Err(Violation::TransferEncoding)),
            (", chunked", Err(Violation::TransferEncoding)),
            ("chunked,", Err(Violation::TransferEncoding)),
            ("xchunked", Err(Violation::TransferEncoding)),
            ("\"chunked\"", Err(Violation::TransferEncoding)),
            ("chunked;q=1", Err(Violation::TransferEncoding)),
            ("", Err(Violation::TransferEncoding)),
        ] {
            assert_eq!(transfer_encoding(value.as_bytes()), expected, "{value:?}");
        }
    }
}
