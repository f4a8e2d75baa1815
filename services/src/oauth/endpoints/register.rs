//! Dynamic registration (RFC 7591) and its management (RFC 7592).
//!
//! Whoever registers is told where its registration is managed: always at the issuer, also where another host
//! has acted for it. A registration can be managed after registering was switched off, too.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};
use portcullis_layers::auth::bearer;

use super::{Asked, unavailable};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::{InvalidMetadata, RegistrationError};
use crate::oauth::server::cors;
use crate::oauth::server::error::{ErrorCode, OAuthError, json};
use crate::oauth::server::metadata::path;

/// `POST /register`.
pub(super) async fn register(asked: Asked) -> Response<Bytes> {
    let mut response = match asked.method {
        Method::OPTIONS => return cors::POSTS.preflight(),
        _ if asked.server.settings.registration.is_none() => nowhere(),
        Method::POST => {
            new(&asked).await.unwrap_or_else(|error| refusal(&asked, "client_registration", &error))
        }
        _ => return cors::POSTS.method_not_allowed(),
    };
    cors::POSTS.apply(response.headers_mut());
    response
}

/// `GET`, `PUT` and `DELETE /register/{id}`.
pub(super) async fn manage(asked: Asked) -> Response<Bytes> {
    let id = asked.path.rsplit_once(path::REGISTER).map_or("", |(_, rest)| rest.trim_start_matches('/'));
    let outcome = match asked.method {
        Method::OPTIONS => return cors::MANAGEMENT.preflight(),
        Method::GET => read(&asked, id).await,
        Method::PUT => update(&asked, id).await,
        Method::DELETE => deregister(&asked, id).await,
        _ => return cors::MANAGEMENT.method_not_allowed(),
    };
    let mut response = outcome.unwrap_or_else(|error| refusal(&asked, "client_management", &error));
    cors::MANAGEMENT.apply(response.headers_mut());
    response
}

/// RFC 7591, section 3.
async fn new(asked: &Asked) -> Result<Response<Bytes>, OAuthError> {
    let body = json_body(asked)?;
    let registrations = &asked.server.registrations;
    let registered =
        registrations.register(body, sender(asked), asked.now).await.map_err(|error| refused(&error))?;
    let id = Some(registered.client_id.as_str());
    asked.server.note(&Event { client_id: id, ..asked.event("client_registration", None) });
    Ok(json(StatusCode::CREATED, &registered))
}

/// RFC 7592, section 2.1.
async fn read(asked: &Asked, id: &str) -> Result<Response<Bytes>, OAuthError> {
    let token = presented(asked)?;
    let registered =
        asked.server.registrations.read(id, token, asked.now).await.map_err(|error| refused(&error))?;
    Ok(json(StatusCode::OK, &registered))
}

/// RFC 7592, section 2.2.
async fn update(asked: &Asked, id: &str) -> Result<Response<Bytes>, OAuthError> {
    let token = presented(asked)?;
    let body = json_body(asked)?;
    let registered = asked
        .server
        .registrations
        .update(id, token, body, sender(asked), asked.now)
        .await
        .map_err(|error| refused(&error))?;
    asked.server.note(&Event { client_id: Some(id), ..asked.event("client_update", None) });
    Ok(json(StatusCode::OK, &registered))
}

/// RFC 7592, section 2.3: the client, its grants and its tokens end.
async fn deregister(asked: &Asked, id: &str) -> Result<Response<Bytes>, OAuthError> {
    let token = presented(asked)?;
    asked.server.registrations.deregister(id, token, asked.now).await.map_err(|error| refused(&error))?;
    asked.server.note(&Event { client_id: Some(id), ..asked.event("client_deletion", None) });
    let mut response = json(StatusCode::NO_CONTENT, &());
    *response.body_mut() = Bytes::new();
    response.headers_mut().remove(CONTENT_TYPE);
    Ok(response)
}

/// Where a request comes from, for the limits: those of whom that is not known share one.
fn sender(asked: &Asked) -> IpAddr {
    asked.client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// The registration access token, of who has not guessed too often.
fn presented(asked: &Asked) -> Result<Option<&str>, OAuthError> {
    asked.server.limits.failures.check(asked.client, asked.now).map_err(OAuthError::too_many)?;
    Ok(bearer::token(&asked.headers).unwrap_or_default())
}

/// The body, if it is JSON (RFC 7591, section 3.1).
fn json_body(asked: &Asked) -> Result<&Bytes, OAuthError> {
    let kind = asked.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(OAuthError::new(ErrorCode::InvalidClientMetadata, "the body must be application/json"));
    }
    asked.body.as_ref().ok_or_else(|| {
        OAuthError::new(ErrorCode::InvalidClientMetadata, "the body is larger than 64 KiB, or broke off")
    })
}

/// The code of a refusal (RFC 7591, section 3.2.2; RFC 6750, section 3.1).
fn refused(error: &RegistrationError) -> OAuthError {
    let code = match error {
        RegistrationError::Metadata(InvalidMetadata::RedirectUri(_)) => ErrorCode::InvalidRedirectUri,
        RegistrationError::Metadata(_) | RegistrationError::Mismatch(_) => ErrorCode::InvalidClientMetadata,
        RegistrationError::TooMany { retry_after } => return OAuthError::too_many(*retry_after),
        RegistrationError::Token => ErrorCode::InvalidToken,
        RegistrationError::Store(error) => return unavailable(error),
    };
    OAuthError::new(code, error.to_string())
}

fn refusal(asked: &Asked, event: &'static str, error: &OAuthError) -> Response<Bytes> {
    let mut response = error.json();
    if error.code() == ErrorCode::InvalidToken {
        let _limited = asked.server.limits.failures.count(asked.client, asked.now);
        if !asked.headers.contains_key(AUTHORIZATION) {
            // No code where nothing was presented (RFC 6750, section 3.1).
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
    asked.note(&asked.event(event, Some(error)));
    response
}

/// Clients can't register here: as if there were no such endpoint.
fn nowhere() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
