//! A store for the tests of this module: streams only, in memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::store::{
    Document, Entry, EntryId, Error, ItemKey, Keep, Key, Kind, Lease, Logged, Range, Raw, Record,
    RecordCursor, RecordKey, RecordKind, RecordPage, RecordWrite, Result, Revision, Store, Stream, Write,
};

pub(super) const KEEP: Keep = Keep { entries: 1_000_000, age: Duration::from_secs(7 * 24 * 3600) };

#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    streams: HashMap<Stream, Vec<Logged>>,
    appends: usize,
    ranges: usize,
    down: bool,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.down { Err(Error::Unavailable("down".into())) } else { Ok(state) }
    }

    pub(super) fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    pub(super) fn entries(&self, stream: Stream) -> Vec<Logged> {
        self.state().streams.get(&stream).cloned().unwrap_or_default()
    }

    pub(super) fn appends(&self) -> usize {
        self.state().appends
    }

    pub(super) fn ranges(&self) -> usize {
        self.state().ranges
    }

    /// Appends JSON values, each stamped with its `timestamp`.
    pub(super) async fn fill(&self, stream: Stream, values: impl IntoIterator<Item = serde_json::Value>) {
        let entry = |value: serde_json::Value| Entry {
            time: value["timestamp"].as_u64().expect("a time"),
            record: value.to_string().into(),
            tags: Vec::new(),
        };
        self.append(stream, values.into_iter().map(entry).collect(), KEEP).await.expect("memory takes all");
    }
}

fn streams_only<T>() -> Result<T> {
    Err(Error::Unavailable("this store has streams only".into()))
}

#[async_trait]
impl Store for Memory {
    async fn load_raw(&self) -> Result<(Revision, Vec<Raw>)> {
        streams_only()
    }

    async fn revision(&self) -> Result<Revision> {
        streams_only()
    }

    async fn list(&self, _: Kind) -> Result<Vec<Document>> {
        streams_only()
    }

    async fn get(&self, _: &Key) -> Result<Option<Document>> {
        streams_only()
    }

    async fn commit(&self, _: Vec<Write>) -> Result<Revision> {
        streams_only()
    }

    fn changes(&self, _: Revision) -> BoxStream<'static, Revision> {
        stream::empty().boxed()
    }

    async fn get_record(&self, _: &RecordKey) -> Result<Option<Record>> {
        streams_only()
    }

    async fn commit_records(&self, _: Vec<RecordWrite>) -> Result<()> {
        streams_only()
    }

    async fn list_records(
        &self,
        _: RecordKind,
        _: Option<&str>,
        _: Option<RecordCursor>,
        _: usize,
    ) -> Result<RecordPage> {
        streams_only()
    }

    async fn count_records(&self, _: RecordKind, _: Option<&str>) -> Result<u64> {
        streams_only()
    }

    async fn put_item(&self, _: &ItemKey, _: &[u8], _: Duration) -> Result<()> {
        streams_only()
    }

    async fn get_item(&self, _: &ItemKey) -> Result<Option<Vec<u8>>> {
        streams_only()
    }

    async fn take_item(&self, _: &ItemKey) -> Result<Option<Vec<u8>>> {
        streams_only()
    }

    async fn append(&self, stream: Stream, entries: Vec<Entry>, _: Keep) -> Result<()> {
        let mut state = self.up()?;
        state.appends += 1;
        let log = state.streams.entry(stream).or_default();
        for entry in entries {
            let last = log.last().map(|logged| logged.id).unwrap_or_default();
            let id = if entry.time > last.time {
                EntryId { time: entry.time, sequence: 0 }
            } else {
                EntryId { time: last.time, sequence: last.sequence + 1 }
            };
            log.push(Logged { id, record: entry.record });
        }
        Ok(())
    }

    async fn range(&self, stream: Stream, range: &Range) -> Result<Vec<Logged>> {
        let mut state = self.up()?;
        state.ranges += 1;
        let log = state.streams.get(&stream).map(Vec::as_slice).unwrap_or_default();
        let within = |logged: &&Logged| {
            (range.since..=range.until).contains(&logged.id.time)
                && range.after.is_none_or(|after| {
                    if range.newest_first { logged.id < after } else { logged.id > after }
                })
        };
        let found = log.iter().filter(within).cloned();
        Ok(if range.newest_first {
            found.rev().take(range.limit).collect()
        } else {
            found.take(range.limit).collect()
        })
    }

    async fn clear(&self, stream: Stream) -> Result<u64> {
        let removed = self.up()?.streams.remove(&stream).unwrap_or_default();
        Ok(removed.len() as u64)
    }

    async fn acquire(&self, _: &str, _: &str, _: Duration) -> Result<Option<Lease>> {
        streams_only()
    }

    async fn release(&self, _: &str, _: &str) -> Result<()> {
        streams_only()
    }

    async fn ping(&self) -> Result<()> {
        self.up().map(drop)
    }
}
