//! From the request to the store: the daemon's sink.
//!
//! One entry per request in the stream, without tags: a search scans by time. Nobody on the path of
//! a request waits for the store; what it can't take now waits in memory up to a bound, and beyond
//! it is dropped and counted ([`Queue`]).

use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::access_log::{Counts, Deliver, Line, Queue, Record, Sink, Undelivered};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::tracing::quiet;
use crate::store::{Entry, Error, Keep, Store, Stream};

/// Appends records to one stream of the store. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Writer {
    stream: Stream,
    queue: Queue,
}

impl Writer {
    /// A writer that keeps at most about `bytes` bytes in memory. Nothing is stored before [`run`](Self::run) runs.
    pub fn new(stream: Stream, workers: usize, bytes: usize) -> Self {
        Self { stream, queue: Queue::new(workers, bytes) }
    }

    /// The stream that it appends to.
    pub const fn stream(&self) -> Stream {
        self.stream
    }

    /// Appends a record that is one JSON object already, stamped with `time` (milliseconds since 1970).
    pub fn push(&self, time: u64, record: &[u8]) {
        self.queue.push(time, |out| out.extend_from_slice(record));
    }

    /// Appends a value that serialises to a JSON object.
    ///
    /// # Errors
    /// If it doesn't serialise.
    pub fn push_json(&self, time: u64, record: &impl Serialize) -> serde_json::Result<()> {
        self.push(time, &serde_json::to_vec(record)?);
        Ok(())
    }

    /// The buffers, for metrics.
    pub const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// How many records were written, wait, and were dropped.
    pub fn counts(&self) -> Counts {
        self.queue.counts()
    }

    /// Changes whenever records have reached the store: what wakes [`follow`](super::follow()).
    pub fn written(&self) -> watch::Receiver<u64> {
        self.queue.written()
    }

    /// Waits until all that was pushed before is stored (`true`), or the time is over (`false`).
    pub async fn flush(&self, within: Duration) -> bool {
        self.queue.flush(within).await
    }

    /// Writes until `stop`, then tries once more. Run it once.
    ///
    /// What it and the store report meanwhile goes to standard error only: it must not become
    /// records that it would have to write again.
    pub async fn run(self, store: Arc<dyn Store>, keep: Keep, stop: CancellationToken) {
        let delivery = Append { store, stream: self.stream, keep };
        quiet(self.queue.run(delivery, stop)).await;
    }
}

impl Sink for Writer {
    fn emit(&self, record: &Record<'_>) {
        self.queue.emit(record);
    }
}

impl portcullis_layers::mcp::call::Sink for Writer {
    fn emit(&self, record: &portcullis_layers::mcp::call::Record<'_>) {
        portcullis_layers::mcp::call::Sink::emit(&self.queue, record);
    }
}

struct Append {
    store: Arc<dyn Store>,
    stream: Stream,
    keep: Keep,
}

impl Deliver for Append {
    async fn deliver(&mut self, batch: &[Line]) -> Result<(), Undelivered> {
        let entry = |line: &Line| Entry { time: line.time, record: line.bytes.clone(), tags: Vec::new() };
        let entries = batch.iter().map(entry).collect();
        self.store.append(self.stream, entries, self.keep).await.map_err(|error| match error {
            Error::Unavailable(_) => Undelivered::Later(error.into()),
            error => Undelivered::Never(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::memory::{KEEP, Memory};

    #[tokio::test(start_paused = true)]
    async fn records_reach_the_store_in_batches() {
        let store = Arc::new(Memory::default());
        let writer = Writer::new(Stream::Requests, 1, 1 << 20);
        tokio::spawn(writer.clone().run(store.clone(), KEEP, CancellationToken::new()));
        for n in 0..10 {
            writer.push_json(1000 + n, &serde_json::json!({ "n": n })).unwrap();
        }
        assert!(writer.flush(Duration::from_secs(1)).await);
        assert_eq!(store.entries(Stream::Requests).len(), 10);
        assert_eq!(store.appends(), 1);
        assert_eq!(*writer.written().borrow(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_store_loses_nothing_and_shows() {
        let store = Arc::new(Memory::default());
        let writer = Writer::new(Stream::Requests, 1, 1 << 20);
        tokio::spawn(writer.clone().run(store.clone(), KEEP, CancellationToken::new()));
        store.set_down(true);
        writer.push(1, b"{}");
        assert!(!writer.flush(Duration::from_secs(1)).await);
        assert!(writer.counts().failing);
        store.set_down(false);
        assert!(writer.flush(Duration::from_secs(10)).await);
        assert_eq!(store.entries(Stream::Requests).len(), 1);
        assert!(!writer.counts().failing);
    }
}
