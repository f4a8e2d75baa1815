//! The connection that all operations share: made when it is needed, and again when it was lost.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value};
use tokio::time::{Instant, timeout};

use super::target::{Connection, Target};

/// After a failed connection the next attempt waits this long; until then operations fail at once.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Link {
    target: std::sync::Arc<Target>,
    /// How long an operation may take, connecting included.
    patience: Duration,
    current: Mutex<Option<Live>>,
    /// One connects, the others wait for it.
    connecting: tokio::sync::Mutex<Option<Failure>>,
}

#[derive(Clone)]
struct Live {
    connection: Connection,
    /// Tells it from its successors.
    number: u64,
}

struct Failure {
    at: Instant,
    error: RedisError,
}

/// Why an operation has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("no answer from {target} within {patience:?}")]
    Late { target: String, patience: Duration },
    #[error("the request to {target} failed")]
    Failed {
        target: String,
        #[source]
        source: RedisError,
    },
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(target: std::sync::Arc<Target>, patience: Duration) -> Self {
        Self { target, patience, current: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Runs a command, or a script by its hash (then `script` is loaded if the server lacks it).
    ///
    /// A command whose connection breaks is sent once more: all that we send can be repeated, or, as
    /// an append to a log, is better done twice than not.
    pub(super) async fn run(&self, cmd: &Cmd, script: Option<&Script>) -> Result<Value, LinkError> {
        let target = || format!("{:?}", self.target);
        match timeout(self.patience, self.attempt(cmd, script)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(LinkError::Failed { target: target(), source }),
            Err(_) => {
                // A server that has gone without a word: the next operation starts anew.
                self.current().take();
                Err(LinkError::Late { target: target(), patience: self.patience })
            }
        }
    }

    async fn attempt(&self, cmd: &Cmd, script: Option<&Script>) -> RedisResult<Value> {
        let Live { mut connection, number } = self.live().await?;
        match execute(&mut connection, cmd, script).await {
            Err(error) if is_lost(&error) => {
                self.forget(number);
                // No answer in time leaves no time for another attempt.
                if error.is_timeout() {
                    return Err(error);
                }
                let Live { mut connection, number } = self.live().await?;
                execute(&mut connection, cmd, script).await.inspect_err(|error| {
                    if is_lost(error) {
                        self.forget(number);
                    }
                })
            }
            result => result,
        }
    }

    async fn live(&self) -> RedisResult<Live> {
        if let Some(live) = self.current().clone() {
            return Ok(live);
        }
        let mut failure = self.connecting.lock().await;
        // Whoever had the lock before may have connected, or failed just now.
        if let Some(live) = self.current().clone() {
            return Ok(live);
        }
        if let Some(Failure { at, error }) = &*failure
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        match self.target.connect(self.patience).await {
            Ok(connection) => {
                *failure = None;
                let live = Live { connection, number: next_number() };
                *self.current() = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                *failure = Some(Failure { at: Instant::now(), error: error.clone() });
                Err(error)
            }
        }
    }

    /// Drops a connection that is lost, unless there is a newer one already.
    fn forget(&self, number: u64) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|live| live.number == number) {
            *current = None;
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Live>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

async fn execute(connection: &mut Connection, cmd: &Cmd, script: Option<&Script>) -> RedisResult<Value> {
    match (cmd.query_async(connection).await, script) {
        (Err(error), Some(script)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(connection).await?;
            cmd.query_async(connection).await
        }
        (result, _) => result,
    }
}

/// Is the connection of no more use? Also one to a server that is no longer the master.
fn is_lost(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => matches!(kind, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown),
        _ => error.is_io_error() || error.is_unrecoverable_error(),
    }
}
