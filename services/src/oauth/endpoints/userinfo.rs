//! The UserInfo endpoint (OpenID Connect Core 1.0, section 5.3): who an access token is about.
//!
//! The token itself says all of it, so nothing is looked up. A token for any of our resources will do, but not the
//! one in a browser's cookie on a host, which is good for nothing else.

use std::sync::Arc;

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, Response, StatusCode};
use portcullis_layers::auth::bearer;
use portcullis_layers::{Check, Principal};
use secrecy::{ExposeSecret, SecretString};

use super::{Asked, answer};
use crate::oauth::authorization_server::{BROWSER_CLIENT, Event};
use crate::oauth::id_token::{Person, UserInfo};
use crate::oauth::server::cors;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::params::Params;
use crate::oauth::server::scope::{OPENID, Scopes};

/// `GET` and `POST`.
pub(super) async fn userinfo(asked: Asked) -> Response<Bytes> {
    match asked.method {
        Method::GET | Method::HEAD | Method::POST => {}
        Method::OPTIONS => return cors::USERINFO.preflight(),
        _ => return cors::USERINFO.method_not_allowed(),
    }
    let mut response = match token(&asked) {
        Ok(Some(token)) => match about(&asked, &token) {
            Ok(info) => answer::json(&info),
            Err(error) => refused(&error),
        },
        Ok(None) => unauthenticated(),
        Err(error) => refused(&error),
    };
    cors::USERINFO.apply(response.headers_mut());
    response
}

/// The token, in the header or in the form of a `POST` (RFC 6750, sections 2.1 and 2.2), in one of them.
fn token(asked: &Asked) -> Result<Option<SecretString>, OAuthError> {
    let in_header = bearer::token(&asked.headers).unwrap_or_default();
    let is_form = asked.method == Method::POST && Params::is_form(&asked.headers);
    let form = if is_form { asked.form()? } else { Params::default() };
    match (in_header, form.get("access_token")?) {
        (Some(_), Some(_)) => {
            Err(OAuthError::new(ErrorCode::InvalidRequest, "the token must be sent in one way only"))
        }
        (Some(token), None) | (None, Some(token)) => Ok(Some(token.into())),
        (None, None) => Ok(None),
    }
}

fn about(asked: &Asked, token: &SecretString) -> Result<UserInfo, OAuthError> {
    let server = &asked.server;
    let failures = &server.limits.failures;
    failures.check(asked.client, asked.now).map_err(OAuthError::too_many)?;
    let invalid = || OAuthError::new(ErrorCode::InvalidToken, "the token is not valid, or has ended");
    let principal = match server.verifier.verify(token.expose_secret()) {
        Ok(verified) => Arc::clone(verified.principal()),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a token was refused at /userinfo");
            let _limited = failures.count(asked.client, asked.now);
            return Err(asked.failed_token(&error, invalid(), Event::default()));
        }
    };
    let about = Event {
        client_id: principal.client_id.as_deref(),
        subject: Some(&principal.subject),
        username: principal.username.as_deref(),
        ..Event::default()
    };
    let of_browser = principal.client_id.as_deref() == Some(BROWSER_CLIENT);
    // An ID token has no id: it is ours, but opens nothing.
    if principal.foreign || principal.token_id.is_none() || of_browser {
        let detail = Some("the token is for another use");
        return Err(asked.failed(Check::Token.as_str(), invalid(), Event { detail, ..about }));
    }
    if !principal.has_scope(OPENID) {
        let error = OAuthError::new(ErrorCode::InsufficientScope, "the token does not have scope openid");
        return Err(asked.failed(Check::Scope.as_str(), error, about));
    }
    // No other event tells that somebody has learned who the user is.
    let own = asked.event(Check::Token.as_str(), None);
    asked.note_check(&Event {
        client_id: about.client_id,
        subject: about.subject,
        username: about.username,
        ..own
    });
    Ok(info(&principal))
}

fn info(principal: &Principal) -> UserInfo {
    // They were read from a token that we have signed.
    let scopes = Scopes::parse(&principal.scopes.join(" ")).unwrap_or_default();
    let person = Person {
        preferred_username: principal.username.as_ref().map(ToString::to_string),
        name: principal.name.as_ref().map(ToString::to_string),
        email: principal.email.as_ref().map(ToString::to_string),
        // No other address gets into a token.
        email_verified: principal.email.is_some().then_some(true),
    };
    UserInfo { sub: principal.subject.to_string(), person: person.within(&scopes) }
}

/// Nobody has said who asks: what to send, and no error (RFC 6750, section 3.1).
fn unauthenticated() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let challenge = HeaderValue::from_static("Bearer realm=\"userinfo\", scope=\"openid\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// An error with its challenge (RFC 6750, section 3).
fn refused(error: &OAuthError) -> Response<Bytes> {
    let mut response = error.json();
    let scope = if error.code() == ErrorCode::InsufficientScope { ", scope=\"openid\"" } else { "" };
    let challenge = match error.code() {
        ErrorCode::InvalidRequest | ErrorCode::InvalidToken | ErrorCode::InsufficientScope => format!(
            "Bearer realm=\"userinfo\", error=\"{}\", error_description=\"{}\"{scope}",
            error.code(),
            error.description()
        ),
        _ => return response,
    };
    // A description has neither `"` nor `\`.
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
