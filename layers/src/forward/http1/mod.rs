//! HTTP/1.1 towards an upstream (RFC 9112), driven by the exchange that has the connection.
//!
//! There is no task of its own and no channel: whoever waits for the response, or reads its body,
//! polls the socket, and sends on the rest of the request meanwhile: while the client takes nothing
//! of a response that came early, nothing more of its request goes up. Bytes of a response are slices
//! of what was read. What could be read in two ways is an error, and the connection is used for
//! nothing else.

mod chunked;
mod head;
mod outbox;
mod reading;
mod replay;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead as _, ReadBuf};

use super::io::UpstreamIo;
use super::upload::{Outgoing, RequestBody};
use chunked::Item;
use head::{Framing, Head};
use outbox::Outbox;

pub(super) use reading::Reading;
pub use replay::{Replayed, replay};

/// What is asked for at once: for a head, and for a body that is large.
const FIRST_READ: usize = 8 * 1024;
const MAX_READ: usize = 64 * 1024;

/// The longest head of a response.
const MAX_HEAD: usize = 64 * 1024;

/// What came from the upstream is no HTTP/1.1, or could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Invalid(&'static str);

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection ended")]
    Ended,
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("what came is not valid HTTP/1.1")]
    Invalid(#[from] Invalid),
    #[error("the request's body was given up")]
    Upload,
}

/// A connection to an upstream.
pub(super) struct Connection {
    io: UpstreamIo,
    read: BytesMut,
    /// How much is asked for with the next read.
    want: usize,
    /// What of a head was looked at without finding its end.
    seen: usize,
    outbox: Outbox,
    /// The rest of the request's body.
    upload: Option<(RequestBody, Framing)>,
    to_head: bool,
    /// Whether any byte of an answer came.
    heard: bool,
    persistent: bool,
}

impl Connection {
    pub(super) fn new(io: UpstreamIo) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            want: FIRST_READ,
            seen: 0,
            outbox: Outbox::default(),
            upload: None,
            to_head: false,
            heard: false,
            persistent: true,
        }
    }

    /// Begins to send a request, of which the body is taken.
    pub(super) fn begin(&mut self, request: &mut Outgoing) -> Result<(), Invalid> {
        let framing = head::framing_of(request.headers(), request.body().is_empty())?;
        head::write(self.outbox.text(), request.method(), request.uri(), request.headers());
        self.upload = (framing != Framing::Empty)
            .then(|| (std::mem::replace(request.body_mut(), RequestBody::Empty), framing));
        self.to_head = *request.method() == Method::HEAD;
        self.heard = false;
        self.persistent = false;
        self.want = FIRST_READ;
        Ok(())
    }

    /// Whether any byte of an answer to the present request came.
    pub(super) const fn was_heard(&self) -> bool {
        self.heard
    }

    /// Whether the exchange has left nothing behind, so that another may follow.
    pub(super) fn is_reusable(&self) -> bool {
        self.persistent
            && self.upload.is_none()
            && self.outbox.is_empty()
            && self.read.is_empty()
            && !self.io.refuses()
    }

    /// Whether bytes of a request that is complete wait for the upstream to take them.
    pub(super) fn has_unsent(&self) -> bool {
        self.persistent && self.upload.is_none() && !self.outbox.is_empty()
    }

    /// Whether an idle connection is open, as far as the runtime knows: there is nothing to read but its
    /// end, or what nobody has asked for.
    pub(super) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut cx, &mut buf).is_pending()
    }

    /// Gives back memory that an idle connection does not need.
    pub(super) fn rest(&mut self) {
        if self.want > FIRST_READ {
            self.read = BytesMut::new();
            self.want = FIRST_READ;
        }
    }

    /// The stream itself, after the upstream has switched protocols, and what came of it already.
    pub(super) fn into_stream(self) -> (UpstreamIo, Bytes) {
        (self.io, self.read.freeze())
    }

    /// Sends the request and waits for the head of its response; interim responses are passed over. The
    /// fields go into the memory of the request's.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        memory: &mut HeaderMap,
    ) -> Poll<Result<Head, Error>> {
        if let Poll::Ready(Err(error)) = self.poll_upload(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            let end = head::end(&self.read, &mut self.seen);
            if end.unwrap_or(self.read.len()) > MAX_HEAD {
                return Poll::Ready(Err(Invalid("the head is too large").into()));
            }
            if let Some(end) = end {
                self.seen = 0;
                let text = self.read.split_to(end).freeze();
                let mut headers = std::mem::take(memory);
                headers.clear();
                let mut head = head::parse(&text, self.to_head, headers)?;
                let status = head.response.status();
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    *memory = std::mem::take(head.response.headers_mut());
                    continue;
                }
                self.persistent = head.persistent;
                if let Framing::Length(length) = head.framing {
                    self.want = usize::try_from(length).unwrap_or(MAX_READ).clamp(FIRST_READ, MAX_READ);
                }
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(Error::Ended));
            }
            self.heard = true;
        }
    }

    /// The next piece of a response's body; the rest of the request goes on meanwhile.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Reading,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if (self.upload.is_some() || !self.outbox.is_empty())
            && let Poll::Ready(Err(error)) = self.poll_upload(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match body.next(&mut self.read)? {
                Some(Item::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Item::Trailers(fields)) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                Some(Item::End) => return Poll::Ready(None),
                None => {}
            }
            if ready!(self.poll_fill(cx)).map_err(Error::Io)? == 0 {
                return Poll::Ready(if body.is_open() { None } else { Some(Err(Error::Ended)) });
            }
        }
    }

    /// The whole body of a response, if it came together with the head.
    pub(super) fn take_whole(&mut self, body: &mut Reading) -> Option<Bytes> {
        body.take_whole(&mut self.read)
    }

    /// Reads more. None is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What is left of a buffer is used up before there is another one: pieces that somebody holds keep the whole
        // of it.
        if self.read.capacity() - self.read.len() < self.want / 8 {
            self.read.reserve(self.want);
        }
        let room = self.read.capacity() - self.read.len();
        let count = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read))?;
        if count == room && room >= self.want {
            self.want = (self.want * 2).min(MAX_READ);
        }
        Poll::Ready(Ok(count))
    }

    /// Sends what there is to send. Ready when the whole request has gone.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let waiting = self.poll_gather(cx)?;
            ready!(self.outbox.poll_drain(&mut self.io, cx))?;
            match waiting {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if self.upload.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(()) => {}
            }
        }
    }

    /// Takes the next piece of the request's body, if there is room for it.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let Some((body, framing)) = &mut self.upload else { return Ok(Poll::Ready(())) };
        if self.io.refuses() {
            // Nobody takes it; the answer may say why.
            return Ok(Poll::Pending);
        }
        if !self.outbox.has_room() {
            return Ok(Poll::Ready(()));
        }
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame.transpose().map_err(|_| Error::Upload)?.map(Frame::into_data),
        };
        match (frame, &mut *framing) {
            (Some(Ok(data)), Framing::Length(left)) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Error::Upload)?;
                self.outbox.push(data, *framing);
            }
            (Some(Ok(data)), _) if data.is_empty() => {}
            (Some(Ok(data)), _) => self.outbox.push(data, *framing),
            (None | Some(Err(_)), Framing::Length(0)) => self.upload = None,
            (None | Some(Err(_)), Framing::Length(_)) => return Err(Error::Upload),
            (Some(Err(frame)), _) => {
                self.outbox.push_end(frame.trailers_ref());
                self.upload = None;
            }
            (None, _) => {
                self.outbox.push_end(None);
                self.upload = None;
            }
        }
        // Saves the poll, and the write, that would only tell that there is no more.
        if let Some((body, framing)) = &self.upload
            && body.is_end_stream()
        {
            match framing {
                Framing::Length(0) => self.upload = None,
                Framing::Chunked if self.outbox.has_room() => {
                    self.outbox.push_end(None);
                    self.upload = None;
                }
                _ => {}
            }
        }
        Ok(Poll::Ready(()))
    }
}
