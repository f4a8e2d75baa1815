//! HTTP/2 connections, with extended CONNECT (RFC 8441).

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::header::CONTENT_LENGTH;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::Shared;
use super::call::{Call, Outcome, problem};
use super::flight::{Flight, Metered, Stream};
use super::gather::gather;
use super::overheard::{Overheard, Refusals};
use super::received::receive;
use super::settings::Settings;
use super::stall::WriteStall;
use super::watch::{Event, Watch};
use crate::body::{BoxError, Request};
use crate::context::Conn;
use crate::deadline::Deadline;
use crate::strict::{Phase, Violation};

/// Serves the requests of a connection until it ends.
pub(super) async fn serve<I, S, B>(
    io: I,
    conn: Arc<Conn>,
    service: S,
    shared: Arc<Shared>,
) -> Result<(), BoxError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let streams = Streams { shared: shared.clone(), open: Arc::default() };
    let open = streams.open.clone();
    let (io, refusals) = Overheard::new(WriteStall::new(io, shared.clone()), shared.counters.clone());
    let (io, gathered) = gather(io);
    let front = Front {
        service: RefCell::new(service),
        conn: conn.clone(),
        flight: Arc::new(Flight::new(shared.settings.http2.in_flight)),
        open: open.clone(),
        refusals: refusals.clone(),
        shared: shared.clone(),
    };
    let mut connection = pin!(builder(&shared.settings, streams).serve_connection(TokioIo::new(io), front));
    let mut watch = Watch::new(shared.clone());
    let mut stopping = false;
    let end = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                return Poll::Ready(end.map_err(Into::into));
            }
            // Where the client takes nothing more, the write that waits wakes this task.
            if let Poll::Ready(Err(error)) = gathered.poll_flush(cx) {
                return Poll::Ready(Err(error.into()));
            }
            let (phase, number) = open.phase(stopping, cx);
            match ready!(watch.poll(phase, number, cx)) {
                Event::Stop => {}
                Event::Kill => return Poll::Ready(Ok(())),
                Event::Passed if number == 0 => shared.counters.silent.count(),
                Event::Passed => shared.counters.idle.count(),
            }
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
    if let Some((requests, first)) = refusals.get() {
        tracing::info!(
            peer = %conn.peer,
            client = %conn.client.0,
            reason = first.code(),
            requests,
            "refused malformed HTTP/2 requests"
        );
    }
    end
}

fn builder(settings: &Settings, streams: Streams) -> Builder<Streams> {
    let http2 = &settings.http2;
    let mut builder = Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http2.streams)
        .initial_stream_window_size(http2.stream_window)
        .initial_connection_window_size(http2.connection_window)
        // h2 answers what is larger by itself, with nothing but a status: what is only somewhat too large gets
        // an answer of ours.
        .max_header_list_size(http2.header_list.saturating_mul(2))
        .max_send_buf_size(http2.send_buffer)
        .max_pending_accept_reset_streams(http2.pending_resets)
        .max_local_error_reset_streams(http2.local_resets)
        .keep_alive_interval(http2.ping)
        .keep_alive_timeout(http2.ping_timeout)
        .enable_connect_protocol();
    builder
}

/// The tasks of a connection that have not ended: streams and tunnels.
#[derive(Debug, Default)]
struct Open {
    tasks: AtomicUsize,
    requests: AtomicUsize,
    connection: AtomicWaker,
    /// The stream whose task hyper is about to start.
    next: Mutex<Option<Arc<Stream>>>,
}

impl Open {
    fn phase(&self, stopping: bool, cx: &Context<'_>) -> (Phase, u64) {
        self.connection.register(cx.waker());
        let phase = match self.tasks.load(Ordering::Acquire) {
            0 if stopping => Phase::Closing,
            0 => Phase::Idle,
            _ => Phase::Busy,
        };
        (phase, self.requests.load(Ordering::Relaxed) as u64)
    }

    fn announce(&self, stream: Arc<Stream>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }
}

/// Starts hyper's tasks for streams and tunnels.
#[derive(Debug, Clone)]
struct Streams {
    shared: Arc<Shared>,
    open: Arc<Open>,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let stream = self.open.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.open.tasks.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(Watched {
            future,
            stream,
            deadline: self.shared.ticker.deadline(),
            since: None,
            shared: self.shared.clone(),
            _task: Task(self.open.clone()),
        });
    }
}

struct Task(Arc<Open>);

impl Drop for Task {
    fn drop(&mut self) {
        if self.0.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.connection.wake();
        }
    }
}

pin_project! {
    /// A task of hyper, ended when the client does not take what its stream has for it. A stream
    /// that has nothing to say may be silent.
    struct Watched<F> {
        #[pin]
        future: F,
        // None for a tunnel, whose writes wait in the tunnel.
        stream: Option<Arc<Stream>>,
        deadline: Deadline,
        // What the client had taken when the deadline was armed.
        since: Option<u64>,
        shared: Arc<Shared>,
        _task: Task,
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(stream) = this.stream else { return Poll::Pending };
        loop {
            let (waiting, sent) = stream.progress();
            if !waiting {
                if this.since.take().is_some() {
                    this.deadline.disarm();
                }
                return Poll::Pending;
            }
            if this.since.is_none() {
                *this.since = Some(sent);
                this.deadline.arm(this.shared.settings.write_stall);
            }
            ready!(this.deadline.poll_passed(cx));
            if *this.since == Some(sent) {
                // Dropping the stream resets it.
                this.shared.counters.stalled_streams.count();
                return Poll::Ready(());
            }
            *this.since = None;
        }
    }
}

/// The service that hyper calls.
struct Front<S> {
    service: RefCell<S>,
    conn: Arc<Conn>,
    flight: Arc<Flight>,
    open: Arc<Open>,
    refusals: Arc<Refusals>,
    shared: Arc<Shared>,
}

impl<S, B> hyper::service::Service<http::Request<Incoming>> for Front<S>
where
    S: Service<Request, Response = http::Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Metered<B>>;
    type Error = BoxError;
    type Future = Answering<S>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let stream = Arc::new(Stream::new(self.flight.clone()));
        self.open.announce(stream.clone());
        let call = if let Some(violation) = violation(&request, &self.shared.settings) {
            self.refusals.note(violation, &self.shared.counters);
            Call::Refused { rejection: Some(violation.into()) }
        } else {
            Call::begin(&self.service, receive(request, &self.conn, &self.shared))
        };
        Answering { call, stream: Some(stream) }
    }
}

/// What is wrong with a request that h2 passes on.
fn violation<B>(request: &http::Request<B>, settings: &Settings) -> Option<Violation> {
    // It passes equal values on, and a layer would have to choose one (RFC 9110, section 8.6).
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    if lengths.next().is_some() && lengths.next().is_some() {
        return Some(Violation::SeveralLengths);
    }
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + PER_FIELD);
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |path| path.as_str().len())
        + uri.authority().map_or(0, |authority| authority.as_str().len());
    let size = fields.sum::<usize>() + target + 4 * PER_FIELD;
    (size > settings.http2.header_list as usize).then_some(Violation::HeadTooLarge)
}

/// What a field counts beyond its bytes (RFC 9113, section 6.5.2).
const PER_FIELD: usize = 32;

pin_project! {
    struct Answering<S: Service<Request>> {
        #[pin]
        call: Call<S>,
        stream: Option<Arc<Stream>>,
    }
}

impl<S, B> Future for Answering<S>
where
    S: Service<Request, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<http::Response<Metered<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.call.poll(cx))?;
        let stream = this.stream.take().expect("a future is not polled after it is ready");
        Poll::Ready(Ok(match outcome {
            Outcome::Answered(response) => response.map(|body| Metered::new(body, stream)),
            Outcome::Refused(rejection) => problem(&rejection).map(|bytes| Metered::full(bytes, stream)),
        }))
    }
}
