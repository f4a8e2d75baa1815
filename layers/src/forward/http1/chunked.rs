//! The chunked coding of a response's body (RFC 9112, section 7.1). Pure.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::Invalid;
use super::head;

/// A chunk's size and its extensions, which nobody reads.
const MAX_SIZE_LINE: usize = 4 * 1024;

/// All trailers together.
const MAX_TRAILERS: usize = 16 * 1024;

/// What ends a chunk and a body that has no trailers.
const LAST: &[u8] = b"\r\n0\r\n\r\n";

/// Takes a chunked body apart, as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::forward) enum Decoder {
    /// A line with the next chunk's size.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of the line behind a chunk.
    DataEnd,
    /// So many bytes of them were looked at without finding their end.
    Trailers(usize),
    End,
}

/// The next of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Data(Bytes),
    /// After them comes the end.
    Trailers(HeaderMap),
    End,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self::Size
    }

    /// The next thing in the buffer, or `None` when more has to be read for it.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Invalid> {
        loop {
            match self {
                Self::Size => match head::take_line(buffer, MAX_SIZE_LINE)? {
                    None => return Ok(None),
                    Some(line) => {
                        *self = match size(&line)? {
                            0 => Self::Trailers(0),
                            size => Self::Data(size),
                        }
                    }
                },
                Self::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(None);
                    }
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    *left -= count as u64;
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    let data = buffer.split_to(count).freeze();
                    // Whether it was the last of it shows already, as a rule.
                    if *self == Self::DataEnd && buffer.starts_with(LAST) {
                        buffer.advance(LAST.len());
                        *self = Self::End;
                    }
                    return Ok(Some(Item::Data(data)));
                }
                Self::DataEnd => match &buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(Invalid("a chunk is longer than it says")),
                },
                Self::Trailers(seen) => match &buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        *self = Self::End;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => {
                        let end = head::end(buffer, seen);
                        if end.unwrap_or(buffer.len()) > MAX_TRAILERS {
                            return Err(Invalid("the trailers are too large"));
                        }
                        let Some(end) = end else { return Ok(None) };
                        let section = buffer.split_to(end).freeze();
                        *self = Self::End;
                        return Ok(Some(Item::Trailers(head::parse_trailers(&section)?)));
                    }
                },
                Self::End => return Ok(Some(Item::End)),
            }
        }
    }

    pub(super) const fn is_end(&self) -> bool {
        matches!(self, Self::End)
    }
}

fn size(line: &[u8]) -> Result<u64, Invalid> {
    if line.contains(&b'\r') {
        return Err(Invalid("a chunk size with a CR in its line"));
    }
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 {
        return Err(Invalid("a chunk size that is none"));
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = (*digit as char).to_digit(16).ok_or(Invalid("a chunk size that is none"))?;
        Ok(sum << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that comes out when the bytes come in pieces of this size.
    fn decode(text: &str, piece: usize) -> Result<(String, Option<HeaderMap>, String), Invalid> {
        let mut decoder = Decoder::new();
        let (mut buffer, mut data, mut trailers) = (BytesMut::new(), Vec::new(), None);
        for piece in text.as_bytes().chunks(piece) {
            buffer.extend_from_slice(piece);
            if decoder == Decoder::End {
                continue;
            }
            while let Some(item) = decoder.next(&mut buffer)? {
                match item {
                    Item::Data(bytes) => data.extend_from_slice(&bytes),
                    Item::Trailers(fields) => trailers = Some(fields),
                    Item::End => break,
                }
            }
        }
        if decoder != Decoder::End {
            return Err(Invalid("no end"));
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        Ok((text(&data), trailers, text(&buffer)))
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let text =
            "4\r\nwiki\r\n5;name=\"v\"\r\npedia\r\n0A  \r\n0123456789\r\n0\r\nx-sum: 42\r\ny: z\r\n\r\nrest";
        for piece in 1..text.len() {
            let (data, trailers, rest) = decode(text, piece).expect("valid");
            assert_eq!((data.as_str(), rest.as_str()), ("wikipedia0123456789", "rest"), "{piece}");
            assert_eq!(trailers.expect("trailers")["x-sum"], "42");
        }
        let (data, trailers, _) = decode("0\r\n\r\n", 1).expect("valid");
        assert_eq!((data.as_str(), trailers), ("", None));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for text in [
            "zz\r\n",
            "5\r\r\nhello\r\n0\r\n\r\n",
            "1\r\na\r\n0\r\n\nHTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
            "\r\n",
            "-1\r\na\r\n0\r\n\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            " 1\r\na\r\n0\r\n\r\n",
            "1\na\r\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1\r\na0\r\n\r\n",
            "11111111111111111\r\na",
            "1\r\na\r\n0\r\nbad trailer\r\n\r\n",
            "1\r\na\r\n0\r\n",
            "1\r\na\r\n",
        ] {
            for piece in [1, 3, text.len()] {
                assert!(decode(text, piece).is_err(), "{text:?}");
            }
        }
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_SIZE_LINE));
        assert!(decode(&long, 100).is_err());
        let large = format!("0\r\nx: {}\r\n\r\n", "x".repeat(MAX_TRAILERS));
        assert!(decode(&large, 100).is_err());
    }
}
