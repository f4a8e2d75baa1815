//! New records as they are written, for as long as somebody listens.
//!
//! What this node writes shows at once, because the [`Writer`](super::Writer) wakes the follower; what
//! other nodes write, within [`POLL_EVERY`]. A slow listener reads later and misses nothing that the
//! store still has: there is no buffer that could overflow.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, select_all};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use super::query::Filter;
use super::read::{beside, is_request};
use super::scan::{Hit, READ_SIZE, entry_id, parse_entry_id};
use crate::store::{self, EntryId, Range, Store, Stream};

/// How often the store is asked for what other nodes wrote.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// A record that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Followed {
    /// Where to go on behind it.
    pub place: Place,
    /// The record, as a search has it.
    pub record: Value,
}

/// How far a log has been followed: one id for each stream that it is. As text they stand behind each other, with `+`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Vec<EntryId>);

impl Place {
    /// The place of a stream; who was told of one stream only has been as far in the others.
    fn of(&self, index: usize) -> Option<EntryId> {
        self.0.get(index).or(self.0.last()).copied()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().enumerate() {
            let between = if index > 0 { "+" } else { "" };
            write!(f, "{between}{}", entry_id(*id))?;
        }
        Ok(())
    }
}

/// No place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the id of an event")]
pub struct BadPlace;

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        text.split('+').map(parse_entry_id).collect::<Option<_>>().map(Self).ok_or(BadPlace)
    }
}

/// Yields the matches that come behind `after`, or from now on; the filter's window is not looked at. Those of a stream
/// come oldest first. `written` is that of this node's writers of the log.
///
/// An error of the store is yielded once for each outage; the stream goes on when the store is back.
/// It never ends.
pub fn follow(
    store: Arc<dyn Store>,
    log: Stream,
    filter: Filter,
    after: Option<&Place>,
    written: Vec<watch::Receiver<u64>>,
) -> impl stream::Stream<Item = Result<Followed, store::Error>> + Send + use<> {
    let streams = [Some(log), beside(log)].into_iter().flatten().enumerate();
    let parts =
        streams.map(|(index, stream)| Part { stream, after: after.and_then(|place| place.of(index)) });
    let parts: Vec<_> = parts.collect();
    let told = Place(parts.iter().map(|part| part.after.unwrap_or_default()).collect());
    let follower =
        Follower { store, log, parts, filter, written, found: VecDeque::new(), told, failing: false };
    stream::unfold(follower, |mut follower| async move {
        let item = follower.next().await;
        Some((item, follower))
    })
}

struct Follower {
    store: Arc<dyn Store>,
    log: Stream,
    parts: Vec<Part>,
    filter: Filter,
    written: Vec<watch::Receiver<u64>>,
    /// What was read, each with the part that it is of.
    found: VecDeque<(usize, Hit)>,
    /// How far what was yielded goes.
    told: Place,
    failing: bool,
}

/// One stream of the log.
struct Part {
    stream: Stream,
    /// How far it was read.
    after: Option<EntryId>,
}

impl Follower {
    async fn next(&mut self) -> Result<Followed, store::Error> {
        loop {
            if let Some((part, hit)) = self.found.pop_front() {
                self.told.0[part] = hit.id;
                return Ok(Followed { place: self.told.clone(), record: hit.record });
            }
            // Before the read: what is written during it wakes us right behind it.
            for written in &mut self.written {
                written.mark_unchanged();
            }
            match self.read().await {
                Ok(true) => self.failing = false,
                Ok(false) => {
                    self.failing = false;
                    self.wait().await;
                }
                Err(error) if self.failing => {
                    drop(error);
                    sleep(POLL_EVERY).await;
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
        let mut more = false;
        for (index, part) in self.parts.iter_mut().enumerate() {
            let mut range = Range {
                after: part.after,
                since: 0,
                until: u64::MAX,
                tag: None,
                newest_first: false,
                limit: READ_SIZE,
            };
            if part.after.is_none() {
                range = Range { newest_first: true, limit: 1, ..range };
                let newest = self.store.range(part.stream, &range).await?;
                let newest = newest.first().map(|logged| logged.id).unwrap_or_default();
                (part.after, self.told.0[index]) = (Some(newest), newest);
                continue;
            }
            let page = self.store.range(part.stream, &range).await?;
            let Some(last) = page.last() else { continue };
            part.after = Some(last.id);
            more |= page.len() == READ_SIZE;
            let is_of_log = |record: &[u8]| part.stream == self.log || is_request(record);
            let matches =
                page.iter().filter(|logged| is_of_log(&logged.record) && self.filter.matches(&logged.record));
            self.found.extend(matches.filter_map(Hit::parse).map(|hit| (index, hit)));
        }
        self.found.make_contiguous().sort_by_key(|(_, hit)| hit.id);
        Ok(more || !self.found.is_empty())
    }

    async fn wait(&mut self) {
        let clock = sleep(POLL_EVERY).boxed();
        let written = self.written.iter_mut().map(|written| -> BoxFuture<'_, ()> {
            Box::pin(async {
                // Without a writer, e.g. while the node stops, only the clock wakes us.
                if written.changed().await.is_err() {
                    pending::<()>().await;
                }
            })
        });
        select_all(written.chain([clock])).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

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

    fn begin() -> Place {
        "0-0".parse().unwrap()
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
        let mut hits = pin!(follow(store, Stream::Requests, errors(), None, vec![writer.written()]));
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
        let mut hits = pin!(follow(store.clone(), Stream::Requests, errors(), Some(&begin()), vec![written]));
        assert!(timeout(Duration::from_millis(1500), hits.next()).await.is_err());
        store.fill(Stream::Requests, [record(5, 503)]).await;
        let hit = timeout(Duration::from_millis(1100), hits.next()).await.unwrap();
        assert_eq!(hit.unwrap().unwrap().place.to_string(), "5-0+0-0");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_and_loses_nothing() {
        let store = Arc::new(Memory::default());
        let (_, written) = watch::channel(0);
        let mut hits = pin!(follow(store.clone(), Stream::Requests, errors(), Some(&begin()), vec![written]));
        store.set_down(true);
        assert!(hits.next().await.unwrap().is_err());
        assert!(timeout(Duration::from_secs(10), hits.next()).await.is_err());
        store.set_down(false);
        store.fill(Stream::Requests, (1..=1500).map(|n| record(n, 500))).await;
        for n in 1..=1500 {
            assert_eq!(hits.next().await.unwrap().unwrap().record["timestamp"], n);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_misses_nothing_of_either_stream() {
        let store = Arc::new(Memory::default());
        let call = |n: u64| json!({ "timestamp": n, "status_code": 500, "request_method": "POST" });
        let of_batch = json!({ "timestamp": 3, "status_code": 500, "mcp_method": "ping" });
        store.fill(Stream::Requests, [record(1, 500), record(9, 500)]).await;
        store.fill(Stream::Mcp, [call(2), of_batch]).await;
        let hits = |after: &str| {
            let (_, written) = watch::channel(0);
            let place = after.parse().unwrap();
            follow(store.clone(), Stream::Requests, errors(), Some(&place), vec![written])
        };
        let all: Vec<_> = hits("0-0").take(3).map(Result::unwrap).collect().await;
        let places: Vec<_> = all.iter().map(|followed| followed.place.to_string()).collect();
        assert_eq!(places, ["1-0+0-0", "1-0+2-0", "9-0+2-0"]);
        // Another node's writer was late.
        store.fill(Stream::Mcp, [call(5)]).await;
        let late: Vec<_> = hits("9-0+2-0").take(1).map(Result::unwrap).collect().await;
        assert_eq!(
            (&late[0].record["timestamp"], late[0].place.to_string()),
            (&json!(5), "9-0+5-0".to_owned())
        );
        let again: Vec<_> = hits("1-0+0-0").take(3).map(Result::unwrap).collect().await;
        assert_eq!(again.iter().map(|one| one.record["timestamp"].clone()).collect::<Vec<_>>(), [2, 5, 9]);
        for bad in ["", "x", "1-0+", "+1-0", "1-0 2-0"] {
            assert_eq!(bad.parse::<Place>(), Err(BadPlace), "{bad}");
        }
    }
}
