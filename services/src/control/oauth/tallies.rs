//! What clients have, counted in one pass over the grants and one over the access tokens: a list of clients costs the
//! same however many it shows.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;

use super::paging::walk;
use crate::control::Error;
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::MAX_PAGE;

/// What one client has.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Access tokens that are good.
    pub(super) tokens: u64,
    /// Grants that have not ended.
    pub(super) grants: u64,
    /// When the newest of the tokens was issued.
    pub(super) last_token: Option<Timestamp>,
    /// When the oldest of the grants was made.
    pub(super) since: Option<Timestamp>,
    /// When a grant was last made or refreshed.
    pub(super) last_used: Option<Timestamp>,
    /// Its name, as the newest grant knows it.
    pub(super) name: Option<String>,
}

/// What all clients have.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    pub(super) by_client: BTreeMap<String, Tally>,
    /// Whether there was more than was looked at.
    pub(super) truncated: bool,
}

impl Tallies {
    pub(super) async fn read(server: &AuthorizationServer) -> Result<Self, Error> {
        let mut by_client: BTreeMap<String, Tally> = BTreeMap::new();
        let grants = |after| server.grants.list(Filter::All, after, MAX_PAGE);
        let more_grants = walk(grants, |grant| {
            let tally = by_client.entry(grant.client.id).or_default();
            tally.grants += 1;
            tally.since = Some(tally.since.map_or(grant.created_at, |since| since.min(grant.created_at)));
            tally.last_used = tally.last_used.max(Some(grant.used_at));
            if tally.name.is_none() {
                tally.name = grant.client.snapshot["client_name"].as_str().map(str::to_owned);
            }
            ControlFlow::Continue(())
        });
        let more_grants = more_grants.await?;
        let tokens = |after| server.grants.list_access(Filter::All, after, MAX_PAGE);
        let more_tokens = walk(tokens, |access| {
            let tally = by_client.entry(access.client_id).or_default();
            tally.tokens += 1;
            tally.last_token = tally.last_token.max(Some(access.issued_at));
            ControlFlow::Continue(())
        });
        let more_tokens = more_tokens.await?;
        Ok(Self { by_client, truncated: more_grants || more_tokens })
    }
}
