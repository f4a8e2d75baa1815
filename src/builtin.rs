//! Targets that are built in: the API, our MCP server, the echo, and the rest of the issuer's host, called in memory
//! instead of over a connection.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use http::StatusCode;
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{Tunnels, is_event_stream};
use portcullis_layers::{Body, BoxError, HttpService, Rejection, Request, RequestContext, Response};
use portcullis_services::config::Builtin;
use portcullis_services::config::proxy::BUILTIN_MCP;
use portcullis_services::mcp;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::either::Either;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

/// Tunnels and event streams of built-in targets end like those of upstreams: by a revocation, a change of lists, the end.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) tunnels: Tunnels,
    pub(crate) ticker: Ticker,
}

/// All of them. The API works with the store and runs on the control plane's runtime, so that nothing that
/// it does holds up the requests of a worker.
pub(crate) fn all(
    api: Router,
    mcp: mcp::Service,
    control: Handle,
    streams: &Streams,
) -> HashMap<Builtin, HttpService> {
    let echo = here(crate::echo::router(streams.clone()), streams.clone());
    // The endpoints are in front of routing: whatever comes as far as here is none.
    let nothing = HttpService::from_fn(async |_| {
        Err(Rejection::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address.").into())
    });
    let mcp = Router::new().route_service(BUILTIN_MCP, mcp);
    // Where there are no sessions, to go is to cancel (2026-07-28); its tools finish what they have begun to change.
    let finishes = |request: &Request| changes(request) && mcp::has_sessions(request.headers());
    let mcp = elsewhere_finishing(mcp, control.clone(), streams.clone(), finishes);
    let api = elsewhere(api, control, streams.clone());
    HashMap::from([
        (Builtin::Api, api),
        (Builtin::Mcp, mcp),
        (Builtin::Echo, echo),
        (Builtin::OAuth, nothing),
    ])
}

/// How many changes may go on whose clients have gone. What comes on top ends with its client.
const FINISHING: usize = 1024;

/// A router that works with the store: it runs on the control plane's runtime. Who only reads may go. What changes
/// something is finished, so that nothing is left half done.
pub(crate) fn elsewhere(router: Router, runtime: Handle, streams: Streams) -> HttpService {
    elsewhere_finishing(router, runtime, streams, changes)
}

fn changes(request: &Request) -> bool {
    !request.method().is_safe()
}

/// The same, where a function says what is finished when its client has gone.
fn elsewhere_finishing(
    router: Router,
    runtime: Handle,
    streams: Streams,
    finishes: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> HttpService {
    let finishing = Arc::new(Semaphore::new(FINISHING));
    HttpService::from_fn(move |mut request: Request| {
        let (router, streams) = (router.clone(), streams.clone());
        let context = RequestContext::of(request.extensions_mut()).clone();
        let finishes = finishes(&request).then(|| Arc::clone(&finishing).try_acquire_owned().ok()).flatten();
        let aborts = finishes.is_none();
        let task = runtime.spawn(async move {
            let _finishes = finishes;
            answer(router, request).await
        });
        let task = if aborts { Either::Left(AbortOnDropHandle::new(task)) } else { Either::Right(task) };
        async move {
            let response = task.await;
            Ok(streams.listed(&context, response.map_err(BoxError::from)??))
        }
    })
}

fn here(router: Router, streams: Streams) -> HttpService {
    HttpService::from_fn(move |mut request: Request| {
        let streams = streams.clone();
        let context = RequestContext::of(request.extensions_mut()).clone();
        let answer = answer(router.clone(), request);
        async move { Ok(streams.listed(&context, answer.await?)) }
    })
}

async fn answer(router: Router, request: Request) -> Result<Response, BoxError> {
    let response = router.oneshot(request.map(axum::body::Body::new)).await?;
    Ok(response.map(Body::new))
}

impl Streams {
    fn listed(&self, context: &RequestContext, response: Response) -> Response {
        if !is_event_stream(response.headers()) {
            return response;
        }
        response.map(|body| self.tunnels.hold(context, &self.ticker, body))
    }

    /// The same for a router that is served on its own.
    pub(crate) async fn list(
        self,
        request: axum::extract::Request,
        next: axum::middleware::Next,
    ) -> axum::response::Response {
        let response = next.run(request).await;
        if !is_event_stream(response.headers()) {
            return response;
        }
        let context = RequestContext::default();
        response.map(|body| axum::body::Body::new(self.tunnels.hold(&context, &self.ticker, Body::new(body))))
    }
}
