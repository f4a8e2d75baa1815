//! The body of a response, whatever frames it. Pure.

use bytes::{Bytes, BytesMut};
use http_body::SizeHint;

use super::Invalid;
use super::chunked::{Decoder, Item};
use super::head::Framing;

/// The body of a response, as far as it was not read. Its bytes come from a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::forward) enum Reading {
    /// So many bytes.
    Length(u64),
    Chunked(Decoder),
    /// Until the connection ends.
    Open,
    End,
}

impl Reading {
    pub(in crate::forward) const fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::End,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Decoder::new()),
            Framing::Open => Self::Open,
        }
    }

    pub(in crate::forward) const fn is_end(&self) -> bool {
        matches!(self, Self::End)
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    pub(in crate::forward) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(length) => SizeHint::with_exact(*length),
            Self::End => SizeHint::with_exact(0),
            Self::Chunked(_) | Self::Open => SizeHint::default(),
        }
    }

    /// The whole body, if all of it is in the buffer and its length is known.
    pub(super) fn take_whole(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        let Self::Length(length) = *self else { return None };
        let length = usize::try_from(length).ok().filter(|length| *length <= buffer.len())?;
        *self = Self::End;
        Some(buffer.split_to(length).freeze())
    }

    /// The next thing in the buffer, or `None` when more has to be read for it.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Invalid> {
        match self {
            Self::End => Ok(Some(Item::End)),
            Self::Chunked(decoder) => {
                let item = decoder.next(buffer)?;
                if decoder.is_end() {
                    *self = Self::End;
                }
                Ok(item)
            }
            Self::Length(_) | Self::Open if buffer.is_empty() => Ok(None),
            Self::Open => Ok(Some(Item::Data(buffer.split().freeze()))),
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::End;
                }
                Ok(Some(Item::Data(buffer.split_to(count).freeze())))
            }
        }
    }
}
