//! What clients have, counted in one pass over the grants and one over the access tokens: a list of clients costs the
//! same however many it shows.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;

use super::paging::walk;
use crate::control::Error;
use crate::oauth::grants::Grant;
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
    /// How often it was given tokens by these grants: at first, and at each use of a refresh token.
    pub(super) uses: u64,
    /// Its name, as the newest grant knows it.
    pub(super) name: Option<String>,
}

impl Tally {
    /// Adds a grant. They come newest first.
    pub(super) fn add(&mut self, grant: &Grant) {
        self.grants += 1;
        self.since = Some(self.since.map_or(grant.created_at, |since| since.min(grant.created_at)));
        self.last_used = self.last_used.max(Some(grant.used_at));
        self.uses = self.uses.saturating_add(grant.rotations).saturating_add(1);
        if self.name.is_none() {
            self.name = grant.client.snapshot["client_name"].as_str().map(str::to_owned);
        }
    }
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
        let more_grants = walk(grants, |grant: Grant| {
            by_client.entry(grant.client.id.clone()).or_default().add(&grant);
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
