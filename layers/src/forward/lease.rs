//! A connection in use by one exchange: sending, reading, giving back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::BoxError;

use super::http1::{self, Connection, Reading};
use super::io::UpstreamIo;
use super::pool::{Endpoint, Http2};
use super::upload::{Outgoing, RequestBody, Upload};

/// How long the end of a request may take after its answer.
const REST: Duration = Duration::from_secs(10);

/// An HTTP/1.1 connection that an exchange has to itself. Dropped without having been given back,
/// it closes the connection whatever it is doing.
pub(super) struct Lent {
    pub(super) connection: Box<Connection>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) pooled: bool,
}

/// A connection in use.
pub(super) enum Lease {
    H1 {
        lent: Lent,
        reused: bool,
        /// Whether it lay idle long enough for the upstream to have tired of it.
        rested: bool,
    },
    H2 {
        connection: Http2,
        reused: bool,
    },
}

/// The body of a response that comes over a lease.
pub(super) enum Download {
    H1(Reading),
    H2(Incoming),
}

/// Why a request was not answered.
pub(super) struct SendFailure {
    pub(super) error: BoxError,
    /// The answer was no HTTP.
    pub(super) invalid: bool,
    /// Whether the request is still whole, and may be sent again to the same upstream.
    pub(super) again: bool,
    /// Whether it is whole and was not answered, so that another upstream may have it if it may be repeated at all.
    pub(super) whole: bool,
}

impl Lease {
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self, Self::H2 { .. })
    }

    pub(super) fn is_closed(&mut self) -> bool {
        match self {
            Self::H1 { lent, .. } => !lent.connection.is_open(),
            Self::H2 { connection, .. } => connection.sender.is_closed(),
        }
    }

    /// Treats the connection as new: the request on it is not to be sent once more.
    pub(super) const fn refresh(&mut self) {
        match self {
            Self::H1 { reused, .. } | Self::H2 { reused, .. } => *reused = false,
        }
    }

    pub(super) const fn has_rested(&self) -> bool {
        matches!(self, Self::H1 { rested: true, .. })
    }

    /// Sends a request. It may be sent again, by the caller and on another connection, when it never
    /// left, or when this connection had been used before, no byte of an answer came, and sending
    /// it twice does no harm (RFC 9110, section 9.2.2). `keep` says that what may be sent twice is to stay whole for
    /// another upstream.
    pub(super) async fn send(
        &mut self,
        request: &mut Outgoing,
        keep: bool,
    ) -> Result<http::Response<Download>, SendFailure> {
        match self {
            Self::H1 { lent: Lent { connection, .. }, reused, .. } => {
                let is_replayable = is_replayable(request);
                let outcome = match connection.begin(request) {
                    Ok(()) => poll_fn(|cx| connection.poll_head(cx, request.headers_mut())).await,
                    Err(invalid) => Err(invalid.into()),
                };
                outcome.map(|head| head.response.map(|()| Download::H1(Reading::new(head.framing)))).map_err(
                    |error| SendFailure {
                        invalid: matches!(error, http1::Error::Invalid(_)),
                        again: *reused && is_replayable && !connection.was_heard(),
                        whole: is_replayable && !connection.was_heard(),
                        error: error.into(),
                    },
                )
            }
            Self::H2 { connection, reused } => {
                let copy = ((*reused || keep) && is_replayable(request)).then(|| copy(request));
                let sent = std::mem::replace(request, Outgoing::new(RequestBody::Empty));
                let outcome = connection.sender.try_send_request(sent).await;
                outcome.map(|response| response.map(Download::H2)).map_err(|mut error| {
                    let (unsent, reused) = (error.take_message(), *reused);
                    let failure = SendFailure {
                        again: unsent.is_some() || (reused && copy.is_some()),
                        whole: unsent.is_some() || copy.is_some(),
                        invalid: error.error().is_parse(),
                        error: error.into_error().into(),
                    };
                    if let Some(whole) = unsent.or(copy) {
                        *request = whole;
                    }
                    failure
                })
            }
        }
    }

    /// The exchange has ended well: the connection goes back to the pool, unless the request's body
    /// is still on its way, in which case nobody wants the rest of it.
    pub(super) fn finish(self, upload: Option<&Upload>) {
        let unfinished = upload.filter(|upload| !upload.is_done());
        if let Some(upload) = unfinished {
            upload.stop();
        }
        let Self::H1 { lent: Lent { mut connection, endpoint, pooled }, .. } = self else { return };
        if unfinished.is_some() {
            return;
        }
        if connection.has_unsent() {
            // It was answered before its end was taken, which the upstream may need all the same.
            tokio::spawn(async move {
                let rest = poll_fn(|cx| connection.poll_upload(cx));
                if matches!(tokio::time::timeout(REST, rest).await, Ok(Ok(())))
                    && pooled
                    && connection.is_reusable()
                {
                    endpoint.park(connection);
                }
            });
        } else if pooled && connection.is_reusable() {
            endpoint.park(connection);
        }
    }

    /// The stream of a connection that has become a tunnel, and what came of it already.
    pub(super) fn into_stream(self) -> Option<(UpstreamIo, Bytes)> {
        match self {
            Self::H1 { lent, .. } => Some(lent.connection.into_stream()),
            Self::H2 { .. } => None,
        }
    }
}

impl Download {
    /// The whole body, if it is there already.
    pub(super) fn take_whole(&mut self, lease: &mut Lease) -> Option<Bytes> {
        match (self, lease) {
            (Self::H1(reading), Lease::H1 { lent, .. }) => lent.connection.take_whole(reading),
            _ => None,
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        lease: &mut Lease,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match (self, lease) {
            (Self::H1(reading), Lease::H1 { lent, .. }) => {
                lent.connection.poll_body(reading, cx).map_err(Into::into)
            }
            (Self::H2(body), Lease::H2 { .. }) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            _ => Poll::Ready(None),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(reading) => reading.is_end(),
            Self::H2(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(reading) => reading.size_hint(),
            Self::H2(body) => body.size_hint(),
        }
    }
}

pub(super) fn is_replayable(request: &Outgoing) -> bool {
    request.body().is_empty() && request.method().is_idempotent()
}

/// A copy of a request without a body, for when it may be sent again.
pub(super) fn copy(request: &Outgoing) -> Outgoing {
    let mut copy = Outgoing::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_request_is_the_same_request() {
        let request = http::Request::delete("/x?y")
            .header("a", "1")
            .header("a", "2")
            .header("b", "3")
            .body(RequestBody::Empty)
            .expect("valid");
        let again = copy(&request);
        assert_eq!(again.method(), request.method());
        assert_eq!(again.uri(), request.uri());
        assert_eq!(again.headers(), request.headers());
    }
}
