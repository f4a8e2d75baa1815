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

use super::balance::{InFlight, Reason};
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
    pub(super) in_flight: Option<InFlight>,
    request: Outgoing,
    asked: Asked,
    deadline: Deadline,
    begun: Option<Instant>,
    /// The one upstream that may have it.
    only: Option<usize>,
    /// What decides where it goes, if anything of it does.
    key: Option<u64>,
    /// What is sent to another upstream if the answer of this one is as good as none.
    spare: Option<Box<Outgoing>>,
}

/// An answer, and the connection that it came over.
type Answer = (http::Response<Download>, Lease);

/// Why there is none from an upstream, and why another one may be asked.
struct Failure {
    error: ForwardError,
    elsewhere: Option<Reason>,
}

impl From<ForwardError> for Failure {
    fn from(error: ForwardError) -> Self {
        Self { error, elsewhere: None }
    }
}

impl Failure {
    /// Nothing was sent.
    const fn unsent(error: ForwardError) -> Self {
        Self { error, elsewhere: Some(Reason::Unsent) }
    }
}

impl Exchange {
    /// Makes a request fit for the upstream, as far as that is the same for all.
    pub(super) fn begin(
        shared: Arc<Shared>,
        request: Request,
        only: Option<usize>,
    ) -> Result<Self, ForwardError> {
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
        let (in_flight, key, spare) = (None, None, None);
        Ok(Self {
            shared,
            leaving,
            handshake,
            upload,
            in_flight,
            request,
            asked,
            deadline,
            begun,
            only,
            key,
            spare,
        })
    }

    /// The upstream's answer and the connection that it came over.
    pub(super) async fn run(&mut self) -> Result<Answer, ForwardError> {
        let outcome = self.attempt().await;
        if let (Some(facts), Some(begun)) = (&self.leaving.context().facts, self.begun) {
            facts.set_upstream_time(begun.elapsed());
        }
        outcome
    }

    async fn attempt(&mut self) -> Result<Answer, ForwardError> {
        let index = if self.shared.balance.is_some() { self.choose()? } else { 0 };
        let first = match self.checkout(index).await {
            Some(mut lease) => match self.send(index, &mut lease).await {
                Ok(Some(response)) if self.spare.is_none() => return Ok((response, lease)),
                Ok(Some(response)) => Some(Ok((response, lease))),
                // Once: the connection that comes now is new, or this one counts as new.
                Ok(None) => None,
                Err(failure) => Some(Err(failure)),
            },
            None => None,
        };
        // In a box: it is rare, and would make every exchange larger.
        Box::pin(self.go_on(index, first)).await
    }

    /// The first upstream of one of several.
    fn choose(&mut self) -> Result<usize, ForwardError> {
        let Some(balance) = &self.shared.balance else { return Ok(0) };
        balance.request();
        let index = match self.only {
            Some(index) => index,
            None => {
                let balancing = &self.shared.target.balancing;
                self.key = balancing.policy.key(self.leaving.context(), self.request.headers());
                balance.pick(balancing, self.key, &[]).ok_or(ForwardError::NoHealthyUpstream)?
            }
        };
        self.in_flight = Some(balance.begin(index));
        Ok(index)
    }

    /// Over a new connection, and to other upstreams.
    async fn go_on(
        &mut self,
        mut index: usize,
        first: Option<Result<Answer, Failure>>,
    ) -> Result<Answer, ForwardError> {
        let mut tried = Vec::new();
        let mut outcome = match first {
            Some(outcome) => outcome,
            None => self.fresh(index).await,
        };
        loop {
            let reason = match &outcome {
                Ok((response, _)) => self.is_poor(response).then_some(Reason::Unanswered),
                Err(failure) => failure.elsewhere,
            };
            let Some(next) = reason.and_then(|reason| self.elsewhere(index, &mut tried, reason)) else {
                break;
            };
            if let Err(failure) = &outcome {
                tracing::debug!(error = &failure.error as &dyn std::error::Error, "asking another upstream");
            }
            if let Some(spare) = self.spare.take() {
                self.request = *spare;
            }
            // The answer that nobody wants ends with its connection.
            drop(outcome);
            index = next;
            outcome = match self.pooled(index).await {
                Some(outcome) => outcome,
                None => self.fresh(index).await,
            };
        }
        if !tried.is_empty()
            && let Some(facts) = &self.leaving.context().facts
        {
            let attempts = u32::try_from(tried.len() + 1).unwrap_or(u32::MAX);
            let _ = facts.retried.set((attempts, self.shared.endpoints[index].label.clone()));
        }
        outcome.map_err(|failure| failure.error)
    }

    /// Whether an answer is as good as none, and the request is there for another upstream.
    fn is_poor(&self, response: &http::Response<Download>) -> bool {
        let statuses = &self.shared.target.balancing.retries.statuses;
        self.spare.is_some() && statuses.contains(&response.status().as_u16())
    }

    /// Another upstream, if there is one and the request may be sent to it.
    fn elsewhere(&mut self, index: usize, tried: &mut Vec<usize>, reason: Reason) -> Option<usize> {
        let Shared { balance, client, target, .. } = &*self.shared;
        let balance = balance.as_deref().filter(|_| self.only.is_none())?;
        tried.push(index);
        let Some(next) = balance.elsewhere(client, &target.balancing, self.key, tried, reason) else {
            tried.pop();
            return None;
        };
        self.in_flight = Some(balance.begin(next));
        Some(next)
    }

    /// Over a connection that is there.
    async fn pooled(&mut self, index: usize) -> Option<Result<Answer, Failure>> {
        let mut lease = self.checkout(index).await?;
        let outcome = self.send(index, &mut lease).await.transpose()?;
        Some(outcome.map(|response| (response, lease)))
    }

    /// Over a new connection.
    async fn fresh(&mut self, index: usize) -> Result<Answer, Failure> {
        let mut lease = match self.dial(index).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no connection to an upstream");
                self.note_failure(index, &error);
                return Err(Failure::unsent(error));
            }
        };
        lease.refresh();
        match self.send(index, &mut lease).await? {
            Some(response) => Ok((response, lease)),
            None => {
                let error = ForwardError::Unsent { upstream: self.shared.endpoints[index].label.clone() };
                self.note_failure(index, &error);
                Err(Failure::unsent(error))
            }
        }
    }

    fn want(&self) -> Want {
        if self.handshake.is_some() { Want::Http1 } else { Want::Any }
    }

    /// A pooled connection to an upstream.
    // `&mut`, because a body is not to be shared between threads, and this waits.
    async fn checkout(&mut self, index: usize) -> Option<Lease> {
        let may_repeat = lease::is_replayable(&self.request);
        let endpoint = &self.shared.endpoints[index];
        if endpoint.upstream.proxy_header.is_some() {
            return None;
        }
        loop {
            let mut lease = endpoint.checkout(self.want())?;
            // What can't be repeated should not meet a connection that the upstream has closed while
            // it lay idle: yielding lets the runtime look at its sockets, and the driver notice.
            if may_repeat || !lease.has_rested() {
                return Some(lease);
            }
            tokio::task::yield_now().await;
            if !lease.is_closed() {
                return Some(lease);
            }
        }
    }

    /// A new connection.
    async fn dial(&mut self, index: usize) -> Result<Lease, ForwardError> {
        let want = self.want();
        let endpoint = &self.shared.endpoints[index];
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
            Some(Ok(lease)) => Ok(lease),
            Some(Err(source)) => Err(dial_failure(upstream, source)),
            None => {
                endpoint.health.avoid();
                Err(ForwardError::ConnectTimeout { upstream, limit })
            }
        }
    }

    /// `None` when the request is to be sent again.
    async fn send(
        &mut self,
        index: usize,
        lease: &mut Lease,
    ) -> Result<Option<http::Response<Download>>, Failure> {
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
        let balanced = self.shared.balance.is_some();
        let is_for_others = balanced && self.only.is_none();
        if is_for_others && !target.balancing.retries.statuses.is_empty() && lease::is_replayable(request) {
            // The memory of the request's fields becomes that of the answer's.
            self.spare = Some(Box::new(lease::copy(request)));
        }
        let limit = target.timeouts.head;
        let upload = self.upload.as_deref();
        let failure = match head(&mut self.deadline, limit, upload, lease.send(request, is_for_others)).await
        {
            Some(Ok(response)) => {
                if balanced && !self.note_answer(index, response.status().as_u16()) {
                    self.spare = None;
                }
                return Ok(Some(response));
            }
            None => ForwardError::HeadTimeout { upstream: endpoint.label.clone(), limit }.into(),
            Some(Err(SendFailure { again: true, .. })) => return Ok(None),
            Some(Err(failure)) => {
                let elsewhere = failure.whole.then_some(Reason::Unanswered);
                match upload.and_then(Upload::take_failure) {
                    Some(error) => return Err(error.into()),
                    None => Failure { error: send_failure(endpoint.label.clone(), failure), elsewhere },
                }
            }
        };
        self.note_failure(index, &failure.error);
        Err(failure)
    }

    /// Tells whether the answer is as good as none.
    fn note_answer(&self, index: usize, status: u16) -> bool {
        let Shared { balance, target, .. } = &*self.shared;
        balance.as_deref().is_some_and(|balance| balance.answered(&target.balancing, index, status))
    }

    fn note_failure(&self, index: usize, error: &ForwardError) {
        let Shared { balance, target, endpoints, .. } = &*self.shared;
        match balance {
            Some(balance) => balance.failed(&target.balancing, index, error),
            None => {
                endpoints[index].health.failed(error);
            }
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
