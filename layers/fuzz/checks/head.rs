//! The scanner of HTTP/1 framing never panics, how the bytes are cut changes nothing, and the parser above
//! it takes every head that it passes: what that one refused, it would answer by itself, unseen.
//! The first byte of the input is the size of the pieces.

use http::{HeaderName, HeaderValue, Method, Uri};
use portcullis_layers::strict::{Limits, Scanned, Scanner};

pub(crate) fn check(input: &[u8]) {
    let Some((size, bytes)) = input.split_first() else { return };
    let (whole, heads) = feed(bytes, bytes.len().max(1));
    assert!(whole.good <= bytes.len());
    assert_eq!(feed(bytes, usize::from(*size).max(1)), (whole, heads));
    check_heads(bytes, heads);
}

/// Byte by byte, so that each head ends with the last byte that was shown.
fn check_heads(bytes: &[u8], expected: u64) {
    let mut scanner = Scanner::new(Limits::default());
    let mut held = Vec::new();
    let mut heads = 0;
    for byte in bytes {
        held.push(*byte);
        let scanned = scanner.scan(&held);
        if scanner.heads() > heads {
            heads = scanner.heads();
            assert_eq!(scanned.good, held.len());
            check_head(&held);
        }
        held.drain(..scanned.good);
        scanner.resume();
        if scanned.stop.is_some() {
            break;
        }
    }
    assert_eq!(heads, expected);
}

fn check_head(head: &[u8]) {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.find(|line| !line.is_empty()).expect("a request line");
    let parts: Vec<_> = line.split(|byte| *byte == b' ').collect();
    assert_eq!(parts.len(), 3, "{line:?}");
    Method::from_bytes(parts[0]).expect("a method");
    Uri::try_from(parts[1]).expect("a target");
    for field in lines.filter(|line| !line.is_empty()) {
        let colon = field.iter().position(|byte| *byte == b':').expect("a colon");
        HeaderName::from_bytes(&field[..colon]).expect("a name");
        HeaderValue::from_bytes(field[colon + 1..].trim_ascii()).expect("a value");
    }
}

/// What is found when the bytes come in pieces and every request for a tunnel is declined.
fn feed(bytes: &[u8], size: usize) -> (Scanned, u64) {
    let mut scanner = Scanner::new(Limits::default());
    let mut held = Vec::new();
    let mut good = 0;
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        loop {
            let scanned = scanner.scan(&held);
            held.drain(..scanned.good);
            good += scanned.good;
            if scanned.stop.is_some() {
                return (Scanned { good, ..scanned }, scanner.heads());
            }
            if !scanner.is_undecided() {
                break;
            }
            scanner.resume();
        }
    }
    (Scanned { good, stop: None }, scanner.heads())
}
