//! The Distinguished Encoding Rules (X.690), as far as questions and answers need them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use x509_parser::asn1_rs::{Any, Class, FromDer, Tag, ToDer};

/// It is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("can't be read")]
pub(super) struct Malformed;

/// Takes the parts of something, one after the other. What is left at its end is an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The one object that these bytes are.
    pub(super) fn only(bytes: &'a [u8], tag: Tag) -> Result<Self, Malformed> {
        let mut reader = Self(bytes);
        let inner = reader.inner(tag)?;
        reader.end()?;
        Ok(inner)
    }

    /// The next part with its head, and what is in it.
    fn part(&mut self) -> Result<(&'a [u8], Any<'a>), Malformed> {
        let (rest, any) = Any::from_der(self.0).map_err(|_| Malformed)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Ok((whole, any))
    }

    /// The content of the next part, which has this tag.
    pub(super) fn take(&mut self, tag: Tag) -> Result<&'a [u8], Malformed> {
        let (_, any) = self.part()?;
        let fits = any.class() == Class::Universal
            && any.tag() == tag
            && any.header.is_constructed() == matches!(tag, Tag::Sequence | Tag::Set);
        if fits { Ok(any.data) } else { Err(Malformed) }
    }

    /// The next part, which has this tag, to be read in turn.
    pub(super) fn inner(&mut self, tag: Tag) -> Result<Self, Malformed> {
        self.take(tag).map(Self)
    }

    /// The next part as it is written, which has this tag.
    pub(super) fn whole(&mut self, tag: Tag) -> Result<&'a [u8], Malformed> {
        let before = self.0;
        self.take(tag)?;
        Ok(&before[..before.len() - self.0.len()])
    }

    /// The next part, whatever its number in the context.
    pub(super) fn choice(&mut self) -> Result<(u32, &'a [u8]), Malformed> {
        let (_, any) = self.part()?;
        if any.class() == Class::ContextSpecific { Ok((any.tag().0, any.data)) } else { Err(Malformed) }
    }

    /// What is in the next part if it has this number in the context, and is in a part of its own.
    pub(super) fn optional(&mut self, number: u32) -> Result<Option<Self>, Malformed> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut ahead = *self;
        let (_, any) = ahead.part()?;
        if any.class() != Class::ContextSpecific || any.tag().0 != number {
            return Ok(None);
        }
        if !any.header.is_constructed() {
            return Err(Malformed);
        }
        *self = ahead;
        Ok(Some(Self(any.data)))
    }

    /// A moment (RFC 5280, section 4.1.2.5.2).
    pub(super) fn time(&mut self) -> Result<Timestamp, Malformed> {
        let text = std::str::from_utf8(self.take(Tag::GeneralizedTime)?).map_err(|_| Malformed)?;
        if text.len() != 15 || !text.bytes().take(14).all(|byte| byte.is_ascii_digit()) {
            return Err(Malformed);
        }
        let time = DateTime::strptime("%Y%m%d%H%M%SZ", text).map_err(|_| Malformed)?;
        time.to_zoned(TimeZone::UTC).map(|time| time.timestamp()).map_err(|_| Malformed)
    }

    /// The bytes of a bit string that has whole bytes only.
    pub(super) fn bits(&mut self) -> Result<&'a [u8], Malformed> {
        match self.take(Tag::BitString)? {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    pub(super) const fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Writes an object of the parts that are in it.
pub(super) fn write(tag: Tag, parts: &[&[u8]]) -> Vec<u8> {
    Any::from_tag_and_data(tag, &parts.concat()).to_der_vec().expect("memory takes everything")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_in_order_and_nothing_may_be_left() {
        let bytes = write(Tag::Sequence, &[&write(Tag::Integer, &[&[5]]), &write(Tag::OctetString, &[b"x"])]);
        let mut reader = Reader::only(&bytes, Tag::Sequence).expect("a sequence");
        assert_eq!(reader.end(), Err(Malformed));
        assert_eq!(reader.take(Tag::Integer), Ok(&[5][..]));
        assert!(reader.optional(0).expect("readable").is_none());
        assert_eq!(reader.whole(Tag::OctetString), Ok(&[4, 1, b'x'][..]));
        assert_eq!(reader.end(), Ok(()));
        assert!(reader.optional(0).expect("readable").is_none());
        assert!(Reader::only(&bytes, Tag::Set).is_err());
        assert!(Reader::only(&[&bytes[..], &[0]].concat(), Tag::Sequence).is_err());
        for short in 0..bytes.len() {
            assert!(Reader::only(&bytes[..short], Tag::Sequence).is_err(), "{short}");
        }
        // Of no length.
        assert!(Reader::only(&[0x30, 0x80, 0, 0], Tag::Sequence).is_err());
    }

    #[test]
    fn moments_are_of_one_form() {
        let read = |text: &str| {
            let bytes = write(Tag::GeneralizedTime, &[text.as_bytes()]);
            Reader::new(&bytes).time().map(Timestamp::as_second)
        };
        assert_eq!(read("20260401000000Z"), Ok(1_775_001_600));
        for wrong in [
            "20260401000000",
            "202604010000Z",
            "20260401000000.5Z",
            "20260401000000+0100",
            "20261301000000Z",
            "",
        ] {
            assert_eq!(read(wrong), Err(Malformed), "{wrong}");
        }
        assert!(read("2026040100000 Z").is_err() && read("20260230000000Z").is_err());
    }
}
