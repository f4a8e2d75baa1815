//! Reading a stream of the store page by page, newest first, and the search on top of it.
//!
//! Filters apply before paging, and the total counts every match of the window. A scan is bounded in
//! entries and in time: where it stops early, the answer says how far it got and how to go on.

use std::ops::ControlFlow;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::fields::Fields;
use super::query::{Filter, Search, SearchError};
use super::read;
use crate::store::{self, EntryId, Logged, Range, Store, Stream};

/// How many entries are read at once.
pub(super) const READ_SIZE: usize = 1000;

/// How much a scan may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// At most this many entries are looked at.
    pub entries: u64,
    /// No further ones are read after this time.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 1_000_000, time: Duration::from_secs(10) }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question can't be understood.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The store has no answer.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A record that matched.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Its place in its stream. The log of requests is two, so two of its records may have the same.
    pub id: EntryId,
    /// The record, one JSON object, with its place as `id` and its time as `timestamp_iso`.
    pub record: Value,
}

impl Hit {
    /// Parses an entry; `None` if it is no JSON object.
    pub(super) fn parse(logged: &Logged) -> Option<Self> {
        let mut record: Value = serde_json::from_slice(&logged.record).ok()?;
        let fields = record.as_object_mut()?;
        fields.insert("id".to_owned(), entry_id(logged.id).into());
        // For people. Written here, so that it costs nothing where records are made.
        let time = fields.get("timestamp").and_then(Value::as_i64).unwrap_or_default();
        if let Ok(time) = jiff::Timestamp::from_millisecond(time) {
            fields.insert("timestamp_iso".to_owned(), time.to_string().into());
        }
        Some(Self { id: logged.id, record })
    }
}

/// One page of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Page {
    /// How many records of the window match; absent behind a cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The records, newest first.
    pub logs: Vec<Value>,
    /// The cursor of the next page, if there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Set when the scan ended before the window: the total counts only what was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
}

/// How far a scan got that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Truncated {
    /// How many entries were looked at.
    pub scanned: u64,
    /// The time of the last of them, milliseconds since 1970.
    pub reached: u64,
}

/// The place of an entry as text: `TIME-SEQUENCE`.
pub fn entry_id(id: EntryId) -> String {
    format!("{}-{}", id.time, id.sequence)
}

/// Reads the place of an entry.
pub fn parse_entry_id(text: &str) -> Option<EntryId> {
    let (time, sequence) = text.split_once('-')?;
    Some(EntryId { time: time.parse().ok()?, sequence: sequence.parse().ok()? })
}

/// Finds the records of a stream that a search asks for; `now` is in milliseconds since 1970.
///
/// # Errors
/// If the search is not valid, or the store does not answer.
pub async fn search(
    store: &dyn Store,
    stream: Stream,
    search: &Search,
    bounds: Bounds,
    now: u64,
) -> Result<Page, Error> {
    let filter = search.compile(now)?;
    let size = search.page_size()?;
    let mut skip = search.skip()?;
    let cursor = search.cursor.as_deref().map(|cursor| {
        parse_entry_id(cursor).ok_or_else(|| SearchError {
            field: "cursor",
            value: cursor.to_owned(),
            expected: "the next of an earlier page",
        })
    });
    let cursor = cursor.transpose()?;

    let mut total = 0;
    let mut logs = Vec::new();
    let mut last = None;
    let mut more = false;
    let scanned = scan(store, stream, &filter, cursor, bounds, |logged, _| {
        total += 1;
        if skip > 0 {
            skip -= 1;
        } else if logs.len() < size || last == Some(logged.id) {
            // Two streams may have an entry at the same place: cursors stand behind both.
            logs.extend(Hit::parse(logged).map(|hit| hit.record));
            last = Some(logged.id);
        } else {
            more = true;
            // Behind a cursor nobody asks for the total.
            if cursor.is_some() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })
    .await?;
    let reached = if more { last } else { scanned.truncated.and(scanned.last) };
    Ok(Page {
        total: cursor.is_none().then_some(total),
        logs,
        next: reached.map(entry_id),
        truncated: scanned.truncated,
    })
}

/// What a scan has seen.
pub(super) struct Scanned {
    /// The entry that was looked at last.
    pub(super) last: Option<EntryId>,
    pub(super) truncated: Option<Truncated>,
}

/// Visits every match in the filter's window, newest first, beginning behind `after`.
pub(super) async fn scan(
    store: &dyn Store,
    stream: Stream,
    filter: &Filter,
    after: Option<EntryId>,
    bounds: Bounds,
    mut visit: impl FnMut(&Logged, &Fields<'_>) -> ControlFlow<()>,
) -> Result<Scanned, store::Error> {
    let begun = Instant::now();
    let mut scanned = 0;
    let mut range = Range {
        after,
        since: filter.since,
        until: filter.until,
        tag: None,
        newest_first: true,
        limit: READ_SIZE,
    };
    let mut last = None;
    loop {
        let part = read::range(store, stream, &range).await?;
        for logged in &part.entries {
            if let Some(fields) = filter.matching(&logged.record)
                && visit(logged, &fields).is_break()
            {
                return Ok(Scanned { last: Some(logged.id), truncated: None });
            }
        }
        scanned += part.read as u64;
        let Some(end) = part.next else { return Ok(Scanned { last, truncated: None }) };
        last = Some(end);
        if scanned >= bounds.entries || begun.elapsed() >= bounds.time {
            return Ok(Scanned { last, truncated: Some(Truncated { scanned, reached: end.time }) });
        }
        range.after = Some(end);
        // A store in memory never waits; others want their turn, too.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::logs::memory::Memory;

    const NOW: u64 = 10_000_000;

    async fn store(count: u64) -> Memory {
        let store = Memory::default();
        let record = |n| {
            let status = if n % 3 == 0 { 500 } else { 200 };
            json!({ "timestamp": NOW - count + n, "status_code": status, "request_path": format!("/{n}") })
        };
        store.fill(Stream::Requests, (0..count).map(record)).await;
        store
    }

    async fn find(store: &Memory, search: Value) -> Page {
        find_within(store, search, Bounds::default()).await
    }

    async fn find_within(store: &Memory, search: Value, bounds: Bounds) -> Page {
        let search = serde_json::from_value(search).unwrap();
        super::search(store, Stream::Requests, &search, bounds, NOW).await.unwrap()
    }

    fn paths(page: &Page) -> Vec<&str> {
        page.logs.iter().map(|record| record["request_path"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn filters_apply_before_paging_and_the_total_is_right() {
        let store = store(2500).await;
        let page = find(&store, json!({ "status": "500", "limit": 2, "offset": 1 })).await;
        assert_eq!(paths(&page), ["/2496", "/2493"]);
        assert_eq!((page.total, page.truncated), (Some(834), None));
        assert!(page.next.is_some());
    }

    #[tokio::test]
    async fn cursors_lead_through_all_matches_once() {
        let store = store(2500).await;
        let mut page = find(&store, json!({ "status": "5xx", "limit": 100 })).await;
        let mut seen: Vec<_> = paths(&page).into_iter().map(str::to_owned).collect();
        while let Some(cursor) = page.next.take() {
            page = find(&store, json!({ "status": "5xx", "limit": 100, "cursor": cursor })).await;
            assert_eq!(page.total, None);
            seen.extend(paths(&page).into_iter().map(str::to_owned));
        }
        let expected: Vec<_> = (0..2500).rev().filter(|n| n % 3 == 0).map(|n| format!("/{n}")).collect();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn behind_a_cursor_no_more_is_read_than_the_page_needs() {
        let store = store(5000).await;
        let page = find(&store, json!({ "limit": 10 })).await;
        let before = store.ranges();
        find(&store, json!({ "limit": 10, "cursor": page.next })).await;
        assert_eq!(store.ranges() - before, 2, "one of each stream");
    }

    #[tokio::test]
    async fn a_scan_that_is_cut_off_says_how_far_it_got_and_goes_on_from_there() {
        let store = store(2500).await;
        let bounds = Bounds { entries: 1000, ..Bounds::default() };
        let page = find_within(&store, json!({ "path": "/0", "limit": 10 }), bounds).await;
        assert_eq!(page.total, Some(0));
        assert_eq!(page.truncated, Some(Truncated { scanned: 1000, reached: NOW - 1000 }));
        let page = find_within(&store, json!({ "path": "/0", "cursor": page.next }), bounds).await;
        let page = find_within(&store, json!({ "path": "/0", "cursor": page.next }), bounds).await;
        assert_eq!(paths(&page), ["/0"]);
        assert_eq!(page.next, None);
    }

    #[tokio::test]
    async fn the_window_bounds_what_is_read() {
        let store = store(100).await;
        let page = find(&store, json!({ "since": NOW - 10, "until": NOW - 6 })).await;
        assert_eq!(paths(&page), ["/94", "/93", "/92", "/91", "/90"]);
        assert_eq!(page.logs[0]["id"], format!("{}-0", NOW - 6));
    }

    #[tokio::test]
    async fn a_bad_cursor_is_refused() {
        let search = Search { cursor: Some("x".into()), ..Search::default() };
        let error =
            super::search(&Memory::default(), Stream::Requests, &search, Bounds::default(), NOW).await;
        assert!(matches!(error, Err(Error::Search(SearchError { field: "cursor", .. }))));
    }
}
