//! Reading a log that is more than one stream.
//!
//! A request that is a call of an MCP server is one record, and stands in the log of calls: other traffic can't push it
//! out there. Whoever reads the log of requests reads it, too.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::store::{EntryId, Error, Logged, Range, Store, Stream};

/// The stream that has the other records of a log.
pub(super) fn beside(log: Stream) -> Option<Stream> {
    (log == Stream::Requests).then_some(Stream::Mcp)
}

/// Whether an entry of the stream beside is a record of the log: calls of a batch are no requests.
pub(super) fn is_request(record: &[u8]) -> bool {
    // No value can have it, for its quotes would be escaped.
    static NAME: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("\"request_method\":\""));
    NAME.find(record).is_some()
}

/// A part of a log.
pub(crate) struct Part {
    /// The records, in order.
    pub(crate) entries: Vec<Logged>,
    /// Behind which entry there may be more; `None`: there is nothing more. There may be more where no record was found.
    pub(crate) next: Option<EntryId>,
    /// How many entries were read for that.
    pub(crate) read: usize,
}

/// Reads a part of a log. Where it is two streams, it may be a few records more or less than are asked for.
///
/// # Errors
/// If the store does not answer.
pub(crate) async fn range(store: &dyn Store, log: Stream, range: &Range) -> Result<Part, Error> {
    let mut entries = store.range(log, range).await?;
    let Some(beside) = beside(log) else {
        let (next, read) = (entries.last().map(|last| last.id), entries.len());
        return Ok(Part { entries, next, read });
    };
    let end_of = |page: &[Logged]| page.last().filter(|_| page.len() >= range.limit).map(|last| last.id);
    let end = end_of(&entries);
    let narrowed = match end {
        Some(end) if range.newest_first => Range { since: range.since.max(end.time), ..range.clone() },
        Some(end) => Range { until: range.until.min(end.time), ..range.clone() },
        None => range.clone(),
    };
    let others = store.range(beside, &narrowed).await?;
    // As far as both are known.
    let ends = [end, end_of(&others)].into_iter().flatten();
    let next = if range.newest_first { ends.max() } else { ends.min() };
    let read = entries.len() + others.len();
    entries.extend(others.into_iter().filter(|logged| is_request(&logged.record)));
    entries.sort_by_key(|logged| logged.id);
    if range.newest_first {
        entries.reverse();
    }
    if let Some(next) = next {
        entries.retain(|logged| if range.newest_first { logged.id >= next } else { logged.id <= next });
    }
    Ok(Part { entries, next, read })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::logs::memory::Memory;
    use crate::logs::{self, Bounds, Search};

    async fn store() -> Memory {
        let store = Memory::default();
        let request = |time: u64| json!({ "timestamp": time, "request_method": "GET" });
        let call =
            |time: u64| json!({ "timestamp": time, "request_method": "POST", "mcp_method": "tools/call" });
        let of_batch = |time: u64| json!({ "timestamp": time, "mcp_method": "tools/call" });
        // Many stand at the same place of their streams.
        store.fill(Stream::Requests, (1..=40).map(request)).await;
        let calls = (1..=60).map(|time| if (10..30).contains(&time) { of_batch(time) } else { call(time) });
        store.fill(Stream::Mcp, calls).await;
        store
    }

    /// All there is, page by page: the time and the method of each.
    async fn all(store: &Memory, newest_first: bool, limit: usize) -> Vec<(u64, String)> {
        let mut read = Range { after: None, since: 0, until: u64::MAX, tag: None, newest_first, limit };
        let mut found = Vec::new();
        loop {
            let part = range(store, Stream::Requests, &read).await.expect("read");
            found.extend(part.entries.iter().map(|logged| {
                let record: Value = serde_json::from_slice(&logged.record).expect("JSON");
                (logged.id.time, record["request_method"].as_str().expect("a request").to_owned())
            }));
            let Some(next) = part.next else { return found };
            read.after = Some(next);
        }
    }

    #[tokio::test]
    async fn requests_that_are_calls_stand_among_the_others_once_each_and_in_order() {
        let store = store().await;
        let mut expected: Vec<(u64, String)> = (1..=40).map(|time| (time, "GET".to_owned())).collect();
        expected.extend((1..10).chain(30..=60).map(|time| (time, "POST".to_owned())));
        expected.sort();
        for limit in [1, 2, 3, 7, 50, 1000] {
            let mut found = all(&store, false, limit).await;
            assert!(found.is_sorted_by_key(|(time, _)| *time), "{found:?}");
            found.sort();
            assert_eq!(found, expected, "pages of {limit}");
            let mut found = all(&store, true, limit).await;
            assert!(found.is_sorted_by_key(|(time, _)| std::cmp::Reverse(*time)), "{found:?}");
            found.sort();
            assert_eq!(found, expected, "pages of {limit}");
        }
    }

    #[tokio::test]
    async fn pages_of_a_search_end_behind_all_that_stands_at_one_place() {
        let store = store().await;
        for limit in [1, 2, 3, 7] {
            let mut search = Search { limit: Some(limit), ..Search::default() };
            let mut seen = 0;
            loop {
                let page = logs::search(&store, Stream::Requests, &search, Bounds::default(), 100).await;
                let page = page.expect("found");
                seen += page.logs.len();
                search.cursor = page.next;
                if search.cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, 80, "pages of {limit}");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_counts_for_the_bounds_of_a_scan() {
        let store = Memory::default();
        store
            .fill(Stream::Mcp, (1..=3000).map(|time| json!({ "timestamp": time, "mcp_method": "ping" })))
            .await;
        store.fill(Stream::Requests, [json!({ "timestamp": 1, "request_method": "GET" })]).await;
        let bounds = Bounds { entries: 1000, ..Bounds::default() };
        let mut search = Search::default();
        let page = logs::search(&store, Stream::Requests, &search, bounds, 4000).await.expect("found");
        assert!(page.truncated.is_some() && page.logs.is_empty(), "{page:?}");
        let mut found = Vec::new();
        search.cursor = page.next;
        while search.cursor.is_some() {
            let page = logs::search(&store, Stream::Requests, &search, bounds, 4000).await.expect("found");
            found.extend(page.logs);
            search.cursor = page.next;
        }
        assert_eq!(found.len(), 1);
    }
}
