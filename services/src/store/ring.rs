//! A stream in memory, for a store without files.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Entry, EntryId, Keep, Logged, Range, milliseconds};

/// The newest entries of a stream.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: VecDeque<Kept>,
    last: EntryId,
}

#[derive(Debug)]
struct Kept {
    id: EntryId,
    record: Bytes,
    tags: Vec<String>,
}

impl Ring {
    /// Appends entries and forgets the oldest ones beyond `keep`.
    pub(super) fn append(&mut self, entries: Vec<Entry>, keep: Keep, now: u64) {
        for Entry { time, record, tags } in entries {
            self.last = self.last.follow(time, now);
            self.entries.push_back(Kept { id: self.last, record, tags });
        }
        let oldest = now.saturating_sub(milliseconds(keep.age));
        while self.entries.len() > keep.entries
            || self.entries.front().is_some_and(|kept| kept.id.time < oldest)
        {
            self.entries.pop_front();
        }
    }

    /// Reads a part.
    pub(super) fn read(&self, range: &Range) -> Vec<Logged> {
        let Some((first, last)) = range.bounds() else { return Vec::new() };
        let start = self.entries.partition_point(|kept| kept.id < first);
        let end = self.entries.partition_point(|kept| kept.id <= last);
        let wanted = self.entries.range(start..end).filter(|kept| match &range.tag {
            Some(tag) => kept.tags.contains(tag),
            None => true,
        });
        let logged = |kept: &Kept| Logged { id: kept.id, record: kept.record.clone() };
        if range.newest_first {
            wanted.rev().take(range.limit).map(logged).collect()
        } else {
            wanted.take(range.limit).map(logged).collect()
        }
    }

    /// Forgets everything; returns how much that was.
    pub(super) fn clear(&mut self) -> u64 {
        let count = self.entries.len();
        self.entries.clear();
        count as u64
    }
}
