//! Whatever comes: no panic, no reading beyond the header, the same verdict on every split, and a
//! header written from what was read says the same.

use portcullis_layers::proxy_protocol::header::{MAX_V2, Parsed, encode_v1, encode_v2, parse};
use portcullis_layers::proxy_protocol::tlv::Tlv;

pub(crate) fn check(input: &[u8]) {
    let (header, consumed) = match parse(input) {
        Parsed::NeedMore(missing) => {
            assert!(missing > 0 && input.len() + missing <= MAX_V2);
            return;
        }
        Parsed::Invalid(error) => {
            // More bytes never make it valid.
            let more = [input, b"\r\n"].concat();
            assert_eq!(parse(&more), Parsed::Invalid(error));
            return;
        }
        Parsed::Complete { header, consumed } => (header, consumed),
    };
    assert!(consumed <= input.len() && consumed <= MAX_V2);
    for end in 0..consumed {
        assert!(matches!(parse(&input[..end]), Parsed::NeedMore(_)));
    }
    let Some(addresses) = header.addresses else { return };
    let tlvs: Vec<Tlv<'_>> = header.tlvs.into_iter().collect();
    let mut line = Vec::new();
    encode_v1(Some(&addresses), &mut line);
    let mut binary = Vec::new();
    // The checksum that is added may be what does not fit any more.
    let fits = encode_v2(Some(&addresses), &tlvs, true, &mut binary).is_ok();
    for written in [Some(&line), fits.then_some(&binary)].into_iter().flatten() {
        let Parsed::Complete { header: again, consumed } = parse(written) else {
            panic!("{written:?} is no header")
        };
        assert_eq!(consumed, written.len());
        let again = again.addresses.expect("the addresses were written");
        assert_eq!(again.source.port(), addresses.source.port());
        assert_eq!(again.source.ip().to_canonical(), addresses.source.ip().to_canonical());
        assert_eq!(again.destination.ip().to_canonical(), addresses.destination.ip().to_canonical());
    }
}
