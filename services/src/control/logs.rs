//! Logs: search them, sum them up, clear them, and change what the daemon says of itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use clap::{Args, ValueEnum};
use portcullis_layers::HostName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::changes::Form;
use super::operation::{delete, get, post, put};
use super::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::config::FieldError;
use crate::logs::{self, Bounds, LevelSettings, Page, SILENT, Search, Stats, parse_level};
use crate::store::{Expect, Key, Kind, Stream, Write};

/// The setting that holds the levels of diagnostics, shared by all nodes.
pub const LEVELS: &str = "log_levels";

/// Adds the operations of logs.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SearchLogs>();
    surface.add::<LogsOfIp>();
    surface.add::<LogsOfClientHost>();
    surface.add::<LogsOfProxy>();
    surface.add::<LogsOfClient>();
    surface.add::<McpCalls>();
    surface.add::<LogErrors>();
    surface.add::<LogEvents>();
    surface.add::<LogStats>();
    surface.add::<ShowLogLevels>();
    surface.add::<SetLogLevel>();
    surface.add::<ResetLogLevel>();
    surface.add::<WriteTestLogs>();
    surface.add::<ClearLogs>();
}

/// A log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// One record per request.
    #[default]
    Requests,
    /// The daemon's own diagnostics.
    Diagnostics,
    /// One record per call of an operation that changes something.
    Audit,
    /// What happened at the authorization server: logins, tokens, refusals.
    Oauth,
    /// One record per call of an MCP server behind a host. Most are requests, and found among these, too.
    Mcp,
}

impl Log {
    /// Its stream in the store.
    pub const fn stream(self) -> Stream {
        match self {
            Self::Requests => Stream::Requests,
            Self::Diagnostics => Stream::Diagnostics,
            Self::Audit => Stream::Audit,
            Self::Oauth => Stream::Oauth,
            Self::Mcp => Stream::Mcp,
        }
    }

    /// Who may read it: what admins did, and what the daemon says of itself, is for admins.
    pub const fn access(self) -> Access {
        match self {
            Self::Requests | Self::Mcp => Access::User,
            Self::Diagnostics | Self::Audit | Self::Oauth => Access::Admin,
        }
    }
}

fn failed(error: logs::Error) -> Error {
    match error {
        logs::Error::Search(error) => {
            let detail = format!("expected {}", error.expected);
            Error::invalid(FieldError::new(error.field, error.value, detail))
        }
        logs::Error::Store(error) => error.into(),
    }
}

pub(super) async fn find(control: &Control, log: Log, search: &Search) -> Result<Page, Error> {
    let store = &*control.store;
    logs::search(store, log.stream(), search, Bounds::default(), logs::now()).await.map_err(failed)
}

/// Search a log by any of its fields; all conditions hold together.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct SearchLogs {
    /// Which log.
    #[serde(default)]
    #[arg(long, value_enum, default_value_t)]
    pub log: Log,
    /// The conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for SearchLogs {
    const NAME: &'static str = "search_logs";
    const COMMAND: &'static [&'static str] = &["log", "search"];
    const HTTP: Endpoint = get("/logs/search");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, ctx: &Context) -> Result<Page, Error> {
        ctx.caller.check(self.log.access())?;
        find(control, self.log, &self.search.read()?).await
    }
}

/// Search the calls of MCP servers behind the hosts.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct McpCalls {
    /// The conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for McpCalls {
    const NAME: &'static str = "mcp_calls";
    const COMMAND: &'static [&'static str] = &["log", "mcp"];
    const HTTP: Endpoint = get("/logs/mcp");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        find(control, Log::Mcp, &self.search.read()?).await
    }
}

/// Search the requests of a client's address.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfIp {
    /// The address.
    pub address: IpAddr,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfIp {
    const NAME: &'static str = "logs_of_ip";
    const COMMAND: &'static [&'static str] = &["log", "ip"];
    const HTTP: Endpoint = get("/logs/ip/{address}");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { ip: Some(self.address.to_string()), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests of a client that is known by its host name: of the addresses that the name has now.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfClientHost {
    /// The name of the client's machine.
    pub client_host: HostName,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfClientHost {
    const NAME: &'static str = "logs_of_host";
    const COMMAND: &'static [&'static str] = &["log", "hostname"];
    const HTTP: Endpoint = get("/logs/host/{client_host}");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = self.search.read()?;
        let name = self.client_host.as_str().trim_matches(['[', ']']);
        let found = tokio::net::lookup_host((name, 0)).await.map_err(|_| {
            let detail = "has no address: expected a name that can be resolved, or an address";
            Error::invalid(FieldError::new("client_host", name, detail))
        })?;
        let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip().to_canonical()).take(8).collect();
        let mut page = Page { total: Some(0), logs: Vec::new(), next: None, truncated: None };
        for address in addresses {
            let search = Search { ip: Some(address.to_string()), ..search.clone() };
            let more = find(control, Log::Requests, &search).await?;
            page.total = page.total.zip(more.total).map(|(a, b)| a + b);
            page.logs.extend(more.logs);
            page.truncated = page.truncated.or(more.truncated);
        }
        page.logs.sort_by_key(|record| std::cmp::Reverse(record["timestamp"].as_u64()));
        page.logs.truncate(search.limit.unwrap_or(100));
        Ok(page)
    }
}

/// Search the requests to a proxy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfProxy {
    /// The host that was asked for; `*` stands for anything.
    pub proxy: String,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfProxy {
    const NAME: &'static str = "logs_of_proxy";
    const COMMAND: &'static [&'static str] = &["log", "proxy"];
    const HTTP: Endpoint = get("/logs/proxy/{proxy}");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { hostname: Some(self.proxy), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests of an OAuth client.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfClient {
    /// The OAuth client.
    pub client: String,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfClient {
    const NAME: &'static str = "logs_of_client";
    const COMMAND: &'static [&'static str] = &["log", "oauth-client"];
    const HTTP: Endpoint = get("/logs/client/{client}");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { client_id: Some(self.client), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests that failed, in the last hour when nothing else is said.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogErrors {
    /// Further conditions; `include_warnings` adds the status 4xx.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogErrors {
    const NAME: &'static str = "log_errors";
    const COMMAND: &'static [&'static str] = &["log", "errors"];
    const HTTP: Endpoint = get("/logs/errors");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let mut search = Search { errors: true, ..self.search.read()? };
        if search.since.is_none() {
            search.hours.get_or_insert(1);
        }
        search.limit.get_or_insert(50);
        find(control, Log::Requests, &search).await
    }
}

/// Count the requests of a window: by hour, status and path.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogEvents {
    /// The conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogEvents {
    const NAME: &'static str = "log_events";
    const COMMAND: &'static [&'static str] = &["log", "events"];
    const HTTP: Endpoint = get("/logs/events");
    const SCOPE: Access = Access::User;
    type Output = Stats;

    async fn run(self, control: &Control, _: &Context) -> Result<Stats, Error> {
        sum_up(control, &self.search.read()?).await
    }
}

/// Sum up the requests of a window: counts, rates, percentiles, hosts.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogStats {
    /// The conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogStats {
    const NAME: &'static str = "log_stats";
    const COMMAND: &'static [&'static str] = &["log", "stats"];
    const HTTP: Endpoint = get("/logs/stats");
    const SCOPE: Access = Access::User;
    type Output = Stats;

    async fn run(self, control: &Control, _: &Context) -> Result<Stats, Error> {
        sum_up(control, &self.search.read()?).await
    }
}

async fn sum_up(control: &Control, search: &Search) -> Result<Stats, Error> {
    logs::stats(&*control.store, search, Bounds::default(), logs::now()).await.map_err(failed)
}

/// Show how much the daemon says of itself.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowLogLevels {}

impl Operation for ShowLogLevels {
    const NAME: &'static str = "show_log_levels";
    const COMMAND: &'static [&'static str] = &["log", "level", "get"];
    const HTTP: Endpoint = get("/logs/level");
    const SCOPE: Access = Access::User;
    type Output = LevelSettings;

    async fn run(self, control: &Control, _: &Context) -> Result<LevelSettings, Error> {
        Ok(control.levels.settings())
    }
}

/// Set how much the daemon says of itself: all of it, or one component, on all nodes, at once.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetLogLevel {
    /// TRACE, DEBUG, INFO, WARNING, ERROR or OFF.
    pub level: String,
    /// The component; absent: everything that is not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, short)]
    pub component: Option<String>,
}

impl Operation for SetLogLevel {
    const NAME: &'static str = "set_log_level";
    const COMMAND: &'static [&'static str] = &["log", "level", "set"];
    const HTTP: Endpoint = post("/logs/level");
    const ALIASES: &'static [Endpoint] = &[put("/logs/level")];
    const SCOPE: Access = Access::Admin;
    type Output = LevelSettings;

    fn subject(&self) -> Option<String> {
        Some(format!("{} {}", self.component.as_deref().unwrap_or("global"), self.level))
    }

    async fn run(self, control: &Control, _: &Context) -> Result<LevelSettings, Error> {
        parse_level(&self.level).map_err(|error| {
            Error::invalid(FieldError::new("level", self.level.as_str(), error.to_string()))
        })?;
        let level = self.level.trim().to_ascii_uppercase();
        if let Some(component) = &self.component {
            check_component("component", component).map_err(Error::invalid)?;
            if component == SILENT {
                let detail = "says what clients and servers say, and is silent at every level";
                return Err(Error::invalid(FieldError::new("component", component.as_str(), detail)));
            }
        }
        change_levels(control, |settings| match &self.component {
            Some(component) => drop(settings.components.insert(component.clone(), level.clone())),
            None => settings.global.clone_from(&level),
        })
        .await
    }
}

/// Let a component follow the global level again, on all nodes.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ResetLogLevel {
    /// The component.
    pub component: String,
}

impl Operation for ResetLogLevel {
    const NAME: &'static str = "reset_log_level";
    const COMMAND: &'static [&'static str] = &["log", "level", "reset"];
    const HTTP: Endpoint = delete("/logs/level/{component}");
    const SCOPE: Access = Access::Admin;
    type Output = LevelSettings;

    fn subject(&self) -> Option<String> {
        Some(self.component.clone())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<LevelSettings, Error> {
        change_levels(control, |settings| drop(settings.components.remove(&self.component))).await
    }
}

fn check_component(field: &str, component: &str) -> Result<(), FieldError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !component.is_empty() && component.len() <= 64 && component.chars().all(fine) {
        return Ok(());
    }
    Err(FieldError::new(field, component, "expected the name of a component, such as `tls` or `store`"))
}

/// Checks levels that come as a whole, as the operations check them one by one.
pub(super) fn check_levels(value: &Value) -> Result<(), FieldError> {
    let settings: LevelSettings = crate::config::field::read(value)?;
    let level = |field: &str, level: &str| {
        parse_level(level).map(drop).map_err(|error| FieldError::new(field, level, error.to_string()))
    };
    level("global", &settings.global)?;
    for (component, of_component) in &settings.components {
        check_component("components", component)?;
        level(&format!("components.{component}"), of_component)?;
    }
    Ok(())
}

/// Changes the levels that nodes share, and those of this node at once.
async fn change_levels(
    control: &Control,
    change: impl Fn(&mut LevelSettings) + Send,
) -> Result<LevelSettings, Error> {
    let key = Key::new(Kind::Setting, LEVELS);
    let stored = control.store.get(&key).await?;
    let expect = stored.as_ref().map_or(Expect::Absent, |document| Expect::Version(document.version));
    // What can't be read is replaced: nobody else could repair it.
    let shared = stored.and_then(|document| serde_json::from_value(document.value).ok());
    let mut settings = shared.unwrap_or_else(|| control.levels.settings());
    change(&mut settings);
    let value = serde_json::to_value(&settings).map_err(Error::internal)?;
    control.commit(vec![Write::Put { key, value, expect }]).await?;
    control.levels.apply(&settings).map_err(Error::internal)?;
    Ok(settings)
}

/// What the test wrote.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TestLogs {
    /// Whether it was stored in time.
    pub success: bool,
    /// How many records.
    pub entries_created: usize,
    /// The records.
    pub test_data: Vec<Value>,
}

/// Write three sample records into the log of requests: a success, a failure, a slow one.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct WriteTestLogs {}

impl Operation for WriteTestLogs {
    const NAME: &'static str = "write_test_logs";
    const COMMAND: &'static [&'static str] = &["log", "test"];
    const HTTP: Endpoint = post("/logs/test");
    const SCOPE: Access = Access::Admin;
    type Output = TestLogs;

    async fn run(self, control: &Control, _: &Context) -> Result<TestLogs, Error> {
        let samples = [(200, 12.0), (500, 30.0), (200, 6000.0)];
        let now = logs::now();
        let mut test_data = Vec::new();
        for (status, milliseconds) in samples {
            let record = json!({
                "timestamp": now,
                "client_ip": "192.0.2.1",
                "proxy_hostname": "test.invalid",
                "request_method": "GET",
                "request_path": "/log-test",
                "status_code": status,
                "response_time_ms": milliseconds,
                "component": "log_test",
            });
            control.writers.requests.push_json(now, &record).map_err(Error::internal)?;
            test_data.push(record);
        }
        let success = control.writers.requests.flush(std::time::Duration::from_secs(2)).await;
        Ok(TestLogs { success, entries_created: test_data.len(), test_data })
    }
}

/// What was cleared.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Cleared {
    /// `cleared`.
    pub status: &'static str,
    /// How many records there were.
    pub cleared_count: u64,
}

/// Delete all records of a log. The audit log can't be cleared. Requests that are calls of MCP servers are in `mcp`.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearLogs {
    /// Which log.
    #[serde(default)]
    #[arg(long, value_enum, default_value_t)]
    pub log: Log,
}

impl Operation for ClearLogs {
    const NAME: &'static str = "clear_logs";
    const COMMAND: &'static [&'static str] = &["log", "clear"];
    const HTTP: Endpoint = delete("/logs");
    const SCOPE: Access = Access::Admin;
    type Output = Cleared;

    fn subject(&self) -> Option<String> {
        Some(self.log.stream().as_str().to_owned())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<Cleared, Error> {
        if self.log == Log::Audit {
            let detail = "is kept, so that nobody hides what was done: expected `requests`, `diagnostics`, `oauth` or `mcp`";
            return Err(Error::invalid(FieldError::new("log", "audit", detail)));
        }
        let cleared_count = control.store.clear(self.log.stream()).await?;
        Ok(Cleared { status: "cleared", cleared_count })
    }
}

/// What a follower of a log asks for: the same conditions as a search.
pub(crate) fn filter(search: &Search) -> Result<logs::Filter, Error> {
    search.compile(logs::now()).map_err(|error| failed(error.into()))
}
