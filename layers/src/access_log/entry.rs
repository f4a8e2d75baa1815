//! A record in the making: it is emitted when it is dropped, whatever the reason.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, Version};
use smol_str::SmolStr;
use tokio::time::Instant;

use super::Settings;
use super::capture::Captured;
use super::record::Record;
use super::sink::Sink;
use crate::context::{ClientAddr, Conn, Facts, RequestId, TunnelEnd};
use crate::names::HostName;

/// The status of a request whose client left before there was an answer. No RFC knows it, nginx coined it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What was learned of a request before it was given away, and of its answer since.
pub(super) struct Entry<K: Sink> {
    pub(super) settings: Arc<Settings<K>>,
    pub(super) facts: Arc<Facts>,
    pub(super) conn: Option<Arc<Conn>>,
    pub(super) client: Option<ClientAddr>,
    pub(super) id: RequestId,
    pub(super) begun: Instant,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) captured: Captured,
    pub(super) outcome: Outcome,
}

/// How it went.
#[derive(Default)]
pub(super) struct Outcome {
    /// `None` until there is a response head.
    pub(super) status: Option<u16>,
    pub(super) first_byte: Option<Duration>,
    pub(super) sent: u64,
    /// Of a tunnel; otherwise the facts know it.
    pub(super) received: Option<u64>,
    /// The answer was handed over to its last byte.
    pub(super) complete: bool,
    /// Our own words on what went wrong, where no layer below had any.
    pub(super) code: Option<&'static str>,
    pub(super) cause: Option<String>,
    pub(super) body_failed: bool,
    pub(super) tunnel: bool,
}

impl<K: Sink> Entry<K> {
    /// Notes that the service failed with an error that nobody turned into an answer.
    pub(super) fn failed(&mut self) {
        self.outcome.status = Some(500);
        self.outcome.code = Some("service_failed");
        self.outcome.complete = true;
    }

    /// Notes how a tunnel ended; the record is emitted with that.
    pub(super) fn tunnel_ended(mut self, end: TunnelEnd) {
        self.outcome.sent = end.sent;
        self.outcome.received = Some(end.received);
    }

    fn emit(&mut self) {
        let outcome = &mut self.outcome;
        if outcome.status.is_none() && std::thread::panicking() {
            outcome.status = Some(500);
            outcome.code = Some("panicked");
            outcome.complete = true;
        }
        let facts = &*self.facts;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.settings.sink.emit(&Record {
            time: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            id: self.id,
            client_request_id: self.captured.request_id(),
            client: facts.client.get().copied().or(self.client),
            peer: self.conn.as_ref().map(|conn| conn.peer),
            host: facts.host.get().map(HostName::as_str).or_else(|| self.captured.host()),
            method: &self.method,
            path: self.captured.path(),
            query: self.captured.query(),
            version: self.version,
            tls: self.conn.as_ref().and_then(|conn| conn.tls.as_ref()),
            status: outcome.status.unwrap_or(CLIENT_CLOSED_REQUEST),
            code: facts.code.get().copied().or(outcome.code),
            cause: facts.cause.get().or(outcome.cause.as_ref()).map(String::as_str),
            check: facts.check.get().copied(),
            about: facts.about.get().map(HostName::as_str),
            route: facts.route.get().map(SmolStr::as_str),
            principal: facts.principal.get().map(|principal| &**principal),
            upstream: facts.retried.get().map(|(_, last)| last).or(facts.upstream.get()).map(SmolStr::as_str),
            attempts: facts.retried.get().map(|(attempts, _)| *attempts),
            upstream_time: facts.upstream_time(),
            first_byte: outcome.first_byte,
            total: self.begun.elapsed(),
            received: outcome
                .received
                .unwrap_or_else(|| facts.received.load(std::sync::atomic::Ordering::Relaxed)),
            sent: outcome.sent,
            user_agent: self.captured.user_agent(),
            referer: self.captured.referer(),
            client_gone: !(outcome.complete || outcome.body_failed || outcome.tunnel),
            body_failed: outcome.body_failed,
            tunnel: outcome.tunnel,
            // From now on nobody can add it.
            call: facts.call.get_or_init(|| None).as_deref(),
        });
    }
}

impl<K: Sink> Drop for Entry<K> {
    fn drop(&mut self) {
        self.emit();
    }
}
