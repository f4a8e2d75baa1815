//! Calls to an authority, for the protocol's client.

use std::cell::Cell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::uri::PathAndQuery;
use ::http::{Request, Response, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use jiff::Timestamp;
use portcullis_layers::Body;
use portcullis_layers::forward::Client;

use crate::config::TargetUrl;
use crate::outbound::{Limits, Outbound};

/// Authorities answer within seconds, and a chain is some kilobytes.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), body: 1024 * 1024 };

/// Who asks to be left alone for longer than this has made a mistake.
const LONGEST: i64 = 8 * 86_400;

/// An authority has a few hosts at most.
const MAX_SERVERS: usize = 16;

tokio::task_local! {
    /// Until when an authority wants to be left alone, as its answers to this task say.
    static RETRY_AFTER: Cell<Option<Timestamp>>;
}

/// Runs one attempt; tells until when the authority wants to be left alone, if it said so.
pub(super) async fn noting_retry_after<F: Future>(attempt: F) -> (F::Output, Option<Timestamp>) {
    RETRY_AFTER
        .scope(Cell::new(None), async {
            let output = attempt.await;
            (output, RETRY_AFTER.with(Cell::get))
        })
        .await
}

/// Calls the servers of one authority.
#[derive(Debug, Clone)]
pub(super) struct Http {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    ca: Option<Arc<str>>,
    servers: Mutex<HashMap<String, Outbound>>,
}

impl Http {
    /// Calls over this client; their certificates must be good for `ca`, or else for the platform's authorities.
    pub(super) fn new(client: Client, ca: Option<Arc<str>>) -> Self {
        Self { shared: Arc::new(Shared { client, ca, servers: Mutex::default() }) }
    }
}

impl Shared {
    fn server(&self, uri: &Uri) -> Result<Outbound, Error> {
        let authority = uri.authority().ok_or(Error::Str("a host in the URL"))?;
        let base = format!("{}://{authority}", uri.scheme_str().unwrap_or("https"));
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(&base) {
            return Ok(server.clone());
        }
        let url: TargetUrl = base.parse().map_err(|error| Error::Other(Box::new(error)))?;
        let server = Outbound::new(&self.client, &url, self.ca.clone(), LIMITS)
            .map_err(|error| Error::Other(Box::new(error)))?;
        if servers.len() < MAX_SERVERS {
            servers.insert(base, server.clone());
        }
        Ok(server)
    }

    async fn call(&self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (mut parts, body) = request.into_parts();
        let server = self.server(&parts.uri)?;
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        parts.uri = path.parse()?;
        let reads = parts.method == ::http::Method::GET;
        let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
        if !body.is_empty() {
            // Some authorities want to know the length before the body.
            parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        let answer = server
            .send(Request::from_parts(parts, Body::from(body)))
            .await
            .map_err(|error| Error::Other(Box::new(error)))?;
        if !answer.status.is_success() {
            note_retry_after(&answer.headers);
        }
        // The protocol's client reads everything that fails as a problem document.
        let is_problem = answer
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.contains("json")));
        if !answer.status.is_success() && (reads || !is_problem) {
            return Err(Error::Other(format!("the authority answered {}", answer.status).into()));
        }
        let mut response = Response::new(Full::new(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(BytesResponse::from(response))
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.call(request).await })
    }
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn note_retry_after(headers: &::http::HeaderMap) {
    let text = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let now = Timestamp::now();
    let until = text.and_then(|text| match text.parse::<i64>() {
        Ok(seconds) => Timestamp::from_second(now.as_second().checked_add(seconds.clamp(0, LONGEST))?).ok(),
        Err(_) => jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp()),
    });
    let latest = Timestamp::from_second(now.as_second() + LONGEST).unwrap_or(Timestamp::MAX);
    // Outside of an attempt nobody asks for it.
    let Some(until) = until.map(|until| until.min(latest)) else { return };
    let _noted = RETRY_AFTER.try_with(|noted| noted.set(noted.get().max(Some(until))));
}
