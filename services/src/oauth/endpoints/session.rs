//! Who has signed in, in the browser that asks.

use secrecy::ExposeSecret;

use super::{Asked, unavailable};
use crate::oauth::server::cookies;
use crate::oauth::server::error::OAuthError;
use crate::oauth::sessions::Session;

/// The session of the browser at the issuer.
pub(super) async fn current_session(asked: &Asked) -> Result<Option<Session>, OAuthError> {
    let Some(secret) = cookies::read(&asked.headers, cookies::SESSION) else { return Ok(None) };
    let found = asked.server.sessions.find(secret.expose_secret(), asked.now).await;
    match found.map_err(|error| unavailable(&error))? {
        // An account that was renamed since, or whose login a list means for another one, has to sign in again.
        Some(session) if !asked.owns_login(&session.identity).await? => Ok(None),
        found => Ok(found),
    }
}
