//! Sees to the tokens of GitHub's whose end nobody noticed: a host lost the option or its app, sessions and grants ended
//! by their time, GitHub could not be reached.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ends::app_of;
use crate::applied::Applied;
use crate::config::Config;
use crate::oauth::AuthorizationServer;
use crate::oauth::claims::token_id;
use crate::oauth::state::Filter;
use crate::store::{self, MAX_PAGE};

/// The lease of whoever looks.
const LEASE: &str = "upstream_tokens";

/// Longer than a look at all tokens takes; it is renewed with each page.
const LEASE_TIME: Duration = Duration::from_secs(60);

/// How often all tokens are looked at.
const LOOK: Duration = Duration::from_secs(300);

/// How soon again when something failed, or another node looks.
const AGAIN: Duration = Duration::from_secs(30);

/// Looks after the tokens of a deployment: one node at a time.
#[derive(Debug)]
pub struct Sweep {
    server: Arc<AuthorizationServer>,
    holder: String,
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All that are left are wanted.
    Clean,
    /// Something has to be tried again.
    Left,
}

impl Sweep {
    /// Looks after the tokens that this server keeps.
    pub fn new(server: Arc<AuthorizationServer>) -> Self {
        Self { server, holder: token_id() }
    }

    /// Looks at all tokens, and ends those that are wanted no longer.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub(crate) async fn look(&self, now: Timestamp) -> store::Result<Outcome> {
        let store = self.server.mirror.store();
        let mut outcome = Outcome::Clean;
        let mut after = None;
        loop {
            if store.acquire(LEASE, &self.holder, LEASE_TIME).await?.is_none() {
                return Ok(Outcome::Left);
            }
            let page = self.server.upstream_tokens.list(Filter::All, after, MAX_PAGE).await?;
            for kept in page.items {
                let ends = kept.ended || !self.server.is_wanted(&kept, now).await?;
                if ends && !self.server.end_upstream_token(&kept).await? {
                    outcome = Outcome::Left;
                }
            }
            after = page.next;
            if after.is_none() {
                store.release(LEASE, &self.holder).await?;
                return Ok(outcome);
            }
        }
    }

    /// Looks until it is told to stop: now and then, and when other hosts want tokens, or of other apps.
    pub async fn run(self, mut applied: watch::Receiver<Applied>, stop: CancellationToken) {
        let mut seen = None;
        let mut due = tokio::time::Instant::now();
        loop {
            let serves = {
                let applied = applied.borrow_and_update();
                applied.replaced.is_none() && !applied.from_copy && applied.revision.is_some()
            };
            // A store that nobody has accepted yet is not written to.
            if serves {
                let wanted = self.wanted();
                if wanted != seen || tokio::time::Instant::now() >= due {
                    let looked = self.look(Timestamp::now()).await;
                    if let Err(error) = &looked {
                        tracing::info!(%error, "the tokens of GitHub's that are kept can't be looked at");
                    }
                    let clean = matches!(looked, Ok(Outcome::Clean));
                    due = tokio::time::Instant::now() + if clean { LOOK } else { AGAIN };
                    seen = wanted;
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(due), if serves => {}
                changed = applied.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Which hosts want tokens of which apps, as far as this node knows.
    fn wanted(&self) -> Option<Vec<(String, Option<String>)>> {
        let view = self.server.mirror.known()?;
        let global = self.server.global_app();
        Some(wanted(&view.config, global.as_deref()))
    }
}

fn wanted(config: &Config, global: Option<&str>) -> Vec<(String, Option<String>)> {
    let wanting = config.proxies.values().filter(|proxy| proxy.oauth_vault_upstream_token);
    wanting
        .map(|proxy| (proxy.proxy_hostname.to_string(), app_of(proxy, global).map(str::to_owned)))
        .collect()
}
