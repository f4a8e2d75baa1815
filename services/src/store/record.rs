//! Records: state with a life time that is read by key, changed under a condition, and listed in pages.
//!
//! They are silent: a commit of records moves no [`Revision`](super::Revision) and wakes nobody, so that
//! logins and refreshes cost no node a reconcile. Grants, sessions, consents and clients are records.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::{Error, Expect, Result};

/// As many records as one page can have.
pub const MAX_PAGE: usize = 500;

/// What a record describes. Each kind is a collection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// An access token that was issued: never the token.
    Access,
    /// How the last attempt to issue a certificate went, and what of it is under way.
    Issuance,
    /// A registered client.
    Client,
    /// An authorization code, by its hash.
    Code,
    /// What a user has agreed to.
    Consent,
    /// A device code, by its hash.
    Device,
    /// A grant: the family of the tokens that one authorization yielded.
    Grant,
    /// A message that a client of MCP may ask for again, or that waits for another node.
    McpEvent,
    /// A session of MCP, by the hash of its id.
    McpSession,
    /// Which account a login means, by the login.
    Pin,
    /// A browser session, by the hash of its id.
    Session,
    /// A token of GitHub's that a host wants to have kept, sealed; by the hash of host and user.
    Upstream,
}

impl RecordKind {
    /// All kinds, in a fixed order.
    pub const ALL: [Self; 12] = [
        Self::Access,
        Self::Issuance,
        Self::Client,
        Self::Code,
        Self::Consent,
        Self::Device,
        Self::Grant,
        Self::McpEvent,
        Self::McpSession,
        Self::Pin,
        Self::Session,
        Self::Upstream,
    ];

    /// The name in keys and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Issuance => "issuance",
            Self::Client => "client",
            Self::Code => "code",
            Self::Consent => "consent",
            Self::Device => "device",
            Self::Grant => "grant",
            Self::McpEvent => "mcp_event",
            Self::McpSession => "mcp_session",
            Self::Pin => "pin",
            Self::Session => "session",
            Self::Upstream => "upstream",
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// The collection.
    pub kind: RecordKind,
    /// The name in it. What is secret stands here as its hash.
    pub id: String,
}

impl RecordKey {
    /// A key.
    pub fn new(kind: RecordKind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind, self.id)
    }
}

/// A record as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub key: RecordKey,
    /// How often it was written: 1 after it was made, one more with each replacement.
    pub version: u64,
    /// Its place in lists.
    pub cursor: RecordCursor,
    /// When it ends, in milliseconds since 1970 by the store's clock.
    pub until: Option<u64>,
    /// Its content.
    pub value: Bytes,
}

impl Record {
    /// The content as a value of `T`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when it is something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.value)
            .map_err(|error| Error::Corrupt { place: self.key.to_string(), source: Box::new(error) })
    }
}

/// Without the content, which is about people.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, version, cursor, until, value: _ } = self;
        f.debug_struct("Record")
            .field("key", key)
            .field("version", version)
            .field("cursor", cursor)
            .field("until", until)
            .finish_non_exhaustive()
    }
}

/// One step of [`Store::commit_records`](super::Store::commit_records).
#[derive(Clone)]
pub enum RecordWrite {
    /// Creates or replaces a record, with its life time and its indexes.
    Put {
        /// Its name.
        key: RecordKey,
        /// Its new content.
        value: Bytes,
        /// How long it lives from now on; for ever if nothing is said.
        ttl: Option<Duration>,
        /// The precondition.
        expect: Expect,
        /// Under which words it is listed, beside the list of its whole kind. None is empty.
        indexes: Vec<String>,
    },
    /// Removes a record.
    Delete {
        /// Its name.
        key: RecordKey,
        /// The precondition.
        expect: Expect,
    },
    /// Changes nothing, but checks a record.
    Check {
        /// Its name.
        key: RecordKey,
        /// The precondition.
        expect: Expect,
    },
}

impl RecordWrite {
    /// A step that stores a value as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when it can't be written as JSON.
    pub fn put<T: Serialize>(
        key: RecordKey,
        value: &T,
        ttl: Option<Duration>,
        expect: Expect,
        indexes: Vec<String>,
    ) -> Result<Self> {
        let value = serde_json::to_vec(value)
            .map_err(|error| Error::Corrupt { place: key.to_string(), source: Box::new(error) })?;
        Ok(Self::Put { key, value: value.into(), ttl, expect, indexes })
    }

    /// The record that it is about.
    pub const fn key(&self) -> &RecordKey {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// The precondition.
    pub const fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => *expect,
        }
    }
}

impl fmt::Debug for RecordWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Put { .. } => "Put",
            Self::Delete { .. } => "Delete",
            Self::Check { .. } => "Check",
        };
        f.debug_struct(name).field("key", self.key()).field("expect", &self.expect()).finish_non_exhaustive()
    }
}

/// The place of a record in lists: it gets one when it is made, and keeps it when it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordCursor(pub(super) u64);

impl fmt::Display for RecordCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A string that is no [`RecordCursor`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of a list")]
pub struct BadCursor;

impl FromStr for RecordCursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> std::result::Result<Self, BadCursor> {
        // Redis compares places as doubles, which are exact up to 2^53.
        text.parse().ok().filter(|place| *place < 1 << 53).map(Self).ok_or(BadCursor)
    }
}

/// A part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// The records, newest first. May be fewer than were asked for, though more follow.
    pub records: Vec<Record>,
    /// Where the next part starts, if there is one.
    pub next: Option<RecordCursor>,
}

/// A part of a list of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The values, newest first.
    pub items: Vec<T>,
    /// Where the next part starts, if there is one.
    pub next: Option<RecordCursor>,
}

impl RecordPage {
    /// The contents as values of `T`. One that can't be read hides no other: it is logged.
    pub fn read<T: DeserializeOwned>(&self) -> Page<T> {
        let read = |record: &Record| {
            let value = record.read();
            value.inspect_err(|error| warn!(error = error as &dyn std::error::Error, "bad record")).ok()
        };
        Page { items: self.records.iter().filter_map(read).collect(), next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_content() {
        let key = RecordKey::new(RecordKind::Session, "s");
        let value = Bytes::from_static(b"\"someone@example.com\"");
        let record = Record {
            key: key.clone(),
            version: 1,
            cursor: RecordCursor(1),
            until: None,
            value: value.clone(),
        };
        let write =
            RecordWrite::Put { key, value, ttl: None, expect: Expect::Any, indexes: vec!["someone".into()] };
        let shown = format!("{record:?} {write:?}");
        assert!(shown.contains("Session") && !shown.contains("someone"), "{shown}");
        assert_eq!(record.read::<String>().expect("JSON"), "someone@example.com");
        assert!(matches!(record.read::<u64>(), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_cursor_is_read_back_or_refused() {
        let cursor = RecordCursor(1_800_000_000_000_000);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "-1", "x", "1.5", "+inf", "9007199254740992"] {
            assert!(bad.parse::<RecordCursor>().is_err(), "{bad:?}");
        }
    }
}
