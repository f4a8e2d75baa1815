//! What is kept of a client, by its id. Nobody but the store is asked.

use jiff::Timestamp;

use super::entry::ClientKind;
use crate::control::Error;
use crate::oauth::AuthorizationServer;
use crate::oauth::clients::{Client, ConfiguredClient, Registered};
use crate::store::{Document, Key, Kind};

/// What is kept of a client.
pub(super) enum Known<'a> {
    BuiltIn(&'a Client),
    Registered(Box<Registered>),
    /// That an administrator set up.
    Configured(Document),
    /// Nothing, unless there are grants.
    Grants(ClientKind),
}

impl<'a> Known<'a> {
    pub(super) async fn find(
        server: &'a AuthorizationServer,
        id: &str,
        now: Timestamp,
    ) -> Result<Self, Error> {
        if let Some(client) = server.clients.built_in().iter().find(|client| client.id == id) {
            return Ok(Self::BuiltIn(client));
        }
        if let Some(registered) = server.registrations.get(id, now).await? {
            return Ok(Self::Registered(Box::new(registered)));
        }
        let document = server.mirror.store().get(&Key::new(Kind::Client, id)).await?;
        Ok(document.map_or_else(|| Self::Grants(ClientKind::by_grants(id)), Self::Configured))
    }
}

/// Reads the document of a client.
pub(in crate::control::oauth) fn read(document: Document) -> Result<ConfiguredClient, Error> {
    let place = document.key.to_string();
    serde_json::from_value(document.value).map_err(|error| {
        tracing::warn!(%error, "{place} can't be read");
        Error::internal(error)
    })
}

/// The name of the client of a grant, without asking anybody but the store.
pub(in crate::control::oauth) async fn name_of(
    server: &AuthorizationServer,
    id: &str,
    grant: &str,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    Ok(match Known::find(server, id, now).await? {
        Known::BuiltIn(client) => client.metadata.client_name.clone(),
        Known::Registered(registered) => registered.metadata.client_name,
        Known::Configured(document) => read(document).ok().and_then(|client| client.metadata.client_name),
        Known::Grants(ClientKind::Document) => {
            let grant = server.grants.get(grant, now).await?;
            grant.and_then(|grant| grant.client.snapshot["client_name"].as_str().map(str::to_owned))
        }
        Known::Grants(_) => None,
    })
}
