//! `/token` for a code (OAuth 2.1, section 4.1.3).

use super::answer::Login;
use super::checks::PKCE_VALIDATION;
use super::token::grant_error;
use super::wanted::found;
use super::{Asked, unavailable};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::{Client, GrantType};
use crate::oauth::codes::{Fresh, Mismatch, Presented};
use crate::oauth::grants::{self, Issued, NewGrant, Wanted};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::resource::narrowed;

/// What a code is redeemed with.
pub(super) struct Proof<'a> {
    pub(super) code: &'a str,
    pub(super) redirect_uri: Option<&'a str>,
    pub(super) verifier: &'a str,
}

/// Tokens for a code.
pub(super) async fn redeem(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    proof: Proof<'_>,
    resources: &[String],
) -> Result<(Issued, Login), OAuthError> {
    let server = &asked.server;
    let invalid = |why: String| OAuthError::new(ErrorCode::InvalidGrant, why);
    let presented = server.codes.find(proof.code, asked.now).await.map_err(|error| unavailable(&error))?;
    let Fresh { authorization, used } = match presented {
        Presented::Fresh(fresh) => *fresh,
        Presented::Replayed { grant } => return Err(replayed(asked, &grant).await),
        Presented::Unknown => return Err(invalid("the code is not known, or has expired".to_owned())),
    };
    if let Err(mismatch) = authorization.check(&client.id, proof.redirect_uri, proof.verifier) {
        // Nobody is to try verifiers on it.
        server.codes.take(proof.code, asked.now).await.map_err(|error| unavailable(&error))?;
        let error = invalid(mismatch.to_string());
        if mismatch != Mismatch::Verifier {
            return Err(error);
        }
        let about = Event {
            resources: &authorization.resources,
            client_id: Some(&client.id),
            subject: Some(&authorization.identity.subject),
            username: Some(&authorization.identity.login),
            ..Event::default()
        };
        return Err(asked.failed(PKCE_VALIDATION, error, about));
    }
    let wanted = narrowed(resources, &authorization.resources)?;
    // Before the code is used up: a host that is away for a while costs nobody a login.
    found(audiences, &wanted)?;
    let login = Login {
        nonce: authorization.nonce,
        authenticated_at: Some(authorization.authenticated_at),
        issued_token_type: None,
    };
    let id = authorization.grant.clone();
    let new = NewGrant {
        id: authorization.grant,
        subject: authorization.identity.subject.clone(),
        identity: Some(authorization.identity),
        client: grants::Client { id: authorization.client_id, snapshot: authorization.client },
        resources: authorization.resources,
        scopes: authorization.scopes,
        session: authorization.session,
        refreshable: client.may(GrantType::RefreshToken),
    };
    let wanted = Wanted { scopes: None, resources: &wanted };
    match server.grants.create_with(new, wanted, Some(used), asked.now).await {
        Ok(issued) => Ok((issued, login)),
        Err(grants::Error::Taken) => Err(replayed(asked, &id).await),
        Err(error) => Err(grant_error(&error)),
    }
}

/// Ends what a code has yielded that came twice.
async fn replayed(asked: &Asked, grant: &str) -> OAuthError {
    match asked.server.grants.forbid(grant, asked.now).await {
        Ok(()) => grant_error(&grants::Error::Taken),
        Err(error) => unavailable(&error),
    }
}
