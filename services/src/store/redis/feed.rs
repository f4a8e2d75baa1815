//! The feed of changes, read on a connection of its own.
//!
//! The feed is a stream whose ids are revisions. Its entries only wake: what is reported is the revision
//! that the store has then, so that many commits in a row are one hint. The revision is also read
//! whenever nothing has come for a while, in case the store was emptied or replaced under the feed.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value, cmd};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::keys::Keys;
use super::target::{Connection, Target};
use super::{Revision, revision};

/// How long one read waits for a change.
const BLOCK: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect grow from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Feed {
    pub(super) target: Arc<Target>,
    pub(super) keys: Keys,
    pub(super) patience: Duration,
    /// The revision that was reported last.
    pub(super) seen: Revision,
    /// Ends the feed with its store.
    pub(super) closed: CancellationToken,
    pub(super) connection: Option<Connection>,
    pub(super) failures: u32,
}

impl Feed {
    /// The next revision that is not the one seen, or any after a lost connection.
    pub(super) async fn next(&mut self) -> Option<Revision> {
        let closed = self.closed.clone();
        closed.run_until_cancelled(self.wait()).await
    }

    async fn wait(&mut self) -> Revision {
        loop {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(revision)) => {
                    self.seen = revision.clone();
                    return revision;
                }
                Err(error) => {
                    self.connection = None;
                    if self.failures == 0 {
                        warn!(store = ?self.target, %error, "change feed lost");
                    }
                    self.failures = self.failures.saturating_add(1);
                    sleep(pause(self.failures)).await;
                }
            }
        }
    }

    async fn step(&mut self) -> RedisResult<Option<Revision>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connecting = self.target.connect(BLOCK + self.patience);
                timeout(self.patience, connecting).await.map_err(late)??
            }
        };
        let current = read_revision(&mut connection, &self.keys).await?;
        let missed = std::mem::take(&mut self.failures) > 0;
        if missed {
            info!(store = ?self.target, revision = current.n, "change feed found again");
        }
        if missed || current != self.seen {
            self.connection = Some(connection);
            return Ok(Some(current));
        }
        let read: Value = cmd("XREAD")
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX))
            .arg("STREAMS")
            .arg(self.keys.feed())
            .arg(format!("{}-0", current.n))
            .query_async(&mut connection)
            .await?;
        let changed = read_revision(&mut connection, &self.keys).await?;
        self.connection = Some(connection);
        if changed != self.seen {
            return Ok(Some(changed));
        }
        if read != Value::Nil {
            // An entry without a commit, made by hand: it would wake us again at once.
            sleep(BLOCK).await;
        }
        Ok(None)
    }
}

async fn read_revision(connection: &mut Connection, keys: &Keys) -> RedisResult<Revision> {
    let (epoch, n): (Option<String>, Option<u64>) =
        cmd("HMGET").arg(keys.revision()).arg("epoch").arg("n").query_async(connection).await?;
    Ok(revision(epoch.unwrap_or_default(), n.unwrap_or_default()))
}

fn late(error: tokio::time::error::Elapsed) -> RedisError {
    RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, error))
}

/// Doubles, and is spread between a half and the whole, so that nodes do not come back in step.
fn pause(failures: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    let mut byte = [0u8];
    // Without randomness there is no spread, which costs nothing else.
    let spread = aws_lc_rs::rand::fill(&mut byte).map_or(0, |()| u32::from(byte[0]));
    whole / 2 + whole / 2 * spread / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        for (failures, longest) in [(1, 50), (2, 100), (3, 200), (6, 1000), (1000, 1000), (u32::MAX, 1000)] {
            let longest = Duration::from_millis(longest);
            for _ in 0..20 {
                let pause = pause(failures);
                assert!(pause >= longest / 2 && pause <= longest, "{failures}: {pause:?}");
            }
        }
    }
}
