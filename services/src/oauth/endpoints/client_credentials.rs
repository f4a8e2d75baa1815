//! `/token` for a client itself (OAuth 2.1, section 4.2).

use portcullis_layers::{Check, Principal};

use super::Asked;
use super::token::grant_error;
use super::wanted::{found, wanted};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::Event;
use crate::oauth::claims::SERVICE;
use crate::oauth::clients::Client;
use crate::oauth::grants::{self, Issued, NewGrant, Wanted, new_id};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::scope::Scopes;

/// The client is its own subject, and gets what it is registered for.
pub(super) async fn issue(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    scope: Option<&Scopes>,
    resources: &[String],
) -> Result<Issued, OAuthError> {
    if client.is_public() {
        let why = "a client that can't prove who it is gets no token of its own";
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
    }
    let (resources, scopes) = wanted(asked, audiences, client, resources, scope)?;
    // As lists of users have it. No named token has a slash in its name, so none is mistaken for a client.
    let subject = format!("{SERVICE}client/{}", client.id);
    let who = Principal { subject: subject.as_str().into(), ..Principal::default() };
    let hosts = found(audiences, &resources)?;
    if let Some(closed) = hosts.iter().find(|host| !host.admits(&who)) {
        let why = format!("{subject} is not on the list of {}", closed.resource);
        let error = OAuthError::new(ErrorCode::UnauthorizedClient, why);
        let about = Event {
            resources: &resources,
            client_id: Some(&client.id),
            subject: Some(&subject),
            ..Event::default()
        };
        return Err(asked.failed(Check::User.as_str(), error, about));
    }
    let given = scopes.only(|scope| hosts.iter().any(|host| host.gives(&who, scope)));
    if given.is_empty() && !scopes.is_empty() {
        return Err(OAuthError::new(ErrorCode::InvalidScope, "the client may have none of these scopes"));
    }
    let new = NewGrant {
        id: new_id(),
        subject,
        identity: None,
        client: grants::Client { id: client.id.clone(), snapshot: serde_json::Value::Null },
        resources,
        scopes: given.iter().map(str::to_owned).collect(),
        session: None,
        refreshable: false,
    };
    asked.server.grants.create(new, Wanted::default(), asked.now).await.map_err(|error| grant_error(&error))
}
