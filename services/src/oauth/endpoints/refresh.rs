//! `/token` for a refresh token (OAuth 2.1, section 4.3): what the lists still give.

use portcullis_layers::Check;

use super::token::grant_error;
use super::wanted::found;
use super::{Asked, unavailable};
use crate::oauth::audiences::{AudienceHost, Audiences};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::{Client, Origin};
use crate::oauth::grants::{self, Issued, Wanted};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::resource::narrowed;
use crate::oauth::server::scope::Scopes;
use crate::oauth::state::Scopes as ScopeSet;

/// Further tokens of a grant.
pub(super) async fn refresh(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    token: &str,
    scope: Option<&Scopes>,
    resources: &[String],
) -> Result<Issued, OAuthError> {
    let server = &asked.server;
    let known = server.grants.of_refresh(token, asked.now).await.map_err(|error| unavailable(&error))?;
    let scopes: Option<ScopeSet> = scope.map(|scope| scope.iter().map(str::to_owned).collect());
    let (scopes, resources) = match known {
        Some(grant) if grant.client.id == client.id => {
            let resources = narrowed(resources, &grant.resources)?;
            (Some(still_given(asked, audiences, &grant, scopes, &resources).await?), resources)
        }
        // Whatever it is, `refresh` refuses it in the right way.
        _ => (scopes, Vec::new()),
    };
    let wanted = Wanted { scopes: scopes.as_ref(), resources: &resources };
    let issued = server
        .grants
        .refresh(token, &client.id, wanted, asked.now)
        .await
        .map_err(|error| grant_error(&error))?;
    if client.origin == Origin::Registered {
        let used = server.clients.used(client, asked.now).await.map_err(|error| unavailable(&error))?;
        if !used {
            return Err(OAuthError::new(ErrorCode::InvalidClient, "the client's registration has ended"));
        }
    }
    Ok(issued)
}

/// The scopes that the lists of the wanted resources still give to the person of a grant, of those that are wanted.
/// The grant keeps its own: who is on a list again has them again. Who is on no list of the grant's resources any
/// more gets no further tokens: the grant ends.
async fn still_given(
    asked: &Asked,
    audiences: &Audiences,
    grant: &grants::Grant,
    wanted: Option<ScopeSet>,
    resources: &[String],
) -> Result<ScopeSet, OAuthError> {
    let wanted = wanted.unwrap_or_else(|| grant.scopes.clone());
    // Before the token is rotated, and nothing ends: the host may be away for a while only.
    let hosts = found(audiences, resources)?;
    let Some(identity) = &grant.identity else { return Ok(wanted) };
    if !asked.owns_login(identity).await? {
        let why = "nobody knows whether this login is still that account's: sign in again";
        return Err(OAuthError::new(ErrorCode::InvalidGrant, why));
    }
    let who = |host: &AudienceHost| asked.principal_at(host, identity);
    let admits = |host: &AudienceHost| host.admits(&who(host));
    let admitting: Vec<&AudienceHost> = hosts.iter().filter(|host| admits(host)).collect();
    let about = || Event {
        resources,
        client_id: Some(&grant.client.id),
        subject: Some(&identity.subject),
        username: Some(&identity.login),
        ..Event::default()
    };
    if admitting.is_empty() {
        let stranger =
            |code, why: &'static str| asked.failed(Check::User.as_str(), OAuthError::new(code, why), about());
        if hosts.iter().any(|host| !asked.knows_groups(host, identity)) {
            // The lists say nothing about who is in which group now: it is for the next login to tell.
            let why = "the groups of this account were asked for too long ago: sign in again";
            return Err(OAuthError::new(ErrorCode::InvalidGrant, why));
        }
        if found(audiences, &grant.resources)?.iter().any(admits) {
            let why = "this account is not on a list of the resource";
            return Err(stranger(ErrorCode::InvalidTarget, why));
        }
        asked.server.grants.revoke(&grant.id, asked.now).await.map_err(|error| unavailable(&error))?;
        let why = "this account is no longer on a list of the resource";
        return Err(stranger(ErrorCode::InvalidGrant, why));
    }
    let is_given = |scope: &String| admitting.iter().any(|host| host.gives(&who(host), scope));
    // What was never granted stays: `refresh` refuses it.
    let given: ScopeSet =
        wanted.iter().filter(|scope| !grant.scopes.contains(*scope) || is_given(scope)).cloned().collect();
    if given.is_empty() && !wanted.is_empty() {
        let why = "this account may have none of these scopes any more";
        let error = OAuthError::new(ErrorCode::InvalidScope, why);
        return Err(asked.failed(Check::Scope.as_str(), error, about()));
    }
    Ok(given)
}
