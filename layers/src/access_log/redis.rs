//! Records in a stream of Redis, for any project: no daemon needed.
//!
//! Each record is one entry with one field, `r`, a JSON object, under an id that Redis makes
//! from its clock; the stream is trimmed to about the wanted length as it grows. Entries of the daemon's
//! own store look the same, so that under the key `{PREFIX:requests}` (`{portcullis:requests}` unless
//! another prefix is set) its searches find what any service has written with this sink. The braces
//! belong to the key: in a cluster they keep all that goes with a stream in one place. The daemon writes
//! with a script instead of this, because its entries have tags, and ids of their own time.
//!
//! One connection and one task write batches as pipelines; after a lost connection it comes back by
//! itself, and records wait in memory meanwhile ([`Queue`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, RedisResult};
use tokio_util::sync::CancellationToken;

use super::queue::{Counts, Deliver, Line, Queue, Undelivered};
use super::record::Record;
use super::sink::Sink;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const RESPONSE_LIMIT: Duration = Duration::from_secs(5);

/// The field of an entry that holds the record.
const FIELD: &str = "r";

/// How many entries a stream keeps, unless told otherwise: the catalogue's figure for logs.
const KEEP: usize = 1_000_000;

/// How many bytes of records wait in memory, unless told otherwise.
const WAITING_BYTES: usize = 16 << 20;

/// A [`Sink`] that appends to a stream of Redis. A clone is a few reference counts.
///
/// ```no_run
/// use portcullis_layers::access_log::{AccessLogLayer, RedisStreams};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn demo() -> Result<(), redis::RedisError> {
/// let log = RedisStreams::new(redis::Client::open("redis://127.0.0.1")?, "my-service:requests");
/// let stop = CancellationToken::new();
/// tokio::spawn(log.clone().run(stop.clone()));
/// let layer = AccessLogLayer::new(log.clone());
/// // … serve, and in the end:
/// log.flush(std::time::Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStreams {
    queue: Queue,
    client: Client,
    key: Arc<str>,
    keep: usize,
}

impl RedisStreams {
    /// Appends to the stream `key`; `{portcullis:requests}` is the one that the daemon's searches read.
    /// Nothing is sent before [`run`](Self::run) runs.
    pub fn new(client: Client, key: &str) -> Self {
        Self { queue: Queue::new(1, WAITING_BYTES), client, key: key.into(), keep: KEEP }
    }

    /// Keeps about this many entries in the stream.
    #[must_use]
    pub const fn keep(mut self, entries: usize) -> Self {
        self.keep = entries;
        self
    }

    /// Keeps at most about `bytes` bytes of records in memory, for this many workers
    /// (see [`per_worker`](crate::per_worker)). Call it before the sink is cloned.
    #[must_use]
    pub fn buffer(mut self, workers: usize, bytes: usize) -> Self {
        self.queue = Queue::new(workers, bytes);
        self
    }

    /// Writes until `stop`. Run it once.
    pub async fn run(self, stop: CancellationToken) {
        let delivery = Xadd { client: self.client, key: self.key, keep: self.keep, connection: None };
        self.queue.run(delivery, stop).await;
    }

    /// Waits until all records that were emitted before are in Redis (`true`), or the time is over.
    pub async fn flush(&self, within: Duration) -> bool {
        self.queue.flush(within).await
    }

    /// How many records were written, wait, and were dropped.
    pub fn counts(&self) -> Counts {
        self.queue.counts()
    }
}

impl Sink for RedisStreams {
    fn emit(&self, record: &Record<'_>) {
        self.queue.emit(record);
    }
}

// Not derived: the client knows a password.
impl fmt::Debug for RedisStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreams")
            .field("key", &self.key)
            .field("keep", &self.keep)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

struct Xadd {
    client: Client,
    key: Arc<str>,
    keep: usize,
    connection: Option<MultiplexedConnection>,
}

impl Xadd {
    async fn write(&self, connection: &mut MultiplexedConnection, batch: &[Line]) -> RedisResult<()> {
        let mut pipe = Pipeline::with_capacity(batch.len());
        for line in batch {
            pipe.cmd("XADD").arg(&*self.key).arg("MAXLEN").arg("~").arg(self.keep);
            pipe.arg("*").arg(FIELD).arg(&*line.bytes).ignore();
        }
        pipe.exec_async(connection).await
    }

    async fn try_deliver(&mut self, batch: &[Line]) -> RedisResult<()> {
        // Taken out, and put back only after success: whatever failed, a fresh connection is the safe start.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_LIMIT))
                    .set_response_timeout(Some(RESPONSE_LIMIT));
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        self.write(&mut connection, batch).await?;
        self.connection = Some(connection);
        Ok(())
    }
}

impl Deliver for Xadd {
    async fn deliver(&mut self, batch: &[Line]) -> Result<(), Undelivered> {
        self.try_deliver(batch).await.map_err(|error| Undelivered::Later(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use redis::streams::StreamRangeReply;
    use redis::{AsyncCommands, FromRedisValue};

    use super::*;
    use crate::access_log::record::tests::plain;

    /// A redis-server of our own, on a port that was free, in a directory that goes away with it.
    struct Server {
        process: Child,
        port: u16,
        directory: tempfile::TempDir,
    }

    impl Server {
        async fn start() -> Self {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let directory = tempfile::tempdir().unwrap();
            let process = Self::spawn(port, directory.path());
            let server = Self { process, port, directory };
            server.ready().await;
            server
        }

        fn spawn(port: u16, directory: &std::path::Path) -> Child {
            Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "yes"])
                .args(["--appendfsync", "always", "--save", "", "--dir"])
                .arg(directory)
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is installed")
        }

        async fn ready(&self) {
            let ready = async {
                while self.client().get_multiplexed_async_connection().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), ready).await.expect("redis-server comes up");
        }

        fn stop(&mut self) {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }

        async fn restart(&mut self) {
            self.process = Self::spawn(self.port, self.directory.path());
            self.ready().await;
        }

        fn client(&self) -> Client {
            Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap()
        }

        async fn paths(&self, key: &str) -> Vec<String> {
            let mut connection = self.client().get_multiplexed_async_connection().await.unwrap();
            let reply: StreamRangeReply = connection.xrange_all(key).await.unwrap();
            let entries = reply.ids.iter();
            let record = |entry: &redis::streams::StreamId| {
                String::from_redis_value(entry.map["r"].clone()).expect("a record is text")
            };
            let path = |record: String| {
                let value: serde_json::Value = serde_json::from_str(&record).unwrap();
                value["request_path"].as_str().unwrap().to_owned()
            };
            entries.map(record).map(path).collect()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn emit(log: &RedisStreams, path: &str) {
        log.emit(&Record { path, ..plain() });
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn records_survive_an_outage_of_redis() {
        let mut server = Server::start().await;
        let log = RedisStreams::new(server.client(), "log").buffer(1, 1 << 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(log.clone().run(stop.clone()));
        emit(&log, "/1");
        assert!(log.flush(LIMIT).await);
        server.stop();
        emit(&log, "/2");
        assert!(!log.flush(Duration::from_millis(500)).await);
        assert!(log.counts().failing);
        emit(&log, "/3");
        server.restart().await;
        assert!(log.flush(LIMIT).await);
        assert_eq!(server.paths("log").await, ["/1", "/2", "/3"]);
        emit(&log, "/4");
        stop.cancel();
        task.await.unwrap();
        assert_eq!(server.paths("log").await.len(), 4);
        assert_eq!(log.counts(), Counts { written: 4, ..Counts::default() });
    }

    #[tokio::test]
    async fn the_stream_is_trimmed() {
        let server = Server::start().await;
        let log = RedisStreams::new(server.client(), "log").keep(100);
        let task = tokio::spawn(log.clone().run(CancellationToken::new()));
        for _ in 0..2000 {
            emit(&log, "/");
        }
        assert!(log.flush(LIMIT).await);
        // Redis trims whole nodes of its tree: 100 entries each.
        let length = server.paths("log").await.len();
        assert!((100..=300).contains(&length), "{length}");
        task.abort();
    }

    #[test]
    fn a_password_is_not_shown() {
        let client = Client::open("redis://:s3cret@127.0.0.1").unwrap();
        assert!(!format!("{:?}", RedisStreams::new(client, "log")).contains("s3cret"));
    }
}
