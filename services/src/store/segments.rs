//! A stream in append-only files.
//!
//! A stream is a directory of segments, each a file named by its first entry's id. Entries are only
//! ever appended to the last segment; retention deletes whole segments, so nothing is rewritten. A
//! segment has marks, about one in 64 KiB, which find a time without reading from the start; when a
//! segment is full its marks are kept in an index file beside it.
//!
//! A crash may tear the last record (see `record.rs`): opening cuts it off. What a reader can see is bounded by lengths that only
//! complete appends move, so reading takes no lock.
//!
//! Tags are found by scanning. Blocking I/O: call from a thread that may wait.

mod record;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use crc32c::crc32c;
use tracing::warn;

use self::record::{HEAD, MAX_PAYLOAD, Record, decode, encode, split_head, split_record};
use super::{Entry, EntryId, Keep, Logged, Range, milliseconds, private};

/// What a segment starts with.
const MAGIC: &[u8; 8] = b"PCLOG\x01\r\n";
/// What an index starts with.
const INDEX_MAGIC: &[u8; 8] = b"PCIDX\x01\r\n";
/// Bytes between marks: what a search reads at once.
const BLOCK: u64 = 64 << 10;
/// A segment that is this long is full, whatever is to be kept.
const MAX_SEGMENT: u64 = 32 << 20;
/// A segment holds at least this many entries, or a small `keep` would make a file for each.
const MIN_ENTRIES: u64 = 128;
/// Retention is exact to this part of what is kept.
const PARTS: u64 = 8;

/// A stream in a directory.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    /// Oldest first. Only the last one can have an open file.
    segments: VecDeque<Segment>,
    last: EntryId,
    /// Does an append wait for the disk?
    durable: bool,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// Open for appending; a full segment has none.
    file: Option<File>,
    first: EntryId,
    last: EntryId,
    entries: u64,
    length: u64,
    marks: Arc<Vec<Mark>>,
}

/// A record that begins a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    id: EntryId,
    offset: u64,
}

/// What a range covers of the files, taken under the lock and read without it.
#[derive(Debug)]
pub(super) struct View {
    parts: Vec<Part>,
    range: Range,
    first: EntryId,
    last: EntryId,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    length: u64,
    marks: Arc<Vec<Mark>>,
}

/// Records that are encoded, but not written.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    entries: u64,
    last: EntryId,
}

impl Segments {
    /// Opens the stream in `dir`, which is made if need be, and cuts off what a crash has torn.
    pub(super) fn open(dir: &Path, durable: bool) -> io::Result<Self> {
        private::create_dir(dir)?;
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                paths.push(path);
            }
        }
        paths.sort();
        let newest = paths.len().saturating_sub(1);
        let mut segments = VecDeque::with_capacity(paths.len());
        for (at, path) in paths.into_iter().enumerate() {
            let Some(mut segment) = Segment::open(path)? else { continue };
            if at < newest {
                segment.seal();
            }
            segments.push_back(segment);
        }
        let last = segments.back().map_or(EntryId::MIN, |segment| segment.last);
        Ok(Self { dir: dir.to_owned(), segments, last, durable })
    }

    /// Appends entries and deletes the segments that `keep` does not need.
    pub(super) fn append(&mut self, entries: &[Entry], keep: Keep, now: u64) -> io::Result<()> {
        let mut batch = Batch::default();
        // Room for what is usual: records have no tags.
        batch.bytes.reserve(entries.iter().map(|entry| HEAD + 18 + entry.record.len()).sum());
        for entry in entries {
            let id = self.last.max(batch.last).follow(entry.time, now);
            if self.is_full(&batch, keep, id) {
                self.write(std::mem::take(&mut batch))?;
                if let Some(segment) = self.segments.back_mut() {
                    segment.seal();
                }
            }
            if self.segments.back().is_none_or(|segment| segment.file.is_none()) {
                self.segments.push_back(Segment::create(&self.dir, id)?);
            }
            let segment = self.segments.back().expect("one was made if there was none");
            batch.push(segment, id, entry)?;
        }
        self.write(batch)?;
        self.retain(keep, now)
    }

    /// What `range` covers.
    pub(super) fn view(&self, range: &Range) -> Option<View> {
        let (first, last) = range.bounds()?;
        let covered =
            |segment: &&Segment| segment.entries > 0 && segment.last >= first && segment.first <= last;
        let part = |segment: &Segment| Part {
            path: segment.path.clone(),
            length: segment.length,
            marks: segment.marks.clone(),
        };
        let parts = self.segments.iter().filter(covered).map(part).collect();
        Some(View { parts, range: range.clone(), first, last })
    }

    /// Deletes everything; returns how many entries that were. Ids go on growing.
    pub(super) fn clear(&mut self) -> io::Result<u64> {
        let mut count = 0;
        while self.segments.front().is_some() {
            count += self.delete_oldest()?;
        }
        Ok(count)
    }

    fn is_full(&self, batch: &Batch, keep: Keep, id: EntryId) -> bool {
        let Some(segment) = self.segments.back().filter(|segment| segment.file.is_some()) else {
            return false;
        };
        let entries = segment.entries + batch.entries;
        let span = id.time.saturating_sub(segment.first.time);
        entries > 0
            && (segment.length + batch.bytes.len() as u64 >= MAX_SEGMENT
                || entries >= (keep.entries as u64 / PARTS).max(MIN_ENTRIES)
                || span > (milliseconds(keep.age) / PARTS).max(1000))
    }

    /// Writes a batch behind the last segment: all of it counts, or nothing.
    fn write(&mut self, batch: Batch) -> io::Result<()> {
        let Some(segment) = self.segments.back_mut().filter(|_| batch.entries > 0) else { return Ok(()) };
        let file = segment.file.as_ref().expect("entries are batched for an open segment");
        let written = file.write_all_at(&batch.bytes, segment.length);
        let written = written.and_then(|()| if self.durable { file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Half a batch must not stand before the next one. If it can't be cut off, nothing more
            // is written to this file; readers stop at its length, and opening it cuts.
            if file.set_len(segment.length).is_err() {
                segment.file = None;
            }
            return Err(error);
        }
        segment.length += batch.bytes.len() as u64;
        segment.entries += batch.entries;
        segment.last = batch.last;
        if !batch.marks.is_empty() {
            Arc::make_mut(&mut segment.marks).extend(batch.marks);
        }
        self.last = batch.last;
        Ok(())
    }

    fn retain(&mut self, keep: Keep, now: u64) -> io::Result<()> {
        let oldest = now.saturating_sub(milliseconds(keep.age));
        let mut total: u64 = self.segments.iter().map(|segment| segment.entries).sum();
        while let Some(front) = self.segments.front() {
            let spare = self.segments.len() > 1 && total - front.entries >= keep.entries as u64;
            if !spare && front.last.time >= oldest {
                break;
            }
            total -= self.delete_oldest()?;
        }
        Ok(())
    }

    fn delete_oldest(&mut self) -> io::Result<u64> {
        let Some(segment) = self.segments.front() else { return Ok(0) };
        let entries = segment.entries;
        remove(&segment.path)?;
        remove(&index_path(&segment.path))?;
        self.segments.pop_front();
        Ok(entries)
    }
}

impl Batch {
    fn push(&mut self, segment: &Segment, id: EntryId, entry: &Entry) -> io::Result<()> {
        let offset = segment.length + self.bytes.len() as u64;
        let block = self.marks.last().or_else(|| segment.marks.last());
        let mark = block.is_none_or(|mark| offset - mark.offset >= BLOCK);
        encode(&mut self.bytes, id, entry)?;
        if mark {
            self.marks.push(Mark { id, offset });
        }
        self.entries += 1;
        self.last = id;
        Ok(())
    }
}

impl Segment {
    /// A new file for entries from `first` on.
    fn create(dir: &Path, first: EntryId) -> io::Result<Self> {
        // Wide enough for all numbers, so that names sort like ids.
        let path = dir.join(format!("{:020}-{:020}.log", first.time, first.sequence));
        // A file of this name can only be one without entries: ids are not used twice.
        remove(&path)?;
        let mut file = private::create_new(&path)?;
        file.write_all(MAGIC)?;
        Ok(Self {
            path,
            file: Some(file),
            first,
            last: first,
            entries: 0,
            length: MAGIC.len() as u64,
            marks: Arc::default(),
        })
    }

    /// Opens a file by its index, or else by reading it; one without entries is deleted.
    fn open(path: PathBuf) -> io::Result<Option<Self>> {
        let file = open_file(&path)?;
        let length = file.metadata()?.len();
        if let Some(segment) = read_index(&path, length) {
            return Ok(Some(segment));
        }
        let (found, good) = scan(&file)?;
        let Some(first) = found.marks.first().map(|mark| mark.id) else {
            warn!(path = %path.display(), "log segment without entries removed");
            remove(&path)?;
            return Ok(None);
        };
        if good < length {
            warn!(path = %path.display(), lost_bytes = length - good, "torn end of a log segment cut off");
            file.set_len(good)?;
        }
        Ok(Some(Self {
            path,
            file: Some(file),
            first,
            last: found.last,
            entries: found.entries,
            length: good,
            marks: Arc::new(found.marks),
        }))
    }

    /// Ends the segment. An index that can't be written is only slower to open.
    fn seal(&mut self) {
        if self.file.take().is_none() {
            return;
        }
        if let Err(error) = write_index(self) {
            warn!(path = %self.path.display(), %error, "index of a log segment not written");
        }
    }
}

impl View {
    /// Reads the entries.
    pub(super) fn read(&self) -> io::Result<Vec<Logged>> {
        let mut found = Vec::new();
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        if self.range.newest_first {
            parts.reverse();
        }
        for part in parts {
            let file = match File::open(&part.path) {
                // Retention was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            self.read_part(part, &file, &mut found)?;
            if found.len() >= self.range.limit {
                break;
            }
        }
        found.truncate(self.range.limit);
        Ok(found)
    }

    fn read_part(&self, part: &Part, file: &File, found: &mut Vec<Logged>) -> io::Result<()> {
        // The block before the first mark behind `first` may hold entries from `first` on.
        let start = part.marks.partition_point(|mark| mark.id <= self.first).saturating_sub(1);
        let end = part.marks.partition_point(|mark| mark.id <= self.last);
        let mut blocks: Vec<usize> = (start..end).collect();
        if self.range.newest_first {
            blocks.reverse();
        }
        let mut bytes = Vec::new();
        for block in blocks {
            let from = part.marks[block].offset;
            let until = part.marks.get(block + 1).map_or(part.length, |mark| mark.offset);
            // Marks come from our own records or from an index with a checksum; a file that was cut
            // behind our back gives an error here, not a panic.
            bytes.resize(usize::try_from(until.saturating_sub(from)).unwrap_or_default(), 0);
            file.read_exact_at(&mut bytes, from)?;
            let before = found.len();
            self.read_block(&bytes, found);
            if self.range.newest_first {
                found[before..].reverse();
            }
            if found.len() >= self.range.limit {
                break;
            }
        }
        Ok(())
    }

    fn read_block(&self, mut bytes: &[u8], found: &mut Vec<Logged>) {
        while let Some((payload, rest)) = split_record(bytes) {
            bytes = rest;
            let Some(record) = decode(payload) else { continue };
            if record.id < self.first || record.id > self.last {
                continue;
            }
            if self.range.tag.as_ref().is_some_and(|tag| !record.has_tag(tag)) {
                continue;
            }
            found.push(Logged { id: record.id, record: Bytes::copy_from_slice(record.record) });
            if !self.range.newest_first && found.len() >= self.range.limit {
                return;
            }
        }
        if !bytes.is_empty() {
            warn!(lost_bytes = bytes.len(), "damaged block in a log segment skipped");
        }
    }
}

/// What reading a segment from the start finds.
#[derive(Default)]
struct Found {
    marks: Vec<Mark>,
    entries: u64,
    last: EntryId,
}

/// Reads a segment up to the first record that is not whole; returns where that is.
fn scan(file: &File) -> io::Result<(Found, u64)> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut found = Found::default();
    let mut magic = [0; MAGIC.len()];
    if !fill(&mut reader, &mut magic)? || &magic != MAGIC {
        return Ok((found, 0));
    }
    let mut offset = MAGIC.len() as u64;
    let mut head = [0; HEAD];
    let mut payload = Vec::new();
    while fill(&mut reader, &mut head)? {
        let (length, checksum) = split_head(head);
        if length > MAX_PAYLOAD {
            break;
        }
        payload.resize(length, 0);
        if !fill(&mut reader, &mut payload)? || crc32c(&payload) != checksum {
            break;
        }
        let Some(Record { id, .. }) = decode(&payload) else { break };
        if found.marks.last().is_none_or(|mark| offset - mark.offset >= BLOCK) {
            found.marks.push(Mark { id, offset });
        }
        found.entries += 1;
        found.last = id;
        offset += (HEAD + length) as u64;
    }
    Ok((found, offset))
}

/// Fills the buffer, or says that the file ends before.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

/// Keeps the marks of a full segment.
fn write_index(segment: &Segment) -> io::Result<()> {
    let numbers = [segment.length, segment.entries, segment.last.time, segment.last.sequence];
    let marks = segment.marks.iter().flat_map(|mark| [mark.id.time, mark.id.sequence, mark.offset]);
    let mut content = INDEX_MAGIC.to_vec();
    content.extend(numbers.into_iter().chain(marks).flat_map(u64::to_le_bytes));
    let checksum = crc32c(&content);
    content.extend_from_slice(&checksum.to_le_bytes());
    private::replace(&index_path(&segment.path), &content)
}

/// A segment by its index, if there is one and it belongs to a file of this length.
fn read_index(path: &Path, file_length: u64) -> Option<Segment> {
    let content = std::fs::read(index_path(path)).ok()?;
    let (content, checksum) = content.split_last_chunk()?;
    if crc32c(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (numbers, rest) = content.strip_prefix(INDEX_MAGIC)?.as_chunks::<8>();
    let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let (&[length, entries, time, sequence], marks) = numbers.split_first_chunk()?;
    let (marks, odd) = marks.as_chunks::<3>();
    if !rest.is_empty() || !odd.is_empty() || length != file_length {
        return None;
    }
    let mark = |&[time, sequence, offset]: &[u64; 3]| Mark { id: EntryId { time, sequence }, offset };
    let marks: Vec<Mark> = marks.iter().map(mark).collect();
    Some(Segment {
        path: path.to_owned(),
        file: None,
        first: marks.first()?.id,
        last: EntryId { time, sequence },
        entries,
        length,
        marks: Arc::new(marks),
    })
}

/// Opens a file for reading and writing, and makes it for its owner if there is none.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Deletes a file, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: u64 = 1_000_000;
    const ALL: Keep = Keep { entries: 1_000_000, age: Duration::from_secs(1_000_000) };

    fn entry(time: u64, record: impl Into<Bytes>) -> Entry {
        Entry { time, record: record.into(), tags: vec![format!("parity:{}", time % 2), "all".into()] }
    }

    fn all() -> Range {
        Range { after: None, since: 0, until: u64::MAX, tag: None, newest_first: false, limit: usize::MAX }
    }

    fn read(segments: &Segments, range: &Range) -> Vec<u64> {
        let view = segments.view(range).expect("a possible range");
        view.read().expect("read").iter().map(|logged| logged.id.time).collect()
    }

    fn filled(dir: &Path, times: std::ops::Range<u64>, size: usize) -> Segments {
        let mut segments = Segments::open(dir, false).expect("opened");
        let entries: Vec<Entry> = times.map(|time| entry(time, vec![b'x'; size])).collect();
        for part in entries.chunks(37) {
            segments.append(part, ALL, NOW).expect("appended");
        }
        segments
    }

    fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> =
            listed.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
        files.sort();
        files
    }

    #[test]
    fn ranges_are_read_in_both_directions_over_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let segments = filled(dir.path(), 100..1100, 1000);
        assert!(segments.segments[0].marks.len() > 10, "the test needs several blocks");
        assert_eq!(read(&segments, &all()), (100..1100).collect::<Vec<_>>());
        let some = Range { since: 333, until: 777, ..all() };
        assert_eq!(read(&segments, &some), (333..778).collect::<Vec<_>>());
        let newest = Range { newest_first: true, limit: 300, ..some.clone() };
        assert_eq!(read(&segments, &newest), (478..778).rev().collect::<Vec<_>>());
        let after = Some(EntryId { time: 478, sequence: 0 });
        let older = Range { after, ..newest };
        assert_eq!(read(&segments, &older), (333..478).rev().collect::<Vec<_>>());
        let tagged = Range { tag: Some("parity:0".into()), limit: 3, ..some };
        assert_eq!(read(&segments, &tagged), [334, 336, 338]);
        let nothing = Range { tag: Some("parity".into()), ..all() };
        assert!(read(&segments, &nothing).is_empty(), "a part of a tag is not the tag");
    }

    #[test]
    fn everything_is_there_after_opening_again_with_and_without_indexes() {
        let dir = tempfile::tempdir().expect("a directory");
        let keep = Keep { entries: 8 * 200, ..ALL };
        let mut segments = Segments::open(dir.path(), true).expect("opened");
        let entries: Vec<Entry> = (0..1000).map(|time| entry(time, "{}")).collect();
        segments.append(&entries, keep, NOW).expect("appended");
        assert_eq!(segments.segments.len(), 5);
        drop(segments);
        assert_eq!(files(dir.path(), "idx").len(), 4, "all but the last one are full");
        let again = Segments::open(dir.path(), true).expect("opened");
        assert_eq!(read(&again, &all()).len(), 1000);
        assert!(again.segments[0].file.is_none(), "the index was used");
        for index in files(dir.path(), "idx") {
            std::fs::write(index, b"damaged").expect("written");
        }
        let mut again = Segments::open(dir.path(), true).expect("opened");
        assert_eq!(read(&again, &all()), (0..1000).collect::<Vec<_>>());
        again.append(&[entry(2000, "{}")], keep, NOW).expect("appended");
        assert_eq!(read(&again, &all()).last(), Some(&2000));
    }

    #[test]
    fn a_torn_tail_is_cut_at_every_byte_and_writing_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(filled(dir.path(), 0..4, 10));
        let path = files(dir.path(), "log").remove(0);
        let whole = std::fs::read(&path).expect("read");
        let record = (whole.len() - MAGIC.len()) / 4;
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("torn");
            let mut segments = Segments::open(dir.path(), false).expect("opened");
            let left = length.saturating_sub(MAGIC.len()) / record;
            let before: Vec<u64> = (0..left as u64).collect();
            assert_eq!(read(&segments, &all()), before, "torn at {length}");
            segments.append(&[entry(9, "{}")], ALL, NOW).expect("appended");
            drop(segments);
            let again = Segments::open(dir.path(), false).expect("opened");
            assert_eq!(read(&again, &all()), [before, vec![9]].concat(), "torn at {length}");
            files(dir.path(), "log").iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
        }
    }

    #[test]
    fn garbage_is_not_read_as_records() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(filled(dir.path(), 0..4, 10));
        let path = files(dir.path(), "log").remove(0);
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            std::fs::write(&path, &bytes).expect("written");
            let segments = Segments::open(dir.path(), false).expect("opened");
            let left = read(&segments, &all());
            assert!(
                left.len() < 4 && left.iter().copied().eq(0..left.len() as u64),
                "changed at {at}: {left:?}"
            );
        }
    }

    #[test]
    fn retention_deletes_whole_segments_by_number_and_age() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut segments = Segments::open(dir.path(), false).expect("opened");
        let keep = Keep { entries: 1000, age: Duration::from_secs(100) };
        for time in 0..5000 {
            segments.append(&[entry(time, "{}")], keep, NOW.min(time)).expect("appended");
        }
        let kept = read(&segments, &all());
        assert!((1000..=1000 + 128).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last(), Some(&4999));
        segments.append(&[entry(104_000, "{}")], keep, 104_000).expect("appended");
        let kept = read(&segments, &all());
        assert!(kept.iter().all(|time| *time >= 4000 - 128), "{kept:?}");
        segments.append(&[entry(300_000, "{}")], keep, 300_000).expect("appended");
        assert_eq!(read(&segments, &all()), [300_000]);
        assert_eq!(files(dir.path(), "log").len(), 1);
        assert_eq!(files(dir.path(), "idx").len(), 0);
    }

    #[test]
    fn ids_go_on_growing_after_clearing() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut segments = filled(dir.path(), 0..10, 10);
        assert_eq!(segments.clear().expect("cleared"), 10);
        assert_eq!(files(dir.path(), "log").len(), 0);
        segments.append(&[entry(3, "{}")], ALL, NOW).expect("appended");
        let logged = segments.view(&all()).expect("a view").read().expect("read");
        assert_eq!(logged[0].id, EntryId { time: 9, sequence: 1 });
    }

    #[test]
    fn an_entry_that_is_too_long_leaves_the_others_readable() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut segments = filled(dir.path(), 0..3, 10);
        let long = Entry { time: 5, record: Bytes::from_static(b"{}"), tags: vec!["t".repeat(70_000)] };
        let refused = segments.append(&[long], ALL, NOW).expect_err("too long");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        segments.append(&[entry(6, "{}")], ALL, NOW).expect("appended");
        assert_eq!(read(&segments, &all()), [0, 1, 2, 6]);
    }

    #[test]
    fn a_view_outlives_retention() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut segments = filled(dir.path(), 0..10, 10);
        let view = segments.view(&all()).expect("a view");
        segments.clear().expect("cleared");
        assert!(view.read().expect("no error").is_empty());
    }
}
