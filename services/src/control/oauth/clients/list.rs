//! All clients: pages of them, sorted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alike::{look, merge};
use super::entry::ClientEntry;
use super::read;
use crate::control::oauth::noted;
use crate::control::oauth::paging::{self, BOUND, Pagination, Paging};
use crate::control::oauth::tallies::Tallies;
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};
use crate::oauth::AuthorizationServer;
use crate::store::{Kind, MAX_PAGE};

/// How far back registrations are looked for that have ended.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// The clients in numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientSummary {
    /// All of them, look-alikes one by one.
    pub total_clients: u64,
    /// Those that are more than a registration that nobody has used.
    pub active_clients: u64,
    /// Registrations that nobody has used: they end within an hour.
    pub unused_clients: u64,
    /// Registrations of the last 24 hours that have ended by themselves, going by the log of events: nothing is kept
    /// of them. Absent when there are more registrations than are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired_clients: Option<u64>,
    /// Set when there were more events than are looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
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
        let All { mut clients, summary, truncated } = all(control, server, now).await?;
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

async fn all(control: &Control, server: &AuthorizationServer, now: Timestamp) -> Result<All, Error> {
    // Before the registrations: what is made meanwhile must not seem to have ended.
    let (mut gone, more_events) = recently_registered(control).await?;
    let Tallies { mut by_client, truncated } = Tallies::read(server).await?;
    let mut clients = Vec::new();
    for client in server.clients.built_in() {
        let tally = by_client.remove(&client.id).unwrap_or_default();
        clients.push(ClientEntry::of_built_in(client, tally));
    }
    for document in server.mirror.store().list(Kind::Client).await? {
        let id = document.key.id.clone();
        let Ok(client) = read(document) else { continue };
        let tally = by_client.remove(&id).unwrap_or_default();
        clients.push(ClientEntry::of_configured(&id, client, tally));
    }
    let mut alike = BTreeMap::new();
    let (mut after, mut seen, mut unused_clients, mut more_registrations) = (None, 0, 0, false);
    loop {
        let (page, next) = server.registrations.list(after.as_deref(), MAX_PAGE, now).await?;
        for registered in page {
            seen += 1;
            gone.remove(&registered.client_id);
            unused_clients += u64::from(registered.used_at.is_none());
            let tally = by_client.remove(&registered.client_id).unwrap_or_default();
            let look = look(&registered);
            merge(&mut alike, look, ClientEntry::of_registration(server, registered, tally, now));
        }
        after = next;
        if after.is_none() {
            break;
        }
        if seen >= BOUND {
            more_registrations = true;
            break;
        }
    }
    clients.extend(alike.into_values());
    clients.extend(by_client.into_iter().map(|(id, tally)| ClientEntry::of_grants(&id, tally)));
    let total_clients = clients.iter().map(|client| client.count).sum();
    let active_clients = total_clients - unused_clients;
    let summary = ClientSummary {
        total_clients,
        active_clients,
        unused_clients,
        expired_clients: (!more_registrations).then_some(gone.len() as u64),
        truncated: more_events || more_registrations,
    };
    Ok(All { clients, summary, truncated: truncated || more_registrations })
}

/// The clients that registered in the last 24 hours and were not deleted, and whether there was more in the log.
async fn recently_registered(control: &Control) -> Result<(BTreeSet<String>, bool), Error> {
    let (mut registered, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    let more = noted::scan(control, noted::since(RECENT), |event| {
        match event.event_type.as_ref() {
            // Newest first: who was deleted is known before it is found to have registered.
            "client_deletion" if event.success => {
                deleted.insert(event.client_id.to_string());
            }
            "client_registration" if event.success && !deleted.contains(event.client_id.as_ref()) => {
                registered.insert(event.client_id.to_string());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok((registered, more))
}
