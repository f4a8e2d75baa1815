//! What an authorization ends with: a code for the client, a question to the user, or a refusal.

use bytes::Bytes;
use http::Response;
use portcullis_layers::Check;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::wanted::found;
use super::{Asked, consent, unavailable};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::redirect::Place;
use crate::oauth::clients::{Client, Origin};
use crate::oauth::codes::Authorization;
use crate::oauth::consents;
use crate::oauth::grants::new_id;
use crate::oauth::login::Ask;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::scope::Scopes;
use crate::oauth::sessions::Session;
use crate::oauth::state::{Identity, Scopes as ScopeSet};

/// Who has signed in, and whether they have agreed to what is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signed<'a> {
    /// They signed in some time before, and were not asked yet.
    Before(&'a Session),
    /// They have just agreed.
    Agreed(&'a Session),
}

/// Decides on what a client asks a user for. An error goes back to the client.
pub(super) async fn answer(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    ask: Ask,
    signed: Signed<'_>,
    silent: bool,
) -> Result<Response<Bytes>, OAuthError> {
    let (session, agreed) = match signed {
        Signed::Before(session) => (session, false),
        Signed::Agreed(session) => (session, true),
    };
    let wish = Wish { client_id: &ask.client_id, resources: &ask.resources, scopes: &ask.scopes };
    let scopes = granted(asked, audiences, wish, &session.identity)?;
    let scope_set: ScopeSet = scopes.iter().map(str::to_owned).collect();
    let (redirect_host, memorable) = redirect_host(client, &ask.redirect_uri)?;
    let request = consents::Request {
        subject: &session.identity.subject,
        client_id: &client.id,
        redirect_host: &redirect_host,
        resources: &ask.resources,
        scopes: &scope_set,
        memorable,
    };
    if !agreed && !is_trusted(client, &ask.redirect_uri) {
        let missing = asked.server.consents.missing(&request, asked.now).await;
        let missing = missing.map_err(|error| unavailable(&error))?;
        if ask.ask_again || !missing.is_empty() {
            if silent {
                return Err(OAuthError::new(ErrorCode::ConsentRequired, "the user has to agree"));
            }
            let is_new = |scope: &str| missing.iter().any(|missing| missing.scopes.contains(scope));
            let allowed: Vec<String> =
                scopes.iter().filter(|scope| !is_new(scope)).map(str::to_owned).collect();
            return consent::show(asked, client, Ask { scopes, ..ask }, Some(session), &allowed).await;
        }
    }
    if agreed {
        asked.server.consents.remember(&request, asked.now).await.map_err(|error| unavailable(&error))?;
    }
    issue(asked, client, &ask, session, scope_set).await
}

/// What a client wants of a user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) client_id: &'a str,
    pub(super) resources: &'a [String],
    pub(super) scopes: &'a Scopes,
}

/// The scopes that the lists of the resources' hosts give to a user, of those that were asked for.
pub(super) fn granted(
    asked: &Asked,
    audiences: &Audiences,
    wish: Wish<'_>,
    identity: &Identity,
) -> Result<Scopes, OAuthError> {
    let hosts = found(audiences, wish.resources)?;
    let known: Vec<_> = hosts.iter().map(|host| (host, asked.principal_at(host, identity))).collect();
    if let Some((closed, _)) = known.iter().find(|(host, who)| !host.admits(who)) {
        let why = format!("this account is not on the list of {}", closed.resource);
        let error = OAuthError::new(ErrorCode::AccessDenied, why);
        asked.server.note(&Event {
            resources: wish.resources,
            client_id: Some(wish.client_id),
            subject: Some(&identity.subject),
            username: Some(&identity.login),
            ..asked.event("user_check", Some(&error))
        });
        return Err(error);
    }
    let given = wish.scopes.only(|scope| known.iter().any(|(host, who)| host.gives(who, scope)));
    if given.is_empty() && !wish.scopes.is_empty() {
        let error = OAuthError::new(ErrorCode::AccessDenied, "this account may have none of these scopes");
        let about = Event {
            resources: wish.resources,
            client_id: Some(wish.client_id),
            subject: Some(&identity.subject),
            username: Some(&identity.login),
            ..Event::default()
        };
        return Err(asked.failed(Check::Scope.as_str(), error, about));
    }
    Ok(given)
}

/// Whether nobody is asked: the client is a part of this deployment, and its codes go to a host and not to whichever
/// program listens on the user's machine or has taken a scheme there (RFC 8252, section 8.6).
pub(super) fn is_trusted(client: &Client, requested: &str) -> bool {
    client.first_party && client.redirect(requested).is_some_and(|uri| matches!(uri.place(), Place::Host(_)))
}

/// Whom the redirect reaches, and whether an agreement for it holds for the next time: any program on the user's
/// machine can say that it is a client there.
fn redirect_host(client: &Client, requested: &str) -> Result<(String, bool), OAuthError> {
    let gone = || OAuthError::new(ErrorCode::InvalidRequest, "redirect_uri is no longer registered");
    let place = client.redirect(requested).ok_or_else(gone)?.place();
    Ok((place.to_string(), matches!(place, Place::Host(_))))
}

/// What a grant keeps of a client. What a document says may change: it is kept as the user has agreed to it.
pub(super) fn snapshot(client: &Client) -> Value {
    match client.origin {
        Origin::Document => serde_json::to_value(&*client.metadata).expect("metadata serialises"),
        Origin::Configured | Origin::Registered => Value::Null,
    }
}

async fn issue(
    asked: &Asked,
    client: &Client,
    ask: &Ask,
    session: &Session,
    scopes: ScopeSet,
) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    if !server.clients.used(client, asked.now).await.map_err(|error| unavailable(&error))? {
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, "the client's registration has ended"));
    }
    let authorization = Authorization {
        grant: new_id(),
        client_id: client.id.clone(),
        client: snapshot(client),
        redirect_uri: ask.redirect_uri.clone(),
        resources: ask.resources.clone(),
        scopes,
        code_challenge: ask.challenge.clone(),
        identity: session.identity.clone(),
        authenticated_at: session.created_at,
        session: Some(session.id.clone()),
        nonce: ask.nonce.clone(),
    };
    let code = server.codes.issue(authorization, asked.now).await.map_err(|error| unavailable(&error))?;
    server.note(&Event {
        resources: &ask.resources,
        client_id: Some(&client.id),
        subject: Some(&session.identity.subject),
        username: Some(&session.identity.login),
        ..asked.event("auth_complete", None)
    });
    Ok(ask.target(asked.server.issuer.as_str()).code(code.expose_secret()))
}
