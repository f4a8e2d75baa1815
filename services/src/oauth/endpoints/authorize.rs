//! The authorization endpoint (OAuth 2.1, section 4.1.1): who asks, and what for.

use bytes::Bytes;
use http::{Method, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::checks::PKCE_VALIDATION;
use super::code::{Signed, answer, is_trusted};
use super::lookup::find_client;
use super::session::current_session;
use super::wanted::{found, wanted};
use super::{Asked, unavailable, upstream};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::redirect::Place;
use crate::oauth::clients::{Client, GrantType, Origin};
use crate::oauth::login::{Ask, Purpose};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path;
use crate::oauth::server::params::Params;
use crate::oauth::server::redirect::see_other;
use crate::oauth::server::request::pkce::Challenge;
use crate::oauth::server::request::{AuthorizeRequest, Requester};

/// `GET` or `POST` (OpenID Connect Core 1.0, section 3.1.2.1).
pub(super) async fn authorize(asked: Asked) -> Response<Bytes> {
    let params = match asked.method {
        Method::GET | Method::HEAD => asked.query(),
        Method::POST => asked.form(),
        _ => return Asked::method_not_allowed("GET, HEAD, POST"),
    };
    let params = match params {
        Ok(params) => params,
        Err(error) => return asked.error_page(&error),
    };
    if !asked.is_at_issuer() {
        return elsewhere(&asked, &params).await;
    }
    if let Err(wait) = asked.server.limits.logins.count(asked.client, asked.now) {
        return asked.error_page(&OAuthError::too_many(wait));
    }
    let (client, requester) = match requester(&asked, &params).await {
        Ok(known) => known,
        Err(error) => {
            let client_id = params.get("client_id").ok().flatten();
            asked.note_refusal(&Event { client_id, ..asked.event("auth_request", Some(&error)) }, &error);
            return asked.error_page(&error);
        }
    };
    let target = requester.target(asked.server.issuer.as_str());
    match ask(&asked, &params, &client, requester).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let event = asked.event("auth_request", Some(&error));
            asked.note_refusal(&Event { client_id: Some(&client.id), ..event }, &error);
            // Anybody can make a client whose requests fail, and send people to any site by it. Who asks silently sees
            // no page (OpenID Connect Core 1.0, section 3.1.2.1).
            let silent = matches!(error.code(), ErrorCode::LoginRequired | ErrorCode::ConsentRequired);
            let harmless = silent
                || client.origin == Origin::Configured
                || client.redirect(target.uri()).is_some_and(|uri| matches!(uri.place(), Place::Loopback))
                || matches!(current_session(&asked).await, Ok(Some(_)));
            if harmless { target.error(&error) } else { asked.error_link(&error, &target) }
        }
    }
}

/// On a host that acts for the issuer, the request is for the resource that the host is.
async fn elsewhere(asked: &Asked, params: &Params) -> Response<Bytes> {
    if asked.method == Method::POST {
        return Asked::method_not_allowed("GET, HEAD");
    }
    let mut location = asked.server.issuer.endpoint(path::AUTHORIZE);
    location.push('?');
    location.push_str(&asked.query);
    if params.all("resource").is_empty() {
        let audiences = match asked.server.audiences().await {
            Ok(audiences) => audiences,
            Err(error) => return asked.error_page(&unavailable(&error)),
        };
        if let Some(own) = asked.acting_host().and_then(|host| audiences.of_host(host)) {
            let separator = if asked.query.is_empty() { "" } else { "&" };
            let own = utf8_percent_encode(&own.resource, NON_ALPHANUMERIC);
            location.push_str(&format!("{separator}resource={own}"));
        }
    }
    see_other(&location)
}

/// The client, once it is known that the redirect URI is its own. An error is for a page: there is nobody to
/// redirect to.
async fn requester(asked: &Asked, params: &Params) -> Result<(Client, Requester), OAuthError> {
    let requester = Requester::parse(params)?;
    let client = find_client(asked, &requester.client_id).await?;
    if client.redirect(&requester.redirect_uri).is_none() {
        let why = "redirect_uri is not one that the client has registered";
        return Err(OAuthError::new(ErrorCode::InvalidRedirectUri, why));
    }
    Ok((client, requester))
}

/// Whether an error is about the code challenge, and not about anything else of the request.
fn is_of_challenge(params: &Params, error: &OAuthError) -> bool {
    let get = |name| params.get(name).ok().flatten();
    Challenge::parse(get("code_challenge"), get("code_challenge_method")).is_err_and(|own| own == *error)
}

/// Reads the rest of the request, and asks or answers. An error goes back to the client.
async fn ask(
    asked: &Asked,
    params: &Params,
    client: &Client,
    requester: Requester,
) -> Result<Response<Bytes>, OAuthError> {
    let request = AuthorizeRequest::parse(params).map_err(|error| {
        if !is_of_challenge(params, &error) {
            return error;
        }
        asked.failed(PKCE_VALIDATION, error, Event { client_id: Some(&client.id), ..Event::default() })
    })?;
    if !client.may(GrantType::AuthorizationCode) {
        let why = "the client may not use the authorization code grant";
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
    }
    let audiences = asked.server.audiences().await.map_err(|error| unavailable(&error))?;
    let (resources, scopes) = wanted(asked, &audiences, client, &request.resources, request.scope.as_ref())?;
    let prompt = request.prompt;
    let ask = Ask {
        client_id: requester.client_id,
        redirect_uri: requester.redirect_uri,
        state: requester.state,
        challenge: request.challenge,
        resources,
        scopes,
        nonce: request.nonce,
        ask_again: prompt.consent,
        login_hint: request.login_hint,
        choose_account: prompt.select_account,
    };
    let hosts = found(&audiences, &ask.resources)?;
    let session = current_session(asked).await?.filter(|session| {
        let age = asked.now.duration_since(session.created_at).as_secs();
        let recent = request.max_age.is_none_or(|max| i64::try_from(max).is_ok_and(|max| age <= max));
        recent
            && !prompt.login
            && !prompt.select_account
            && asked.can_judge(&audiences, &hosts, &session.identity)
    });
    let session = asked.with_upstream_token(session, hosts.first()).await?;
    match session {
        Some(session) => answer(asked, &audiences, client, ask, Signed::Before(&session), prompt.none).await,
        None if prompt.none => Err(OAuthError::new(ErrorCode::LoginRequired, "the user has to sign in")),
        // Whoever asks in its own deployment's name needs no page before GitHub's.
        None if is_trusted(client, &ask.redirect_uri) => {
            Ok(upstream::begin(asked, &audiences, Purpose::Client { ask: Box::new(ask), approved: false })
                .await?)
        }
        // Before GitHub is asked anything: who has signed in there would be sent on without seeing a page.
        None => super::consent::show(asked, client, ask, None, &[]).await,
    }
}
