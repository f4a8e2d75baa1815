//! What a connection may cost: the settings of the `serve` layer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::normalize::Firewall;
use crate::strict;

/// Limits and deadlines of connections, all with defaults that suit a public edge.
#[derive(Debug, Clone)]
pub struct Settings {
    /// HTTP/1: sizes of the parts of a request. See [`strict::Limits`].
    pub head: strict::Limits,
    /// HTTP/1: bytes that are read ahead, and bytes of a response that wait for the client.
    /// At least 8 KiB, and at least [`head.head`](strict::Limits::head). Default: 64 KiB.
    pub buffer: usize,
    /// The time until the first request's head is complete, from when the connection reaches
    /// `serve`; for later requests, from the first byte of their head. Default: 10 s.
    pub head_deadline: Duration,
    /// How long a connection may wait for its next request. Default: 75 s.
    pub idle: Duration,
    /// The largest request body in bytes, `None` for no limit. Default: 1 GiB.
    pub body_limit: Option<u64>,
    /// How long a request body may be waited for, altogether, for fewer than
    /// [`body_progress`](Self::body_progress) bytes; `None` for no limit. Time in which nobody
    /// reads the body does not count. Default: 30 s.
    pub body_stall: Option<Duration>,
    /// Default: 64 bytes.
    pub body_progress: u64,
    /// How long what is ready to be sent may wait for a client that takes nothing. A response that
    /// has nothing to say for the moment (events, tunnels) is not concerned. Default: 60 s.
    pub write_stall: Duration,
    /// How long a closed connection waits for the client to notice. Default: 2 s.
    pub linger: Duration,
    /// Requests after which a connection closes, `None` for no limit. Default: `None`.
    pub max_requests: Option<u64>,
    /// Age after which a connection closes in an orderly way, `None` for no limit. Default: `None`.
    pub max_age: Option<Duration>,
    /// What removes identity and forwarding fields from the trailers of requests, beside the
    /// [fields that never are trailers](crate::trailers). It should be that of the `normalize` layer,
    /// which knows the prefixes in use.
    pub firewall: Firewall,
    /// Whether plain connections that start with the HTTP/2 preface speak HTTP/2 ("prior
    /// knowledge", RFC 9113, section 3.3). Default: no, they get 505.
    pub h2c: bool,
    /// HTTP/2.
    pub http2: Http2,
}

/// Settings of HTTP/2 connections.
#[derive(Debug, Clone)]
pub struct Http2 {
    /// Streams that may be open at once. Default: 100.
    pub streams: u32,
    /// Bytes of a request body that may be on their way, per stream. Default: 256 KiB.
    pub stream_window: u32,
    /// The same for all streams of a connection: a bound on what request bodies that nobody reads
    /// cost. Default: 1 MiB.
    pub connection_window: u32,
    /// Bytes of a request's header list as HPACK counts them, 32 for each field more. Default: 16 KiB.
    pub header_list: u32,
    /// Bytes of a response that wait in a stream. Default: 64 KiB.
    pub send_buffer: usize,
    /// Bytes of responses that wait in all streams of a connection; beyond it, a stream gets its
    /// next piece of at most 16 KiB only when its last one is on its way. Default: 1 MiB.
    pub in_flight: usize,
    /// Streams that were reset by the client before they were accepted (rapid reset,
    /// CVE-2023-44487), after which the connection ends. Default: 20.
    pub pending_resets: usize,
    /// Streams that the client made us reset (MadeYouReset, CVE-2025-8671), after which the
    /// connection ends. Default: 100.
    pub local_resets: usize,
    /// How often a connection is asked whether it is alive, `None` for never. Default: 60 s.
    pub ping: Option<Duration>,
    /// How long the answer may take. Default: 20 s.
    pub ping_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            head: strict::Limits::default(),
            buffer: 64 * 1024,
            head_deadline: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_limit: Some(1 << 30),
            body_stall: Some(Duration::from_secs(30)),
            body_progress: 64,
            write_stall: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            max_requests: None,
            max_age: None,
            firewall: Firewall::default(),
            h2c: false,
            http2: Http2::default(),
        }
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            streams: 100,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            header_list: 16 * 1024,
            send_buffer: 64 * 1024,
            in_flight: 1024 * 1024,
            pending_resets: 20,
            local_resets: 100,
            ping: Some(Duration::from_secs(60)),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// What connections were ended for, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were refused below HTTP, by reason.
    pub refused: std::sync::Arc<strict::Counters>,
    /// Connections that sent no first request in time.
    pub silent: Counter,
    /// Keep-alive connections that sent no further request in time.
    pub idle: Counter,
    /// Request bodies that made no progress.
    pub stalled_bodies: Counter,
    /// Request bodies that were larger than allowed.
    pub large_bodies: Counter,
    /// HTTP/2 streams whose client did not take its response.
    pub stalled_streams: Counter,
    /// Connections whose client did not take what was ready for it.
    pub stalled_writes: Counter,
    /// HTTP/2 connections that broke the protocol.
    pub http2_errors: Counter,
    /// Fields dropped from request trailers.
    pub dropped_trailers: Counter,
    /// Connections that were open when the time for an orderly end was over.
    pub killed: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
