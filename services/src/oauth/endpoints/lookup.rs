//! The client that a request names.

use std::time::Duration;

use super::{Asked, unavailable};
use crate::oauth::clients::{Client, LookupError};
use crate::oauth::server::error::{ErrorCode, OAuthError};

/// A client by its id.
pub(super) async fn find_client(asked: &Asked, id: &str) -> Result<Client, OAuthError> {
    asked.may_look_up(id).map_err(OAuthError::too_many)?;
    match asked.server.clients.find(id, asked.now).await {
        Ok(Some(client)) => Ok(client),
        Ok(None) => {
            Err(OAuthError::new(ErrorCode::InvalidClient, "the client is not known here: register it anew"))
        }
        Err(error @ LookupError::Document(_)) => {
            tracing::info!(error = &error as &dyn std::error::Error, "a client's document can't be used");
            Err(OAuthError::new(ErrorCode::InvalidClient, error.to_string()))
        }
        Err(LookupError::Store(error)) => Err(unavailable(&error)),
    }
}

impl Asked {
    /// Counts a look-up of a client that makes us call the host in its id, before that is done.
    ///
    /// # Errors
    ///
    /// How long to wait, when it is one too many for the network.
    pub(super) fn may_look_up(&self, client_id: &str) -> Result<(), Duration> {
        if !self.server.clients.needs_fetch(client_id, self.now) {
            return Ok(());
        }
        self.server.limits.documents.count(self.client, self.now)
    }
}
