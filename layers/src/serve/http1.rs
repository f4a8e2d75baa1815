//! HTTP/1 connections: hyper over [`Strict`].

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, UpgradeableConnection};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tower_service::Service;

use super::Shared;
use super::call::{Call, Outcome, problem};
use super::received::receive;
use super::settings::Settings;
use super::stall::WriteStall;
use super::watch::{Event, Watch};
use crate::body::{BoxError, Request};
use crate::context::Conn;
use crate::strict::{Link, Phase, Strict};

/// hyper's own limit, for which it needs no allocation.
const HYPER_FIELDS: usize = 100;

pub(super) fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    // The deadline for heads is ours: hyper's is a timer for each request.
    builder.header_read_timeout(None).half_close(false);
    builder.max_buf_size(settings.buffer.max(settings.head.head).max(8 * 1024));
    if settings.head.fields > HYPER_FIELDS {
        builder.max_headers(settings.head.fields);
    }
    builder
}

/// Serves the requests of a connection until it ends or becomes a tunnel.
// What waits for the first bytes and what serves them are in boxes of their own, and the I/O is an argument of neither
// future: an idle connection holds it once.
pub(super) fn serve<I, S, B>(
    io: I,
    conn: Arc<Conn>,
    service: S,
    shared: Arc<Shared>,
) -> impl Future<Output = Result<(), BoxError>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request, Response = http::Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let begun = Box::pin(begin(io, shared.clone()));
    async move {
        let Some((io, link, mut watch)) = begun.await else { return Ok(()) };
        let front = Front {
            service: RefCell::new(service),
            conn: conn.clone(),
            link: link.clone(),
            requests: Cell::new(0),
            shared: shared.clone(),
        };
        let mut connection = Box::pin(shared.http1.serve_connection(TokioIo::new(io), front).with_upgrades());
        let end = std::future::poll_fn(|cx| drive(connection.as_mut(), &mut watch, &link, &shared, cx)).await;
        if let Some(violation) = link.violation() {
            tracing::info!(
                peer = %conn.peer,
                client = %conn.client.0,
                reason = violation.code(),
                "refused a malformed HTTP/1 request"
            );
        }
        end.map_err(Into::into)
    }
}

/// A connection on which something came.
type Begun<I> = (Strict<WriteStall<I>>, Arc<Link>, Watch);

/// Waits for the first bytes. When something else happens the connection is closed, and there is `None`.
fn begin<I>(io: I, shared: Arc<Shared>) -> impl Future<Output = Option<Begun<I>>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let io = WriteStall::new(io, shared.clone());
    let (mut io, link) = Strict::new(io, shared.settings.head, shared.counters.refused.clone());
    let mut watch = Watch::new(shared.clone());
    async move {
        let event = std::future::poll_fn(|cx| {
            if io.poll_begun(cx).is_ready() {
                return Poll::Ready(None);
            }
            let (phase, number) = link.phase();
            watch.poll(phase, number, cx).map(Some)
        });
        let Some(event) = event.await else { return Some((io, link, watch)) };
        if event == Event::Passed {
            shared.counters.silent.count();
        }
        let closed = shared.ticker.deadline().limit(shared.settings.linger, io.shutdown()).await;
        if let Some(Err(error)) = closed {
            tracing::trace!(%error, "a connection that said nothing was gone already");
        }
        None
    }
}

type Connection<I, S> = UpgradeableConnection<TokioIo<Strict<WriteStall<I>>>, Front<S>>;

fn drive<I, S, B>(
    mut connection: Pin<&mut Connection<I, S>>,
    watch: &mut Watch,
    link: &Link,
    shared: &Shared,
    cx: &mut Context<'_>,
) -> Poll<hyper::Result<()>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request, Response = http::Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    loop {
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        let (phase, number) = link.phase();
        match ready!(watch.poll(phase, number, cx)) {
            Event::Stop => connection.as_mut().graceful_shutdown(),
            Event::Kill => return Poll::Ready(Ok(())),
            Event::Passed if phase == Phase::Head => link.set_late(),
            Event::Passed => {
                let counters = &shared.counters;
                let counter = if number == 0 { &counters.silent } else { &counters.idle };
                counter.count();
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The service that hyper calls.
struct Front<S> {
    service: RefCell<S>,
    conn: Arc<Conn>,
    link: Arc<Link>,
    requests: Cell<u64>,
    shared: Arc<Shared>,
}

impl<S, B> hyper::service::Service<http::Request<Incoming>> for Front<S>
where
    S: Service<Request, Response = http::Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Answer<B>>;
    type Error = BoxError;
    type Future = Answering<S>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        let connect = request.method() == Method::CONNECT;
        let last = self.shared.settings.max_requests.is_some_and(|max| number >= max);
        let call = if let Some(violation) = self.link.refusal(number) {
            Call::Refused { rejection: Some(violation.into()) }
        } else {
            Call::begin(&self.service, receive(request, &self.conn, &self.shared))
        };
        Answering { call, answered: Some(Answered(self.link.clone())), number, connect, last }
    }
}

pin_project! {
    struct Answering<S: Service<Request>> {
        #[pin]
        call: Call<S>,
        answered: Option<Answered>,
        number: u64,
        connect: bool,
        last: bool,
    }
}

impl<S, B> Future for Answering<S>
where
    S: Service<Request, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<http::Response<Answer<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.call.poll(cx))?;
        let answered = this.answered.take().expect("a future is not polled after it is ready");
        Poll::Ready(Ok(match outcome {
            Outcome::Answered(mut response) => {
                let status = response.status();
                let tunnel =
                    status == StatusCode::SWITCHING_PROTOCOLS || (*this.connect && status.is_success());
                answered.0.answer(*this.number, tunnel);
                // Here, because further requests may be in hyper's hands already.
                if *this.last && !tunnel {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response.map(|body| Answer::Theirs { body, answered })
            }
            Outcome::Refused(rejection) => {
                problem(&rejection).map(|bytes| Answer::Ours { bytes: Some(bytes), answered })
            }
        }))
    }
}

/// Tells the link when a response has ended.
struct Answered(Arc<Link>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

pin_project! {
    /// The body of a response: the service's, or that of a refusal.
    #[project = AnswerProj]
    enum Answer<B> {
        Theirs { #[pin] body: B, answered: Answered },
        Ours { bytes: Option<Bytes>, answered: Answered },
    }
}

impl<B> http_body::Body for Answer<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            AnswerProj::Theirs { body, .. } => body.poll_frame(cx).map_err(Into::into),
            AnswerProj::Ours { bytes, .. } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Theirs { body, .. } => body.is_end_stream(),
            Self::Ours { bytes, .. } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Theirs { body, .. } => body.size_hint(),
            Self::Ours { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
        }
    }
}
