//! One call, and as much of its answer as is of use.

use std::error::Error as _;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderValue, header};
use http_body_util::BodyExt;
use portcullis_layers::forward::{Client, Forward, ForwardError, Target};
use portcullis_layers::{Body, BoxError, Rejection};
use tokio_util::sync::CancellationToken;

use crate::control::Chain;

/// Documents have a few kilobytes.
const MAX_BODY: usize = 64 * 1024;

/// Some servers refuse requests that don't say who asks.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

/// The head of an answer, and the beginning of its body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) parts: Parts,
    pub(super) body: Bytes,
}

impl Answer {
    /// The type of the body, in lower case and without parameters.
    pub(super) fn kind(&self) -> String {
        let kind = self.parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let essence = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    }
}

/// Calls over a connection of its own, and reads until the answer ends, is long, or is enough. How long that may take
/// is the caller's to say.
pub(super) async fn call(
    client: &Client,
    target: Target,
    mut request: http::Request<Body>,
    enough: impl Fn(&Parts, &[u8]) -> bool,
) -> Result<Answer, BoxError> {
    let forward = Forward::new(client, target, CancellationToken::new())?;
    request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
    let (parts, mut body) = forward.send(request).await?.into_parts();
    let mut read = BytesMut::new();
    while read.len() < MAX_BODY && !enough(&parts, &read) {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
    }
    read.truncate(MAX_BODY);
    Ok(Answer { parts, body: read.freeze() })
}

/// What went wrong on the way to the upstream, where that is known.
pub(super) fn cause(error: &BoxError) -> Option<&ForwardError> {
    let rejection = error.downcast_ref::<Rejection>()?;
    rejection.source().and_then(|source| source.downcast_ref::<ForwardError>())
}

/// Why a call failed, in words for administrators.
pub(super) fn reason(error: &BoxError) -> String {
    match cause(error) {
        Some(cause) => Chain(cause).to_string(),
        None => Chain(&**error).to_string(),
    }
}
