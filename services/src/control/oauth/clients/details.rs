//! One client in full.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use portcullis_layers::HostName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::entry::ClientEntry;
use super::known::Known;
use super::{ClientId, not_found, read};
use crate::config::auth::AuthMode;
use crate::control::oauth::host_of;
use crate::control::oauth::noted::{self, Noted};
use crate::control::oauth::paging::walk;
use crate::control::oauth::tallies::Tally;
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};
use crate::oauth::authorization_server::BROWSER_CLIENT;
use crate::oauth::clients::Metadata;
use crate::oauth::grants::Grant;
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::MAX_PAGE;

/// How far back the log of events is summed up.
const STATISTICS: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a client did in the last 30 days, as far as the log of events still has it.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct UsageStats {
    /// How often it was given tokens.
    pub total_tokens_issued: u64,
    /// How many access tokens it has that are good.
    pub active_tokens: u64,
    /// How often a user let it in.
    pub total_authorizations: u64,
    /// How often that failed, or the user refused.
    pub failed_authorizations: u64,
    /// When a user last let it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_authorization: Option<Timestamp>,
    /// Set when there were more events than are looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl UsageStats {
    fn add(&mut self, event: &Noted<'_>) {
        match event.event_type.as_ref() {
            "token_exchange" | "token_refresh" if event.success => self.total_tokens_issued += 1,
            "auth_complete" | "device_complete" if event.success => {
                self.total_authorizations += 1;
                // A browser on a host gets its token with the login.
                self.total_tokens_issued += u64::from(event.client_id == BROWSER_CLIENT);
                self.last_authorization = self.last_authorization.or_else(|| event.at());
            }
            "auth_complete" | "auth_request" | "auth_callback" | "device_complete" => {
                self.failed_authorizations += 1;
            }
            _ => {}
        }
    }
}

/// A host that a client has grants for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyAssociation {
    /// The host.
    pub proxy_hostname: HostName,
    /// Whether a token is needed there.
    pub auth_enabled: bool,
    /// What happens there without one.
    pub auth_mode: AuthMode,
    /// How many grants of the client are for it.
    pub active_sessions: u64,
}

/// A client in full.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientDetails {
    /// What lists say of it.
    #[serde(flatten)]
    pub client: ClientEntry,
    /// What it says about itself (RFC 7591, section 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Whether it is a part of this deployment, so that its users are not asked.
    pub first_party: bool,
    /// Whether it may introspect all access tokens.
    pub introspect: bool,
    /// What it did.
    pub usage_stats: UsageStats,
    /// The hosts that it has grants for.
    pub proxy_associations: Vec<ProxyAssociation>,
    /// Of one that an administrator set up: grows by one with each change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_version: Option<u64>,
}

/// Show a client of the authorization server.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowOauthClient {
    /// Its id.
    pub client_id: ClientId,
}

impl Operation for ShowOauthClient {
    const NAME: &'static str = "show_oauth_client";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "show"];
    const HTTP: Endpoint = get("/oauth/clients/{client_id}");
    const SCOPE: Access = Access::Admin;
    type Output = ClientDetails;

    async fn run(self, control: &Control, _: &Context) -> Result<ClientDetails, Error> {
        details(control, self.client_id.as_str()).await
    }
}

/// One client, as far as it is known at all.
pub(super) struct Found {
    entry: ClientEntry,
    /// What it says about itself (RFC 7591).
    metadata: Option<Value>,
    first_party: bool,
    introspect: bool,
    version: Option<u64>,
}

impl Found {
    const fn new(entry: ClientEntry, metadata: Option<Value>) -> Self {
        Self { entry, metadata, first_party: false, introspect: false, version: None }
    }
}

fn json(metadata: &Metadata) -> Value {
    serde_json::to_value(metadata).expect("texts serialise")
}

pub(super) async fn find(
    server: &AuthorizationServer,
    id: &str,
    now: Timestamp,
) -> Result<Option<Found>, Error> {
    let filter = Filter::Client(id);
    let mut newest: Option<Grant> = None;
    let mut tally = Tally::default();
    let grants = |after| server.grants.list(filter, after, MAX_PAGE);
    walk(grants, |grant: Grant| {
        tally.add(&grant);
        newest.get_or_insert(grant);
        ControlFlow::Continue(())
    })
    .await?;
    let last_token = server.grants.list_access(filter, None, 1).await?.items.into_iter().next();
    let tally = Tally {
        tokens: server.grants.count_access(filter).await?,
        grants: server.grants.count(filter).await?,
        last_token: last_token.map(|access| access.issued_at),
        // What administrators set up and what registered itself has a name of its own.
        name: None,
        ..tally
    };
    Ok(Some(match Known::find(server, id, now).await? {
        Known::BuiltIn(client) => {
            let entry = ClientEntry::of_built_in(client, tally);
            let metadata = Some(json(&client.metadata));
            Found { first_party: client.first_party, ..Found::new(entry, metadata) }
        }
        Known::Registered(registered) => {
            let metadata = Some(json(&registered.metadata));
            Found::new(ClientEntry::of_registration(server, *registered, tally, now), metadata)
        }
        Known::Configured(document) => {
            let version = Some(document.version);
            let client = read(document)?;
            let (first_party, introspect) = (client.first_party, client.introspect);
            let metadata = Some(json(&client.metadata));
            let entry = ClientEntry::of_configured(id, client, tally);
            Found { first_party, introspect, version, ..Found::new(entry, metadata) }
        }
        Known::Grants(_) => {
            let Some(newest) = newest else { return Ok(None) };
            let metadata = Some(newest.client.snapshot).filter(|snapshot| !snapshot.is_null());
            let name = metadata.as_ref().and_then(|metadata| metadata["client_name"].as_str());
            let tally = Tally { name: name.map(str::to_owned), ..tally };
            Found::new(ClientEntry::of_grants(id, tally), metadata)
        }
    }))
}

/// All that is known of a client.
pub(in crate::control::oauth) async fn details(control: &Control, id: &str) -> Result<ClientDetails, Error> {
    let server = control.oauth()?;
    let now = Timestamp::now();
    let found = find(server, id, now).await?.ok_or_else(|| not_found(id))?;
    let Found { entry: client, metadata, first_party, introspect, version } = found;
    let mut usage_stats = UsageStats { active_tokens: client.token_count, ..UsageStats::default() };
    usage_stats.truncated = noted::scan(control, noted::since(STATISTICS), |event| {
        if event.client_id == id {
            usage_stats.add(event);
        }
        ControlFlow::Continue(())
    })
    .await?;
    let proxy_associations = associations(control, server, id).await?;
    Ok(ClientDetails {
        client,
        metadata,
        first_party,
        introspect,
        usage_stats,
        proxy_associations,
        config_version: version,
    })
}

async fn associations(
    control: &Control,
    server: &AuthorizationServer,
    id: &str,
) -> Result<Vec<ProxyAssociation>, Error> {
    let mut hosts: BTreeMap<HostName, u64> = BTreeMap::new();
    let grants = |after| server.grants.list(Filter::Client(id), after, MAX_PAGE);
    walk(grants, |grant| {
        let found: BTreeSet<HostName> = grant.resources.iter().filter_map(|one| host_of(one)).collect();
        for host in found {
            *hosts.entry(host).or_default() += 1;
        }
        ControlFlow::Continue(())
    })
    .await?;
    let config = control.config().await?;
    let associated = hosts.into_iter().filter_map(|(host, active_sessions)| {
        let proxy = config.proxy_of(&host)?;
        let (auth_enabled, auth_mode) = (proxy.auth_enabled, proxy.auth_mode);
        Some(ProxyAssociation { proxy_hostname: host, auth_enabled, auth_mode, active_sessions })
    });
    Ok(associated.collect())
}
