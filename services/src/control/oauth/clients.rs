//! The clients of the authorization server, however they became known.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use portcullis_layers::HostName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::events::{self, Noted};
use super::paging::{self, BOUND, Pagination, Paging, walk};
use super::tallies::{Tallies, Tally};
use super::tokens::{ListOauthTokens, TokenPage};
use crate::config::auth::AuthMode;
use crate::control::operation::{delete, get};
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::oauth::authorization_server::BROWSER_CLIENT;
use crate::oauth::clients::redirect::places;
use crate::oauth::clients::{ClientUrl, ConfiguredClient, Metadata, Registered};
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::{Document, Expect, Key, Kind, MAX_PAGE, Write};

/// How many ids of look-alikes are told.
const MAX_ALIKE: usize = 100;

/// What stands before the URL of a client in a path. No other id has it.
const ENCODED: char = '~';

/// How far back the log of events is summed up.
const STATISTICS: Duration = Duration::from_secs(30 * 24 * 3600);

const DAY: i64 = 86_400;

/// Adds the operations of clients.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthClients>();
    surface.add::<ShowOauthClient>();
    surface.add::<TokensOfOauthClient>();
    surface.add::<DeleteOauthClient>();
}

/// The id of a client. In a path, that of a client that is known by the URL of its document is `~` and the URL in
/// base64url: encoded slashes are refused on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientId(String);

/// A text that is no id of a client.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("expected the id of a client: for one that is a URL, the URL, or ~ and the URL in base64url")]
pub struct InvalidClientId;

impl ClientId {
    /// The id as the client sends it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as it can stand in a path.
    fn in_path(id: &str) -> Cow<'_, str> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if id.bytes().all(plain) {
            return Cow::Borrowed(id);
        }
        Cow::Owned(format!("{ENCODED}{}", BASE64.encode(id)))
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        let id = match text.strip_prefix(ENCODED) {
            Some(encoded) => {
                let bytes = BASE64.decode(encoded).map_err(|_| InvalidClientId)?;
                String::from_utf8(bytes).map_err(|_| InvalidClientId)?
            }
            None => text.to_owned(),
        };
        // As long as a URL may be.
        if id.is_empty() || id.len() > 2048 || id.chars().any(char::is_control) {
            return Err(InvalidClientId);
        }
        Ok(Self(id))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Self::in_path(&self.0))
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ClientId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ClientId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

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
    /// How many access tokens it has that are good.
    pub token_count: u64,
    /// How many grants it has that have not ended.
    pub grant_count: u64,
    /// When the newest of these tokens was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_token_issued: Option<Timestamp>,
    /// When it was last given or refreshed anything, as far as that is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
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

/// The clients in numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientSummary {
    /// All of them, look-alikes one by one.
    pub total_clients: u64,
    /// Those that are more than a registration that nobody has used.
    pub active_clients: u64,
    /// Registrations that nobody has used: they end within an hour.
    pub unused_clients: u64,
}

/// A page of clients.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientPage {
    /// The clients.
    pub clients: Vec<ClientEntry>,
    /// Which page.
    pub pagination: Pagination,
    /// All of them in numbers.
    pub summary: ClientSummary,
}

/// What clients are sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SortBy {
    /// When they became known.
    #[default]
    CreatedAt,
    /// When they were last used.
    LastUsed,
    /// Their name.
    ClientName,
    /// How many tokens they have.
    TokenCount,
}

/// Which end is first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The smallest, or oldest.
    Asc,
    /// The largest, or newest.
    #[default]
    Desc,
}

/// List the clients of the authorization server. Registrations that look the same are one entry.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthClients {
    /// Leave out registrations that nobody has used.
    #[serde(default = "yes")]
    #[arg(
        long,
        action = clap::ArgAction::Set,
        num_args(0..=1),
        require_equals(true),
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub active_only: bool,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::twenty")]
    #[arg(long, default_value_t = 20)]
    pub per_page: u32,
    /// What to sort by.
    #[serde(default)]
    #[arg(long, value_enum, default_value_t)]
    pub sort_by: SortBy,
    /// Which end is first.
    #[serde(default)]
    #[arg(long, value_enum, default_value_t)]
    pub order: Order,
}

const fn yes() -> bool {
    true
}

impl Operation for ListOauthClients {
    const NAME: &'static str = "list_oauth_clients";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "list"];
    const HTTP: Endpoint = get("/oauth/clients");
    const SCOPE: Access = Access::Admin;
    type Output = ClientPage;

    async fn run(self, control: &Control, _: &Context) -> Result<ClientPage, Error> {
        let server = control.oauth()?;
        let paging = Paging::new(self.page, self.per_page)?;
        let now = Timestamp::now();
        let All { mut clients, summary, truncated } = all(server, now).await?;
        clients.retain(|client| client.is_active || !self.active_only);
        sort(&mut clients, self.sort_by, self.order);
        let (clients, pagination) = paging.cut(clients, truncated);
        Ok(ClientPage { clients, pagination, summary })
    }
}

fn sort(clients: &mut [ClientEntry], by: SortBy, order: Order) {
    // A list that is read page by page must have one order: ids differ.
    clients.sort_by(|one, other| {
        let compared = match by {
            SortBy::CreatedAt => one.created_at.cmp(&other.created_at),
            SortBy::LastUsed => one.last_used.cmp(&other.last_used),
            SortBy::ClientName => {
                let name = |client: &ClientEntry| client.client_name.as_ref().map(|name| name.to_lowercase());
                name(one).cmp(&name(other))
            }
            SortBy::TokenCount => one.token_count.cmp(&other.token_count),
        };
        let compared = compared.then_with(|| one.client_id.cmp(&other.client_id));
        if order == Order::Desc { compared.reverse() } else { compared }
    });
}

/// All clients, look-alikes merged.
struct All {
    clients: Vec<ClientEntry>,
    summary: ClientSummary,
    /// Whether there are more than were looked at.
    truncated: bool,
}

async fn all(server: &AuthorizationServer, now: Timestamp) -> Result<All, Error> {
    let Tallies { mut by_client, mut truncated } = Tallies::read(server).await?;
    let mut clients = Vec::new();
    for client in server.clients.built_in() {
        let tally = by_client.remove(&client.id).unwrap_or_default();
        let name = client.metadata.client_name.clone();
        clients.push(ClientEntry { client_name: name, ..entry(&client.id, ClientKind::BuiltIn, tally) });
    }
    for document in server.mirror.store().list(Kind::Client).await? {
        let id = document.key.id.clone();
        let Ok(client) = read(document) else { continue };
        let tally = by_client.remove(&id).unwrap_or_default();
        clients.push(ClientEntry {
            client_name: client.metadata.client_name,
            created_at: client.created_at,
            ..entry(&id, ClientKind::Configured, tally)
        });
    }
    let mut alike = BTreeMap::new();
    let (mut after, mut seen, mut unused_clients) = (None, 0, 0);
    loop {
        let (page, next) = server.registrations.list(after.as_deref(), MAX_PAGE, now).await?;
        for registered in page {
            seen += 1;
            unused_clients += u64::from(registered.used_at.is_none());
            let tally = by_client.remove(&registered.client_id).unwrap_or_default();
            merge(&mut alike, look(&registered), of_registration(server, registered, tally, now));
        }
        after = next;
        if after.is_none() {
            break;
        }
        if seen >= BOUND {
            truncated = true;
            break;
        }
    }
    clients.extend(alike.into_values());
    for (id, tally) in by_client {
        let kind = kind_by_grants(&id);
        clients.push(of_grants(&id, kind, tally));
    }
    let total_clients = clients.iter().map(|client| client.count).sum();
    let active_clients = total_clients - unused_clients;
    Ok(All { clients, summary: ClientSummary { total_clients, active_clients, unused_clients }, truncated })
}

/// What a client is of which nothing but grants is known.
fn kind_by_grants(id: &str) -> ClientKind {
    match id {
        BROWSER_CLIENT => ClientKind::BuiltIn,
        id if ClientUrl::is_meant(id) => ClientKind::Document,
        _ => ClientKind::Deleted,
    }
}

fn entry(id: &str, kind: ClientKind, tally: Tally) -> ClientEntry {
    let in_path = ClientId::in_path(id);
    ClientEntry {
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
        registration_client_uri: None,
        count: 1,
        client_ids: Vec::new(),
    }
}

fn of_grants(id: &str, kind: ClientKind, tally: Tally) -> ClientEntry {
    let created_at = tally.since;
    let named = (id == BROWSER_CLIENT).then(|| "browsers on protected hosts".to_owned());
    let entry = entry(id, kind, tally);
    ClientEntry { created_at, client_name: entry.client_name.clone().or(named), ..entry }
}

fn of_registration(
    server: &AuthorizationServer,
    registered: Registered,
    tally: Tally,
    now: Timestamp,
) -> ClientEntry {
    let Registered { client_id, metadata, issued_at, used_at, expires_at } = registered;
    let uri =
        format!("{}/{client_id}", server.issuer.endpoint(crate::oauth::server::metadata::path::REGISTER));
    let last_used = tally.last_used.max(used_at);
    ClientEntry {
        client_name: metadata.client_name,
        created_at: Some(issued_at),
        expires_at: Some(expires_at),
        days_until_expiry: Some((expires_at.as_second() - now.as_second()).div_euclid(DAY)),
        is_active: used_at.is_some(),
        last_used,
        registration_client_uri: Some(uri),
        ..entry(&client_id, ClientKind::Registered, tally)
    }
}

/// What users can tell registrations apart by: the name, and where they redirect to.
fn look(registered: &Registered) -> (Option<String>, BTreeSet<String>) {
    let metadata = &registered.metadata;
    let hosts = places(&metadata.redirect_uris).into_iter().map(ToString::to_string);
    (metadata.client_name.as_ref().map(|name| name.to_lowercase()), hosts.collect())
}

/// Adds a registration to those that look the same. They come newest first: that one stands for all.
fn merge<K: Ord>(alike: &mut BTreeMap<K, ClientEntry>, look: K, client: ClientEntry) {
    let first = match alike.entry(look) {
        Entry::Vacant(place) => {
            place.insert(client);
            return;
        }
        Entry::Occupied(place) => place.into_mut(),
    };
    if first.client_ids.is_empty() {
        first.client_ids.push(first.client_id.clone());
    }
    if first.client_ids.len() < MAX_ALIKE {
        first.client_ids.push(client.client_id);
    }
    first.count += 1;
    first.is_active |= client.is_active;
    first.token_count += client.token_count;
    first.grant_count += client.grant_count;
    first.last_token_issued = first.last_token_issued.max(client.last_token_issued);
    first.last_used = first.last_used.max(client.last_used);
    // The last of them to go.
    if first.expires_at < client.expires_at {
        (first.expires_at, first.days_until_expiry) = (client.expires_at, client.days_until_expiry);
    }
}

/// Reads the document of a client.
pub(super) fn read(document: Document) -> Result<ConfiguredClient, Error> {
    let place = document.key.to_string();
    serde_json::from_value(document.value).map_err(|error| {
        tracing::warn!(%error, "{place} can't be read");
        Error::internal(error)
    })
}

/// One client, as far as it is known at all.
struct Found {
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

async fn find(server: &AuthorizationServer, id: &str, now: Timestamp) -> Result<Option<Found>, Error> {
    let filter = Filter::Client(id);
    let newest = server.grants.list(filter, None, 1).await?.items.into_iter().next();
    let last_token = server.grants.list_access(filter, None, 1).await?.items.into_iter().next();
    let tally = Tally {
        tokens: server.grants.count_access(filter).await?,
        grants: server.grants.count(filter).await?,
        last_token: last_token.map(|access| access.issued_at),
        last_used: newest.as_ref().map(|grant| grant.used_at),
        ..Tally::default()
    };
    if let Some(client) = server.clients.built_in().iter().find(|client| client.id == id) {
        let name = client.metadata.client_name.clone();
        let entry = ClientEntry { client_name: name, ..entry(id, ClientKind::BuiltIn, tally) };
        let metadata = Some(json(&client.metadata));
        return Ok(Some(Found { first_party: client.first_party, ..Found::new(entry, metadata) }));
    }
    if let Some(registered) = server.registrations.get(id, now).await? {
        let metadata = Some(json(&registered.metadata));
        let entry = of_registration(server, registered, tally, now);
        return Ok(Some(Found::new(entry, metadata)));
    }
    if let Some(document) = server.mirror.store().get(&Key::new(Kind::Client, id)).await? {
        let version = document.version;
        let client = read(document)?;
        let (first_party, introspect) = (client.first_party, client.introspect);
        let metadata = Some(json(&client.metadata));
        let entry = ClientEntry {
            client_name: client.metadata.client_name,
            created_at: client.created_at,
            ..entry(id, ClientKind::Configured, tally)
        };
        let version = Some(version);
        return Ok(Some(Found { first_party, introspect, version, ..Found::new(entry, metadata) }));
    }
    let Some(newest) = newest else { return Ok(None) };
    let metadata = Some(newest.client.snapshot).filter(|snapshot| !snapshot.is_null());
    let name = metadata.as_ref().and_then(|metadata| metadata["client_name"].as_str()).map(str::to_owned);
    let entry = of_grants(id, kind_by_grants(id), Tally { name, ..tally });
    Ok(Some(Found::new(entry, metadata)))
}

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
            "auth_complete" if event.success => {
                self.total_authorizations += 1;
                self.last_authorization = self.last_authorization.or_else(|| event.at());
            }
            "auth_complete" | "auth_request" => self.failed_authorizations += 1,
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

/// All that is known of a client.
pub(super) async fn details(control: &Control, id: &str) -> Result<ClientDetails, Error> {
    let server = control.oauth()?;
    let now = Timestamp::now();
    let found = find(server, id, now).await?.ok_or_else(|| not_found(id))?;
    let Found { entry: client, metadata, first_party, introspect, version } = found;
    let mut usage_stats = UsageStats { active_tokens: client.token_count, ..UsageStats::default() };
    usage_stats.truncated = events::scan(control, events::since(STATISTICS), |event| {
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

/// The host of a resource.
pub(super) fn host_of(resource: &str) -> Option<HostName> {
    resource.parse::<http::Uri>().ok()?.host()?.parse().ok()
}

/// The name of the client of a grant, without asking anybody but the store.
pub(super) async fn name_of(
    server: &AuthorizationServer,
    id: &str,
    grant: &str,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    if let Some(client) = server.clients.built_in().iter().find(|client| client.id == id) {
        return Ok(client.metadata.client_name.clone());
    }
    if let Some(registered) = server.registrations.get(id, now).await? {
        return Ok(registered.metadata.client_name);
    }
    if ClientUrl::is_meant(id) {
        let grant = server.grants.get(grant, now).await?;
        let name = grant.and_then(|grant| grant.client.snapshot["client_name"].as_str().map(str::to_owned));
        return Ok(name);
    }
    let document = server.mirror.store().get(&Key::new(Kind::Client, id)).await?;
    Ok(document.and_then(|document| read(document).ok()?.metadata.client_name))
}

/// List the tokens of a client of the authorization server: what is known of them, never the tokens.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct TokensOfOauthClient {
    /// Its id.
    pub client_id: ClientId,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for TokensOfOauthClient {
    const NAME: &'static str = "tokens_of_oauth_client";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "tokens"];
    const HTTP: Endpoint = get("/oauth/clients/{client_id}/tokens");
    const SCOPE: Access = Access::Admin;
    type Output = TokenPage;

    async fn run(self, control: &Control, ctx: &Context) -> Result<TokenPage, Error> {
        let id = self.client_id.as_str();
        find(control.oauth()?, id, Timestamp::now()).await?.ok_or_else(|| not_found(id))?;
        let Self { client_id, page, per_page } = self;
        let client_id = Some(client_id.0);
        ListOauthTokens { token_type: None, username: None, client_id, page, per_page }
            .run(control, ctx)
            .await
    }
}

/// Delete a client of the authorization server, and end all that it was given. A client that is known by the URL of
/// its document can ask its users again; it loses what it has.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteOauthClient {
    /// Its id.
    pub client_id: ClientId,
}

impl Operation for DeleteOauthClient {
    const NAME: &'static str = "delete_oauth_client";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "delete"];
    const HTTP: Endpoint = delete("/oauth/clients/{client_id}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.client_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let server = control.oauth()?;
        let id = self.client_id.as_str();
        let now = Timestamp::now();
        if is_built_in(server, id) {
            let why =
                format!("{id:?} is a part of portcullis: end its grants one by one, or those of a user");
            return Err(Error::Conflict(why));
        }
        let key = Key::new(Kind::Client, id);
        let document = server.mirror.store().get(&key).await?;
        let version = document.as_ref().map(|document| document.version);
        check_match(ctx, id, version)?;
        let filter = Filter::Client(id);
        let granted = server.grants.count(filter).await?;
        // The client goes first: then it can be given nothing more while its grants are looked for.
        let known = match version {
            Some(version) => {
                let expect = Expect::Version(version);
                control.commit(vec![Write::Delete { key, expect }]).await?;
                true
            }
            None => server.registrations.end(id, now).await?,
        };
        let left = server.end_grants(filter, now).await?;
        let consents = server.consents.forget_all(filter).await?;
        // Of one that went before, but did not get this far, the rest is ended now.
        if !known && left == 0 && consents == 0 {
            return Err(not_found(id));
        }
        let also = vec![format!("{} grants ended", granted.max(left as u64))];
        Ok(Done { also, ..Done::new("deleted", id) })
    }
}

/// Whether no administrator can change or delete a client.
pub(super) fn is_built_in(server: &AuthorizationServer, id: &str) -> bool {
    id == BROWSER_CLIENT || server.clients.built_in().iter().any(|client| client.id == id)
}

/// Whether a caller's `If-Match` holds.
pub(super) fn check_match(ctx: &Context, id: &str, version: Option<u64>) -> Result<(), Error> {
    match (ctx.if_match, version) {
        (Some(expected), Some(actual)) if expected != actual => {
            Err(Error::Stale { what: "OAuth client", id: id.to_owned(), expected, actual })
        }
        _ => Ok(()),
    }
}

pub(super) fn not_found(id: &str) -> Error {
    Error::NotFound { what: "OAuth client", id: id.to_owned() }
}

#[cfg(test)]
mod tests;
