//! Connections to upstreams, kept for each worker.
//!
//! An HTTP/1.1 connection is lent to one exchange at a time, the one that was used last first, so
//! that the others can grow old and go; an HTTP/2 connection is shared. A pool belongs to an
//! upstream and not to a configuration: it lives as long as any [`Forward`](super::Forward) that
//! names the upstream, across reloads.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::header::HeaderValue;
use hyper::client::conn::http2;
use rustls::RootCertStore;
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::deadline::Ticker;
use crate::per_worker::{PerWorker, current_worker};

use super::balance::{Checks, Health, RetryCounters};
use super::connect::{DialError, Dialed, MAX_STREAMS, Want, dial};
use super::http1::Connection;
use super::lease::{Lease, Lent};
use super::live::Tunnels;
use super::target::{Protocol, Upstream};
use super::tls::{TlsClient, TlsSetupError, platform_roots};
use super::upload::RequestBody;

/// How often idle connections are looked at; their age is counted in this, too.
const SWEEP: Duration = Duration::from_secs(1);

/// How many idle connections are kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// Idle connections for each upstream and worker.
    pub max_idle: usize,
    /// After this long without a request a connection is closed.
    pub idle_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { max_idle: 128, idle_timeout: Duration::from_secs(55) }
    }
}

/// What all [`Forward`](super::Forward)s of a process share: connections, the platform's certificate
/// authorities, the ticker, the list of tunnels. Made once; a clone is a reference count.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    workers: usize,
    settings: PoolSettings,
    ticker: Ticker,
    tunnels: Tunnels,
    roots: OnceLock<Arc<RootCertStore>>,
    /// What the times of upstreams are counted from.
    epoch: Instant,
    checks: Arc<Checks>,
    retries: RetryCounters,
    endpoints: Mutex<HashMap<Arc<Upstream>, Weak<Endpoint>>>,
}

impl Client {
    /// A client for as many workers as the process has.
    pub fn new(workers: usize, ticker: Ticker, tunnels: Tunnels, settings: PoolSettings) -> Self {
        let shared = Shared {
            workers,
            settings,
            ticker,
            tunnels,
            roots: OnceLock::new(),
            epoch: Instant::now(),
            checks: Arc::default(),
            retries: RetryCounters::default(),
            endpoints: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The ticker that deadlines come from.
    pub fn ticker(&self) -> &Ticker {
        &self.shared.ticker
    }

    /// The list of tunnels and event streams.
    pub fn tunnels(&self) -> &Tunnels {
        &self.shared.tunnels
    }

    /// What became of requests that could be sent to another upstream.
    pub fn retries(&self) -> &RetryCounters {
        &self.shared.retries
    }

    pub(super) fn checks(&self) -> Arc<Checks> {
        Arc::clone(&self.shared.checks)
    }

    pub(super) fn epoch(&self) -> Instant {
        self.shared.epoch
    }

    /// An upstream that some target has.
    pub(super) fn known_endpoint(&self, upstream: &Upstream) -> Option<Arc<Endpoint>> {
        let endpoints = self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.get(&upstream.connected()).and_then(Weak::upgrade)
    }

    /// The connections to an upstream: those that exist, else a new pool.
    pub(super) fn endpoint(&self, upstream: &Upstream) -> Result<Arc<Endpoint>, TlsSetupError> {
        let key = upstream.connected();
        let mut endpoints = self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = endpoints.get(&key).and_then(Weak::upgrade) {
            return Ok(endpoint);
        }
        if endpoints.len() == endpoints.capacity() {
            endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        }
        let key = Arc::new(key);
        let tls = match key.scheme {
            super::Scheme::Http => None,
            super::Scheme::Https => {
                let roots = || Arc::clone(self.shared.roots.get_or_init(platform_roots));
                Some(TlsClient::new(&key, roots)?)
            }
        };
        let endpoint = Arc::new(Endpoint {
            label: key.label(),
            authority: HeaderValue::try_from(key.authority()).expect("a host and a port are a valid value"),
            tls,
            settings: self.shared.settings,
            workers: self.shared.workers,
            shards: OnceLock::new(),
            speaks: AtomicU8::new(UNKNOWN),
            health: Health::new(key.label(), self.shared.epoch),
            upstream: Arc::clone(&key),
        });
        endpoints.insert(key, Arc::downgrade(&endpoint));
        Ok(endpoint)
    }
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

/// One upstream and the connections to it.
pub(super) struct Endpoint {
    pub(super) upstream: Arc<Upstream>,
    pub(super) label: SmolStr,
    pub(super) authority: HeaderValue,
    tls: Option<TlsClient>,
    settings: PoolSettings,
    workers: usize,
    /// Made with the first request: most upstreams of a large configuration have none for a long time.
    shards: OnceLock<PerWorker<Shard>>,
    /// What ALPN settled last.
    speaks: AtomicU8,
    pub(super) health: Health,
}

#[derive(Default)]
struct Shard {
    idle: VecDeque<Http1>,
    shared: Vec<Http2>,
    /// Counts [`SWEEP`]s while a sweeper runs.
    now: u64,
    swept: bool,
    dialing: Arc<tokio::sync::Mutex<()>>,
}

impl Shard {
    fn lend_http2(&self) -> Option<Http2> {
        let usable = |connection: &&Http2| {
            connection.sender.is_ready() && connection.streams.load(Ordering::Relaxed) < MAX_STREAMS as usize
        };
        self.shared.iter().find(usable).map(Http2::lend)
    }

    fn lend_http1(&mut self) -> Option<Http1> {
        while let Some(mut http1) = self.idle.pop_back() {
            if http1.connection.is_open() {
                return Some(http1);
            }
        }
        None
    }

    /// Drops what is too old or closed; tells whether anything is left.
    fn sweep(&mut self, max_age: u64) -> bool {
        self.now += 1;
        let now = self.now;
        self.idle.retain_mut(|http1| now - http1.parked_at < max_age && http1.connection.is_open());
        self.shared.retain_mut(|http2| {
            if http2.streams.load(Ordering::Relaxed) > 0 {
                http2.used_at = now;
            }
            !http2.sender.is_closed() && now - http2.used_at < max_age
        });
        let left = !(self.idle.is_empty() && self.shared.is_empty());
        self.swept = left;
        left
    }
}

impl Endpoint {
    fn shards(&self) -> &PerWorker<Shard> {
        self.shards.get_or_init(|| PerWorker::new(self.workers, Shard::default))
    }

    /// A connection from the pool, if there is one.
    pub(super) fn checkout(self: &Arc<Self>, want: Want) -> Option<Lease> {
        self.shards().with(|shard| {
            if want == Want::Any
                && let Some(http2) = shard.lend_http2()
            {
                return Some(Lease::H2 { connection: http2, reused: true });
            }
            let http1 = shard.lend_http1()?;
            let rested = shard.now != http1.parked_at;
            let lent = Lent { connection: http1.connection, endpoint: Arc::clone(self), pooled: true };
            Some(Lease::H1 { lent, reused: true, rested })
        })
    }

    /// A new connection. Requests that would make HTTP/2 connections at the same time share one.
    pub(super) async fn dial(
        self: &Arc<Self>,
        want: Want,
        preface: Option<Vec<u8>>,
    ) -> Result<Lease, DialError> {
        let pooled = preface.is_none();
        let _turn = if want == Want::Any && pooled && self.shares() {
            let turn = self.shards().with(|shard| Arc::clone(&shard.dialing)).lock_owned().await;
            if let Some(http2) = self.shards().with(|shard| shard.lend_http2()) {
                return Ok(Lease::H2 { connection: http2, reused: true });
            }
            Some(turn)
        } else {
            None
        };
        let dialed = dial(&self.upstream, self.tls.as_ref(), want, preface).await;
        match &dialed {
            Ok(_) => self.health.connected(),
            Err(_) => self.health.avoid(),
        }
        match dialed? {
            Dialed::H1(connection) => {
                if want == Want::Any {
                    self.speaks.store(HTTP1, Ordering::Relaxed);
                }
                let lent = Lent { connection, endpoint: Arc::clone(self), pooled };
                Ok(Lease::H1 { lent, reused: false, rested: false })
            }
            Dialed::H2(sender) => {
                self.speaks.store(HTTP2, Ordering::Relaxed);
                let mut connection = Http2 { sender, streams: Arc::default(), used_at: 0, lent: false };
                let lent = connection.lend();
                if pooled {
                    self.shards().with(|shard| {
                        connection.used_at = shard.now;
                        shard.shared.push(connection);
                        self.ensure_swept(shard);
                    });
                }
                Ok(Lease::H2 { connection: lent, reused: false })
            }
        }
    }

    /// A connection of its own, which no request gets.
    pub(super) async fn dial_apart(self: &Arc<Self>) -> Result<Lease, DialError> {
        let preface = self.upstream.proxy_header.map(|header| header.encode(None));
        let lease = match dial(&self.upstream, self.tls.as_ref(), Want::Any, preface).await? {
            Dialed::H1(connection) => {
                let lent = Lent { connection, endpoint: Arc::clone(self), pooled: false };
                Lease::H1 { lent, reused: false, rested: false }
            }
            Dialed::H2(sender) => {
                let connection = Http2 { sender, streams: Arc::default(), used_at: 0, lent: false };
                Lease::H2 { connection, reused: false }
            }
        };
        self.health.connected();
        Ok(lease)
    }

    fn shares(&self) -> bool {
        match self.upstream.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Negotiate => self.tls.is_some() && self.speaks.load(Ordering::Relaxed) != HTTP1,
        }
    }

    /// Takes back a connection that is ready for another request.
    pub(super) fn park(self: &Arc<Self>, mut connection: Box<Connection>) {
        connection.rest();
        let surplus = self.shards().with(|shard| {
            shard.idle.push_back(Http1 { connection, parked_at: shard.now });
            self.ensure_swept(shard);
            if shard.idle.len() > self.settings.max_idle { shard.idle.pop_front() } else { None }
        });
        drop(surplus);
    }

    fn ensure_swept(self: &Arc<Self>, shard: &mut Shard) {
        if !std::mem::replace(&mut shard.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), current_worker(), self.settings.idle_timeout));
        }
    }
}

async fn sweep(endpoint: Weak<Endpoint>, worker: usize, idle_timeout: Duration) {
    let max_age = idle_timeout.as_secs().max(1);
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(endpoint) = endpoint.upgrade() else { return };
        if !endpoint.shards().with_shard(worker, |shard| shard.sweep(max_age)) {
            return;
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.label).finish()
    }
}

/// An HTTP/1.1 connection that nobody uses.
struct Http1 {
    connection: Box<Connection>,
    parked_at: u64,
}

/// An HTTP/2 connection, or a stream's share of it.
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    used_at: u64,
    lent: bool,
}

impl Http2 {
    fn lend(&self) -> Self {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Self {
            sender: self.sender.clone(),
            streams: Arc::clone(&self.streams),
            used_at: self.used_at,
            lent: true,
        }
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        if self.lent {
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new(2, Ticker::new(2), Tunnels::new(2), PoolSettings::default())
    }

    fn upstream(text: &str) -> Upstream {
        text.parse().expect("valid")
    }

    #[tokio::test]
    async fn equal_upstreams_share_their_connections() {
        let client = client();
        let first = client.endpoint(&upstream("http://a:1/x")).expect("valid");
        let again = client.endpoint(&upstream("http://a:1/y")).expect("valid");
        let other = client.endpoint(&upstream("http://a:2")).expect("valid");
        assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &other));
    }

    #[tokio::test]
    async fn nothing_is_kept_of_upstreams_that_are_gone() {
        let client = client();
        let kept = client.endpoint(&upstream("http://kept:1")).expect("valid");
        for port in 1..1000 {
            drop(client.endpoint(&upstream(&format!("http://a:{port}"))).expect("valid"));
        }
        // They are looked through when the table would have to grow.
        assert!(client.shared.endpoints.lock().expect("not poisoned").len() < 10);
        let again = client.endpoint(&upstream("http://kept:1")).expect("valid");
        assert!(Arc::ptr_eq(&kept, &again));
    }
}
