//! The scanner of HTTP/1 framing never panics, and how the bytes are cut changes nothing.
//! The first byte of the input is the size of the pieces.

use portcullis_layers::strict::{Limits, Scanned, Scanner};

pub(crate) fn check(input: &[u8]) {
    let Some((size, bytes)) = input.split_first() else { return };
    let (whole, heads) = feed(bytes, bytes.len().max(1));
    assert!(whole.good <= bytes.len());
    assert_eq!(feed(bytes, usize::from(*size).max(1)), (whole, heads));
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
