//! What nodes tell each other of sessions.
//!
//! A notice is small and carries no content: who hears it looks into the store. It is read by one reader per node,
//! whatever the number of streams. All of them may come late or twice, and most may be lost: a session that ended
//! elsewhere is found out when it is renewed, and who follows a stream looks again after each outage.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::{NodeName, SessionKey};
use crate::store::{Entry, EntryId, Keep, Range, Result, Store, Stream};

/// Longer than an outage of the store that nobody notices. Notices are about 200 bytes.
const KEEP: Keep = Keep { entries: 1 << 16, age: Duration::from_secs(120) };

/// How many are read at once.
const PAGE: usize = 512;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(super) enum What {
    /// The session has ended.
    Ended,
    /// A message of the client waits under this name, for one node or for whom it concerns.
    Message {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        name: String,
    },
    /// A client has come back at another node for a stream of this node's.
    Follow { to: String, stream: u64 },
    /// There is more in a stream. Also says: I am here.
    More { stream: String },
    /// There will be no more in a stream than there is.
    Over { stream: String },
    /// The node sends what belongs to no request from now on.
    Listening { turn: u64 },
}

/// A notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// Whose it is.
    pub(super) node: String,
    /// The session's key.
    pub(super) session: String,
    /// What happened.
    #[serde(flatten)]
    pub(super) what: What,
}

/// The board that notices are pinned to.
#[derive(Debug)]
pub(super) struct Board {
    store: Arc<dyn Store>,
    node: NodeName,
}

impl Board {
    pub(super) fn new(store: Arc<dyn Store>, node: NodeName) -> Self {
        Self { store, node }
    }

    /// Tells the other nodes.
    pub(super) async fn tell(&self, session: &SessionKey, what: What) -> Result<()> {
        let notice =
            Notice { node: self.node.as_str().to_owned(), session: session.as_str().to_owned(), what };
        let record = serde_json::to_vec(&notice).expect("texts and numbers serialise");
        let entry = Entry { time: now(), record: record.into(), tags: Vec::new() };
        self.store.append(Stream::McpSessions, vec![entry], KEEP).await
    }

    /// What was told behind `place`, which moves on. Whether there may be more.
    pub(super) async fn read(&self, place: &mut Place) -> Result<(Vec<Notice>, bool)> {
        let mut range = Range {
            after: place.after,
            since: 0,
            until: u64::MAX,
            tag: None,
            newest_first: false,
            limit: PAGE,
        };
        if place.after.is_none() && !place.empty {
            // By the store's clock, whatever ours says.
            let newest = Range { newest_first: true, limit: 1, ..range.clone() };
            let newest = self.store.range(Stream::McpSessions, &newest).await?;
            place.empty = newest.is_empty();
            range.since = newest.first().map_or(0, |newest| newest.id.time.saturating_sub(BACK));
        }
        let page = self.store.range(Stream::McpSessions, &range).await?;
        if let Some(last) = page.last() {
            place.after = Some(last.id);
        }
        let notices = page.iter().filter_map(|logged| serde_json::from_slice(&logged.record).ok()).collect();
        Ok((notices, page.len() == PAGE))
    }
}

/// How far a node has read. It begins a little before the last notice: a client can be at another node before this one
/// starts to read.
#[derive(Debug, Default)]
pub(super) struct Place {
    after: Option<EntryId>,
    /// There was nothing at the beginning, so all that comes is new.
    empty: bool,
}

/// How far before the last notice a node begins to read, in milliseconds.
const BACK: u64 = 5000;

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_back() {
        for what in [
            What::Ended,
            What::Message { to: None, name: "n".into() },
            What::Message { to: Some("a".into()), name: "n".into() },
            What::Follow { to: "a".into(), stream: 1 },
            What::More { stream: "s".into() },
            What::Over { stream: "a.1".into() },
            What::Listening { turn: 3 },
        ] {
            let notice = Notice { node: "a".into(), session: "s".into(), what };
            let text = serde_json::to_string(&notice).expect("JSON");
            assert!(text.len() < 200, "{text}");
            assert_eq!(serde_json::from_str::<Notice>(&text).expect("a notice"), notice);
        }
    }
}
