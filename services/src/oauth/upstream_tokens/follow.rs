//! Keeps the tokens in memory that upstreams are called with: all of the hosts that want it (`mcp.credentials`), read when
//! one comes to want it and now and then, and those of which a node has told that they have changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::HostName;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::held::{MAX_HELD, Token};
use super::{Kept, UpstreamTokens};
use crate::applied::Applied;
use crate::config::HostPattern;
use crate::config::proxy::mcp::McpCredentials;
use crate::config::view::View;
use crate::oauth::AuthorizationServer;
use crate::oauth::state::Filter;
use crate::store::{self, Entry, EntryId, Keep, Logged, MAX_PAGE, Range, Stream};

/// How often it is looked for what other nodes have changed.
const POLL: Duration = Duration::from_millis(250);

/// How often all are read again, in case that a notice was lost.
const FULL: Duration = Duration::from_secs(60);

/// How many notices are read at once.
const PAGE: usize = 500;

/// Much longer than all are read again after.
const KEEP: Keep = Keep { entries: 1 << 16, age: Duration::from_secs(600) };

/// Tells that a token has changed: kept, replaced or ended.
#[derive(Debug, Serialize, Deserialize)]
struct Notice {
    id: String,
}

impl UpstreamTokens {
    /// Tells the other nodes to look at a token again. They find it out anyhow, after a while.
    pub(super) async fn tell(&self, id: &str) {
        let record = serde_json::to_vec(&Notice { id: id.to_owned() }).expect("a text serialises");
        let time = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let entry = Entry { time, record: record.into(), tags: Vec::new() };
        if let Err(error) = self.store.append(Stream::UpstreamTokens, vec![entry], KEEP).await {
            tracing::info!(%error, "other nodes learn late that a token of GitHub's has changed");
        }
    }

    /// A token as it is held; none of one that has ended or can't be opened.
    pub(super) fn held_form(&self, kept: &Kept) -> Option<Token> {
        if kept.ended {
            return None;
        }
        let opened = self.open(kept).inspect_err(|error| {
            tracing::warn!(%error, host = %kept.host, "a token of GitHub's can't be opened");
        });
        let secret = SecretString::from(opened.ok()?.0.expose());
        let until = kept.kept_at + self.lifetime;
        Some(Token { secret, app: kept.app.clone(), kept_at: kept.kept_at, until })
    }
}

/// Reads what other nodes change.
#[derive(Debug)]
pub struct Follower {
    server: Arc<AuthorizationServer>,
    /// The configuration that was looked at last, and the hosts in it that want tokens.
    seen: Option<Arc<View>>,
    wanting: BTreeSet<HostPattern>,
    /// The hosts that were read.
    read: BTreeSet<HostPattern>,
    /// When all are read again.
    due: Instant,
    place: Option<EntryId>,
}

impl Follower {
    /// Keeps what this server hands out.
    pub fn new(server: Arc<AuthorizationServer>) -> Self {
        let (seen, wanting, read) = (None, BTreeSet::new(), BTreeSet::new());
        Self { server, seen, wanting, read, due: Instant::now(), place: None }
    }

    /// Works until it is told to stop.
    pub async fn run(mut self, mut applied: watch::Receiver<Applied>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            let serves = {
                let applied = applied.borrow_and_update();
                applied.replaced.is_none() && !applied.from_copy && applied.revision.is_some()
            };
            // Of a store that nobody has accepted yet nothing is used.
            if serves {
                match stop.run_until_cancelled(self.look()).await {
                    Some(Ok(())) => failing = false,
                    Some(Err(error)) if !failing => {
                        failing = true;
                        tracing::warn!(%error, "GitHub's tokens for upstreams can't be read");
                    }
                    Some(Err(_)) => {}
                    None => return,
                }
            }
            let idle = self.wanting.is_empty();
            tokio::select! {
                _ = ticks.tick(), if !idle => {}
                changed = applied.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads what there is to read now.
    pub(crate) async fn look(&mut self) -> store::Result<()> {
        self.see();
        let held = self.server.upstream_tokens.held.clone();
        if self.wanting.is_empty() {
            if !self.read.is_empty() {
                held.clear();
                self.read.clear();
            }
            return Ok(());
        }
        held.begin();
        if self.read == self.wanting && Instant::now() < self.due {
            return self.read_new().await;
        }
        self.read_all().await?;
        self.read.clone_from(&self.wanting);
        self.due = Instant::now() + FULL;
        Ok(())
    }

    /// Finds out which hosts want tokens, where the configuration is another one.
    fn see(&mut self) {
        let view = self.server.mirror.known();
        let same = match (&view, &self.seen) {
            (Some(view), Some(seen)) => Arc::ptr_eq(view, seen),
            (view, seen) => view.is_none() && seen.is_none(),
        };
        if same {
            return;
        }
        let proxies = view.iter().flat_map(|view| view.config.proxies.values());
        let wants = |credentials| matches!(credentials, McpCredentials::Github);
        let wanting = proxies.filter(|proxy| proxy.mcp.as_ref().is_some_and(|mcp| wants(mcp.credentials)));
        self.wanting = wanting.map(|proxy| proxy.proxy_hostname.clone()).collect();
        self.seen = view;
    }

    async fn read_all(&mut self) -> store::Result<()> {
        let tokens = &self.server.upstream_tokens;
        // Before the tokens: what changes meanwhile is read once more.
        let newest = range(None, true, 1);
        self.place = tokens.store.range(Stream::UpstreamTokens, &newest).await?.first().map(|one| one.id);
        let mut all = HashMap::new();
        let hosts: Option<Vec<_>> = self.wanting.iter().map(HostPattern::host).collect();
        match hosts {
            Some(hosts) => {
                for host in &hosts {
                    self.collect(Some(host), &mut all).await?;
                }
            }
            // Whom a wildcard stands for is not known.
            None => self.collect(None, &mut all).await?,
        }
        tokens.held.replace(self.wanting.clone(), all);
        Ok(())
    }

    /// Adds those of a host, or of all.
    async fn collect(&self, host: Option<&HostName>, all: &mut HashMap<String, Token>) -> store::Result<()> {
        let tokens = &self.server.upstream_tokens;
        let mut after = None;
        loop {
            let read = match host {
                Some(host) => tokens.list_of_host(host, after, MAX_PAGE).await?,
                None => tokens.list(Filter::All, after, MAX_PAGE).await?,
            };
            for kept in read.items.into_iter().filter(|kept| self.is_wanted(kept)) {
                if all.len() >= MAX_HELD {
                    tracing::warn!(most = MAX_HELD, "there are more of GitHub's tokens than are held");
                    return Ok(());
                }
                if let Some(token) = tokens.held_form(&kept) {
                    all.insert(kept.id, token);
                }
            }
            after = read.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn read_new(&mut self) -> store::Result<()> {
        let tokens = &self.server.upstream_tokens;
        let page = tokens.store.range(Stream::UpstreamTokens, &range(self.place, false, PAGE)).await?;
        let Some(last) = page.last() else {
            tokens.held.update(Vec::new());
            return Ok(());
        };
        let (last, ids) = (last.id, ids_of(&page));
        let mut changed = Vec::with_capacity(ids.len());
        for id in ids {
            let kept = tokens.get(&id).await?.filter(|kept| self.is_wanted(kept));
            let token = kept.and_then(|kept| tokens.held_form(&kept));
            changed.push((id, token));
        }
        tokens.held.update(changed);
        self.place = Some(last);
        Ok(())
    }

    fn is_wanted(&self, kept: &Kept) -> bool {
        self.wanting.iter().any(|pattern| pattern.covers(&kept.host))
    }
}

/// The tokens that notices are about, each once.
fn ids_of(page: &[Logged]) -> HashSet<String> {
    let notices = page.iter().filter_map(|logged| serde_json::from_slice::<Notice>(&logged.record).ok());
    notices.map(|notice| notice.id).collect()
}

const fn range(after: Option<EntryId>, newest_first: bool, limit: usize) -> Range {
    Range { after, since: 0, until: u64::MAX, tag: None, newest_first, limit }
}
