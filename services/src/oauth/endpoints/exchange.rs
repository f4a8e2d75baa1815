//! Token exchange (RFC 8693): a client gets a token that can do less than the one it has, to hand it on.
//!
//! The rule: only a client that proves who it is may do so, with an access token of ours that was issued to it.
//! The new token is of the same grant, client and person, for some of the same resources, with some of the same
//! scopes, and ends no later. So nothing is widened, nobody acts for another, and whatever ends the first token
//! or its grant ends this one. What the lists give the person is asked at each request, as ever.

use portcullis_layers::Check;
use portcullis_layers::auth::SESSION_PATH;
use secrecy::ExposeSecret;

use super::answer::Login;
use super::token::grant_error;
use super::wanted::found;
use super::{Asked, unavailable};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::{BROWSER_CLIENT, Event};
use crate::oauth::clients::Client;
use crate::oauth::grants::{self, Issued, Wanted};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::request::TokenExchange;
use crate::oauth::server::resource::narrowed;
use crate::oauth::state::Scopes as ScopeSet;

/// The only type of token that is taken and given (RFC 8693, section 3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// RFC 8693, section 2.1. What is wrong with the token is `invalid_request`, as section 2.2.2 wants it.
pub(super) async fn issue(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    request: &TokenExchange,
) -> Result<(Issued, Login), OAuthError> {
    if client.is_public() {
        let why = "a client that can't prove who it is exchanges no token";
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
    }
    if request.actor.is_some() {
        return Err(refused("actor tokens are not taken"));
    }
    if request.subject_token_type != ACCESS_TOKEN {
        return Err(refused("subject_token_type must be that of access tokens"));
    }
    if request.requested_token_type.as_deref().is_some_and(|wanted| wanted != ACCESS_TOKEN) {
        return Err(refused("only access tokens are issued"));
    }
    let server = &asked.server;
    let verified = server.verifier.verify(request.subject_token.expose_secret());
    let verified = verified.map_err(|fault| {
        let about = Event { client_id: Some(&client.id), ..Event::default() };
        asked.failed_token(&fault, refused("subject_token is no access token that is good now"), about)
    })?;
    let who = verified.principal();
    let failed = |check: Check, why| {
        let about = Event {
            client_id: Some(&client.id),
            subject: Some(&who.subject),
            username: who.username.as_deref(),
            ..Event::default()
        };
        asked.failed(check.as_str(), refused(why), about)
    };
    let owner = who.client_id.as_deref().unwrap_or_default();
    // What is in a browser's cookie is good for that browser alone.
    let of_browser = owner == BROWSER_CLIENT
        || who.audience.iter().any(|audience| audience.trim_end_matches('/').ends_with(SESSION_PATH));
    if who.foreign || of_browser || owner != client.id {
        return Err(failed(Check::Token, "subject_token was not issued to this client"));
    }
    let unknown = || failed(Check::Token, "subject_token is of no grant that goes on");
    let id = who.token_id.as_deref().ok_or_else(unknown)?;
    let first = server.grants.get_access(id, asked.now).await.map_err(|error| unavailable(&error))?;
    let first = first.ok_or_else(unknown)?;
    let named = [request.audiences.as_slice(), request.resources.as_slice()].concat();
    let resources = narrowed(&named, &first.resources)?;
    if !found(audiences, &resources)?.iter().any(|host| host.admits(who)) {
        return Err(failed(Check::User, "who subject_token is about is no longer on a list of the resource"));
    }
    let scopes: Option<ScopeSet> =
        request.scope.as_ref().map(|scope| scope.iter().map(str::to_owned).collect());
    let wanted = Wanted { scopes: scopes.as_ref(), resources: &resources };
    let issued = server.grants.exchange(id, &client.id, wanted, asked.now).await;
    let issued = issued.map_err(|error| match error {
        grants::Error::Invalid => unknown(),
        error => grant_error(&error),
    })?;
    Ok((issued, Login { issued_token_type: Some(ACCESS_TOKEN), ..Login::default() }))
}

fn refused(why: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidRequest, why)
}
