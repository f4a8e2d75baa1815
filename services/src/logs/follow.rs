//! New records as they are written, for as long as somebody listens.
//!
//! What this node writes shows at once, because the [`Writer`](super::Writer) wakes the follower; what
//! other nodes write, within [`POLL_EVERY`]. A slow listener reads later and misses nothing that the
//! store still has: there is no buffer that could overflow.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use futures_util::stream;
use tokio::sync::watch;

use super::query::Filter;
use super::scan::{Hit, READ_SIZE};
use crate::store::{self, EntryId, Range, Store, Stream};

/// How often the store is asked for what other nodes wrote.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Yields the matches that come behind `after`, or from now on, oldest first; the filter's window is
/// not looked at. `written` is that of this node's writer of the stream.
///
/// An error of the store is yielded once for each outage; the stream goes on when the store is back.
/// It never ends.
pub fn follow(
    store: Arc<dyn Store>,
    stream: Stream,
    filter: Filter,
    after: Option<EntryId>,
    written: watch::Receiver<u64>,
) -> impl stream::Stream<Item = Result<Hit, store::Error>> + Send + 'static {
    let follower = Follower { store, stream, filter, after, written, found: VecDeque::new(), failing: false };
    stream::unfold(follower, |mut follower| async move {
        let item = follower.next().await;
        Some((item, follower))
    })
}

struct Follower {
    store: Arc<dyn Store>,
    stream: Stream,
    filter: Filter,
    after: Option<EntryId>,
    written: watch::Receiver<u64>,
    found: VecDeque<Hit>,
    failing: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Hit, store::Error> {
        loop {
            if let Some(hit) = self.found.pop_front() {
                return Ok(hit);
            }
            // Before the read: what is written during it wakes us right behind it.
            self.written.mark_unchanged();
            match self.read().await {
                Ok(true) => self.failing = false,
                Ok(false) => {
                    self.failing = false;
                    self.wait().await;
                }
                Err(error) if self.failing => {
                    drop(error);
                    tokio::time::sleep(POLL_EVERY).await;
                }
                Err(error) => {
                    self.failing = true;
                    return Err(error);
                }
            }
        }
    }

    /// Reads on; `false`: there is nothing more for now.
    async fn read(&mut self) -> Result<bool, store::Error> {
        let mut range = Range {
            after: self.after,
            since: 0,
            until: u64::MAX,
            tag: None,
            newest_first: false,
            limit: READ_SIZE,
        };
        if self.after.is_none() {
            range = Range { newest_first: true, limit: 1, ..range };
            let newest = self.store.range(self.stream, &range).await?;
            self.after = Some(newest.first().map(|logged| logged.id).unwrap_or_default());
            return Ok(false);
        }
        let page = self.store.range(self.stream, &range).await?;
        let Some(last) = page.last() else { return Ok(false) };
        self.after = Some(last.id);
        let matches = page.iter().filter(|logged| self.filter.matches(&logged.record));
        self.found.extend(matches.filter_map(Hit::parse));
        Ok(page.len() == READ_SIZE || !self.found.is_empty())
    }

    async fn wait(&mut self) {
        let written = pin!(async {
            // Without a writer, e.g. while the node stops, only the clock wakes us.
            if self.written.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        select(written, pin!(tokio::time::sleep(POLL_EVERY))).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use serde_json::json;
    use tokio::time::{Instant, timeout};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::logs::memory::{KEEP, Memory};
    use crate::logs::{Search, Writer};

    fn errors() -> Filter {
        Search { errors: true, ..Search::default() }.compile(0).unwrap()
    }

    fn record(n: u64, status: u16) -> serde_json::Value {
        json!({ "timestamp": n, "status_code": status })
    }

    #[tokio::test(start_paused = true)]
    async fn what_this_node_writes_shows_at_once() {
        let store = Arc::new(Memory::default());
        store.fill(Stream::Requests, [record(1, 500)]).await;
        let writer = Writer::new(Stream::Requests, 1, 1 << 20);
        tokio::spawn(writer.clone().run(store.clone(), KEEP, CancellationToken::new()));
        let mut hits = pin!(follow(store, Stream::Requests, errors(), None, writer.written()));
        assert!(timeout(Duration::from_secs(5), hits.next()).await.is_err(), "only what is new");
        let begun = Instant::now();
        for n in 2..10 {
            writer.push_json(n, &record(n, if n % 2 == 0 { 500 } else { 200 })).unwrap();
        }
        for n in [2, 4, 6, 8] {
            assert_eq!(hits.next().await.unwrap().unwrap().record["timestamp"], n);
        }
        assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_other_nodes_write_shows_within_a_second() {
        let store = Arc::new(Memory::default());
        let (_writer, written) = watch::channel(0);
        let mut hits =
            pin!(follow(store.clone(), Stream::Requests, errors(), Some(EntryId::default()), written));
        assert!(timeout(Duration::from_millis(1500), hits.next()).await.is_err());
        store.fill(Stream::Requests, [record(5, 503)]).await;
        let hit = timeout(Duration::from_millis(1100), hits.next()).await.unwrap();
        assert_eq!(hit.unwrap().unwrap().id, EntryId { time: 5, sequence: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_and_loses_nothing() {
        let store = Arc::new(Memory::default());
        let (_, written) = watch::channel(0);
        let begin = Some(EntryId::default());
        let mut hits = pin!(follow(store.clone(), Stream::Requests, errors(), begin, written));
        store.set_down(true);
        assert!(hits.next().await.unwrap().is_err());
        assert!(timeout(Duration::from_secs(10), hits.next()).await.is_err());
        store.set_down(false);
        store.fill(Stream::Requests, (1..=1500).map(|n| record(n, 500))).await;
        for n in 1..=1500 {
            assert_eq!(hits.next().await.unwrap().unwrap().record["timestamp"], n);
        }
    }
}
