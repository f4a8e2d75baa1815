//! What the process counts, for Prometheus.
//!
//! [`Metrics`] is a sink of the access log: it counts every request on the worker that served it,
//! without a lock that workers share and without allocating. What others count (TLS, PROXY protocol,
//! the log's queue, …) is read when somebody asks: they [`register`](Metrics::register) what writes it.
//! [`serve`] answers `GET /metrics`.
//!
//! The number of series is bounded whatever clients send: a host counts under its configured name, and
//! only the first [`MAX_HOSTS`] of them do; the others, and all names that nobody configured, are `other`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use portcullis_layers::access_log::{Record, Sink};
use portcullis_layers::per_worker::PerWorker;

mod server;
pub mod sources;
mod writer;

pub use server::serve;
pub use writer::{Number, Samples, Writer};

/// How many hosts are counted each on its own.
pub const MAX_HOSTS: usize = 1000;

/// There are some dozens; the bound is for the day when one of them is not a constant.
const MAX_CODES: usize = 256;

/// Upper bounds of durations, in seconds.
const BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", OTHER];
const STATUSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", OTHER];
const OTHER: &str = "other";

/// Counts requests, and knows who counts the rest. A clone is a reference count.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    started: Timestamp,
    workers: PerWorker<Counts>,
    sources: Mutex<Vec<Source>>,
}

type Source = Arc<dyn Fn(&mut Writer) + Send + Sync>;

/// What one worker counts.
#[derive(Default)]
struct Counts {
    requests: [[u64; STATUSES.len()]; METHODS.len()],
    duration: Histogram,
    upstream: Histogram,
    received: u64,
    sent: u64,
    client_gone: u64,
    broken: u64,
    tunnels: u64,
    rejections: HashMap<String, u64>,
    other_rejections: u64,
    // A wildcard `*.parent` stands under `.parent`: a request's host ends with that.
    hosts: HashMap<String, HostCounts>,
    other_hosts: HostCounts,
}

#[derive(Debug, Clone, Copy, Default)]
struct HostCounts {
    requests: u64,
    errors: u64,
}

/// How many durations lie in each bucket, the last one without an upper bound, and their sum.
#[derive(Debug, Clone, Copy, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len() + 1],
    micros: u64,
}

impl Metrics {
    /// Counts for as many workers as the process has.
    pub fn new(workers: usize) -> Self {
        let workers = PerWorker::new(workers, Counts::default);
        let shared = Shared { started: Timestamp::now(), workers, sources: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Adds what is read at every scrape. It runs on the server's thread and must not wait.
    pub fn register(&self, source: impl Fn(&mut Writer) + Send + Sync + 'static) {
        self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(source));
    }

    /// Says which hosts are configured, wildcards as `*.parent`. Those that were counted before keep
    /// their place and their counts, those that are gone lose both.
    pub fn set_hosts<T: AsRef<str>>(&self, hosts: impl IntoIterator<Item = T>) {
        let key = |host: T| host.as_ref().strip_prefix('*').unwrap_or(host.as_ref()).to_owned();
        let wanted: BTreeSet<String> = hosts.into_iter().map(key).collect();
        self.shared.workers.for_each(|counts| {
            counts.hosts.retain(|host, _| wanted.contains(host));
            for host in &wanted {
                if counts.hosts.len() == MAX_HOSTS {
                    break;
                }
                if !counts.hosts.contains_key(host) {
                    counts.hosts.insert(host.clone(), HostCounts::default());
                }
            }
        });
    }

    /// Everything, as Prometheus reads it.
    pub fn render(&self) -> String {
        let mut writer = Writer::default();
        let mut total = Counts::default();
        self.shared.workers.for_each(|counts| total.add(counts));
        total.write(&mut writer);
        let started = self.shared.started.as_second();
        writer.gauge("start_time_seconds", "When the process started, since 1970.").add(&[], started);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        writer.gauge("build_info", "What is running; always 1.").add(&version, 1_u64);
        // Copied, so that a source may register another one.
        let sources = self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for source in sources {
            source(&mut writer);
        }
        writer.finish()
    }
}

impl Sink for Metrics {
    fn emit(&self, record: &Record<'_>) {
        self.shared.workers.with(|counts| counts.count(record));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("workers", &self.shared.workers.len()).finish_non_exhaustive()
    }
}

impl Counts {
    fn count(&mut self, record: &Record<'_>) {
        self.requests[method_class(record.method)][status_class(record.status)] += 1;
        if record.tunnel {
            // Its duration is that of the tunnel, which says nothing about how quickly we answer.
            self.tunnels += 1;
        } else {
            self.duration.note(record.total);
        }
        if let Some(time) = record.upstream_time {
            self.upstream.note(time);
        }
        self.received += record.received;
        self.sent += record.sent;
        self.client_gone += u64::from(record.client_gone);
        self.broken += u64::from(record.body_failed);
        if let Some(code) = record.code {
            self.reject(code);
        }
        let host = self.host(record.host.unwrap_or_default());
        host.requests += 1;
        host.errors += u64::from(record.status >= 500);
    }

    fn reject(&mut self, code: &str) {
        if let Some(count) = self.rejections.get_mut(code) {
            *count += 1;
        } else if self.rejections.len() < MAX_CODES {
            self.rejections.insert(code.to_owned(), 1);
        } else {
            self.other_rejections += 1;
        }
    }

    fn host(&mut self, name: &str) -> &mut HostCounts {
        // The exact name wins, as it does where requests are served.
        let key = if self.hosts.contains_key(name) { name } else { parent(name) };
        self.hosts.get_mut(key).unwrap_or(&mut self.other_hosts)
    }

    fn add(&mut self, other: &Self) {
        for (sums, counts) in self.requests.as_flattened_mut().iter_mut().zip(other.requests.as_flattened()) {
            *sums += counts;
        }
        self.duration.add(&other.duration);
        self.upstream.add(&other.upstream);
        self.received += other.received;
        self.sent += other.sent;
        self.client_gone += other.client_gone;
        self.broken += other.broken;
        self.tunnels += other.tunnels;
        for (code, count) in &other.rejections {
            *self.rejections.entry(code.clone()).or_default() += count;
        }
        self.other_rejections += other.other_rejections;
        for (host, counts) in &other.hosts {
            self.hosts.entry(host.clone()).or_default().add(*counts);
        }
        self.other_hosts.add(other.other_hosts);
    }

    fn write(&self, writer: &mut Writer) {
        let mut requests = writer
            .counter("requests_total", "Requests that were answered or given up, by method and status.");
        for (method, counts) in METHODS.iter().zip(&self.requests) {
            for (status, count) in STATUSES.iter().zip(counts) {
                requests.add(&[("method", method), ("status", status)], *count);
            }
        }
        let help = "From the arrival of a request until its answer ended; tunnels are left out.";
        self.duration.write(writer, "request_duration_seconds", help);
        let help = "From the call of an upstream until the head of its response.";
        self.upstream.write(writer, "upstream_duration_seconds", help);
        for (name, help, value) in [
            ("received_bytes_total", "Bytes of request bodies, and from clients in tunnels.", self.received),
            ("sent_bytes_total", "Bytes of response bodies, and to clients in tunnels.", self.sent),
            ("client_gone_total", "Requests whose client left before the answer's end.", self.client_gone),
            ("responses_broken_total", "Answers that broke off because their body failed.", self.broken),
            ("tunnels_total", "WebSockets and other tunnels that ended.", self.tunnels),
        ] {
            writer.counter(name, help).add(&[], value);
        }
        let help = "Requests that were answered in the upstream's place, by code.";
        let mut rejections = writer.counter("rejections_total", help);
        let mut codes: Vec<_> = self.rejections.iter().collect();
        codes.sort_unstable();
        for (code, count) in codes {
            rejections.add(&[("code", code)], *count);
        }
        rejections.add(&[("code", OTHER)], self.other_rejections);
        self.write_hosts(writer);
    }

    fn write_hosts(&self, writer: &mut Writer) {
        type Field = fn(&HostCounts) -> u64;
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort_unstable_by_key(|(host, _)| *host);
        let fields: [(_, _, Field); 2] = [
            ("host_requests_total", "Requests by configured host.", |host| host.requests),
            ("host_errors_total", "Requests with a 5xx answer by configured host.", |host| host.errors),
        ];
        for (name, help, field) in fields {
            let mut samples = writer.counter(name, help);
            for (host, counts) in &hosts {
                let wildcard = if host.starts_with('.') { "*" } else { "" };
                samples.add(&[("host", &format!("{wildcard}{host}"))], field(counts));
            }
            samples.add(&[("host", OTHER)], field(&self.other_hosts));
        }
    }
}

impl HostCounts {
    const fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
    }
}

impl Histogram {
    fn note(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        self.buckets[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.micros = self.micros.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += count;
        }
        self.micros = self.micros.saturating_add(other.micros);
    }

    fn write(&self, writer: &mut Writer, name: &'static str, help: &'static str) {
        writer.histogram(
            name,
            help,
            &BOUNDS,
            &self.buckets,
            Duration::from_micros(self.micros).as_secs_f64(),
        );
    }
}

fn method_class(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

fn status_class(status: u16) -> usize {
    match status {
        100..=599 => usize::from(status / 100 - 1),
        _ => STATUSES.len() - 1,
    }
}

/// `.b.c` of `a.b.c`.
fn parent(host: &str) -> &str {
    host.find('.').map_or("", |dot| &host[dot..])
}

#[cfg(test)]
mod tests;
