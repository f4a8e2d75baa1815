//! The call to a responder (RFC 6960, appendix A; RFC 5019, section 5).
//!
//! It goes over plain HTTP: what is asked is no secret, and the answer is signed. Where it leads is said by a certificate
//! that an admin has uploaded or an authority of the deployment has issued, which is to be trusted with that as with the
//! targets of proxies; addresses within the own network are meant to be possible. Redirects are not followed.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use portcullis_layers::Body;
use portcullis_layers::forward::Client;

use super::question::Question;
use super::response::is_understood;
use crate::outbound::{CallError, Limits, Outbound, SetupError};

/// An answer has a few kilobytes.
const LIMITS: Limits = Limits { time: Duration::from_secs(15), body: 64 * 1024 };

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the responder can't be called")]
    Setup(#[from] SetupError),
    #[error("the responder can't be asked at this URL")]
    Url(#[from] http::Error),
    #[error("the responder")]
    Call(#[from] CallError),
    #[error("the responder answered {0}")]
    Status(StatusCode),
}

/// Asks once: with `GET` if the question is short enough, because caches may answer that; else, and where that is not
/// understood, with `POST`.
pub(super) async fn ask(client: &Client, question: &Question) -> Result<Bytes, FetchError> {
    let responder = &question.responder;
    let server = Outbound::for_signed_answers(client, &responder.server, LIMITS)?;
    let body = question.id.request();
    if let Some(path) = responder.path_for(&body) {
        let request = Request::get(path).header(header::ACCEPT, "application/ocsp-response");
        let answer = server.send(request.body(Body::empty())?).await?;
        if answer.status == StatusCode::OK && is_understood(&answer.body) {
            return Ok(answer.body);
        }
    }
    let request = Request::builder()
        .method(Method::POST)
        .uri(&responder.path)
        .header(header::ACCEPT, "application/ocsp-response")
        .header(header::CONTENT_TYPE, "application/ocsp-request")
        // Some want to know the length before the body.
        .header(header::CONTENT_LENGTH, body.len());
    let answer = server.send(request.body(Body::from(Bytes::from(body)))?).await?;
    if answer.status == StatusCode::OK { Ok(answer.body) } else { Err(FetchError::Status(answer.status)) }
}
