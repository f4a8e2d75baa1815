//! Enterprise-managed authorization: an identity provider of the client's organisation has asserted who its user
//! is and what the client may do for them here, and the client asks for a token (RFC 7523, section 2.1;
//! draft-ietf-oauth-identity-assertion-authz-grant).
//!
//! The token is ours, and its subject is `ISSUER/USER`: lists of users name such people like those of any other
//! issuer, and neither a plain name nor `*` means them. The assertion is a ceiling only; what the lists and the
//! client's registration don't give stays closed. No refresh token: the provider is asked again.

use portcullis_layers::{Check, Principal};

use super::token::grant_error;
use super::wanted::{found, wanted};
use super::{Asked, unavailable};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::Client;
use crate::oauth::clients::assertion::AssertionError;
use crate::oauth::clients::id_jag::IdJag;
use crate::oauth::grants::{self, Issued, NewGrant, Wanted, new_id};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::resource::{Resource, among};
use crate::oauth::server::scope::Scopes;

/// A token for an assertion.
pub(super) async fn issue(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    assertion: &str,
    scope: Option<&Scopes>,
    resources: &[String],
) -> Result<Issued, OAuthError> {
    if client.is_public() {
        let why = "a client that can't prove who it is may not present assertions";
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
    }
    let server = &asked.server;
    let issuer = server.issuer.as_str();
    let trusted = &server.settings.assertion_issuers;
    let said = server.assertions.verify_id_jag(trusted, issuer, &client.id, assertion, asked.now).await;
    let said = said.map_err(|error| refused(asked, client, &error))?;
    let ceiling = said.scope.as_deref().map(Scopes::parse).transpose()?;
    let (resources, scopes) = within(asked, audiences, client, &said, ceiling.as_ref(), scope, resources)?;
    let who = Principal { issuer: issuer.into(), subject: said.subject().into(), ..Principal::default() };
    let hosts = found(audiences, &resources)?;
    if let Some(closed) = hosts.iter().find(|host| !host.admits(&who)) {
        let why = format!("this user is not on the list of {}", closed.resource);
        let error = OAuthError::new(ErrorCode::InvalidGrant, why);
        let about = Event {
            resources: &resources,
            client_id: Some(&client.id),
            subject: Some(&who.subject),
            ..Event::default()
        };
        return Err(asked.failed(Check::User.as_str(), error, about));
    }
    let scopes = scopes.only(|scope| hosts.iter().any(|host| host.gives(&who, scope)));
    let new = NewGrant {
        id: new_id(),
        subject: said.subject(),
        identity: None,
        client: grants::Client { id: client.id.clone(), snapshot: serde_json::Value::Null },
        resources,
        scopes: scopes.iter().map(str::to_owned).collect(),
        session: None,
        refreshable: false,
    };
    server.grants.create(new, Wanted::default(), asked.now).await.map_err(|error| grant_error(&error))
}

/// What is asked for, or else what the assertion says, and never more than that.
fn within(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    said: &IdJag,
    ceiling: Option<&Scopes>,
    scope: Option<&Scopes>,
    resources: &[String],
) -> Result<(Vec<String>, Scopes), OAuthError> {
    let named = match &said.resources {
        Some(said) if resources.is_empty() => said,
        _ => resources,
    };
    let (resources, scopes) = wanted(asked, audiences, client, named, scope.or(ceiling))?;
    if let Some(said) = &said.resources {
        let said = among(said.iter().map(String::as_str));
        if resources.iter().any(|own| Resource::parse(own).ok().and_then(|own| said(&own)).is_none()) {
            let why = "the assertion is not for this resource";
            return Err(OAuthError::new(ErrorCode::InvalidTarget, why));
        }
    }
    let Some(ceiling) = ceiling else { return Ok((resources, scopes)) };
    let cut = scopes.only(|scope| ceiling.contains(scope));
    if cut.is_empty() && !scopes.is_empty() {
        return Err(OAuthError::new(ErrorCode::InvalidScope, "the assertion gives none of these scopes"));
    }
    Ok((resources, cut))
}

/// RFC 7523, section 3.1. Why exactly is for the log: whoever forges assertions need not know.
fn refused(asked: &Asked, client: &Client, error: &AssertionError) -> OAuthError {
    match error {
        AssertionError::Store(error) => unavailable(error),
        AssertionError::Keys(_) => {
            tracing::warn!(error = error as &dyn std::error::Error, "an issuer of assertions can't be asked");
            let why = "the keys of the issuer can't be had at the moment";
            OAuthError::new(ErrorCode::TemporarilyUnavailable, why)
        }
        error => {
            tracing::info!(reason = error as &dyn std::error::Error, "an assertion was refused");
            let check = match error {
                AssertionError::Audience => Check::Audience,
                error if error.is_unreadable() => Check::Decode,
                _ => Check::Token,
            };
            let why = error.to_string();
            let about = Event { client_id: Some(&client.id), detail: Some(&why), ..Event::default() };
            let answer = OAuthError::new(ErrorCode::InvalidGrant, "the assertion is not good here");
            asked.failed(check.as_str(), answer, about)
        }
    }
}
