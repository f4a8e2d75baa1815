//! The names of keys.
//!
//! What is used in one step shares a hash tag, so that a cluster keeps it in one slot: configuration
//! and leases one, records another, each stream with its tags one of its own. Items are on their own.

use std::sync::Arc;

use super::target::UrlError;
use super::{ItemKey, Kind, RecordKey, RecordKind, Stream};

#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Result<Self, UrlError> {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if prefix.is_empty() || !prefix.chars().all(good) {
            return Err(UrlError::Prefix { prefix: prefix.to_owned() });
        }
        Ok(Self { prefix: prefix.into() })
    }

    pub(super) fn revision(&self) -> String {
        format!("{{{}}}:revision", self.prefix)
    }

    pub(super) fn feed(&self) -> String {
        format!("{{{}}}:feed", self.prefix)
    }

    pub(super) fn commit(&self, id: &str) -> String {
        format!("{{{}}}:commit:{id}", self.prefix)
    }

    pub(super) fn documents(&self, kind: Kind) -> String {
        format!("{{{}}}:{kind}", self.prefix)
    }

    pub(super) fn lease(&self, lease: &str) -> String {
        format!("{{{}}}:lease:{lease}", self.prefix)
    }

    pub(super) fn lease_numbers(&self) -> String {
        format!("{{{}}}:leases", self.prefix)
    }

    pub(super) fn item(&self, key: &ItemKey) -> String {
        format!("{}:item:{}:{}", self.prefix, key.kind, key.id)
    }

    /// What the keys of the indexes of records begin with; see `records_commit.lua`.
    pub(super) fn indexes(&self) -> String {
        format!("{{{}:records}}:", self.prefix)
    }

    /// An index by place, and by end.
    pub(super) fn index(&self, kind: RecordKind, index: Option<&str>) -> [String; 2] {
        let index = index.unwrap_or_default();
        ["order", "expiry"].map(|order| format!("{}{order}:{kind}:{index}", self.indexes()))
    }

    /// What the keys of the records of a kind begin with.
    pub(super) fn records(&self, kind: RecordKind) -> String {
        format!("{}record:{kind}:", self.indexes())
    }

    pub(super) fn record(&self, key: &RecordKey) -> String {
        format!("{}{}", self.records(key.kind), key.id)
    }

    pub(super) fn record_commit(&self, id: &str) -> String {
        format!("{}commit:{id}", self.indexes())
    }

    pub(super) fn record_place(&self) -> String {
        format!("{}place", self.indexes())
    }

    pub(super) fn stream(&self, stream: Stream) -> String {
        format!("{{{}:{}}}", self.prefix, stream.as_str())
    }

    pub(super) fn tag(&self, stream: Stream, tag: &str) -> String {
        format!("{{{}:{}}}:tag:{tag}", self.prefix, stream.as_str())
    }
}
