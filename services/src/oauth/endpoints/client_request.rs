//! Requests that clients post, and prove themselves with (OAuth 2.1, section 2.4): what is the same at the token,
//! introspection and revocation endpoints.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};
use portcullis_layers::Check;

use super::checks::CLIENT_AUTH;
use super::{Asked, unavailable};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::auth::{Form, Refusal};
use crate::oauth::clients::{AuthError, Client, ClientUrl, Credentials, GrantType, LookupError, Metadata};
use crate::oauth::server::cors;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::params::Params;

/// Answers a form of a client that was authenticated: CORS, limits, the wording of errors.
pub(super) async fn post(
    asked: &Asked,
    event: &'static str,
    handler: impl AsyncFnOnce(&Asked, &Params, &Client) -> Result<Response<Bytes>, OAuthError>,
) -> Response<Bytes> {
    match asked.method {
        Method::POST => {}
        Method::OPTIONS => return cors::POSTS.preflight(),
        _ => return cors::POSTS.method_not_allowed(),
    }
    let params = asked.form();
    let named = params.as_ref().map(|params| named(asked, params)).unwrap_or_default();
    let outcome = async {
        let params = params.as_ref().map_err(Clone::clone)?;
        let client = authenticated(asked, params).await?;
        handler(asked, params, &client).await
    };
    let mut response = match outcome.await {
        Ok(response) => response,
        Err(error) => {
            let grant = params.as_ref().ok().and_then(|params| params.get("grant_type").ok().flatten());
            // The log parts what the endpoint has in one.
            let refreshes = event == "token_exchange" && grant == Some(GrantType::RefreshToken.as_str());
            failed(asked, if refreshes { "token_refresh" } else { event }, &named, error).json()
        }
    };
    cors::POSTS.apply(response.headers_mut());
    response
}

/// Counts and notes a failure: what is asked again and again without success is soon too much. Good requests are
/// not concerned, for others may be behind the same address, or say that they are the same client.
fn failed(asked: &Asked, event: &'static str, client_id: &str, error: OAuthError) -> OAuthError {
    if !matches!(error.code(), ErrorCode::AuthorizationPending | ErrorCode::SlowDown) {
        let client_id = Some(client_id).filter(|id| !id.is_empty());
        asked.note_refusal(&Event { client_id, ..asked.event(event, Some(&error)) }, &error);
    }
    if !matches!(error.code(), ErrorCode::InvalidClient | ErrorCode::InvalidGrant) {
        return error;
    }
    let counted = asked.server.limits.failures.count_client(asked.client, client_id, asked.now);
    counted.err().map_or(error, OAuthError::too_many)
}

/// The client that a request says it is from, whether that is true or not; empty if it says nothing.
fn named(asked: &Asked, params: &Params) -> String {
    let get = |name| params.get(name).ok().flatten();
    let form = Form {
        client_id: get("client_id"),
        client_secret: None,
        client_assertion_type: get("client_assertion_type"),
        client_assertion: get("client_assertion"),
    };
    let read = Credentials::read(&asked.headers, form);
    read.map(|credentials| credentials.client_id().to_owned()).unwrap_or_default()
}

/// The client that a request is from, if it has proved that.
pub(super) async fn authenticated(asked: &Asked, params: &Params) -> Result<Client, OAuthError> {
    let form = Form {
        client_id: params.get("client_id")?,
        client_secret: params.get("client_secret")?,
        client_assertion_type: params.get("client_assertion_type")?,
        client_assertion: params.get("client_assertion")?,
    };
    let named = form.client_id;
    let credentials =
        Credentials::read(&asked.headers, form).map_err(|error| refused(asked, named, &error))?;
    asked.may_look_up(credentials.client_id()).map_err(OAuthError::too_many)?;
    if credentials.is_assertion() {
        // Each one is remembered, so that it is used once: before that, it costs something.
        let limit = &asked.server.limits.assertions;
        limit.count(asked.client, asked.now).map_err(OAuthError::too_many)?;
    }
    match asked.server.authenticator.authenticate(&credentials, asked.now).await {
        Err(AuthError::Client { reason: Refusal::Lookup(LookupError::Document(error)), .. })
            if error.is_temporary() =>
        {
            remembered(asked, params, &credentials).await?.ok_or_else(|| {
                OAuthError::new(
                    ErrorCode::TemporarilyUnavailable,
                    "the client's metadata document can't be fetched",
                )
            })
        }
        outcome => outcome.map_err(|error| refused(asked, Some(credentials.client_id()), &error)),
    }
}

/// The client of a refresh token, as its document was when the user agreed: that the document's host is away for a
/// while must not end a grant. A client that proves itself by a key needs the keys of now; so does one that did not
/// when the user agreed, but whose document was seen to ask for it since.
async fn remembered(
    asked: &Asked,
    params: &Params,
    credentials: &Credentials,
) -> Result<Option<Client>, OAuthError> {
    let Some(token) = params.get("refresh_token")? else { return Ok(None) };
    let Ok(url) = credentials.client_id().parse::<ClientUrl>() else { return Ok(None) };
    let known =
        asked.server.grants.of_refresh(token, asked.now).await.map_err(|error| unavailable(&error))?;
    let known = known.filter(|grant| grant.client.id == url.as_str());
    let metadata = known.and_then(|grant| serde_json::from_value::<Metadata>(grant.client.snapshot).ok());
    let client = metadata.map(|metadata| Client::of_document(&url, Arc::new(metadata)));
    let Some(client) = client.filter(Client::is_public) else { return Ok(None) };
    let since = asked.server.clients.last_document(&url).await;
    let since = since.map(|metadata| Client::of_document(&url, metadata));
    Ok(since.is_none_or(|since| since.is_public()).then_some(client))
}

/// What a client is answered. Why exactly is for the logs.
fn refused(asked: &Asked, client_id: Option<&str>, error: &AuthError) -> OAuthError {
    let about = Event { client_id, ..Event::default() };
    match error {
        AuthError::Request(why) => {
            asked.failed(CLIENT_AUTH, OAuthError::new(ErrorCode::InvalidRequest, *why), about)
        }
        AuthError::Client { reason, .. } => {
            tracing::info!(reason = reason as &dyn std::error::Error, "a client was refused");
            let answer = OAuthError::new(ErrorCode::InvalidClient, error.to_string());
            let (kind, why) = match reason {
                Refusal::Assertion(fault) if fault.is_unreadable() => {
                    (Check::Decode.as_str(), fault.to_string())
                }
                Refusal::Assertion(fault) => (CLIENT_AUTH, fault.to_string()),
                reason => (CLIENT_AUTH, reason.to_string()),
            };
            asked.failed(kind, answer, Event { detail: Some(&why), ..about })
        }
        AuthError::Unavailable(source) => {
            // Strangers can bring this about: nobody is to be woken for it. A store that is away says so elsewhere.
            tracing::warn!(error = &**source as &dyn std::error::Error, "clients can't be looked up");
            OAuthError::new(ErrorCode::TemporarilyUnavailable, "try again in a while")
        }
    }
}
