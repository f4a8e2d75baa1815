//! One request towards one upstream or the next: a connection, the request, the response's head.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use smol_str::SmolStr;
use tokio::time::Instant;

use crate::body::{Body, Request};
use crate::context::Leaving;
use crate::deadline::Deadline;
use crate::proxy_protocol::header::Addresses;

use super::connect::{DialError, Want};
use super::hop;
use super::lease::{self, Download, Lease, SendFailure};
use super::rewrite::Asked;
use super::target::Scheme;
use super::upgrade::Handshake;
use super::upload::{Outgoing, RequestBody, Upload};
use super::{ForwardError, Shared};

/// A request on its way, and what is needed to send it to one upstream or another.
pub(super) struct Exchange {
    pub(super) shared: Arc<Shared>,
    pub(super) leaving: Leaving,
    pub(super) handshake: Option<Handshake>,
    pub(super) upload: Option<Arc<Upload>>,
    request: Outgoing,
    asked: Asked,
    deadline: Deadline,
    begun: Option<Instant>,
}

impl Exchange {
    /// Makes a request fit for the upstream, as far as that is the same for all.
    pub(super) fn begin(shared: Arc<Shared>, request: Request) -> Result<Self, ForwardError> {
        let (mut parts, body) = request.into_parts();
        let handshake =
            Handshake::take(&mut parts).map_err(|refused| ForwardError::Connect(refused.to_string()))?;
        let mut leaving = Leaving::new(std::mem::take(&mut parts.extensions));
        hop::clean_request(&mut parts.headers, &shared.target.protected)
            .map_err(|_| ForwardError::ContentLength)?;
        let asked = Asked::of(&parts).map_err(|_| ForwardError::Target)?;
        if let Some(handshake) = &handshake {
            handshake.apply(&mut parts.headers);
        }
        let body = if handshake.is_some() { Body::empty() } else { body };
        let facts = leaving.context().facts.as_ref();
        let ticker = shared.client.ticker();
        let (body, upload) = RequestBody::new(body, facts, shared.target.timeouts.body_idle, ticker);
        let begun = facts.map(|_| Instant::now());
        let deadline = ticker.deadline();
        let request = http::Request::from_parts(parts, body);
        Ok(Self { shared, leaving, handshake, upload, request, asked, deadline, begun })
    }

    /// The upstream's answer and the connection that it came over.
    pub(super) async fn run(&mut self) -> Result<(http::Response<Download>, Lease), ForwardError> {
        let outcome = self.attempt().await;
        if let (Some(facts), Some(begun)) = (&self.leaving.context().facts, self.begun) {
            facts.set_upstream_time(begun.elapsed());
        }
        outcome
    }

    async fn attempt(&mut self) -> Result<(http::Response<Download>, Lease), ForwardError> {
        if let Some((index, mut lease)) = self.checkout().await {
            match self.send(index, &mut lease).await? {
                Some(response) => return Ok((response, lease)),
                // Once: the connection that comes now is new, or this one counts as new.
                None => drop(lease),
            }
        }
        // In a box: it is rare, and would make every exchange larger.
        Box::pin(async {
            let (index, mut lease) = self.dial().await?;
            lease.refresh();
            match self.send(index, &mut lease).await? {
                Some(response) => Ok((response, lease)),
                None => Err(ForwardError::Unsent { upstream: self.shared.endpoints[index].label.clone() }),
            }
        })
        .await
    }

    fn want(&self) -> Want {
        if self.handshake.is_some() { Want::Http1 } else { Want::Any }
    }

    /// A pooled connection to the first upstream that is not known to be away.
    // `&mut`, because a body is not to be shared between threads, and this waits.
    async fn checkout(&mut self) -> Option<(usize, Lease)> {
        let may_repeat = lease::is_replayable(&self.request);
        let endpoints = &self.shared.endpoints;
        let index = endpoints.iter().position(|endpoint| !endpoint.is_avoided()).unwrap_or(0);
        let endpoint = &endpoints[index];
        if endpoint.upstream.proxy_header.is_some() {
            return None;
        }
        loop {
            let mut lease = endpoint.checkout(self.want())?;
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
    async fn dial(&mut self) -> Result<(usize, Lease), ForwardError> {
        let want = self.want();
        let endpoints = &self.shared.endpoints;
        let (well, avoided): (Vec<_>, Vec<_>) =
            (0..endpoints.len()).partition(|index| !endpoints[*index].is_avoided());
        let mut failure = ForwardError::Unsent { upstream: endpoints[0].label.clone() };
        for index in well.into_iter().chain(avoided) {
            let endpoint = &endpoints[index];
            let upstream = endpoint.label.clone();
            let preface = endpoint.upstream.proxy_header.map(|header| {
                let context = self.leaving.context();
                let ends = context.client_addr().zip(context.conn.as_ref());
                let addresses =
                    ends.map(|(client, conn)| Addresses { source: client.0, destination: conn.local });
                header.encode(addresses.as_ref())
            });
            let limit = self.shared.target.timeouts.connect;
            match self.deadline.limit(limit, endpoint.dial(want, preface)).await {
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

    /// `None` when the request is to be sent again.
    async fn send(
        &mut self,
        index: usize,
        lease: &mut Lease,
    ) -> Result<Option<http::Response<Download>>, ForwardError> {
        let target = &self.shared.target;
        let endpoint = &self.shared.endpoints[index];
        let base = target.upstreams[index].base_path.as_str();
        let (preserve, authority) = (target.preserve_host, &endpoint.authority);
        let request = &mut self.request;
        if lease.is_http2() {
            let scheme = match endpoint.upstream.scheme {
                Scheme::Http => http::uri::Scheme::HTTP,
                Scheme::Https => http::uri::Scheme::HTTPS,
            };
            self.asked.shape_http2(request, scheme, base, preserve, authority)
        } else {
            self.asked.shape_http1(request, base, preserve, authority)
        }
        .map_err(|_| ForwardError::Target)?;
        if let Some(handshake) = &self.handshake {
            handshake.apply(request.headers_mut());
        }
        if let Some(facts) = &self.leaving.context().facts {
            let _ = facts.upstream.set(endpoint.label.clone());
        }
        let limit = target.timeouts.head;
        let upload = self.upload.as_deref();
        match head(&mut self.deadline, limit, upload, lease.send(request)).await {
            Some(Ok(response)) => Ok(Some(response)),
            None => Err(ForwardError::HeadTimeout { upstream: endpoint.label.clone(), limit }),
            Some(Err(SendFailure { again: true, .. })) => Ok(None),
            Some(Err(failure)) => Err(upload
                .and_then(Upload::take_failure)
                .unwrap_or_else(|| send_failure(endpoint.label.clone(), failure))),
        }
    }
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
        DialError::Http(source) => ForwardError::Closed { upstream, source: source.into() },
    }
}

fn send_failure(upstream: SmolStr, SendFailure { error: source, invalid, .. }: SendFailure) -> ForwardError {
    if invalid {
        ForwardError::BadResponse { upstream, source }
    } else {
        ForwardError::Closed { upstream, source }
    }
}
