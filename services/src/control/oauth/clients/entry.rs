//! What lists say of a client.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::ClientId;
use crate::control::oauth::tallies::Tally;
use crate::oauth::AuthorizationServer;
use crate::oauth::authorization_server::BROWSER_CLIENT;
use crate::oauth::clients::{Client, ClientUrl, ConfiguredClient, Registered};
use crate::oauth::server::metadata::path;

const DAY: i64 = 86_400;

/// How a client became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// It is a part of portcullis.
    BuiltIn,
    /// An administrator set it up.
    Configured,
    /// It registered itself.
    Registered,
    /// Its id is the URL of its document: known here by its grants.
    Document,
    /// It has been deleted, and some of its grants have not ended yet: delete it again.
    Deleted,
}

/// A client, or several that look the same.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ClientEntry {
    /// Its id.
    pub client_id: String,
    /// The id as it can stand in a path, where that is another text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_id: Option<String>,
    /// What it calls itself. Anybody can choose any name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// How it became known.
    pub kind: ClientKind,
    /// When that was; of a document, when its oldest grant was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When its registration ends if it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// How many days that is from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_until_expiry: Option<i64>,
    /// Whether it is more than a registration that nobody has used.
    pub is_active: bool,
    /// How many access tokens it has that are good, or have ended in the last two minutes.
    pub token_count: u64,
    /// How many grants it has that have not ended.
    pub grant_count: u64,
    /// When the newest of these tokens was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_token_issued: Option<Timestamp>,
    /// When it was last given or refreshed anything, as far as that is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// How often it was given tokens by the grants that have not ended: at first, and at each use of a refresh token.
    pub usage_count: u64,
    /// Where a registration is managed by the client itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration_client_uri: Option<String>,
    /// How many registrations this stands for: they have the same name and redirect hosts.
    #[serde(skip_serializing_if = "is_one")]
    pub count: u64,
    /// Their ids, the first 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_ids: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_one(count: &u64) -> bool {
    *count == 1
}

impl ClientKind {
    /// What a client is of which nothing but grants is known.
    pub(super) fn by_grants(id: &str) -> Self {
        match id {
            BROWSER_CLIENT => Self::BuiltIn,
            id if ClientUrl::is_meant(id) => Self::Document,
            _ => Self::Deleted,
        }
    }
}

impl ClientEntry {
    fn new(id: &str, kind: ClientKind, tally: Tally) -> Self {
        let in_path = ClientId::in_path(id);
        Self {
            path_id: (in_path != id).then(|| in_path.into_owned()),
            client_id: id.to_owned(),
            client_name: tally.name,
            kind,
            created_at: None,
            expires_at: None,
            days_until_expiry: None,
            is_active: true,
            token_count: tally.tokens,
            grant_count: tally.grants,
            last_token_issued: tally.last_token,
            last_used: tally.last_used,
            usage_count: tally.uses,
            registration_client_uri: None,
            count: 1,
            client_ids: Vec::new(),
        }
    }

    /// Of a part of portcullis.
    pub(super) fn of_built_in(client: &Client, tally: Tally) -> Self {
        let client_name = client.metadata.client_name.clone();
        Self { client_name, ..Self::new(&client.id, ClientKind::BuiltIn, tally) }
    }

    /// Of one that an administrator set up.
    pub(super) fn of_configured(id: &str, client: ConfiguredClient, tally: Tally) -> Self {
        let ConfiguredClient { metadata, created_at, .. } = client;
        Self { client_name: metadata.client_name, created_at, ..Self::new(id, ClientKind::Configured, tally) }
    }

    /// Of one of which nothing but grants is known.
    pub(super) fn of_grants(id: &str, tally: Tally) -> Self {
        let created_at = tally.since;
        let named = (id == BROWSER_CLIENT).then(|| "browsers on protected hosts".to_owned());
        let entry = Self::new(id, ClientKind::by_grants(id), tally);
        Self { created_at, client_name: entry.client_name.clone().or(named), ..entry }
    }

    /// Of one that registered itself.
    pub(super) fn of_registration(
        server: &AuthorizationServer,
        registered: Registered,
        tally: Tally,
        now: Timestamp,
    ) -> Self {
        let Registered { client_id, metadata, issued_at, used_at, expires_at } = registered;
        let uri = format!("{}/{client_id}", server.issuer.endpoint(path::REGISTER));
        let last_used = tally.last_used.max(used_at);
        Self {
            client_name: metadata.client_name,
            created_at: Some(issued_at),
            expires_at: Some(expires_at),
            days_until_expiry: Some((expires_at.as_second() - now.as_second()).div_euclid(DAY)),
            is_active: used_at.is_some(),
            last_used,
            registration_client_uri: Some(uri),
            ..Self::new(&client_id, ClientKind::Registered, tally)
        }
    }
}
