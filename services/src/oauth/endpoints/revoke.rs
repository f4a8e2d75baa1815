//! Revocation (RFC 7009): a client is done with a token.
//!
//! A refresh token takes its grant along, with all its tokens; an access token ends alone. What is unknown, broken
//! or over already is as the client wants it: 200 (section 2.2). Another client's token is refused (section 2.1).

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, HeaderValue};
use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::client_request::post;
use super::{Asked, unavailable};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::Client;
use crate::oauth::grants;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::request::RevokeRequest;

/// `POST`. Public clients only name themselves: having the token is their proof.
pub(super) async fn revoke(asked: Asked) -> Response<Bytes> {
    post(&asked, "token_revocation", async |asked, params, client| {
        // The form of a token says what it is better than a hint.
        let request = RevokeRequest::parse(params)?;
        let token = request.token.expose_secret();
        if token.starts_with(grants::PREFIX) {
            refresh(asked, client, token).await?;
        } else {
            access(asked, client, token).await?;
        }
        asked.server.note(&Event { client_id: Some(&client.id), ..asked.event("token_revocation", None) });
        let mut response = Response::new(Bytes::new());
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    })
    .await
}

async fn refresh(asked: &Asked, client: &Client, token: &str) -> Result<(), OAuthError> {
    let grants = &asked.server.grants;
    let owner = grants.owner_of_refresh(token, asked.now).await.map_err(|error| unavailable(&error))?;
    let Some(owner) = owner else { return Ok(()) };
    check_owner(client, &owner)?;
    grants.revoke_refresh(token, &client.id, asked.now).await.map_err(|error| unavailable(&error))?;
    Ok(())
}

async fn access(asked: &Asked, client: &Client, token: &str) -> Result<(), OAuthError> {
    let server = &asked.server;
    let Ok(verified) = server.verifier.verify(token) else { return Ok(()) };
    let principal = verified.principal();
    if principal.foreign {
        return Ok(());
    }
    check_owner(client, principal.client_id.as_deref().unwrap_or_default())?;
    let Some(id) = &principal.token_id else { return Ok(()) };
    let ends = i64::try_from(principal.expires_at).ok().and_then(|at| Timestamp::from_second(at).ok());
    let ends = ends.unwrap_or(Timestamp::MAX);
    server.grants.revoke_access(id, ends).await.map_err(|error| unavailable(&error))
}

/// RFC 7009, section 2.1: "If this validation fails, the request is refused and the client is informed of the
/// error", here with the code that RFC 6749, section 5.2, has for what was issued to another client.
fn check_owner(client: &Client, owner: &str) -> Result<(), OAuthError> {
    if client.id == owner {
        return Ok(());
    }
    Err(OAuthError::new(ErrorCode::InvalidGrant, "the token was issued to another client"))
}
