//! Keeps what lists of MCP servers have shown of their tools, so that somebody can look at it and approve it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::mcp::pins::Seen;
use serde_json::Value;
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

/// From one write for a host to the next: each makes the host anew on every node, and a server could show another tool
/// in each list.
const PACE: Duration = Duration::from_secs(2);

/// The most tools that are kept of a host.
const MAX_TOOLS: usize = portcullis_layers::mcp::pins::MAX_TOOLS;

/// The longest definition that is kept, in bytes.
const MAX_DEFINITION: usize = 64 * 1024;

/// The most that is kept of a host, in bytes.
const MAX_ALL: usize = 4 << 20;

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
        if seen.definition.len() > MAX_DEFINITION {
            tracing::warn!(%host, tool = %seen.name, "the MCP server has a tool that is too long to be approved");
            return;
        }
        // Where too many wait, this one is lost, and stays held back where it has to be.
        let _full = self.0.try_send((host.clone(), seen));
    }
}

/// What is to be kept of a host, and when: a little after the first of it, and not soon after what was kept before.
#[derive(Debug)]
struct Pending {
    seen: HashMap<SmolStr, Seen>,
    due: Instant,
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
                    let one = pending.entry(host).or_insert_with(|| Pending { seen: HashMap::new(), due: soon });
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
            pending.retain(|_, one| !one.seen.is_empty() || now < one.due);
            for (host, one) in &mut pending {
                if one.seen.is_empty() || now < one.due {
                    continue;
                }
                let seen: Vec<_> = std::mem::take(&mut one.seen).into_values().collect();
                one.due = Instant::now() + PACE;
                if let Err(error) = self.keep(host, &seen).await {
                    tracing::warn!(%host, %error, "what the MCP server shows of its tools could not be kept");
                }
            }
        }
    }

    async fn keep(&self, host: &HostPattern, seen: &[Seen]) -> store::Result<()> {
        for _ in 0..TRIES {
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
                Err(store::Error::Conflict { .. }) => {}
                done => return done.map(drop),
            }
        }
        Ok(())
    }
}

/// Adds what was seen; whether anything is different then.
fn add(tools: &mut McpTools, host: &HostPattern, seen: &[Seen], now: Timestamp) -> bool {
    let mut different = false;
    let mut size: usize = tools.seen.values().map(|one| one.definition.to_string().len()).sum();
    for one in seen {
        let (name, digest) = (one.name.to_string(), hex(&one.digest));
        if tools.approved.get(&name).is_some_and(|approved| approved.digest == digest) {
            // It is again what was approved.
            different |= tools.seen.remove(&name).is_some();
            continue;
        }
        if tools.seen.get(&name).is_some_and(|before| before.digest == digest) {
            continue;
        }
        size += one.definition.len();
        let fits = one.definition.len() <= MAX_DEFINITION && size <= MAX_ALL;
        if !fits || (tools.seen.len() >= MAX_TOOLS && !tools.seen.contains_key(&name)) {
            tracing::warn!(%host, tool = %name, "the MCP server has more or longer tools than can be kept");
            continue;
        }
        let Ok(definition) = serde_json::from_str::<Value>(&one.definition) else { continue };
        tools.seen.insert(name, SeenTool { digest, definition, at: now });
        different = true;
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
        Seen { name: name.into(), digest: digest(&definition).expect("a digest"), definition }
    }

    #[test]
    fn only_what_is_new_makes_a_difference() {
        let host: HostPattern = "a.example".parse().expect("a host");
        let now = Timestamp::now();
        let mut tools = McpTools::default();
        assert!(add(&mut tools, &host, &[seen("add", "Adds."), seen("sub", "Subtracts.")], now));
        assert!(!add(&mut tools, &host, &[seen("add", "Adds.")], now));
        let approved = tools.seen.remove("add").expect("seen");
        let SeenTool { digest, definition, at } = approved;
        tools
            .approved
            .insert("add".to_owned(), ApprovedTool { digest, definition, by: "root".to_owned(), at });
        assert!(!add(&mut tools, &host, &[seen("add", "Adds.")], now));
        assert!(add(&mut tools, &host, &[seen("add", "Adds, and more.")], now));
        assert_eq!(tools.changed().collect::<Vec<_>>(), ["add"]);
        assert!(add(&mut tools, &host, &[seen("add", "Adds.")], now), "it is what it was");
        assert_eq!(tools.changed().count(), 0);
        let long = seen("long", &"x".repeat(MAX_DEFINITION));
        assert!(!add(&mut tools, &host, &[long], now));
        let many: Vec<_> = (0..MAX_TOOLS + 10).map(|n| seen(&format!("t{n}"), "x")).collect();
        add(&mut tools, &host, &many, now);
        assert!(tools.seen.len() <= MAX_TOOLS);
    }
}
