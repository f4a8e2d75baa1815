//! A response from bytes instead of a connection: what the fuzz target reads.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::chunked::Item;
use super::head;
use super::reading::Reading;

/// What is found in bytes that come in pieces.
#[doc(hidden)]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub head: Option<(StatusCode, HeaderMap, bool)>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub ended: bool,
    pub refused: Option<String>,
    pub rest: Vec<u8>,
}

/// Reads a response whose bytes come in pieces of this size.
#[doc(hidden)]
pub fn replay(bytes: &[u8], size: usize) -> Replayed {
    let mut found = Replayed::default();
    let (mut buffer, mut seen, mut reading) = (BytesMut::new(), 0, None);
    for piece in bytes.chunks(size) {
        buffer.extend_from_slice(piece);
        if let Err(invalid) = step(&mut buffer, &mut seen, &mut reading, &mut found) {
            // How much was read by then depends on the pieces.
            return Replayed { refused: Some(invalid.to_string()), ..found };
        }
    }
    found.rest = buffer.to_vec();
    found
}

fn step(
    buffer: &mut BytesMut,
    seen: &mut usize,
    reading: &mut Option<Reading>,
    found: &mut Replayed,
) -> Result<(), super::Invalid> {
    if reading.is_none() {
        let Some(end) = head::end(buffer, seen) else { return Ok(()) };
        let text: Bytes = buffer.split_to(end).freeze();
        let head = head::parse(&text, false, HeaderMap::new())?;
        *reading = Some(Reading::new(head.framing));
        let (parts, ()) = head.response.into_parts();
        found.head = Some((parts.status, parts.headers, head.persistent));
    }
    let Some(reading) = reading else { return Ok(()) };
    while !found.ended {
        match reading.next(buffer)? {
            None => break,
            Some(Item::Data(data)) => found.body.extend_from_slice(&data),
            Some(Item::Trailers(fields)) => found.trailers = Some(fields),
            Some(Item::End) => found.ended = true,
        }
    }
    Ok(())
}
