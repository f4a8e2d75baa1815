//! Coarse deadlines: one ticker per worker instead of a timer per request.
//!
//! A timer of the runtime takes a lock and often a system call each time it is armed. Deadlines of
//! requests are seconds long, so that a tick of a tenth of a second is fine enough: arming one is
//! a store, and a single task per worker looks for those that have passed.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::per_worker::{PerWorker, current_worker};

/// How fine deadlines are.
pub const TICK: Duration = Duration::from_millis(100);

/// The ticker's task ends when nothing was armed for this many ticks, and starts again when needed.
const IDLE_TICKS: u32 = 100;

/// Arms [`Deadline`]s. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Ticker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    workers: PerWorker<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    now: u64,
    running: bool,
    armed: Vec<Option<Armed>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Armed {
    at: u64,
    waker: Option<Waker>,
}

impl Ticker {
    /// A ticker for as many workers as the process has; one is right for a runtime of several threads, too.
    pub fn new(workers: usize) -> Self {
        let workers = PerWorker::new(workers, Slots::default);
        Self { shared: Arc::new(Shared { start: Instant::now(), workers }) }
    }

    /// A deadline that is not armed yet.
    pub fn deadline(&self) -> Deadline {
        Deadline { ticker: self.clone(), worker: current_worker(), slot: None }
    }

    fn ticks_now(&self) -> u64 {
        u64::try_from(self.shared.start.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(self, worker: usize) {
        let _stopped = Stopped(&self, worker);
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = Vec::new();
        let mut idle = 0;
        loop {
            interval.tick().await;
            let now = self.ticks_now();
            let empty = self.shared.workers.with_shard(worker, |slots| slots.advance(now, &mut due));
            due.drain(..).for_each(Waker::wake);
            idle = if empty { idle + 1 } else { 0 };
            if idle > IDLE_TICKS {
                return;
            }
        }
    }
}

/// Marks the ticker of a worker as stopped, also when its runtime goes away.
struct Stopped<'a>(&'a Ticker, usize);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.shared.workers.with_shard(self.1, |slots| slots.running = false);
    }
}

impl Slots {
    fn advance(&mut self, now: u64, due: &mut Vec<Waker>) -> bool {
        self.now = now;
        for armed in self.armed.iter_mut().flatten() {
            if armed.at <= now {
                due.extend(armed.waker.take());
            }
        }
        self.free.len() == self.armed.len()
    }

    fn insert(&mut self, armed: Armed) -> usize {
        if let Some(slot) = self.free.pop() {
            self.armed[slot] = Some(armed);
            slot
        } else {
            self.armed.push(Some(armed));
            self.armed.len() - 1
        }
    }
}

/// A point in time after which something has taken too long. Dropping it disarms it.
#[derive(Debug)]
pub struct Deadline {
    ticker: Ticker,
    worker: usize,
    slot: Option<usize>,
}

impl Deadline {
    /// Arms the deadline, or moves it: `after` from now, rounded up to the next tick.
    pub fn arm(&mut self, after: Duration) {
        let ticks = u64::try_from(after.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX);
        let start = self.ticker.shared.workers.with_shard(self.worker, |slots| {
            let start = !std::mem::replace(&mut slots.running, true);
            if start {
                slots.now = self.ticker.ticks_now();
            }
            let at = slots.now.saturating_add(ticks).saturating_add(1);
            match self.slot.and_then(|slot| slots.armed[slot].as_mut()) {
                Some(armed) => armed.at = at,
                None => self.slot = Some(slots.insert(Armed { at, waker: None })),
            }
            start
        });
        if start {
            tokio::spawn(self.ticker.clone().run(self.worker));
        }
    }

    /// Disarms the deadline: it never passes until it is armed again.
    pub fn disarm(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.ticker.shared.workers.with_shard(self.worker, |slots| {
                slots.armed[slot] = None;
                slots.free.push(slot);
            });
        }
    }

    /// Whether the deadline is armed, passed or not.
    pub const fn is_armed(&self) -> bool {
        self.slot.is_some()
    }

    /// Ready when the deadline has passed; otherwise the task is woken when it does.
    pub fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.slot else { return Poll::Pending };
        self.ticker.shared.workers.with_shard(self.worker, |slots| {
            let now = slots.now;
            let Some(armed) = slots.armed[slot].as_mut() else { return Poll::Pending };
            if armed.at <= now {
                return Poll::Ready(());
            }
            match &mut armed.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => armed.waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
    }

    /// Runs a future until it is done (`Some`) or the deadline, armed here, has passed (`None`).
    pub async fn limit<F: Future>(&mut self, after: Duration, future: F) -> Option<F::Output> {
        self.arm(after);
        let mut future = std::pin::pin!(future);
        let output = std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_passed(cx).map(|()| None),
        })
        .await;
        self.disarm();
        output
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_cut_off() {
        let ticker = Ticker::new(1);
        let begun = Instant::now();
        let outcome = ticker.deadline().limit(Duration::from_secs(2), std::future::pending::<()>()).await;
        assert_eq!(outcome, None);
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2400), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_in_time_is_returned() {
        let ticker = Ticker::new(1);
        let work = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        assert_eq!(ticker.deadline().limit(Duration::from_secs(2), work).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_moves_a_deadline() {
        let ticker = Ticker::new(1);
        let mut deadline = ticker.deadline();
        for _ in 0..5 {
            deadline.arm(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(700)).await;
            let mut cx = Context::from_waker(Waker::noop());
            assert!(deadline.poll_passed(&mut cx).is_pending());
        }
        deadline.arm(Duration::from_secs(1));
        std::future::poll_fn(|cx| deadline.poll_passed(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_ticker_sleeps_when_nothing_is_armed_and_wakes_again() {
        let ticker = Ticker::new(1);
        for _ in 0..2 {
            assert_eq!(ticker.deadline().limit(Duration::from_secs(1), async {}).await, Some(()));
            tokio::time::sleep(TICK * (IDLE_TICKS + 5)).await;
            assert!(!ticker.shared.workers.with_shard(0, |slots| slots.running));
        }
    }
}
