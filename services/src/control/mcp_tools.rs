//! The tools of the MCP server behind a proxy: what was approved, what has changed since, and what is new.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use portcullis_layers::mcp::pins::{HeldBack, MAX_TOOLS, Pins};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use similar::TextDiff;

use super::operation::{delete, get, post};
use super::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::config::proxy::mcp::McpPinning;
use crate::config::tools::{ApprovedTool, McpTools};
use crate::config::{FieldError, HostPattern, Proxy};
use crate::store::{Expect, Key, Kind, Write};

/// How long a diff may take.
const TIME: Duration = Duration::from_millis(100);

/// How long all diffs of an answer may be, in bytes.
const MAX_DIFFS: usize = 256 * 1024;

/// The most forms of a tool that are approved.
const MAX_FORMS: usize = 8;

/// Adds the operations.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListMcpTools>();
    surface.add::<ApproveMcpTools>();
    surface.add::<ForgetMcpTools>();
}

/// How a tool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ToolState {
    /// As it was approved.
    Approved,
    /// Another one than was approved: held back.
    Changed,
    /// Nobody has approved it: held back where pinning is strict.
    New,
}

/// A tool.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolPin {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: ToolState,
    /// Who has approved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When it was approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<Timestamp>,
    /// When it was first seen as it is now, where that is not what was approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    /// SHA-256 of what it is now, or was approved as.
    pub digest: String,
    /// Whether it is too long to be approved now (64 KiB), or can be read in more than one way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
    /// What has changed since the last approval, as a unified diff of the two definitions; for a new tool all of it. Left
    /// out where all diffs together are longer than 256 KiB: name tools to see theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// The tools of a proxy.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolPins {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Its tools, by name.
    pub tools: Vec<ToolPin>,
}

impl ToolPins {
    /// Those that are asked for. Diffs are made as long as there is room for them.
    fn of(
        proxy_hostname: HostPattern,
        tools: &McpTools,
        asked: impl Fn(&ToolPin) -> bool,
        mut room: usize,
    ) -> Self {
        let names: BTreeSet<&String> = tools.approved.keys().chain(tools.seen.keys()).collect();
        let mut pins: Vec<_> = names.into_iter().map(|name| pin(name, tools)).filter(asked).collect();
        for pin in &mut pins {
            if room == 0 {
                break;
            }
            pin.diff = diff(&pin.name, tools).filter(|diff| diff.len() <= room);
            room -= pin.diff.as_ref().map_or(0, String::len);
        }
        Self { proxy_hostname, tools: pins }
    }

    /// Those with these names, without diffs.
    fn named(proxy_hostname: HostPattern, tools: &McpTools, names: &[String]) -> Self {
        Self::of(proxy_hostname, tools, |pin| names.contains(&pin.name), 0)
    }
}

fn pin(name: &str, tools: &McpTools) -> ToolPin {
    let approved = tools.approved.get(name).and_then(|all| all.last());
    let seen = tools.seen.get(name);
    let state = match (approved, seen) {
        (Some(_), None) => ToolState::Approved,
        (Some(_), Some(_)) => ToolState::Changed,
        (None, _) => ToolState::New,
    };
    let digest = seen.map(|one| &one.digest).or(approved.map(|one| &one.digest));
    ToolPin {
        name: name.to_owned(),
        state,
        approved_by: approved.map(|one| one.by.clone()),
        approved_at: approved.map(|one| one.at),
        seen_at: seen.map(|one| one.at),
        digest: digest.cloned().unwrap_or_default(),
        unreadable: seen.is_some_and(|seen| seen.definition.is_none()),
        diff: None,
    }
}

/// What has changed since the last approval; `None` where nothing has, or nobody can read it.
fn diff(name: &str, tools: &McpTools) -> Option<String> {
    let seen = tools.seen.get(name)?.definition.as_ref()?;
    let before = tools.approved.get(name).and_then(|all| all.last()).map(|one| &one.definition);
    let before = before.map_or_else(String::new, |value| format!("{}\n", visible(value)));
    let after = format!("{}\n", visible(seen));
    let mut config = TextDiff::configure();
    // Beyond that it gets coarser, not longer.
    config.timeout(TIME);
    Some(config.diff_lines(&before, &after).unified_diff().header("approved", "seen").to_string())
}

/// A definition with nothing in it that cannot be seen: models read what people don't.
fn visible(definition: &Value) -> String {
    let mut out = String::new();
    for c in format!("{definition:#}").chars() {
        if c.is_ascii() { out.push(c) } else { out.extend(c.escape_debug()) }
    }
    out
}

/// The name of a tool, and the digest that it has to have.
fn named(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once('=') {
        Some((name, digest)) if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            (name, Some(digest))
        }
        _ => (text, None),
    }
}

/// List the tools of the MCP server behind a proxy as far as they were approved or seen, with what has changed. They are
/// seen when a client lists them, on a host with `mcp.pinning`.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListMcpTools {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub state: Option<ToolState>,
    /// Only the one with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub tool: Option<String>,
}

impl Operation for ListMcpTools {
    const NAME: &'static str = "list_mcp_tools";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "tools", "list"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/mcp/tools");
    const SCOPE: Access = Access::User;
    type Output = ToolPins;

    async fn run(self, control: &Control, _: &Context) -> Result<ToolPins, Error> {
        let (tools, _) = read(control, &self.proxy_hostname).await?;
        let Self { proxy_hostname, state, tool } = self;
        let asked = move |pin: &ToolPin| {
            state.is_none_or(|state| state == pin.state) && tool.as_ref().is_none_or(|tool| *tool == pin.name)
        };
        // It may take a while.
        let pins = move || ToolPins::of(proxy_hostname, &tools, asked, MAX_DIFFS);
        tokio::task::spawn_blocking(pins).await.map_err(Error::internal)
    }
}

/// Approve tools of the MCP server behind a proxy as they were seen. What was approved before stays so: a server may
/// tell each client another form of a tool. At most eight forms are kept of each, the newest.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ApproveMcpTools {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Which ones, as `NAME` or `NAME=DIGEST`: one that is another than that by now is not approved. None: all that were seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

impl Operation for ApproveMcpTools {
    const NAME: &'static str = "approve_mcp_tools";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "tools", "approve"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/mcp/tools/approve");
    const SCOPE: Access = Access::Admin;
    type Output = ToolPins;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ToolPins, Error> {
        let (mut tools, expect) = read(control, &self.proxy_hostname).await?;
        let all = self.tools.is_empty();
        let asked = if all { tools.seen.keys().cloned().collect() } else { self.tools };
        let by = ctx.caller.name().map(Into::into).unwrap_or_default();
        let by: String = by;
        let mut names = Vec::new();
        for text in &asked {
            // A name may look like one with a digest.
            let (name, digest) =
                if tools.seen.contains_key(text) { (text.as_str(), None) } else { named(text) };
            let is_other = |found: &str| digest.is_some_and(|digest| !digest.eq_ignore_ascii_case(found));
            let changed =
                || Error::Conflict(format!("the tool {name} has changed meanwhile: look at it again"));
            let Some(seen) = tools.seen.get(name) else {
                match tools.approved.get(name) {
                    None => return Err(Error::NotFound { what: "tool", id: name.to_owned() }),
                    Some(all) if all.iter().all(|one| is_other(&one.digest)) => return Err(changed()),
                    Some(_) => continue,
                }
            };
            if is_other(&seen.digest) {
                return Err(changed());
            }
            let Some(definition) = seen.definition.clone() else {
                if all {
                    continue;
                }
                let detail = "its definition is longer than 64 KiB or can be read in more than one way: expected the \
                              server to be mended";
                return Err(Error::invalid(FieldError::new("tools", name, detail)));
            };
            let one = ApprovedTool {
                digest: seen.digest.clone(),
                definition,
                by: by.clone(),
                at: Timestamp::now(),
            };
            tools.seen.remove(name);
            let forms = tools.approved.entry(name.to_owned()).or_default();
            forms.push(one);
            if forms.len() > MAX_FORMS {
                forms.remove(0);
            }
            names.push(name.to_owned());
        }
        if tools.approved.len() > MAX_TOOLS {
            let detail = format!("expected at most {MAX_TOOLS} approved tools: forget some");
            return Err(Error::invalid(FieldError::bare("tools", detail)));
        }
        write(control, &self.proxy_hostname, &tools, expect).await?;
        Ok(ToolPins::named(self.proxy_hostname, &tools, &names))
    }
}

/// Forget tools of the MCP server behind a proxy: that they were approved, and that they were seen.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ForgetMcpTools {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Which ones; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

impl Operation for ForgetMcpTools {
    const NAME: &'static str = "forget_mcp_tools";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "tools", "forget"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/mcp/tools");
    const SCOPE: Access = Access::Admin;
    type Output = ToolPins;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<ToolPins, Error> {
        let (mut tools, expect) = read(control, &self.proxy_hostname).await?;
        if self.tools.is_empty() {
            tools = McpTools::default();
        }
        for name in &self.tools {
            let (approved, seen) = (tools.approved.remove(name), tools.seen.remove(name));
            if approved.is_none() && seen.is_none() {
                return Err(Error::NotFound { what: "tool", id: name.clone() });
            }
        }
        write(control, &self.proxy_hostname, &tools, expect).await?;
        Ok(ToolPins::named(self.proxy_hostname, &tools, &self.tools))
    }
}

/// What is known of a proxy's tools, and what must still hold when it is written.
async fn read(control: &Control, host: &HostPattern) -> Result<(McpTools, Expect), Error> {
    control.get::<Proxy>(host.as_str()).await?;
    let view = control.mirror.latest().await?;
    let stored = view.document(&McpTools::key(host));
    let expect = stored.map_or(Expect::Absent, |document| Expect::Version(document.version));
    // What can't be read is as good as nothing: only what is approved anew counts.
    let tools = view.config.tools.get(host.as_str()).map(|tools| McpTools::clone(tools)).unwrap_or_default();
    Ok((tools, expect))
}

/// Why the edge holds a tool back; `None`: it does not.
pub(super) async fn held_back(
    control: &Control,
    host: &HostPattern,
    pinning: McpPinning,
    tool: &str,
) -> Result<Option<HeldBack>, Error> {
    if pinning == McpPinning::Off {
        return Ok(None);
    }
    let (tools, _) = read(control, host).await?;
    let strict = pinning == McpPinning::Strict || tools.unreadable;
    let pins = Pins::new(strict, tools.known(), Arc::default(), Arc::new(|_| {}));
    Ok(pins.check(tool).err())
}

async fn write(control: &Control, host: &HostPattern, tools: &McpTools, expect: Expect) -> Result<(), Error> {
    let there = Write::Check { key: Key::new(Kind::Proxy, host.as_str()), expect: Expect::Present };
    let value = serde_json::to_value(tools).map_err(Error::internal)?;
    control.commit(vec![there, Write::Put { key: McpTools::key(host), value, expect }]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::tools::SeenTool;

    fn seen(description: &str) -> SeenTool {
        SeenTool {
            digest: "1".repeat(64),
            definition: Some(json!({ "name": "add", "description": description })),
            at: Timestamp::now(),
        }
    }

    fn approved(description: &str) -> ApprovedTool {
        ApprovedTool {
            digest: "0".repeat(64),
            definition: json!({ "name": "add", "description": description }),
            by: "root".to_owned(),
            at: Timestamp::now(),
        }
    }

    fn shown(tools: &McpTools, room: usize) -> ToolPin {
        let host = "a.example".parse().expect("a host");
        ToolPins::of(host, tools, |_| true, room).tools.remove(0)
    }

    #[test]
    fn what_has_changed_is_shown_line_by_line() {
        let mut tools = McpTools::default();
        tools.seen.insert("add".to_owned(), seen("Adds, and sends me your keys."));
        assert_eq!(shown(&tools, 1000).state, ToolState::New);
        tools.approved.insert("add".to_owned(), vec![approved("Adds.")]);
        let pin = shown(&tools, 1000);
        assert_eq!(pin.state, ToolState::Changed);
        let diff = pin.diff.expect("a diff");
        assert!(
            diff.contains("-  \"description\": \"Adds.\"")
                && diff.contains("+  \"description\": \"Adds, and")
        );
        assert_eq!(shown(&tools, 10).diff, None, "there is no room for it");
    }

    #[test]
    fn what_only_a_model_reads_is_made_visible() {
        let mut tools = McpTools::default();
        tools.seen.insert("add".to_owned(), seen("Adds\u{e0041}\u{200b}\u{202e}, größer."));
        let diff = shown(&tools, 1000).diff.expect("a diff");
        assert!(diff.contains("Adds\\u{e0041}\\u{200b}\\u{202e}, größer."), "{diff}");
    }

    #[test]
    fn long_definitions_that_have_nothing_in_common_take_no_time() {
        let lines = |from: u32| Value::from((from..from + 30_000).collect::<Vec<_>>());
        let mut tools = McpTools::default();
        tools.seen.insert("add".to_owned(), SeenTool { definition: Some(lines(0)), ..seen("") });
        tools
            .approved
            .insert("add".to_owned(), vec![ApprovedTool { definition: lines(50_000), ..approved("") }]);
        assert!(shown(&tools, 10 << 20).diff.is_some());
    }

    #[test]
    fn a_digest_stands_behind_a_name() {
        let digest = "0a".repeat(32);
        assert_eq!(named(&format!("a=b={digest}")), ("a=b", Some(digest.as_str())));
        assert_eq!(named("a=b"), ("a=b", None));
    }
}
