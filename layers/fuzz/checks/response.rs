//! Reading an upstream's HTTP/1.1 response never panics, and how the bytes are cut changes nothing.
//! The first byte of the input is the size of the pieces.

use portcullis_layers::forward::replay;

pub(crate) fn check(input: &[u8]) {
    let Some((size, bytes)) = input.split_first() else { return };
    let whole = replay(bytes, bytes.len().max(1));
    let pieces = replay(bytes, usize::from(*size).max(1));
    if whole.ended {
        assert!(whole.head.is_some());
        assert!(whole.body.len() + whole.rest.len() <= bytes.len());
    }
    assert_eq!(whole, pieces);
}
