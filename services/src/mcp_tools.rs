//! Keeps what lists of MCP servers have shown of their tools, so that somebody can look at it and approve it.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::mcp::pins::Seen;
use smol_str::SmolStr;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::HostPattern;
use crate::config::tools::{McpTools, SeenTool, hex};
use crate::mirror::Mirror;
use crate::store::{self, Expect, Key, Kind, Write};

/// How many tools wait to be kept. What does not fit is seen again with the next list of another node or process.
const WAITING: usize = 1024;

/// A list comes at once: its tools are kept in one write.
const TOGETHER: Duration = Duration::from_millis(200);

/// From one write for a host to the next, at first and at most: each makes the host anew on every node, and a server
/// could show another tool in each list.
const PACE: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(60);

/// The most new tools that are kept of a host. Approved ones that have changed come on top.
const MAX_TOOLS: usize = portcullis_layers::mcp::pins::MAX_TOOLS;

/// The most that is kept of a host's new tools, in bytes.
const MAX_ALL: usize = 2 << 20;

/// How often a write is tried when others write, too.
const TRIES: u32 = 5;

/// A tool of a host.
type Shown = (HostPattern, Seen);

/// Takes what was seen, without ever waiting.
#[derive(Debug, Clone)]
pub struct Notes(mpsc::Sender<Shown>);

impl Notes {
    /// Takes note of a tool.
    pub fn take(&self, host: &HostPattern, seen: Seen) {
        // Where too many wait, this one is held back here, and told again a little later.
        let _full = self.0.try_send((host.clone(), seen));
    }
}

/// What is to be kept of a host, and when: a little after the first of it, and not soon after what was kept before.
#[derive(Debug)]
struct Pending {
    seen: HashMap<SmolStr, Seen>,
    due: Instant,
    pace: Duration,
}

/// Keeps what was seen.
#[derive(Debug)]
pub struct Recorder {
    mirror: Mirror,
    shown: mpsc::Receiver<Shown>,
}

impl Recorder {
    /// A recorder, and what hands it what was seen.
    pub fn new(mirror: Mirror) -> (Notes, Self) {
        let (sender, shown) = mpsc::channel(WAITING);
        (Notes(sender), Self { mirror, shown })
    }

    /// Works until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pending: HashMap<HostPattern, Pending> = HashMap::new();
        loop {
            let due = pending.values().filter(|one| !one.seen.is_empty()).map(|one| one.due).min();
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = due => {}
                shown = self.shown.recv() => {
                    let Some((host, seen)) = shown else { return };
                    let soon = Instant::now() + TOGETHER;
                    let one = pending.entry(host).or_insert_with(|| Pending {
                        seen: HashMap::new(),
                        due: soon,
                        pace: *PACE.start(),
                    });
                    if one.seen.is_empty() {
                        one.due = one.due.max(soon);
                    }
                    if one.seen.len() < MAX_TOOLS || one.seen.contains_key(&seen.name) {
                        one.seen.insert(seen.name.clone(), seen);
                    }
                    continue;
                }
            }
            let now = Instant::now();
            // Whoever was quiet for so long may speak at once.
            pending.retain(|_, one| !one.seen.is_empty() || now < one.due + one.pace);
            for (host, one) in &mut pending {
                if one.seen.is_empty() || now < one.due {
                    continue;
                }
                let seen: Vec<_> = one.seen.values().cloned().collect();
                match self.keep(host, &seen).await {
                    Ok(()) => one.seen.clear(),
                    // It is tried again; what is seen meanwhile takes the place of what was.
                    Err(error) => {
                        tracing::warn!(%host, %error, "what the MCP server shows of its tools could not be kept");
                    }
                }
                one.due = Instant::now() + one.pace;
                one.pace = (one.pace * 2).min(*PACE.end());
            }
        }
    }

    async fn keep(&self, host: &HostPattern, seen: &[Seen]) -> store::Result<()> {
        let mut tries = 0..TRIES;
        loop {
            let view = self.mirror.latest().await?;
            if view.config.proxies.get(host).is_none_or(|proxy| proxy.mcp.is_none()) {
                return Ok(());
            }
            let key = McpTools::key(host);
            let before = view.document(&key);
            let known = view.config.tools.get(host.as_str()).map(Arc::as_ref);
            // What can't be read is for an admin to look at.
            if known.is_some_and(|known| known.unreadable) {
                return Ok(());
            }
            let mut tools = known.cloned().unwrap_or_default();
            if !add(&mut tools, host, seen, Timestamp::now()) {
                return Ok(());
            }
            let value = serde_json::to_value(&tools)
                .map_err(|error| store::Error::Corrupt { place: key.to_string(), source: Box::new(error) })?;
            let expect = before.map_or(Expect::Absent, |before| Expect::Version(before.version));
            let there = Write::Check { key: Key::new(Kind::Proxy, host.as_str()), expect: Expect::Present };
            match self.mirror.store().commit(vec![there, Write::Put { key, value, expect }]).await {
                Err(store::Error::Conflict { .. }) if tries.next().is_some() => {}
                done => return done.map(drop),
            }
        }
    }
}

/// Adds what was seen; whether anything is different then.
fn add(tools: &mut McpTools, host: &HostPattern, seen: &[Seen], now: Timestamp) -> bool {
    let mut different = false;
    for one in seen {
        let (name, digest) = (one.name.to_string(), hex(&one.digest));
        if tools.is_approved(&name, &digest) {
            // It is again what was approved.
            different |= tools.seen.remove(&name).is_some();
            continue;
        }
        if tools.seen.get(&name).is_some_and(|before| before.digest == digest) {
            continue;
        }
        let definition = one.definition.as_deref().and_then(|text| serde_json::from_str(text).ok());
        tools.seen.insert(name, SeenTool { digest, definition, at: now });
        different = true;
    }
    // Of the new ones the oldest go first. An approved one stays: somebody has to see that it has changed.
    let size = |one: &SeenTool| one.definition.as_ref().map_or(0, |value| value.to_string().len());
    let mut new: Vec<_> = tools
        .seen
        .iter()
        .filter(|(name, _)| !tools.approved.contains_key(*name))
        .map(|(name, one)| (std::cmp::Reverse(one.at), name.clone(), size(one)))
        .collect();
    new.sort_unstable();
    let mut all = 0;
    for (index, (_, name, size)) in new.into_iter().enumerate() {
        all += size;
        if index >= MAX_TOOLS || all > MAX_ALL {
            tracing::debug!(%host, "the MCP server has more tools than can be kept");
            tools.seen.remove(&name);
        }
    }
    different
}

#[cfg(test)]
mod tests {
    use portcullis_layers::mcp::pins::digest;

    use super::*;
    use crate::config::tools::ApprovedTool;

    fn seen(name: &str, description: &str) -> Seen {
        let definition = format!("{{\"name\":\"{name}\",\"description\":\"{description}\"}}");
        let digest = digest(&definition).expect("a digest");
        Seen { name: name.into(), digest, definition: Some(definition) }
    }

    fn approve(tools: &mut McpTools, name: &str) {
        let SeenTool { digest, definition, at } = tools.seen.remove(name).expect("seen");
        let definition = definition.expect("a definition");
        let one = ApprovedTool { digest, definition, by: "root".to_owned(), at };
        tools.approved.entry(name.to_owned()).or_default().push(one);
    }

    #[test]
    fn only_what_is_new_makes_a_difference() {
        let host: HostPattern = "a.example".parse().expect("a host");
        let now = Timestamp::now();
        let mut tools = McpTools::default();
        assert!(add(&mut tools, &host, &[seen("add", "Adds."), seen("sub", "Subtracts.")], now));
        assert!(!add(&mut tools, &host, &[seen("add", "Adds.")], now));
        approve(&mut tools, "add");
        assert!(!add(&mut tools, &host, &[seen("add", "Adds.")], now));
        assert!(add(&mut tools, &host, &[seen("add", "Adds, and more.")], now));
        assert!(tools.seen.contains_key("add"));
        assert!(add(&mut tools, &host, &[seen("add", "Adds.")], now), "it is what it was");
        assert!(!tools.seen.contains_key("add"));
        // Each of several forms is good.
        add(&mut tools, &host, &[seen("add", "Addiert.")], now);
        approve(&mut tools, "add");
        assert!(!add(&mut tools, &host, &[seen("add", "Adds."), seen("add", "Addiert.")], now));
    }

    #[test]
    fn new_tools_take_no_place_from_changed_ones() {
        let host: HostPattern = "a.example".parse().expect("a host");
        let now = Timestamp::now();
        let mut tools = McpTools::default();
        add(&mut tools, &host, &[seen("add", "Adds.")], now);
        approve(&mut tools, "add");
        let many: Vec<_> = (0..MAX_TOOLS + 10).map(|n| seen(&format!("t{n}"), "x")).collect();
        add(&mut tools, &host, &many, now);
        assert_eq!(tools.seen.len(), MAX_TOOLS);
        // Also where nobody can read what it is now.
        let unreadable = Seen { name: "add".into(), digest: [1; 32], definition: None };
        assert!(add(&mut tools, &host, &[unreadable], now));
        assert!(tools.seen["add"].definition.is_none());
        let long = "x".repeat(60_000);
        let many: Vec<_> = (0..100).map(|n| seen(&format!("l{n}"), &long)).collect();
        assert!(add(&mut tools, &host, &many, now));
        let size: usize =
            tools.seen.values().flat_map(|one| &one.definition).map(|one| one.to_string().len()).sum();
        assert!(size <= MAX_ALL && tools.seen.contains_key("add"));
    }
}
