//! Clients that an administrator set up: documents of kind [`Kind::Client`], named by their id.
//!
//! The secret is made here, shown once and kept as a hash. What lists and changes these documents are operations.

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::metadata::{InvalidMetadata, Metadata, Source};
use super::registration::PREFIX;
use super::secret::Hashed;
use super::{Client, Origin, new_secret};
use crate::store::{self, Expect, Key, Kind, Store, Write};

/// The longest id.
const MAX_ID: usize = 128;

/// The document of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfiguredClient {
    /// What is in effect.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// Whether it is a part of this deployment, so that its users need not be asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_party: bool,
    /// Whether it is a resource server of this deployment, which may introspect all access tokens (RFC 7662). It
    /// has to have a secret or a key: one that can't prove who it is may not introspect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub introspect: bool,
    /// When it was set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Who did that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_sha256: Option<Hashed>,
}

/// Why a client can't be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClient {
    /// An id that needs encoding somewhere, or that means another kind of client.
    #[error(
        "a client id must have 1 to {MAX_ID} letters, digits, '.', '_' or '-', and not begin with {PREFIX}"
    )]
    Id,
    /// What the client is to have.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
}

impl ConfiguredClient {
    /// A new client, with its secret if its method needs one.
    ///
    /// # Errors
    ///
    /// See [`InvalidMetadata`].
    pub fn new(
        fields: &Map<String, Value>,
        first_party: bool,
    ) -> Result<(Self, Option<SecretString>), InvalidMetadata> {
        let metadata = Metadata::read(fields, Source::Configuration)?;
        let mut client = Self {
            metadata,
            first_party,
            introspect: false,
            created_at: None,
            created_by: None,
            secret_sha256: None,
        };
        let secret = client.renew_secret();
        Ok((client, secret))
    }

    /// Whether it has a secret.
    pub const fn has_secret(&self) -> bool {
        self.secret_sha256.is_some()
    }

    /// Replaces the secret; the old one is good no more. None if the method needs none.
    pub fn renew_secret(&mut self) -> Option<SecretString> {
        let secret = new_secret(&self.metadata);
        self.secret_sha256 = secret.as_ref().map(|secret| Hashed::of(secret.expose_secret()));
        secret
    }

    /// The step that stores the client.
    ///
    /// # Errors
    ///
    /// When the id can't be one.
    pub fn put(&self, id: &str, expect: Expect) -> Result<Write, InvalidClient> {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if id.is_empty() || id.len() > MAX_ID || id.starts_with(PREFIX) || !id.bytes().all(fine) {
            return Err(InvalidClient::Id);
        }
        let value = serde_json::to_value(self).expect("texts and flags serialise");
        Ok(Write::Put { key: Key::new(Kind::Client, id), value, expect })
    }

    /// Reads a client.
    ///
    /// # Errors
    ///
    /// When the store fails, or holds something else under this name.
    pub async fn find(store: &dyn Store, id: &str) -> store::Result<Option<Client>> {
        if id.is_empty() || id.len() > MAX_ID {
            return Ok(None);
        }
        let key = Key::new(Kind::Client, id);
        let Some(document) = store.get(&key).await? else { return Ok(None) };
        let client = Self::deserialize(&document.value)
            .map_err(|error| store::Error::Corrupt { place: key.to_string(), source: Box::new(error) })?;
        Ok(Some(Client {
            id: id.to_owned(),
            origin: Origin::Configured,
            metadata: Arc::new(client.metadata),
            first_party: client.first_party,
            introspects: client.introspect,
            secret: client.secret_sha256,
            // Administrators type id and secret into clients that choose for themselves how to send them.
            any_secret_method: true,
        }))
    }
}
