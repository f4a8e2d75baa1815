//! One request towards one upstream or the next: a connection, the request, the response's head.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use smol_str::SmolStr;

use crate::context::RequestContext;
use crate::deadline::Deadline;
use crate::proxy_protocol::header::Addresses;

use super::body::Upload;
use super::connect::{DialError, Want};
use super::lease::{self, Lease, Outgoing};
use super::rewrite::Asked;
use super::target::Scheme;
use super::upgrade::Handshake;
use super::{ForwardError, Shared};

/// A request on its way, and what is needed to send it to one upstream or another.
pub(super) struct Exchange<'a> {
    pub(super) shared: &'a Shared,
    pub(super) asked: Asked,
    pub(super) context: &'a RequestContext,
    pub(super) handshake: Option<&'a Handshake>,
    pub(super) upload: Option<&'a Upload>,
    pub(super) want: Want,
}

impl Exchange<'_> {
    /// The upstream's answer and the connection that it came over.
    pub(super) async fn run(
        &self,
        mut request: Outgoing,
        deadline: &mut Deadline,
    ) -> Result<(http::Response<Incoming>, Lease), ForwardError> {
        let endpoints = &self.shared.endpoints;
        if let Some((index, lease)) = self.checkout(lease::is_replayable(&request)).await {
            match self.send(index, lease, request, deadline).await? {
                Sent::Answered(response, lease) => return Ok((response, lease)),
                // Once: the connection that comes now is new, or this one counts as new.
                Sent::Again(again) => request = *again,
            }
        }
        let (index, mut lease) = Box::pin(self.dial(deadline)).await?;
        lease.refresh();
        match self.send(index, lease, request, deadline).await? {
            Sent::Answered(response, lease) => Ok((response, lease)),
            Sent::Again(_) => Err(ForwardError::Unsent { upstream: endpoints[index].label.clone() }),
        }
    }

    /// A pooled connection to the first upstream that is not known to be away.
    async fn checkout(&self, may_repeat: bool) -> Option<(usize, Lease)> {
        let endpoints = &self.shared.endpoints;
        let index = endpoints.iter().position(|endpoint| !endpoint.is_avoided()).unwrap_or(0);
        let endpoint = &endpoints[index];
        if endpoint.upstream.proxy_header.is_some() {
            return None;
        }
        loop {
            let lease = endpoint.checkout(self.want)?;
            // What can't be repeated should not meet a connection that the upstream has closed while
            // it lay idle: yielding lets the runtime look at its sockets, and the driver notice.
            if may_repeat || !lease.has_rested() {
                return Some((index, lease));
            }
            tokio::task::yield_now().await;
            if !lease.is_closed() {
                return Some((index, lease));
            }
        }
    }

    /// A new connection, to the first upstream that takes one.
    async fn dial(&self, deadline: &mut Deadline) -> Result<(usize, Lease), ForwardError> {
        let endpoints = &self.shared.endpoints;
        let (well, avoided): (Vec<_>, Vec<_>) =
            (0..endpoints.len()).partition(|index| !endpoints[*index].is_avoided());
        let mut failure = ForwardError::Unsent { upstream: endpoints[0].label.clone() };
        for index in well.into_iter().chain(avoided) {
            let endpoint = &endpoints[index];
            let upstream = endpoint.label.clone();
            let preface = endpoint.upstream.proxy_header.map(|header| {
                let ends = self.context.client_addr().zip(self.context.conn.as_ref());
                let addresses =
                    ends.map(|(client, conn)| Addresses { source: client.0, destination: conn.local });
                header.encode(addresses.as_ref())
            });
            let limit = self.shared.target.timeouts.connect;
            match deadline.limit(limit, endpoint.dial(self.want, preface)).await {
                Some(Ok(lease)) => return Ok((index, lease)),
                Some(Err(source)) => failure = dial_failure(upstream, source),
                None => {
                    endpoint.avoid();
                    failure = ForwardError::ConnectTimeout { upstream, limit };
                }
            }
            tracing::debug!(error = &failure as &dyn std::error::Error, "no connection to an upstream");
        }
        Err(failure)
    }

    async fn send(
        &self,
        index: usize,
        mut lease: Lease,
        mut request: Outgoing,
        deadline: &mut Deadline,
    ) -> Result<Sent, ForwardError> {
        let target = &self.shared.target;
        let endpoint = &self.shared.endpoints[index];
        let base = target.upstreams[index].base_path.as_str();
        let (preserve, authority) = (target.preserve_host, &endpoint.authority);
        if lease.is_http2() {
            let scheme = match endpoint.upstream.scheme {
                Scheme::Http => http::uri::Scheme::HTTP,
                Scheme::Https => http::uri::Scheme::HTTPS,
            };
            self.asked.shape_http2(&mut request, scheme, base, preserve, authority)
        } else {
            self.asked.shape_http1(&mut request, base, preserve, authority)
        }
        .map_err(|_| ForwardError::Target)?;
        if let Some(handshake) = self.handshake {
            handshake.apply(request.headers_mut());
        }
        if let Some(facts) = &self.context.facts {
            let _ = facts.upstream.set(endpoint.label.clone());
        }
        let limit = target.timeouts.head;
        match head(deadline, limit, self.upload, lease.send(request)).await {
            Some(Ok(response)) => Ok(Sent::Answered(response, lease)),
            None => Err(ForwardError::HeadTimeout { upstream: endpoint.label.clone(), limit }),
            Some(Err(failure)) => match failure.again {
                Some(again) => Ok(Sent::Again(again)),
                None => Err(self
                    .upload
                    .and_then(Upload::take_failure)
                    .unwrap_or_else(|| send_failure(endpoint.label.clone(), failure.error))),
            },
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and a box an allocation")]
enum Sent {
    Answered(http::Response<Incoming>, Lease),
    Again(Box<Outgoing>),
}

/// Waits for a response's head. The time does not run while the request's body moves, nor while
/// it is the client that we wait for: that has a limit of its own.
async fn head<F: Future>(
    deadline: &mut Deadline,
    limit: Duration,
    upload: Option<&Upload>,
    answer: F,
) -> Option<F::Output> {
    let mut answer = pin!(answer);
    let mut moved = 0;
    deadline.arm(limit);
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        while deadline.poll_passed(cx).is_ready() {
            match upload {
                Some(upload) if upload.moved() != moved || upload.waits_for_client() => {
                    moved = upload.moved();
                    deadline.arm(limit);
                }
                _ => return Poll::Ready(None),
            }
        }
        Poll::Pending
    })
    .await;
    deadline.disarm();
    outcome
}

fn dial_failure(upstream: SmolStr, error: DialError) -> ForwardError {
    match error {
        DialError::Resolve(source) => ForwardError::Resolve { upstream, source },
        DialError::Connect(source) => ForwardError::Unreachable { upstream, source },
        DialError::Tls(source) => ForwardError::Tls { upstream, source },
        DialError::Http(source) => ForwardError::Closed { upstream, source },
    }
}

fn send_failure(upstream: SmolStr, source: hyper::Error) -> ForwardError {
    if source.is_parse() || source.is_parse_status() {
        ForwardError::BadResponse { upstream, source }
    } else {
        ForwardError::Closed { upstream, source }
    }
}
