//! Records on their way out: a buffer for each worker, and one task that delivers them in batches.
//!
//! [`Queue::push`] encodes into the buffer of the current worker and returns. [`Queue::run`] empties
//! the buffers every [`FLUSH_EVERY`] and hands what it found, in order of time, to a [`Deliver`]. While
//! that one can't deliver, records wait, up to a bound in bytes; beyond it new ones are dropped and
//! counted. Delivery is at least once: a batch whose fate is unknown is sent again.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::record::Record;
use super::sink::Sink;
use crate::body::BoxError;
use crate::per_worker::PerWorker;

/// How long a record waits before it is delivered.
pub const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// After this long a delivery counts as failed.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The most records, and about the most bytes, of one delivery.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// What a record costs in memory beside its bytes.
const OVERHEAD: usize = 64;

/// One encoded record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Milliseconds since 1970.
    pub time: u64,
    /// The record, one JSON object without a line end.
    pub bytes: Bytes,
}

/// Delivers records to where they are kept.
pub trait Deliver: Send {
    /// Delivers a batch, all of it or, as far as the queue is concerned, nothing.
    fn deliver(&mut self, batch: &[Line]) -> impl Future<Output = Result<(), Undelivered>> + Send;
}

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// It may go better later: the records are kept and sent again.
    #[error("can't deliver log records now")]
    Later(#[source] BoxError),
    /// It will never go: the records are counted as lost.
    #[error("log records were refused")]
    Never(#[source] BoxError),
}

/// What a queue has done, for health and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that wait.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Records that were delivered.
    pub written: u64,
    /// Records that found no room.
    pub dropped: u64,
    /// Records that were refused where they should be kept.
    pub refused: u64,
    /// Whether the last attempt failed.
    pub failing: bool,
}

/// Records on their way out: bounded buffers, one for each worker, and batched delivery at least once.
///
/// [`push`](Self::push) never waits; [`run`](Self::run) delivers. While delivery fails, records wait, and
/// beyond the bound new ones are dropped and counted. A clone is a reference count.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    workers: PerWorker<Chunk>,
    chunk_bound: usize,
    pending_bound: usize,
    pending: AtomicUsize,
    pending_bytes: AtomicUsize,
    refused: AtomicU64,
    failing: AtomicBool,
    written: watch::Sender<u64>,
    flush_wanted: watch::Sender<u64>,
    flush_done: watch::Sender<u64>,
}

/// The records of one worker, one behind the other.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    ends: Vec<(u64, usize)>,
    dropped: u64,
}

impl Chunk {
    const fn cost(&self) -> usize {
        self.bytes.len() + self.ends.len() * OVERHEAD
    }

    /// Takes the records out, and leaves room for as many again.
    fn take(&mut self) -> (Vec<u8>, Vec<(u64, usize)>) {
        let bytes = Vec::with_capacity(self.bytes.len());
        let ends = Vec::with_capacity(self.ends.len());
        (std::mem::replace(&mut self.bytes, bytes), std::mem::replace(&mut self.ends, ends))
    }
}

impl Queue {
    /// A queue that keeps about `bytes` bytes, for as many workers as the process has.
    ///
    /// Half of the bytes are shared out to the workers, the other half is for what waits for delivery.
    pub fn new(workers: usize, bytes: usize) -> Self {
        let workers = PerWorker::new(workers, Chunk::default);
        let shared = Shared {
            chunk_bound: bytes / 2 / workers.len(),
            pending_bound: bytes / 2,
            workers,
            pending: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            written: watch::Sender::new(0),
            flush_wanted: watch::Sender::new(0),
            flush_done: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Appends what `encode` writes as one record, unless there is no room.
    pub fn push(&self, time: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        self.shared.workers.with(|chunk| {
            if chunk.cost() >= self.shared.chunk_bound {
                chunk.dropped += 1;
            } else {
                encode(&mut chunk.bytes);
                chunk.ends.push((time, chunk.bytes.len()));
            }
        });
    }

    /// What the queue has done so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            waiting: self.shared.pending.load(Ordering::Relaxed) as u64,
            waiting_bytes: self.shared.pending_bytes.load(Ordering::Relaxed) as u64,
            written: *self.shared.written.borrow(),
            dropped: 0,
            refused: self.shared.refused.load(Ordering::Relaxed),
            failing: self.shared.failing.load(Ordering::Relaxed),
        };
        self.shared.workers.for_each(|chunk| {
            counts.waiting += chunk.ends.len() as u64;
            counts.waiting_bytes += chunk.cost() as u64;
            counts.dropped += chunk.dropped;
        });
        counts
    }

    /// Changes whenever records were delivered: the number of all that were.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.shared.written.subscribe()
    }

    /// Waits until all that was pushed before is delivered (`true`), or the time is over (`false`).
    pub async fn flush(&self, within: Duration) -> bool {
        let mut done = self.shared.flush_done.subscribe();
        let mut wanted = 0;
        self.shared.flush_wanted.send_modify(|count| {
            *count += 1;
            wanted = *count;
        });
        timeout(within, done.wait_for(|count| *count >= wanted)).await.is_ok_and(|done| done.is_ok())
    }

    /// Delivers until `stop`; then tries once more for what is left. Run it once for each queue.
    pub async fn run<D: Deliver>(self, mut deliver: D, stop: CancellationToken) {
        let mut wanted = self.shared.flush_wanted.subscribe();
        let mut pending = VecDeque::new();
        let mut pause = Pause::default();
        loop {
            // The end of the pause, a flush or the stop: whichever it is, the reaction is the same.
            let _ = timeout(FLUSH_EVERY, select(pin!(stop.cancelled()), pin!(wanted.changed()))).await;
            let asked = *wanted.borrow_and_update();
            let stopping = stop.is_cancelled();
            let urgent = stopping || asked > *self.shared.flush_done.borrow();
            if self.round(&mut deliver, &mut pending, &mut pause, urgent).await {
                self.shared.flush_done.send_if_modified(|done| std::mem::replace(done, asked) != asked);
            }
            if stopping {
                return;
            }
        }
    }

    /// Collects and delivers. `true`: nothing waits that was there at the beginning.
    async fn round<D: Deliver>(
        &self,
        deliver: &mut D,
        pending: &mut VecDeque<Line>,
        pause: &mut Pause,
        urgent: bool,
    ) -> bool {
        loop {
            let all = self.collect(pending);
            if !urgent && !pause.is_over() {
                return false;
            }
            while !pending.is_empty() {
                if let Err(error) = self.deliver(deliver, pending).await {
                    pause.longer();
                    self.failed(&error);
                    return false;
                }
                pause.end();
                self.recovered();
            }
            if all {
                return true;
            }
        }
    }

    /// Moves the workers' records to `pending`, as far as there is room; `false` if there was not.
    fn collect(&self, pending: &mut VecDeque<Line>) -> bool {
        let mut fresh = Vec::new();
        let mut all = true;
        let mut bytes_pending = self.shared.pending_bytes.load(Ordering::Relaxed);
        for worker in 0..self.shared.workers.len() {
            let taken = self.shared.workers.with_shard(worker, |chunk| {
                let fits = pending.is_empty() && fresh.is_empty()
                    || bytes_pending + chunk.cost() <= self.shared.pending_bound;
                all &= fits;
                (fits && !chunk.ends.is_empty()).then(|| (chunk.cost(), chunk.take()))
            });
            let Some((cost, (bytes, ends))) = taken else { continue };
            bytes_pending += cost;
            let bytes = Bytes::from(bytes);
            let mut begin = 0;
            fresh.extend(ends.into_iter().map(|(time, end)| {
                let line = Line { time, bytes: bytes.slice(begin..end) };
                begin = end;
                line
            }));
        }
        // Each worker's records are in order already, which this sort is quick about.
        fresh.sort_by_key(|line| line.time);
        pending.extend(fresh);
        self.note(pending, bytes_pending);
        all
    }

    async fn deliver<D: Deliver>(
        &self,
        deliver: &mut D,
        pending: &mut VecDeque<Line>,
    ) -> Result<(), Undelivered> {
        let lines = pending.make_contiguous();
        let mut bytes = 0;
        let fitting = lines.iter().take(BATCH_LINES).take_while(|line| {
            let room = bytes < BATCH_BYTES;
            bytes += line.bytes.len();
            room
        });
        let count = fitting.count();
        let batch = &lines[..count];
        let cost: usize = batch.iter().map(|line| line.bytes.len() + OVERHEAD).sum();
        match timeout(DELIVERY_LIMIT, deliver.deliver(batch)).await {
            Ok(Ok(())) => self.shared.written.send_modify(|written| *written += count as u64),
            Ok(Err(Undelivered::Never(error))) => {
                self.shared.refused.fetch_add(count as u64, Ordering::Relaxed);
                tracing::warn!(count, error = &*error, "log records were refused");
            }
            Ok(Err(later)) => return Err(later),
            Err(elapsed) => return Err(Undelivered::Later(elapsed.into())),
        }
        pending.drain(..count);
        self.note(pending, self.shared.pending_bytes.load(Ordering::Relaxed) - cost);
        Ok(())
    }

    fn note(&self, pending: &VecDeque<Line>, bytes: usize) {
        self.shared.pending.store(pending.len(), Ordering::Relaxed);
        self.shared.pending_bytes.store(bytes, Ordering::Relaxed);
    }

    fn failed(&self, error: &Undelivered) {
        if !self.shared.failing.swap(true, Ordering::Relaxed) {
            let error: &dyn std::error::Error = std::error::Error::source(error).unwrap_or(error);
            tracing::warn!(error, "log records can't be delivered and wait");
        }
    }

    fn recovered(&self) {
        if self.shared.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("log records are delivered again");
        }
    }
}

impl Sink for Queue {
    fn emit(&self, record: &Record<'_>) {
        self.push(record.time, |out| record.encode(out));
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// The pause between attempts, twice as long after each failure.
#[derive(Default)]
struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    fn longer(&mut self) {
        let pause = FLUSH_EVERY.saturating_mul(1 << self.failures.min(16)).min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + pause);
    }

    fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::per_worker::enter_worker;

    /// Keeps what it gets, or fails.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<KeptState>>);

    #[derive(Default)]
    struct KeptState {
        lines: Vec<String>,
        batches: Vec<usize>,
        down: bool,
        refuse: bool,
        hang: bool,
        attempts: usize,
    }

    impl Kept {
        fn with<R>(&self, work: impl FnOnce(&mut KeptState) -> R) -> R {
            work(&mut self.0.lock().unwrap())
        }
    }

    impl Deliver for Kept {
        async fn deliver(&mut self, batch: &[Line]) -> Result<(), Undelivered> {
            let hang = self.with(|kept| {
                kept.attempts += 1;
                kept.hang
            });
            if hang {
                std::future::pending::<()>().await;
            }
            self.with(|kept| {
                if kept.down {
                    return Err(Undelivered::Later("down".into()));
                }
                if kept.refuse {
                    return Err(Undelivered::Never("bad".into()));
                }
                kept.batches.push(batch.len());
                kept.lines.extend(batch.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()));
                Ok(())
            })
        }
    }

    fn push(queue: &Queue, time: u64, text: &str) {
        queue.push(time, |out| out.extend_from_slice(text.as_bytes()));
    }

    fn start(queue: &Queue) -> (Kept, CancellationToken, tokio::task::JoinHandle<()>) {
        let (kept, stop) = (Kept::default(), CancellationToken::new());
        let task = tokio::spawn(queue.clone().run(kept.clone(), stop.clone()));
        (kept, stop, task)
    }

    #[tokio::test(start_paused = true)]
    async fn records_arrive_in_order_of_time_within_a_tick() {
        let queue = Queue::new(2, 1 << 20);
        let (kept, ..) = start(&queue);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let queue = &queue;
                scope.spawn(move || {
                    enter_worker(worker);
                    for n in 0..3 {
                        let time = n * 2 + worker as u64;
                        push(queue, time, &time.to_string());
                    }
                });
            }
        });
        let mut written = queue.written();
        written.wait_for(|count| *count == 6).await.unwrap();
        assert_eq!(kept.with(|kept| kept.lines.join(" ")), "0 1 2 3 4 5");
        assert_eq!(kept.with(|kept| kept.batches.clone()), [6]);
        assert_eq!(queue.counts(), Counts { written: 6, ..Counts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_loses_nothing_up_to_the_bound() {
        let queue = Queue::new(1, 1 << 20);
        let (kept, ..) = start(&queue);
        kept.with(|kept| kept.down = true);
        for n in 0..2000 {
            push(&queue, n, &n.to_string());
            if n % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        assert!(!queue.flush(Duration::from_secs(1)).await);
        assert!(queue.counts().failing);
        assert_eq!(queue.counts().waiting, 2000);
        kept.with(|kept| kept.down = false);
        assert!(queue.flush(Duration::from_secs(10)).await);
        let expected: Vec<_> = (0..2000).map(|n: u64| n.to_string()).collect();
        assert_eq!(kept.with(|kept| kept.lines.clone()), expected);
        assert_eq!(queue.counts(), Counts { written: 2000, ..Counts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_new_records_are_dropped_and_counted() {
        let bound = 64 << 10;
        let queue = Queue::new(1, bound);
        let (kept, ..) = start(&queue);
        kept.with(|kept| kept.down = true);
        let text = "x".repeat(1000);
        for n in 0..1000 {
            push(&queue, n, &format!("{n} {text}"));
            if n % 10 == 0 {
                tokio::time::sleep(FLUSH_EVERY).await;
            }
        }
        let counts = queue.counts();
        assert!(counts.waiting_bytes <= (bound + 2048) as u64, "{counts:?}");
        assert!(counts.waiting > 50, "{counts:?}");
        assert_eq!(counts.waiting + counts.dropped, 1000);
        kept.with(|kept| kept.down = false);
        assert!(queue.flush(Duration::from_secs(10)).await);
        assert_eq!(queue.counts().written, counts.waiting);
        assert!(kept.with(|kept| kept.lines[0].starts_with("0 ")));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_become_rarer_during_an_outage() {
        let queue = Queue::new(1, 1 << 20);
        let (kept, ..) = start(&queue);
        kept.with(|kept| kept.down = true);
        push(&queue, 1, "a");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let attempts = kept.with(|kept| kept.attempts);
        assert!((10..25).contains(&attempts), "{attempts}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_hangs_counts_as_failed() {
        let queue = Queue::new(1, 1 << 20);
        let (kept, ..) = start(&queue);
        kept.with(|kept| kept.hang = true);
        push(&queue, 1, "a");
        tokio::time::sleep(DELIVERY_LIMIT + FLUSH_EVERY * 3).await;
        assert!(queue.counts().failing);
        kept.with(|kept| kept.hang = false);
        assert!(queue.flush(Duration::from_secs(30)).await);
        assert_eq!(kept.with(|kept| kept.lines.clone()), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_counted_and_does_not_block_the_rest() {
        let queue = Queue::new(1, 1 << 20);
        let (kept, ..) = start(&queue);
        kept.with(|kept| kept.refuse = true);
        push(&queue, 1, "a");
        assert!(queue.flush(Duration::from_secs(1)).await);
        kept.with(|kept| kept.refuse = false);
        push(&queue, 2, "b");
        assert!(queue.flush(Duration::from_secs(1)).await);
        assert_eq!(queue.counts(), Counts { written: 1, refused: 1, ..Counts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn the_stop_delivers_what_is_left() {
        let queue = Queue::new(1, 1 << 20);
        let (kept, stop, task) = start(&queue);
        for n in 0..2500 {
            push(&queue, n, "x");
        }
        stop.cancel();
        task.await.unwrap();
        assert_eq!(kept.with(|kept| kept.batches.clone()), [1000, 1000, 500]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_task_a_flush_ends_at_its_deadline() {
        assert!(!Queue::new(1, 1024).flush(Duration::from_secs(1)).await);
    }
}
