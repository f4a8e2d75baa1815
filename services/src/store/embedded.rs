//! The store of a single node: redb for documents, records, items and leases, files for streams.
//!
//! A data directory belongs to one process; a second one is refused by name. A commit is on disk when
//! it returns, and a crash leaves all of it or nothing. Streams (see `segments.rs`) are not awaited on
//! disk but for audit and revocations: a crash of the machine may lose the last log entries, a crash of
//! the process none.
//!
//! Leases are for the tasks of this one process; they work like those of a cluster, so that nothing
//! above has to know.

mod commit;
mod lock;
mod records;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use self::commit::read_revision;
use self::lock::lock;
use super::ring::Ring;
use super::segments::{Segments, open_file};
use super::{
    Document, Entry, Error, ItemKey, Keep, Key, Kind, Lease, Logged, Range, Raw, Record, RecordCursor,
    RecordKey, RecordKind, RecordPage, RecordWrite, Result, Revision, Store, Stream, Write, milliseconds,
    private,
};

/// Kind and id, to version and JSON.
const DOCUMENTS: TableDefinition<'_, (&str, &str), (u64, &[u8])> = TableDefinition::new("documents");
/// One row, to epoch and number.
const REVISION: TableDefinition<'_, (), (&str, u64)> = TableDefinition::new("revision");
/// Kind and id, to the time of expiry and the value.
const ITEMS: TableDefinition<'_, (&str, &str), (u64, &[u8])> = TableDefinition::new("items");
/// Lease, to holder, time of expiry and number. A row stays when the lease is given back, for its number.
const LEASES: TableDefinition<'_, &str, (&str, u64, u64)> = TableDefinition::new("leases");

const DATABASE_FILE: &str = "store.redb";
const STREAMS_DIR: &str = "streams";

/// Expired items are removed when one is stored, but not more often than this (milliseconds).
const SWEEP: u64 = 30_000;

/// redb caches pages: configuration is small, and idle memory counts.
const CACHE_BYTES: usize = 8 << 20;

/// The store in a data directory, or in memory.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    revision: watch::Sender<Revision>,
    logs: Logs,
    swept: AtomicU64,
    place: String,
    /// Held as long as the store is open.
    _lock: Option<File>,
}

/// The streams, in the order of [`Stream::ALL`].
enum Logs {
    Files(Box<[Mutex<Segments>; Stream::ALL.len()]>),
    Memory(Box<[Mutex<Ring>; Stream::ALL.len()]>),
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("place", &self.inner.place).finish_non_exhaustive()
    }
}

/// Why the data directory can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the data directory {dir} is in use by another portcullis process{holder}: \
         stop that one, or choose another directory with PORTCULLIS_DATA (lock file {lock})"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who has it, as it is said: ` (process 17)`, or nothing.
        holder: String,
        /// The file whose lock is held.
        lock: PathBuf,
    },
    /// A file can't be read or made.
    #[error("the data directory can't be opened at {path}")]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The database is damaged, or made by another version.
    #[error("the database {path} can't be opened")]
    Database {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: Box<redb::Error>,
    },
}

impl Embedded {
    /// Opens a data directory, which is made the first time. Blocks: not for a thread that serves.
    pub fn open(dir: &Path) -> std::result::Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { path, source }
        };
        private::create_dir(dir).map_err(failed(dir))?;
        let lock = lock(dir)?;
        let path = dir.join(DATABASE_FILE);
        let file = open_file(&path).map_err(failed(&path))?;
        let database = FileBackend::new(file)
            .and_then(|file| Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(file))
            .map_err(|source| OpenError::Database { path: path.clone(), source: Box::new(source.into()) })?;
        let streams = dir.join(STREAMS_DIR);
        let mut logs = Vec::with_capacity(Stream::ALL.len());
        for stream in Stream::ALL {
            let dir = streams.join(stream.as_str());
            let durable = matches!(stream, Stream::Audit | Stream::Revocations);
            logs.push(Mutex::new(Segments::open(&dir, durable).map_err(failed(&dir))?));
        }
        let logs = <[_; Stream::ALL.len()]>::try_from(logs).expect("one for each stream");
        Self::with(database, Logs::Files(Box::new(logs)), dir.display().to_string(), Some(lock))
            .map_err(|source| OpenError::Database { path, source: Box::new(source) })
    }

    /// A store that ends with the process, for tests and trials.
    pub fn in_memory() -> std::result::Result<Self, OpenError> {
        let failed = |source| OpenError::Database { path: ":memory:".into(), source: Box::new(source) };
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(InMemoryBackend::new())
            .map_err(|error| failed(error.into()))?;
        let logs = Logs::Memory(Box::new(std::array::from_fn(|_| Mutex::default())));
        Self::with(database, logs, "memory".into(), None).map_err(failed)
    }

    fn with(
        database: Database,
        logs: Logs,
        place: String,
        lock: Option<File>,
    ) -> std::result::Result<Self, redb::Error> {
        // Reading a table that was never made is an error, so all are made here.
        let transaction = database.begin_write()?;
        transaction.open_table(DOCUMENTS)?;
        transaction.open_table(REVISION)?;
        transaction.open_table(ITEMS)?;
        transaction.open_table(LEASES)?;
        records::make_tables(&transaction)?;
        transaction.commit()?;
        let revision = read_revision(&database.begin_read()?)?;
        let (revision, _) = watch::channel(revision);
        let swept = AtomicU64::new(0);
        Ok(Self { inner: Arc::new(Inner { database, revision, logs, swept, place, _lock: lock }) })
    }

    /// Runs what waits for the disk on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(Error::Unavailable(Box::new(error))))
    }
}

#[async_trait]
impl Store for Embedded {
    async fn load_raw(&self) -> Result<(Revision, Vec<Raw>)> {
        self.blocking(|inner| {
            let view = inner.database.begin_read().map_err(failed)?;
            let revision = read_revision(&view).map_err(failed)?;
            let mut documents = Vec::new();
            for row in view.open_table(DOCUMENTS).map_err(failed)?.iter().map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                let (kind, id) = key.value();
                // A kind that a later version has made is not ours to read.
                let Some(kind) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) else { continue };
                let (version, json) = value.value();
                documents.push(Raw { key: Key::new(kind, id), version, json: json.into() });
            }
            Ok((revision, documents))
        })
        .await
    }

    async fn revision(&self) -> Result<Revision> {
        // This process alone writes, and a commit gets here before its writer is answered.
        Ok(self.inner.revision.borrow().clone())
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Document>> {
        self.blocking(move |inner| {
            let view = inner.database.begin_read().map_err(failed)?;
            let table = view.open_table(DOCUMENTS).map_err(failed)?;
            let mut documents = Vec::new();
            for row in table.range((kind.as_str(), "")..).map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                let (found, id) = key.value();
                if found != kind.as_str() {
                    break;
                }
                documents.push(document(Key::new(kind, id), value.value()));
            }
            Ok(documents)
        })
        .await
    }

    async fn get(&self, key: &Key) -> Result<Option<Document>> {
        let key = key.clone();
        self.blocking(move |inner| {
            let view = inner.database.begin_read().map_err(failed)?;
            let table = view.open_table(DOCUMENTS).map_err(failed)?;
            let row = table.get((key.kind.as_str(), key.id.as_str())).map_err(failed)?;
            Ok(row.map(|row| document(key, row.value())))
        })
        .await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision> {
        self.blocking(move |inner| inner.commit(&writes)).await
    }

    fn changes(&self, since: Revision) -> BoxStream<'static, Revision> {
        // Only the receiver: the stream must not keep the store open.
        let receiver = self.inner.revision.subscribe();
        stream::unfold((receiver, since), |(mut receiver, seen)| async move {
            let revision = receiver.wait_for(|revision| *revision != seen).await.ok()?.clone();
            Some((revision.clone(), (receiver, revision)))
        })
        .boxed()
    }

    async fn get_record(&self, key: &RecordKey) -> Result<Option<Record>> {
        let key = key.clone();
        self.blocking(move |inner| inner.get_record(key)).await
    }

    async fn commit_records(&self, writes: Vec<RecordWrite>) -> Result<()> {
        self.blocking(move |inner| inner.commit_records(&writes)).await
    }

    async fn list_records(
        &self,
        kind: RecordKind,
        index: Option<&str>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<RecordPage> {
        let index = index.unwrap_or_default().to_owned();
        self.blocking(move |inner| inner.list_records(kind, &index, after, limit)).await
    }

    async fn count_records(&self, kind: RecordKind, index: Option<&str>) -> Result<u64> {
        let index = index.unwrap_or_default().to_owned();
        self.blocking(move |inner| inner.count_records(kind, &index)).await
    }

    async fn put_item(&self, key: &ItemKey, value: &[u8], ttl: Duration) -> Result<()> {
        let (key, value) = (key.clone(), value.to_vec());
        self.blocking(move |inner| {
            let now = now();
            let transaction = inner.begin_write()?;
            {
                let mut items = transaction.open_table(ITEMS).map_err(failed)?;
                let until = now.saturating_add(milliseconds(ttl));
                items.insert((key.kind, key.id.as_str()), (until, value.as_slice())).map_err(failed)?;
                if now.saturating_sub(inner.swept.load(Ordering::Relaxed)) >= SWEEP {
                    inner.swept.store(now, Ordering::Relaxed);
                    items.retain(|_, (until, _)| until > now).map_err(failed)?;
                }
            }
            transaction.commit().map_err(failed)
        })
        .await
    }

    async fn get_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
        let key = key.clone();
        self.blocking(move |inner| {
            let view = inner.database.begin_read().map_err(failed)?;
            let items = view.open_table(ITEMS).map_err(failed)?;
            let row = items.get((key.kind, key.id.as_str())).map_err(failed)?;
            Ok(row.and_then(|row| alive(row.value())))
        })
        .await
    }

    async fn take_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>> {
        let key = key.clone();
        self.blocking(move |inner| {
            let transaction = inner.begin_write()?;
            let (found, value) = {
                let mut items = transaction.open_table(ITEMS).map_err(failed)?;
                let row = items.remove((key.kind, key.id.as_str())).map_err(failed)?;
                (row.is_some(), row.and_then(|row| alive(row.value())))
            };
            if found {
                transaction.commit().map_err(failed)?;
            } else {
                transaction.abort().map_err(failed)?;
            }
            Ok(value)
        })
        .await
    }

    async fn append(&self, stream: Stream, entries: Vec<Entry>, keep: Keep) -> Result<()> {
        self.blocking(move |inner| match &inner.logs {
            Logs::Files(logs) => {
                locked(&logs[place(stream)]).append(&entries, keep, now()).map_err(unavailable)
            }
            Logs::Memory(logs) => {
                locked(&logs[place(stream)]).append(entries, keep, now());
                Ok(())
            }
        })
        .await
    }

    async fn range(&self, stream: Stream, range: &Range) -> Result<Vec<Logged>> {
        let range = range.clone();
        self.blocking(move |inner| match &inner.logs {
            Logs::Files(logs) => {
                // The lock ends before the files are read: a search must not hold up the log.
                let view = locked(&logs[place(stream)]).view(&range);
                view.map_or_else(|| Ok(Vec::new()), |view| view.read().map_err(unavailable))
            }
            Logs::Memory(logs) => Ok(locked(&logs[place(stream)]).read(&range)),
        })
        .await
    }

    async fn clear(&self, stream: Stream) -> Result<u64> {
        self.blocking(move |inner| match &inner.logs {
            Logs::Files(logs) => locked(&logs[place(stream)]).clear().map_err(unavailable),
            Logs::Memory(logs) => Ok(locked(&logs[place(stream)]).clear()),
        })
        .await
    }

    async fn acquire(&self, lease: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>> {
        let (lease, holder) = (lease.to_owned(), holder.to_owned());
        self.blocking(move |inner| {
            let now = now();
            let until = now.saturating_add(milliseconds(ttl));
            let transaction = inner.begin_write()?;
            let number = {
                let mut leases = transaction.open_table(LEASES).map_err(failed)?;
                let held = leases.get(lease.as_str()).map_err(failed)?.map(|row| {
                    let (by, until, number) = row.value();
                    (by == holder, until > now, number)
                });
                let number = match held {
                    Some((false, true, _)) => None,
                    Some((true, true, number)) => Some(number),
                    // Also behind the numbers of a store that was lost.
                    Some((_, false, number)) => Some(now.max(number + 1)),
                    None => Some(now),
                };
                if let Some(number) = number {
                    leases.insert(lease.as_str(), (holder.as_str(), until, number)).map_err(failed)?;
                }
                number
            };
            transaction.commit().map_err(failed)?;
            Ok(number.map(|number| Lease { number }))
        })
        .await
    }

    async fn release(&self, lease: &str, holder: &str) -> Result<()> {
        let (lease, holder) = (lease.to_owned(), holder.to_owned());
        self.blocking(move |inner| {
            let transaction = inner.begin_write()?;
            {
                let mut leases = transaction.open_table(LEASES).map_err(failed)?;
                let held = leases.get(lease.as_str()).map_err(failed)?.map(|row| {
                    let (by, _, number) = row.value();
                    (by == holder, number)
                });
                if let Some((true, number)) = held {
                    leases.insert(lease.as_str(), ("", 0, number)).map_err(failed)?;
                }
            }
            transaction.commit().map_err(failed)
        })
        .await
    }

    async fn ping(&self) -> Result<()> {
        self.blocking(|inner| inner.database.begin_read().map(drop).map_err(failed)).await
    }
}

fn document(key: Key, (version, json): (u64, &[u8])) -> Document {
    Document { key, version, value: super::parse(json) }
}

fn alive((until, value): (u64, &[u8])) -> Option<Vec<u8>> {
    (until > now()).then(|| value.to_vec())
}

fn place(stream: Stream) -> usize {
    Stream::ALL.iter().position(|known| *known == stream).expect("all streams are listed")
}

/// A log whose writer has panicked is still whole: its state moves after the writing only.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: io::Error) -> Error {
    Error::Unavailable(Box::new(error))
}

fn failed(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        error @ redb::Error::Corrupted(_) => {
            Error::Corrupt { place: DATABASE_FILE.into(), source: Box::new(error) }
        }
        error => Error::Unavailable(Box::new(error)),
    }
}

/// Milliseconds since 1970 by this machine's clock.
fn now() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    milliseconds(elapsed)
}
