//! A window of requests, summed up.
//!
//! Everything is computed from the records in one scan, in bounded space. Percentiles are at most 3.2 % too
//! high ([`Histogram`]); beyond the bounds named below, paths, hosts and visitors are counted together
//! and the answer says so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::Serialize;

use super::fields::{Fields, Severity};
use super::histogram::Histogram;
use super::query::Search;
use super::scan::{Bounds, Error, Truncated, scan};
use crate::store::{Store, Stream};

const HOUR: u64 = 3_600_000;

/// Different paths that are counted on their own. A scanner invents them without end.
const MAX_PATHS: usize = 10_000;
const MAX_HOSTS: usize = 2_000;
const MAX_VISITORS: usize = 200_000;

/// How many paths are shown.
const TOP_PATHS: usize = 10;

/// What happened in a window. Times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Stats {
    /// The begin of the window, milliseconds since 1970.
    pub since: u64,
    /// Its end.
    pub until: u64,
    /// All requests.
    pub total_requests: u64,
    /// Different client addresses; at least, when `bounded`.
    pub unique_visitors: u64,
    /// Requests with status 5xx, and answers that broke off.
    pub errors: u64,
    /// Their share of all, 0 to 1.
    pub error_rate: f64,
    /// Requests with status below 400 that did not break off, as a share of all.
    pub success_rate: f64,
    /// Requests for each hour of the window's length.
    pub requests_per_hour: f64,
    /// Requests for each minute of the window's length.
    pub requests_per_minute: f64,
    /// Requests by the begin of their hour, RFC 3339.
    pub requests_by_hour: BTreeMap<String, u64>,
    /// Errors by the begin of their hour.
    pub errors_by_hour: BTreeMap<String, u64>,
    /// Requests by status.
    pub status_codes: BTreeMap<u16, u64>,
    /// The most requested paths.
    pub top_paths: Vec<PathCount>,
    /// The mean time from request to the end of the answer. Tunnels are left out of all times.
    pub average_response_time: f64,
    /// Half of all answers took no longer.
    pub p50: f64,
    /// 95 % of all answers took no longer.
    pub p95: f64,
    /// 99 % of all answers took no longer.
    pub p99: f64,
    /// Bytes of response bodies.
    pub bytes_sent: u64,
    /// Bytes of request bodies.
    pub bytes_received: u64,
    /// By proxied host.
    pub hosts: BTreeMap<String, HostStats>,
    /// There were more different paths, hosts or visitors than are counted on their own.
    pub bounded: bool,
    /// Set when the scan ended before the window did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
}

/// How often a path was requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PathCount {
    /// The path.
    pub path: String,
    /// How often.
    pub count: u64,
}

/// What happened on one host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct HostStats {
    /// All requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// The mean time of an answer in milliseconds.
    pub average_response_time: f64,
    /// Bytes of response bodies.
    pub bytes_sent: u64,
}

/// Sums up the requests that a search matches; `now` is in milliseconds since 1970.
///
/// # Errors
/// If the search is not valid, or the store does not answer.
pub async fn stats(store: &dyn Store, search: &Search, bounds: Bounds, now: u64) -> Result<Stats, Error> {
    let filter = search.compile(now)?;
    let mut sums = Sums::default();
    let scanned = scan(store, Stream::Requests, &filter, None, bounds, |logged, fields| {
        sums.add(logged.id.time, fields);
        ControlFlow::Continue(())
    })
    .await?;
    let since = scanned.truncated.map_or(filter.since, |truncated| truncated.reached);
    Ok(Stats { truncated: scanned.truncated, ..sums.finish(since, filter.until.min(now)) })
}

#[derive(Default)]
struct Sums {
    stats: Stats,
    successes: u64,
    hours: BTreeMap<u64, (u64, u64)>,
    paths: HashMap<String, u64>,
    hosts: HashMap<String, HostSums>,
    visitors: HashSet<IpAddr>,
    times: Histogram,
}

#[derive(Default)]
struct HostSums {
    stats: HostStats,
    micros: u64,
    timed: u64,
}

impl Sums {
    fn add(&mut self, time: u64, fields: &Fields<'_>) {
        let error = fields.severity() == Severity::Error;
        let stats = &mut self.stats;
        stats.total_requests += 1;
        stats.errors += u64::from(error);
        self.successes += u64::from(!error && fields.status_code < 400);
        *stats.status_codes.entry(fields.status_code).or_default() += 1;
        stats.bytes_sent = stats.bytes_sent.saturating_add(fields.bytes_sent);
        stats.bytes_received = stats.bytes_received.saturating_add(fields.bytes_received);
        let hour = self.hours.entry(time - time % HOUR).or_default();
        hour.0 += 1;
        hour.1 += u64::from(error);
        if let Some(client) = fields.client() {
            stats.bounded |= !insert_bounded(&mut self.visitors, client);
        }
        match count_bounded(&mut self.paths, &fields.request_path, MAX_PATHS) {
            Some(count) => *count += 1,
            None => stats.bounded = true,
        }
        // A negative or absurd number can't come from our encoder, and casts to the nearest end.
        let micros = (!fields.tunnel).then_some((fields.response_time_ms * 1000.0) as u64);
        if let Some(micros) = micros {
            self.times.record(micros);
        }
        match count_bounded(&mut self.hosts, &fields.proxy_hostname, MAX_HOSTS) {
            Some(host) => host.add(fields, error, micros),
            None => stats.bounded = true,
        }
    }

    fn finish(self, since: u64, until: u64) -> Stats {
        let total = self.stats.total_requests;
        let share = |part: u64| if total == 0 { 0.0 } else { part as f64 / total as f64 };
        let hours = (until.saturating_sub(since) as f64 / HOUR as f64).max(1.0 / 60.0);
        let milliseconds = |percent| self.times.percentile(percent) as f64 / 1000.0;
        let mut top_paths: Vec<_> =
            self.paths.into_iter().map(|(path, count)| PathCount { path, count }).collect();
        top_paths.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
        top_paths.truncate(TOP_PATHS);
        Stats {
            since,
            until,
            unique_visitors: self.visitors.len() as u64,
            error_rate: share(self.stats.errors),
            success_rate: share(self.successes),
            requests_per_hour: total as f64 / hours,
            requests_per_minute: total as f64 / hours / 60.0,
            requests_by_hour: self.hours.iter().map(|(time, (all, _))| (rfc3339(*time), *all)).collect(),
            errors_by_hour: self
                .hours
                .iter()
                .filter(|(_, (_, errors))| *errors > 0)
                .map(|(time, (_, errors))| (rfc3339(*time), *errors))
                .collect(),
            top_paths,
            average_response_time: self.times.mean() / 1000.0,
            p50: milliseconds(50.0),
            p95: milliseconds(95.0),
            p99: milliseconds(99.0),
            hosts: self.hosts.into_iter().map(|(name, host)| (name, host.finish())).collect(),
            ..self.stats
        }
    }
}

impl HostSums {
    fn add(&mut self, fields: &Fields<'_>, error: bool, micros: Option<u64>) {
        self.stats.requests += 1;
        self.stats.errors += u64::from(error);
        self.stats.bytes_sent = self.stats.bytes_sent.saturating_add(fields.bytes_sent);
        if let Some(micros) = micros {
            self.micros = self.micros.saturating_add(micros);
            self.timed += 1;
        }
    }

    fn finish(self) -> HostStats {
        let mean = if self.timed == 0 { 0.0 } else { self.micros as f64 / self.timed as f64 / 1000.0 };
        HostStats { average_response_time: mean, ..self.stats }
    }
}

/// The value of a key; `None` if it is new and there is no room.
fn count_bounded<'m, T: Default>(
    map: &'m mut HashMap<String, T>,
    key: &str,
    max: usize,
) -> Option<&'m mut T> {
    if !map.contains_key(key) {
        if map.len() >= max {
            return None;
        }
        map.insert(key.to_owned(), T::default());
    }
    map.get_mut(key)
}

/// `false` if the value is new and there is no room.
fn insert_bounded(set: &mut HashSet<IpAddr>, value: IpAddr) -> bool {
    if set.len() < MAX_VISITORS {
        set.insert(value);
        true
    } else {
        set.contains(&value)
    }
}

fn rfc3339(time: u64) -> String {
    let time = i64::try_from(time).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(time).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::logs::memory::Memory;

    const NOW: u64 = 100 * HOUR;

    #[tokio::test]
    async fn a_window_is_summed_up() {
        let store = Memory::default();
        let record = |n: u64| {
            json!({
                "timestamp": NOW - 2 * HOUR + n * HOUR / 50,
                "client_ip": format!("10.0.0.{}", n % 7),
                "proxy_hostname": if n.is_multiple_of(4) { "a.example.com" } else { "b.example.com" },
                "request_path": if n.is_multiple_of(2) { "/even".to_owned() } else { format!("/{n}") },
                "status_code": match n % 10 { 0 => 503, 1 => 404, _ => 200 },
                "response_time_ms": n as f64,
                "bytes_sent": 10, "bytes_received": 1,
            })
        };
        store.fill(Stream::Requests, (0..100).map(record)).await;
        let tunnel = json!({ "timestamp": NOW, "status_code": 101, "response_time_ms": 1e9, "tunnel": true });
        store.fill(Stream::Requests, [tunnel]).await;
        let search = Search { hours: Some(2), ..Search::default() };
        let stats = super::stats(&store, &search, Bounds::default(), NOW).await.unwrap();
        assert_eq!((stats.total_requests, stats.errors, stats.unique_visitors), (101, 10, 7));
        assert_eq!(stats.status_codes, BTreeMap::from([(101, 1), (200, 80), (404, 10), (503, 10)]));
        assert!((stats.error_rate - 10.0 / 101.0).abs() < 1e-9);
        assert!((stats.success_rate - 81.0 / 101.0).abs() < 1e-9);
        assert!((stats.requests_per_hour - 50.5).abs() < 1e-9);
        assert_eq!(stats.top_paths[0], PathCount { path: "/even".into(), count: 50 });
        assert_eq!(stats.top_paths.len(), TOP_PATHS);
        assert!((stats.average_response_time - 49.5).abs() < 1e-9);
        for (found, expected) in [(stats.p50, 49.0), (stats.p95, 94.0), (stats.p99, 98.0)] {
            assert!(found >= expected && found <= expected * 1.032, "{found} {expected}");
        }
        assert_eq!(stats.requests_by_hour["1970-01-05T02:00:00Z"], 50);
        assert_eq!(stats.errors_by_hour["1970-01-05T02:00:00Z"], 5);
        assert_eq!(stats.hosts["a.example.com"].requests, 25);
        assert_eq!(stats.bytes_sent, 1000);
        assert!(!stats.bounded && stats.truncated.is_none());
    }

    #[tokio::test]
    async fn an_empty_window_divides_by_nothing() {
        let stats =
            super::stats(&Memory::default(), &Search::default(), Bounds::default(), NOW).await.unwrap();
        assert_eq!((stats.error_rate, stats.p99, stats.average_response_time), (0.0, 0.0, 0.0));
    }

    #[tokio::test]
    async fn endless_paths_cost_bounded_memory() {
        let store = Memory::default();
        let count = MAX_PATHS as u64 + 500;
        let record = |n| json!({ "timestamp": NOW, "status_code": 200, "request_path": format!("/{n}") });
        store.fill(Stream::Requests, (0..count).map(record)).await;
        let stats = super::stats(&store, &Search::default(), Bounds::default(), NOW).await.unwrap();
        assert_eq!(stats.total_requests, count);
        assert!(stats.bounded);
    }
}
