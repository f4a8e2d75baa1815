//! A connection in use by one exchange: sending, sending again, giving back.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use hyper::client::conn::TrySendError;

use super::body::{RequestBody, Upload};
use super::pool::{Endpoint, Http1, Http2};

/// A request as it goes to an upstream.
pub(super) type Outgoing = http::Request<RequestBody>;

/// A copy of a request without a body, for the one time that it may be sent again.
#[derive(Debug, Default)]
pub(super) struct Replay {
    method: Option<Method>,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Replay {
    fn keep(&mut self, request: &Outgoing) {
        self.method = Some(request.method().clone());
        self.uri = request.uri().clone();
        self.headers.clear();
        self.headers.extend(request.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    fn clear(&mut self) {
        self.method = None;
        self.headers.clear();
    }

    fn take(&mut self) -> Option<Outgoing> {
        let mut request = http::Request::new(RequestBody::Empty);
        *request.method_mut() = self.method.take()?;
        *request.uri_mut() = std::mem::take(&mut self.uri);
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in self.headers.drain(..) {
            headers.append(name, value);
        }
        *request.headers_mut() = headers;
        Some(request)
    }
}

/// An HTTP/1.1 connection that an exchange has to itself. Dropped without having been given back,
/// it closes the connection whatever it is doing.
pub(super) struct Lent {
    pub(super) connection: Option<Http1>,
    pub(super) endpoint: Arc<Endpoint>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.driver.abort();
        }
    }
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

/// Why a request was not answered, and the request where it may be sent again.
pub(super) struct SendFailure {
    pub(super) error: hyper::Error,
    pub(super) again: Option<Box<Outgoing>>,
}

impl Lease {
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self, Self::H2 { .. })
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::H1 { lent, .. } => lent.connection.as_ref().is_none_or(|http1| http1.sender.is_closed()),
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
    /// it twice does no harm (RFC 9110, section 9.2.2).
    pub(super) async fn send(
        &mut self,
        request: Outgoing,
    ) -> Result<http::Response<hyper::body::Incoming>, SendFailure> {
        match self {
            Self::H1 { lent, reused, .. } => {
                let connection =
                    lent.connection.as_mut().expect("a lease has its connection until it is finished");
                let replayable = *reused && is_replayable(&request);
                if replayable {
                    connection.replay.keep(&request);
                }
                let before = connection.meter.read();
                let outcome = connection.sender.try_send_request(request).await;
                let silent = connection.meter.read() == before;
                let again = || connection.replay.take().filter(|_| replayable && silent);
                let outcome = failure(outcome, again);
                connection.replay.clear();
                outcome
            }
            Self::H2 { connection, reused } => {
                let mut replay = Replay::default();
                if *reused && is_replayable(&request) {
                    replay.keep(&request);
                }
                failure(connection.sender.try_send_request(request).await, || replay.take())
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
        if let Self::H1 { mut lent, .. } = self
            && unfinished.is_none()
            && let Some(connection) = lent.connection.take()
            && connection.pooled
            && !connection.sender.is_closed()
        {
            lent.endpoint.park(connection);
        }
    }

    /// The connection is about to become a tunnel: it is no longer ours to close.
    pub(super) fn release(self) {
        if let Self::H1 { mut lent, .. } = self {
            lent.connection = None;
        }
    }
}

pub(super) fn is_replayable(request: &Outgoing) -> bool {
    request.body().is_empty() && request.method().is_idempotent()
}

fn failure<T>(
    outcome: Result<T, TrySendError<Outgoing>>,
    again: impl FnOnce() -> Option<Outgoing>,
) -> Result<T, SendFailure> {
    outcome.map_err(|mut error| {
        let again = error.take_message().or_else(again).map(Box::new);
        SendFailure { error: error.into_error(), again }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replayed_request_is_the_same_request() {
        let request = http::Request::delete("/x?y")
            .header("a", "1")
            .header("a", "2")
            .header("b", "3")
            .body(RequestBody::Empty)
            .expect("valid");
        let mut replay = Replay::default();
        assert!(replay.take().is_none());
        replay.keep(&request);
        let again = replay.take().expect("kept");
        assert_eq!(again.method(), request.method());
        assert_eq!(again.uri(), request.uri());
        assert_eq!(again.headers(), request.headers());
        assert!(replay.take().is_none(), "once only");
    }
}
