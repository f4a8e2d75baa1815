//! What becomes of the token that GitHub gives at a login: it is ended, unless the host that the login is for wants it.

use portcullis_layers::HostName;

use super::{Asked, unavailable};
use crate::oauth::audiences::AudienceHost;
use crate::oauth::authorization_server::Event;
use crate::oauth::github::{App, Token};
use crate::oauth::server::error::OAuthError;
use crate::oauth::sessions::Session;
use crate::oauth::state::Identity;
use crate::oauth::upstream_tokens::{Given, KeepError};

/// Somebody who has come back from GitHub.
pub(super) struct SignedIn {
    pub(super) identity: Identity,
    pub(super) app: App,
    pub(super) token: Token,
}

/// Keeps the token for the host whose app was asked, if it wants it and its lists let the user in; ends it otherwise.
/// A login does not fail because of this: where there is no token, the next one brings it.
pub(super) async fn settle(asked: &Asked, signed_in: &SignedIn, host: Option<&HostName>, session: &Session) {
    let server = &asked.server;
    let outcome = async {
        let Some(host) = host else { return Ok(false) };
        let audiences = server.audiences().await?;
        let Some(found) = audiences.of_host(host).filter(wants_token) else { return Ok(false) };
        if !found.admits(&asked.principal_at(&found, &signed_in.identity)) {
            return Ok(false);
        }
        let SignedIn { identity, app, token } = signed_in;
        let given = Given { host, identity, session: &session.id, app, token };
        let replaced = server.upstream_tokens.keep(given, asked.now).await?;
        server.finish_upstream_tokens(replaced.into_iter().collect());
        server.note(&Event {
            host: Some(host.as_str()),
            subject: Some(&identity.subject),
            username: Some(&identity.login),
            ..asked.event("upstream_token_kept", None)
        });
        Ok::<_, KeepError>(true)
    };
    match outcome.await {
        Ok(true) => {}
        Ok(false) => give_back(asked, signed_in).await,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a token of GitHub's is not kept");
            give_back(asked, signed_in).await;
        }
    }
}

/// Ends the token.
pub(super) async fn give_back(asked: &Asked, signed_in: &SignedIn) {
    end(asked, &signed_in.app, &signed_in.token).await;
}

/// Ends a token of an app.
pub(super) async fn end(asked: &Asked, app: &App, token: &Token) {
    if let Err(error) = asked.server.github.revoke(app, token).await {
        tracing::info!(error = &error as &dyn std::error::Error, "a token of GitHub's was not ended");
    }
}

fn wants_token(host: &AudienceHost) -> bool {
    host.proxy.as_ref().is_some_and(|proxy| proxy.oauth_vault_upstream_token)
}

impl Asked {
    /// A session as far as it is of use for a host: where that wants GitHub's token and has none, its user has to go to
    /// GitHub once more, where nobody asks who has agreed before.
    pub(super) async fn with_upstream_token(
        &self,
        session: Option<Session>,
        host: Option<&AudienceHost>,
    ) -> Result<Option<Session>, OAuthError> {
        let Some(found) = host else { return Ok(session) };
        let Some(session) = session else { return Ok(None) };
        let (Some(host), Some(proxy)) = (&found.host, &found.proxy) else { return Ok(Some(session)) };
        let who = self.principal_at(found, &session.identity);
        // Who may not use the host is told so without a way there and back.
        if !found.admits(&who) {
            return Ok(Some(session));
        }
        let lacks = self.server.lacks_upstream_token(host, proxy, &session.identity.subject).await;
        Ok((!lacks.map_err(|error| unavailable(&error))?).then_some(session))
    }
}
