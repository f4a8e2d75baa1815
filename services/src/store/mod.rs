//! One store, five ideas: documents, records, items, streams and leases.
//!
//! - *Documents* are configuration: JSON values with a version, changed by [`Store::commit`], all or nothing.
//!   Every commit moves the [`Revision`] and wakes the readers of [`Store::changes`].
//! - *Records* are state that wakes nobody: with a version and a life time, listed by index in pages.
//! - *Items* are bytes with a life time, taken exactly once.
//! - *Streams* are logs: entries in order of time, with fields and tags, bounded in length and age.
//! - *Leases* elect one holder among the nodes, with a fencing number that a commit can require.
//!
//! A hint of a change carries nothing that anyone depends on: a reader loads the truth after each
//! wake-up and after each reconnect, so a lost or doubled hint is harmless.

pub mod collection;
#[cfg(all(feature = "redis", feature = "embedded"))]
pub mod connect;
#[cfg(feature = "embedded")]
pub mod embedded;
pub(crate) mod private;
mod record;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "embedded")]
mod ring;
#[cfg(feature = "embedded")]
mod segments;
pub mod snapshot_file;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::record::{
    BadCursor, MAX_PAGE, Page, Record, RecordCursor, RecordKey, RecordKind, RecordPage, RecordWrite,
};

/// The state of the configuration: which store it is, and how many commits it has seen.
///
/// A store that comes back older or empty has another `epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// A random name that the store got when it was first written to.
    pub epoch: String,
    /// The number of commits.
    pub n: u64,
}

/// What a document describes. Each kind is a collection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A public host and what happens there.
    Proxy,
    /// A route: a pattern and a target.
    Route,
    /// A certificate, without its key.
    Certificate,
    /// An upstream registered by name.
    External,
    /// Containers that a node runs.
    Service,
    /// A port of the machine that leads to containers.
    Port,
    /// A protected resource of the registry.
    Resource,
    /// What is known of a named token: never the token.
    Token,
    /// An OAuth client that an administrator set up.
    Client,
    /// A public signing key and its state; the private half is a secret.
    Key,
    /// Settings that nodes share: the issuer, log levels.
    Setting,
    /// A sealed secret. No operation lists them.
    Secret,
}

impl Kind {
    /// All kinds, in a fixed order.
    pub const ALL: [Self; 12] = [
        Self::Proxy,
        Self::Route,
        Self::Certificate,
        Self::External,
        Self::Service,
        Self::Port,
        Self::Resource,
        Self::Token,
        Self::Client,
        Self::Key,
        Self::Setting,
        Self::Secret,
    ];

    /// The name in keys and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Route => "route",
            Self::Certificate => "certificate",
            Self::External => "external",
            Self::Service => "service",
            Self::Port => "port",
            Self::Resource => "resource",
            Self::Token => "token",
            Self::Client => "client",
            Self::Key => "key",
            Self::Setting => "setting",
            Self::Secret => "secret",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The collection.
    pub kind: Kind,
    /// The name in it.
    pub id: String,
}

impl Key {
    /// A key.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind, self.id)
    }
}

/// A JSON value with its version. Versions start at 1 and grow by one with each write of the document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Its name.
    pub key: Key,
    /// How often it was written.
    pub version: u64,
    /// Its content.
    pub value: Value,
}

/// A document as it is stored: what is the same as before need not be parsed again.
#[derive(Clone, PartialEq, Eq)]
pub struct Raw {
    /// Its name.
    pub key: Key,
    /// How often it was written.
    pub version: u64,
    /// Its content. What is no JSON, which only a hand can have written, counts as a string.
    pub json: Box<[u8]>,
}

impl Raw {
    /// Parses the content.
    pub fn read(self) -> Document {
        let value = parse(&self.json);
        Document { key: self.key, version: self.version, value }
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, version, json: _ } = self;
        f.debug_struct("Raw").field("key", key).field("version", version).finish_non_exhaustive()
    }
}

impl From<&Document> for Raw {
    fn from(document: &Document) -> Self {
        let Document { key, version, value } = document;
        Self { key: key.clone(), version: *version, json: value.to_string().into_bytes().into() }
    }
}

/// What must hold of a document before a write, or the whole commit is a [`Error::Conflict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no such document.
    Absent,
    /// There is one, of whatever version.
    Present,
    /// There is one of exactly this version.
    Version(u64),
}

/// One step of a commit.
#[derive(Debug, Clone)]
pub enum Write {
    /// Creates or replaces a document.
    Put {
        /// Its name.
        key: Key,
        /// Its new content.
        value: Value,
        /// The precondition.
        expect: Expect,
    },
    /// Removes a document.
    Delete {
        /// Its name.
        key: Key,
        /// The precondition.
        expect: Expect,
    },
    /// Changes nothing, but checks a document.
    Check {
        /// Its name.
        key: Key,
        /// The precondition.
        expect: Expect,
    },
    /// Changes nothing, but requires that a lease is still held under this fencing number.
    Fence {
        /// The lease.
        lease: String,
        /// The number that [`Store::acquire`] returned.
        number: u64,
    },
}

/// The name of an item: a collection and an id in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ItemKey {
    /// The collection, e.g. `setup`.
    pub kind: &'static str,
    /// The id.
    pub id: String,
}

/// A stream of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// One entry per request that is no call of an MCP server behind a host.
    Requests,
    /// One entry per call of an operation.
    Audit,
    /// What happened at the authorization server: strangers fill it, so it is apart from the audit.
    Oauth,
    /// The daemon's own diagnostics.
    Diagnostics,
    /// One entry per call of an MCP server behind a host: most of them with the request that they are.
    Mcp,
    /// Revoked token ids; short-lived.
    Revocations,
    /// What nodes tell each other of MCP sessions; short-lived.
    McpSessions,
    /// Which of GitHub's tokens that are kept have changed; short-lived.
    UpstreamTokens,
}

impl Stream {
    /// All streams, in a fixed order.
    pub const ALL: [Self; 8] = [
        Self::Requests,
        Self::Audit,
        Self::Oauth,
        Self::Diagnostics,
        Self::Mcp,
        Self::Revocations,
        Self::McpSessions,
        Self::UpstreamTokens,
    ];

    /// The name in keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Audit => "audit",
            Self::Oauth => "oauth",
            Self::Diagnostics => "diagnostics",
            Self::Mcp => "mcp",
            Self::Revocations => "revocations",
            Self::McpSessions => "mcp_sessions",
            Self::UpstreamTokens => "upstream_tokens",
        }
    }
}

/// An entry to append: one JSON object as bytes, and tags to find it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Milliseconds since 1970. The entry's id gets this time, or the last entry's if that is later,
    /// but none that the store's own clock has not reached: one node with a wrong clock can't push
    /// the ids of all others into the future.
    pub time: u64,
    /// The record, one JSON object.
    pub record: Bytes,
    /// Short words by which a range can be narrowed, e.g. `host:app.example.com`. May be empty.
    pub tags: Vec<String>,
}

/// An entry as it was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its place: ids of a stream grow in the order of appending and compare as (time, sequence).
    pub id: EntryId,
    /// The record.
    pub record: Bytes,
}

/// The place of an entry in a stream: milliseconds since 1970 and a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since 1970.
    pub time: u64,
    /// Tells entries of one millisecond apart.
    pub sequence: u64,
}

impl EntryId {
    /// The first id there can be.
    pub const MIN: Self = Self { time: 0, sequence: 0 };
    /// The last id there can be.
    pub const MAX: Self = Self { time: u64::MAX, sequence: u64::MAX };

    /// The id right behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.sequence.checked_add(1) {
            Some(sequence) => Self { time: self.time, sequence },
            None => Self { time: self.time.saturating_add(1), sequence: 0 },
        }
    }

    /// The id right before this one; none before [`Self::MIN`].
    pub const fn previous(self) -> Option<Self> {
        match (self.time, self.sequence) {
            (0, 0) => None,
            (time, 0) => Some(Self { time: time - 1, sequence: u64::MAX }),
            (time, sequence) => Some(Self { time, sequence: sequence - 1 }),
        }
    }

    /// The id of an entry of `time` that is appended behind `self` when the store's clock says `now`.
    #[must_use]
    pub const fn follow(self, time: u64, now: u64) -> Self {
        let time = if time < now { time } else { now };
        if time > self.time { Self { time, sequence: 0 } } else { self.next() }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time, self.sequence)
    }
}

/// A string that is no [`EntryId`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an entry id: expected MILLISECONDS-SEQUENCE")]
pub struct BadEntryId(String);

impl FromStr for EntryId {
    type Err = BadEntryId;

    fn from_str(text: &str) -> std::result::Result<Self, BadEntryId> {
        let parts = text.split_once('-');
        let parsed = parts.and_then(|(time, sequence)| {
            Some(Self { time: time.parse().ok()?, sequence: sequence.parse().ok()? })
        });
        parsed.ok_or_else(|| BadEntryId(text.to_owned()))
    }
}

/// How much of a stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// At most about this many entries.
    pub entries: usize,
    /// None older than this.
    pub age: Duration,
}

/// Which part of a stream to read.
#[derive(Debug, Clone)]
pub struct Range {
    /// Only entries behind (forward) or before (backward) this one.
    pub after: Option<EntryId>,
    /// The earliest time, milliseconds since 1970, inclusive.
    pub since: u64,
    /// The latest time, inclusive.
    pub until: u64,
    /// Only entries with this tag.
    pub tag: Option<String>,
    /// Newest first?
    pub newest_first: bool,
    /// At most this many.
    pub limit: usize,
}

impl Range {
    /// The first and the last id that may be returned, or nothing if no id can be.
    pub fn bounds(&self) -> Option<(EntryId, EntryId)> {
        let mut first = EntryId { time: self.since, sequence: 0 };
        let mut last = EntryId { time: self.until, sequence: u64::MAX };
        match self.after {
            Some(after) if self.newest_first => last = last.min(after.previous()?),
            Some(EntryId::MAX) => return None,
            Some(after) => first = first.max(after.next()),
            None => {}
        }
        (first <= last && self.limit > 0).then_some((first, last))
    }
}

/// A held lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Grows with each new holder, never repeats: what [`Write::Fence`] checks.
    pub number: u64,
}

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A precondition of a commit failed; nothing was written.
    #[error("{key} is not in the state that the change expects")]
    Conflict {
        /// The document whose precondition failed.
        key: Key,
    },
    /// A precondition of a commit of records failed; nothing was written.
    #[error("{key} is not in the state that the change expects")]
    RecordConflict {
        /// The record whose precondition failed.
        key: RecordKey,
    },
    /// A fencing number is out of date; nothing was written.
    #[error("lease {lease:?} is no longer held")]
    Fenced {
        /// The lease.
        lease: String,
    },
    /// The store can't be reached, or did not answer in time. A write may or may not have happened.
    #[error("the store is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store holds something that it should not.
    #[error("the store holds bad data at {place}")]
    Corrupt {
        /// Where.
        place: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The result of a store's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Where configuration and logs live. Used as `Arc<dyn Store>`; proxied requests never wait for it.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// All documents at one revision, one consistent view, not parsed.
    async fn load_raw(&self) -> Result<(Revision, Vec<Raw>)>;

    /// All documents at one revision, one consistent view.
    async fn load(&self) -> Result<(Revision, Vec<Document>)> {
        let (revision, documents) = self.load_raw().await?;
        Ok((revision, documents.into_iter().map(Raw::read).collect()))
    }

    /// The revision alone: whoever has loaded that one has the newest documents.
    async fn revision(&self) -> Result<Revision>;

    /// All documents of a kind, by id.
    async fn list(&self, kind: Kind) -> Result<Vec<Document>>;

    /// One document.
    async fn get(&self, key: &Key) -> Result<Option<Document>>;

    /// All writes or none. A commit that writes nothing (only checks) does not move the revision.
    async fn commit(&self, writes: Vec<Write>) -> Result<Revision>;

    /// Hints that something changed after `since`, at least once, newest revision only. The stream
    /// survives lost connections: it reconnects with back-off and then hints once, in case something
    /// was missed. It ends when the store is dropped.
    fn changes(&self, since: Revision) -> BoxStream<'static, Revision>;

    /// One record, if it has not expired.
    async fn get_record(&self, key: &RecordKey) -> Result<Option<Record>>;

    /// All writes or none, under the preconditions of the state before. Moves no revision.
    async fn commit_records(&self, writes: Vec<RecordWrite>) -> Result<()>;

    /// The records of a kind, or those of an index of it, newest first. At most `limit` of them, and at
    /// most [`MAX_PAGE`]. Who follows [`RecordPage::next`] sees each record that was there all the time
    /// exactly once, whatever is made or removed meanwhile.
    async fn list_records(
        &self,
        kind: RecordKind,
        index: Option<&str>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<RecordPage>;

    /// How many records a kind has, or an index of it.
    async fn count_records(&self, kind: RecordKind, index: Option<&str>) -> Result<u64>;

    /// Stores an item for `ttl`, replacing what was there.
    async fn put_item(&self, key: &ItemKey, value: &[u8], ttl: Duration) -> Result<()>;

    /// Reads an item.
    async fn get_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>>;

    /// Reads and deletes an item: exactly one caller gets it.
    async fn take_item(&self, key: &ItemKey) -> Result<Option<Vec<u8>>>;

    /// Appends entries in order and trims the stream.
    async fn append(&self, stream: Stream, entries: Vec<Entry>, keep: Keep) -> Result<()>;

    /// Reads a part of a stream.
    async fn range(&self, stream: Stream, range: &Range) -> Result<Vec<Logged>>;

    /// Removes all entries of a stream; returns how many.
    async fn clear(&self, stream: Stream) -> Result<u64>;

    /// Takes a lease, or renews it for the same holder. `None` while another one holds it.
    async fn acquire(&self, lease: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>>;

    /// Gives a lease back, if this holder has it.
    async fn release(&self, lease: &str, holder: &str) -> Result<()>;

    /// Whether the store answers now.
    async fn ping(&self) -> Result<()>;
}

/// A duration in whole milliseconds, the longest there are if it is longer.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The value of a document as it is stored. What is no JSON comes back as a string: its typed reader refuses it, and no other document suffers.
fn parse(stored: &[u8]) -> Value {
    serde_json::from_slice(stored)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(stored).into_owned()))
}

/// A name for an epoch that nobody had before.
fn new_epoch() -> Result<String> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|error| Error::Unavailable(Box::new(error)))?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut name, byte| {
        name.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        name.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        name
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(time: u64, sequence: u64) -> EntryId {
        EntryId { time, sequence }
    }

    #[test]
    fn ids_grow_and_stay_behind_the_stores_clock() {
        assert_eq!(id(5, 3).follow(9, 100), id(9, 0));
        assert_eq!(id(5, 3).follow(4, 100), id(5, 4), "an entry that is late stands behind the last one");
        assert_eq!(id(5, 3).follow(900, 100), id(100, 0), "a clock that is ahead does not count");
        assert_eq!(id(5, u64::MAX).next(), id(6, 0));
        assert_eq!(id(6, 0).previous(), Some(id(5, u64::MAX)));
        assert_eq!(id(0, 0).previous(), None);
        assert_eq!("17-4".parse::<EntryId>().expect("a good id"), id(17, 4));
        for bad in ["", "17", "-", "a-1", "1-b", "1-2-3", "-1-2"] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bounds_are_narrowed_by_the_cursor_in_the_direction_of_reading() {
        let range =
            |after, newest_first| Range { after, since: 10, until: 20, tag: None, newest_first, limit: 1 };
        assert_eq!(range(None, false).bounds(), Some((id(10, 0), id(20, u64::MAX))));
        assert_eq!(range(Some(id(12, 7)), false).bounds(), Some((id(12, 8), id(20, u64::MAX))));
        assert_eq!(range(Some(id(12, 7)), true).bounds(), Some((id(10, 0), id(12, 6))));
        assert_eq!(range(Some(id(1, 0)), false).bounds(), Some((id(10, 0), id(20, u64::MAX))));
        assert_eq!(range(Some(id(1, 0)), true).bounds(), None);
        assert_eq!(range(Some(EntryId::MAX), false).bounds(), None);
        assert_eq!(range(Some(EntryId::MIN), true).bounds(), None);
        assert_eq!(Range { limit: 0, ..range(None, false) }.bounds(), None);
    }

    #[test]
    fn epochs_differ() {
        let (one, two) = (new_epoch().expect("random"), new_epoch().expect("random"));
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
