//! A store that counts how often it is asked, and fails when it shall.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use portcullis_services::store::{
    Document, Entry, Error, ItemKey, Keep, Key, Kind, Lease, Logged, Range, Raw, Record, RecordCursor,
    RecordKey, RecordKind, RecordPage, RecordWrite, Result, Revision, Store, Stream, Write,
};

/// Another store behind a counter.
#[derive(Debug)]
pub(crate) struct Counted {
    inner: Arc<dyn Store>,
    calls: AtomicUsize,
    lost_revocations: AtomicUsize,
}

impl Counted {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, calls: AtomicUsize::new(0), lost_revocations: AtomicUsize::new(0) }
    }

    /// How often it was asked anything.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Fails the next revocations of tokens, so many times.
    pub(crate) fn lose_revocations(&self, times: usize) {
        self.lost_revocations.store(times, Ordering::SeqCst);
    }

    fn inner(&self) -> &dyn Store {
        self.calls.fetch_add(1, Ordering::SeqCst);
        &*self.inner
    }
}

#[async_trait]
impl Store for Counted {
    async fn load_raw(&self) -> Result<(Revision, Vec<Raw>)> {
        self.inner().load_raw().await
    }

    async fn revision(&self) -> Result<Revision> {
        self.inner().revision().await
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Document>> {
        self.inner().list(kind).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Document>> {
        self.inner().get(key).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision> {
        self.inner().commit(writes).await
    }

    fn changes(&self, since: Revision) -> BoxStream<'static, Revision> {
        self.inner().changes(since)
    }

    async fn get_record(&self, key: &RecordKey) -> Result<Option<Record>> {
        self.inner().get_record(key).await
    }

    async fn commit_records(&self, writes: Vec<RecordWrite>) -> Result<()> {
        self.inner().commit_records(writes).await
    }

    async fn list_records(
        &self,
        kind: RecordKind,
        index: Option<&str>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.inner().list_records(kind, index, after, limit).await
    }

    async fn count_records(&self, kind: RecordKind, index: Option<&str>) -> Result<u64> {
        self.inner().count_records(kind, index).await
    }

    async fn put_item(&self, key: &ItemKey, value: &[u8], ttl: Duration) -> Result<()> {
        self.inner().put_item(key, value, ttl).await
    }

    async fn get_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
        self.inner().get_item(key).await
    }

    async fn take_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
        self.inner().take_item(key).await
    }

    async fn append(&self, stream: Stream, entries: Vec<Entry>, keep: Keep) -> Result<()> {
        let lose = |left: usize| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if stream == Stream::Revocations && self.lost_revocations.fetch_update(order, order, lose).is_ok() {
            return Err(Error::Unavailable("lost".into()));
        }
        self.inner().append(stream, entries, keep).await
    }

    async fn range(&self, stream: Stream, range: &Range) -> Result<Vec<Logged>> {
        self.inner().range(stream, range).await
    }

    async fn clear(&self, stream: Stream) -> Result<u64> {
        self.inner().clear(stream).await
    }

    async fn acquire(&self, lease: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>> {
        self.inner().acquire(lease, holder, ttl).await
    }

    async fn release(&self, lease: &str, holder: &str) -> Result<()> {
        self.inner().release(lease, holder).await
    }

    async fn ping(&self) -> Result<()> {
        self.inner().ping().await
    }
}
