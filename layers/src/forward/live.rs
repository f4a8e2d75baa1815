//! Tunnels and event streams: what outlives its request's checks, listed so that it can be closed.
//!
//! A change of lists, a revocation, an expiry ends those that no longer qualify, and only those. A change that
//! comes between the checks of a request and the upstream's answer finds nothing to end: so a stream is judged
//! once more when it is listed ([`Tunnels::admit_if`]).

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use smol_str::SmolStr;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::body::{Body, BoxError};
use crate::context::{Asked, OnTunnelEnd, Principal, RequestContext, TunnelEnd};
use crate::deadline::{Deadline, Ticker};
use crate::names::HostName;
use crate::per_worker::{PerWorker, current_worker};

/// How often a long-lived stream looks at the clock. Deadlines don't go on while a machine sleeps, and know nothing of
/// a clock that is set: the token's end is a time of day.
const LOOK: Duration = Duration::from_secs(60);

/// All tunnels and event streams of the process. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Tunnels {
    shared: Arc<Shared>,
}

struct Shared {
    admits: OnceLock<Box<Admits>>,
    workers: PerWorker<Slots>,
    closing: CancellationToken,
    tracker: TaskTracker,
}

type Admits = dyn Fn(&LiveStream) -> bool + Send + Sync;

#[derive(Default)]
struct Slots {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

struct Entry {
    stream: LiveStream,
    token: CancellationToken,
}

/// A tunnel or an event stream, and whose it is.
#[derive(Debug, Clone)]
pub struct LiveStream {
    /// Which of the two.
    pub kind: StreamKind,
    /// The host that was asked.
    pub host: Option<HostName>,
    /// Who asked, if anybody had to be known: subject, token id and expiry are in it.
    pub principal: Option<Arc<Principal>>,
    /// From where.
    pub client: Option<IpAddr>,
    /// The route that was taken.
    pub route: Option<SmolStr>,
    /// What was asked for, where rules about that were looked at.
    pub asked: Option<Asked>,
    /// [`RequestContext::revision`].
    pub revision: u64,
}

impl LiveStream {
    fn of(kind: StreamKind, context: &RequestContext) -> Self {
        Self {
            kind,
            host: context.host.clone(),
            principal: context.principal.clone(),
            client: context.client_addr().map(|client| client.ip()),
            route: context.route.as_ref().map(|route| route.id.clone()),
            // Not the request's whole head, for as long as the stream lives.
            asked: context.asked.as_ref().map(Asked::detached),
            revision: context.revision,
        }
    }
}

/// What outlives its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A WebSocket or another upgraded connection.
    Tunnel,
    /// A response of type `text/event-stream`.
    Events,
}

impl Tunnels {
    /// A registry for as many workers as the process has.
    pub fn new(workers: usize) -> Self {
        let shared = Shared {
            admits: OnceLock::new(),
            workers: PerWorker::new(workers, Slots::default),
            closing: CancellationToken::new(),
            tracker: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has each stream judged when it is listed; one that does not pass is closed at once. The judge must go by what is
    /// in force *now*: what a later change finds wrong is for [`Tunnels::close_where`]. The first call counts.
    pub fn admit_if(&self, admits: impl Fn(&LiveStream) -> bool + Send + Sync + 'static) {
        let _first = self.shared.admits.set(Box::new(admits));
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.shared.tracker.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.shared.tracker.is_empty()
    }

    /// Closes those that the predicate names, and tells how many.
    pub fn close_where(&self, mut closes: impl FnMut(&LiveStream) -> bool) -> usize {
        let mut count = 0;
        self.shared.workers.for_each(|slots| {
            for entry in slots.entries.iter().flatten() {
                if !entry.token.is_cancelled() && closes(&entry.stream) {
                    entry.token.cancel();
                    count += 1;
                }
            }
        });
        count
    }

    /// Closes all, those that come later at once. For the process's end.
    pub fn close_all(&self) {
        self.shared.closing.cancel();
        self.shared.tracker.close();
        self.close_where(|_| true);
    }

    /// Waits until the last is gone; only sensible after [`Tunnels::close_all`].
    pub async fn closed(&self) {
        self.shared.tracker.wait().await;
    }

    /// Lists an event stream that no upstream sends but this process itself; its body ends when the stream is closed.
    pub fn hold(&self, context: &RequestContext, ticker: &Ticker, body: Body) -> Body {
        let registration = self.register(StreamKind::Events, context, &CancellationToken::new(), ticker);
        Body::new(Held { body: Some(body), registration })
    }

    /// Lists a tunnel that no upstream answers but this process itself.
    pub fn hold_tunnel(&self, context: &RequestContext, ticker: &Ticker) -> HeldTunnel {
        let registration = self.register(StreamKind::Tunnel, context, &CancellationToken::new(), ticker);
        HeldTunnel { registration, on_end: OnTunnelEnd::default(), end: TunnelEnd::default() }
    }

    /// Lists a stream; `parent` closes it, too.
    pub(super) fn register(
        &self,
        kind: StreamKind,
        context: &RequestContext,
        parent: &CancellationToken,
        ticker: &Ticker,
    ) -> Registration {
        let stream = LiveStream::of(kind, context);
        let expires_at = stream.principal.as_ref().map_or(0, |principal| principal.expires_at);
        let token = parent.child_token();
        let judged = self.shared.admits.get().map(|admits| (admits, stream.clone()));
        let worker = current_worker();
        let slot = self.shared.workers.with_shard(worker, |slots| {
            let entry = Entry { stream, token: token.clone() };
            match slots.free.pop() {
                Some(slot) => {
                    slots.entries[slot] = Some(entry);
                    slot
                }
                None => {
                    slots.entries.push(Some(entry));
                    slots.entries.len() - 1
                }
            }
        });
        // After it is listed: `close_all` or a change either sees it in the list, or is seen here.
        let refused = judged.is_some_and(|(admits, stream)| !admits(&stream));
        if refused || self.shared.closing.is_cancelled() {
            token.cancel();
        }
        let mut expiry = ticker.deadline();
        if expires_at != 0 {
            expiry.arm(until(expires_at).min(LOOK));
        }
        Registration {
            tunnels: self.clone(),
            worker,
            slot,
            expires_at,
            expiry,
            closed: Box::pin(token.cancelled_owned()),
            _tracked: self.shared.tracker.token(),
        }
    }
}

fn until(expires_at: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(expires_at).saturating_sub(now)
}

/// A place on the list. Dropping it leaves the list.
pub(super) struct Registration {
    tunnels: Tunnels,
    worker: usize,
    slot: usize,
    expires_at: u64,
    expiry: Deadline,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _tracked: TaskTrackerToken,
}

impl Registration {
    /// Ready when the stream has to end: its token expired, or somebody closed it.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while self.expiry.poll_passed(cx).is_ready() {
            let left = until(self.expires_at);
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.expiry.arm(left.min(LOOK));
        }
        Poll::Pending
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.tunnels.shared.workers.with_shard(self.worker, |slots| {
            slots.entries[self.slot] = None;
            slots.free.push(self.slot);
        });
    }
}

/// A tunnel that this process answers: it leaves the list, and is told to the access log, when it is dropped.
pub struct HeldTunnel {
    registration: Registration,
    on_end: OnTunnelEnd,
    end: TunnelEnd,
}

impl HeldTunnel {
    /// What belongs into the extensions of the response that starts the tunnel.
    pub fn on_end(&self) -> OnTunnelEnd {
        self.on_end.clone()
    }

    /// Waits until the tunnel has to end: its token expired, or somebody closed it.
    pub async fn closed(&mut self) {
        std::future::poll_fn(|cx| self.registration.poll_closed(cx)).await;
    }

    /// Counts bytes from the client and to it.
    pub const fn moved(&mut self, received: u64, sent: u64) {
        self.end.received += received;
        self.end.sent += sent;
    }
}

impl Drop for HeldTunnel {
    fn drop(&mut self) {
        self.on_end.end(self.end);
    }
}

impl fmt::Debug for HeldTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldTunnel").field("end", &self.end).finish_non_exhaustive()
    }
}

/// See [`Tunnels::hold`].
struct Held {
    /// `None` once it was closed.
    body: Option<Body>,
    registration: Registration,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.registration.poll_closed(cx).is_ready() {
            this.body = None;
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slots").field(&(self.entries.len() - self.free.len())).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body::Body as _;

    use super::*;

    fn context(subject: &str, expires_at: u64) -> RequestContext {
        let principal = Principal { subject: subject.into(), expires_at, ..Principal::default() };
        RequestContext { principal: Some(Arc::new(principal)), ..RequestContext::default() }
    }

    fn is_closed(registration: &mut Registration) -> bool {
        registration.poll_closed(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn only_those_that_are_named_are_closed() {
        let (tunnels, ticker) = (Tunnels::new(2), Ticker::new(2));
        let host = CancellationToken::new();
        let register = |subject| tunnels.register(StreamKind::Tunnel, &context(subject, 0), &host, &ticker);
        let (mut alice, mut bob) = (register("alice"), register("bob"));
        let of_alice = |stream: &LiveStream| {
            stream.principal.as_ref().is_some_and(|principal| principal.subject == "alice")
        };
        assert_eq!(tunnels.close_where(of_alice), 1);
        assert_eq!(tunnels.close_where(of_alice), 0, "it is closed already");
        assert!(is_closed(&mut alice) && !is_closed(&mut bob));
        drop(alice);
        assert_eq!(tunnels.len(), 1);
        host.cancel();
        assert!(is_closed(&mut bob), "the host takes its tunnels along");
    }

    #[tokio::test]
    async fn a_stream_of_our_own_ends_when_it_is_closed() {
        let (tunnels, ticker) = (Tunnels::new(1), Ticker::new(1));
        let endless = http_body_util::StreamBody::new(futures_util::stream::pending::<Result<_, BoxError>>());
        let mut body = tunnels.hold(&context("alice", 0), &ticker, Body::new(endless));
        let mut task = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut body).poll_frame(&mut task).is_pending());
        assert_eq!(tunnels.close_where(|stream| stream.kind == StreamKind::Events), 1);
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut task), Poll::Ready(None)));
        drop(body);
        assert!(tunnels.is_empty());
    }

    #[tokio::test]
    async fn an_expired_token_ends_its_stream() {
        let (tunnels, ticker) = (Tunnels::new(1), Ticker::new(1));
        let host = CancellationToken::new();
        let mut expired = tunnels.register(StreamKind::Events, &context("alice", 1), &host, &ticker);
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, poll_fn(|cx| expired.poll_closed(cx))).await.expect("it expired");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_goes_on_until_the_time_of_day_that_its_token_says() {
        let (tunnels, ticker) = (Tunnels::new(1), Ticker::new(1));
        let host = CancellationToken::new();
        let later = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 600;
        let mut open = tunnels.register(StreamKind::Tunnel, &context("alice", later), &host, &ticker);
        // What the deadlines count passes, the time of day does not.
        let counted = tokio::time::timeout(Duration::from_secs(1200), poll_fn(|cx| open.poll_closed(cx)));
        assert!(counted.await.is_err(), "a clock that was set back ends no stream early");
    }

    #[tokio::test]
    async fn a_stream_that_qualifies_no_more_is_closed_when_it_is_listed() {
        let (tunnels, ticker) = (Tunnels::new(1), Ticker::new(1));
        let host = CancellationToken::new();
        tunnels.admit_if(|stream| stream.revision >= 2);
        let register = |revision| {
            let context = RequestContext { revision, ..context("alice", 0) };
            tunnels.register(StreamKind::Tunnel, &context, &host, &ticker)
        };
        assert!(is_closed(&mut register(1)));
        assert!(!is_closed(&mut register(2)));
    }

    #[tokio::test]
    async fn after_the_end_nothing_new_stays_open() {
        let (tunnels, ticker) = (Tunnels::new(1), Ticker::new(1));
        let host = CancellationToken::new();
        let mut before = tunnels.register(StreamKind::Events, &context("alice", 0), &host, &ticker);
        tunnels.close_all();
        let mut after = tunnels.register(StreamKind::Events, &context("alice", 0), &host, &ticker);
        assert!(is_closed(&mut before) && is_closed(&mut after));
        drop((before, after));
        tunnels.closed().await;
        assert!(tunnels.is_empty());
    }
}
