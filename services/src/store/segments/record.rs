//! An entry as bytes: length and CRC-32C of the payload, and the payload. No I/O here.
//!
//! The payload is time, sequence, length of all tags, each tag with its length, and the record; numbers
//! are little-endian.

use std::io;

use crc32c::crc32c;

use crate::store::{Entry, EntryId};

/// Length and CRC.
pub(super) const HEAD: usize = 8;
/// The longest payload: far more than a record of a request can be, little enough to read at once.
pub(super) const MAX_PAYLOAD: usize = 16 << 20;
/// A payload, taken apart.
pub(super) struct Record<'a> {
    pub(super) id: EntryId,
    tags: &'a [u8],
    pub(super) record: &'a [u8],
}

impl Record<'_> {
    pub(super) fn has_tag(&self, tag: &str) -> bool {
        let mut tags = self.tags;
        while let Some((length, rest)) = tags.split_first_chunk() {
            let Some((this, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else {
                return false;
            };
            if this == tag.as_bytes() {
                return true;
            }
            tags = rest;
        }
        false
    }
}

/// Appends an entry to `bytes`, or nothing if it is too long.
pub(super) fn encode(bytes: &mut Vec<u8>, id: EntryId, entry: &Entry) -> io::Result<()> {
    let too_long = || {
        let message = format!("a log entry of {} bytes with {} tags", entry.record.len(), entry.tags.len());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    };
    let tags: usize = entry.tags.iter().map(|tag| 2 + tag.len()).sum();
    let length = 8 + 8 + 2 + tags + entry.record.len();
    let tags = u16::try_from(tags).map_err(|_| too_long())?;
    let head = u32::try_from(length).ok().filter(|_| length <= MAX_PAYLOAD).ok_or_else(too_long)?;
    bytes.reserve(HEAD + length);
    let start = bytes.len();
    bytes.extend_from_slice(&head.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&id.time.to_le_bytes());
    bytes.extend_from_slice(&id.sequence.to_le_bytes());
    bytes.extend_from_slice(&tags.to_le_bytes());
    for tag in &entry.tags {
        let length = u16::try_from(tag.len()).expect("all tags together are shorter");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(tag.as_bytes());
    }
    bytes.extend_from_slice(&entry.record);
    let checksum = crc32c(&bytes[start + HEAD..]);
    bytes[start + 4..start + HEAD].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Takes a payload apart.
pub(super) fn decode(payload: &[u8]) -> Option<Record<'_>> {
    let (time, rest) = payload.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (tags, rest) = rest.split_first_chunk()?;
    let (tags, record) = rest.split_at_checked(usize::from(u16::from_le_bytes(*tags)))?;
    let id = EntryId { time: u64::from_le_bytes(*time), sequence: u64::from_le_bytes(*sequence) };
    Some(Record { id, tags, record })
}

/// Length and CRC.
pub(super) fn split_head(head: [u8; HEAD]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = head;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

/// The payload of the first record, if it is whole, and what stands behind it.
pub(super) fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    let (length, checksum) = split_head(*head);
    let (payload, rest) = rest.split_at_checked(length)?;
    (crc32c(payload) == checksum).then_some((payload, rest))
}
