//! Stop and kill signals, and the tasks they wait for.
//!
//! *Stop* asks for an orderly end: HTTP/1 closes after the response, HTTP/2 says GOAWAY, tunnels
//! say goodbye. *Kill* means that the time for that is over. Killing stops, too.
//!
//! It starts and ends nothing by itself: whoever is tracked has to listen to the signals.
//!
//! ```
//! use std::time::Duration;
//! use portcullis_layers::drain::Drain;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let drain = Drain::new();
//! let stop = drain.stopping().clone();
//! drain.spawn(async move { stop.cancelled().await });
//! assert_eq!(drain.shutdown(Duration::from_secs(10)).await, 0);
//! # }
//! ```

use std::pin::pin;
use std::time::Duration;

use futures_util::future::select;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;

/// How long tasks have after the kill signal: they only have to notice it.
const AFTER_KILL: Duration = Duration::from_secs(1);

/// The two signals and the tasks that they concern. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Drain {
    stop: CancellationToken,
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Neither stopped nor killed, and nobody to wait for.
    pub fn new() -> Self {
        let kill = CancellationToken::new();
        Self { stop: kill.child_token(), kill, tasks: TaskTracker::new() }
    }

    /// Cancelled when the orderly end begins. Take a child of it for what is polled often:
    /// its lock is then shared with nobody.
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Cancelled when the time for an orderly end is over.
    pub const fn killed(&self) -> &CancellationToken {
        &self.kill
    }

    /// Starts a task that [`shutdown`](Self::shutdown) waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Makes [`shutdown`](Self::shutdown) wait for a future that somebody else polls.
    pub fn track<F: Future>(&self, future: F) -> TrackedFuture<F> {
        self.tasks.track_future(future)
    }

    /// How many tasks are being waited for.
    pub fn running(&self) -> usize {
        self.tasks.len()
    }

    /// Resolves when the tasks have ended after [`shutdown`](Self::shutdown) began, or had their time to notice
    /// that they were killed: what they run on can go.
    pub async fn ended(&self) {
        let killed = async {
            self.kill.cancelled().await;
            tokio::time::sleep(AFTER_KILL).await;
        };
        select(pin!(self.tasks.wait()), pin!(killed)).await;
    }

    /// Stops, waits for the tasks up to the grace period, then kills. Returns how many had to be killed.
    pub async fn shutdown(self, grace: Duration) -> usize {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let late = self.tasks.len();
        self.kill.cancel();
        if tokio::time::timeout(AFTER_KILL, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "tasks did not notice that they were killed");
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_listen_end_in_the_grace_period() {
        let drain = Drain::new();
        let stop = drain.stopping().clone();
        let task = drain.spawn(async move {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        });
        assert_eq!(drain.clone().shutdown(Duration::from_secs(10)).await, 0);
        assert!(task.is_finished());
        assert!(!drain.killed().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_is_killed_and_counted() {
        let drain = Drain::new();
        let kill = drain.killed().clone();
        let task = drain.spawn(async move { kill.cancelled().await });
        let tracked = tokio::spawn(drain.track(std::future::pending::<()>()));
        assert_eq!(drain.shutdown(Duration::from_secs(10)).await, 2);
        assert!(task.is_finished());
        tracked.abort();
    }

    #[test]
    fn killing_stops_too() {
        let drain = Drain::new();
        drain.killed().cancel();
        assert!(drain.stopping().is_cancelled());
    }
}
