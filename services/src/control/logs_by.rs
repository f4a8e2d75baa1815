//! Short ways to common searches of the request log: each is a search with one condition given.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes::Form;
use super::logs::{Log, find};
use super::operation::get;
use super::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::logs::{Page, Search};

/// What is slow when nobody says, in milliseconds.
const SLOW: f64 = 1000.0;

/// Adds them.
pub fn register(surface: &mut impl Surface) {
    surface.add::<RecentLogs>();
    surface.add::<LogsOfUser>();
    surface.add::<LogsOfMethod>();
    surface.add::<LogsOfStatus>();
    surface.add::<LogsOfPath>();
    surface.add::<LogsOfTrace>();
    surface.add::<SlowLogs>();
}

/// Show the last requests, of the last hour when nothing else is said.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct RecentLogs {
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for RecentLogs {
    const NAME: &'static str = "recent_logs";
    const COMMAND: &'static [&'static str] = &["log", "show"];
    const HTTP: Endpoint = get("/logs");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let mut search = self.search.read()?;
        if search.since.is_none() {
            search.hours.get_or_insert(1);
        }
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests of a user.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfUser {
    /// The login, subject or e-mail address.
    pub of_user: String,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfUser {
    const NAME: &'static str = "logs_of_user";
    const COMMAND: &'static [&'static str] = &["log", "user"];
    const HTTP: Endpoint = get("/logs/user/{of_user}");
    const ALIASES: &'static [Endpoint] = &[get("/logs/oauth/user/{of_user}")];
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { user: Some(self.of_user), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests with a method.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfMethod {
    /// The method.
    pub of_method: String,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfMethod {
    const NAME: &'static str = "logs_of_method";
    const COMMAND: &'static [&'static str] = &["log", "method"];
    const HTTP: Endpoint = get("/logs/method/{of_method}");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { method: Some(self.of_method), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests that were answered with a status.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfStatus {
    /// The status: `404`, a class `4xx`, a range `500-599`, or several of them with commas.
    pub code: String,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfStatus {
    const NAME: &'static str = "logs_of_status";
    const COMMAND: &'static [&'static str] = &["log", "status"];
    const HTTP: Endpoint = get("/logs/status/{code}");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { status: Some(self.code), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests to a path.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfPath {
    /// With `*` the whole path as a pattern, beginning with `/` a prefix, else any part of it.
    pub pattern: String,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfPath {
    const NAME: &'static str = "logs_of_path";
    const COMMAND: &'static [&'static str] = &["log", "path"];
    const HTTP: Endpoint = get("/logs/path");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { path: Some(self.pattern), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests of an id: ours, or the client's own.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct LogsOfTrace {
    /// The id.
    pub id: String,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

impl Operation for LogsOfTrace {
    const NAME: &'static str = "logs_of_trace";
    const COMMAND: &'static [&'static str] = &["log", "correlation"];
    const HTTP: Endpoint = get("/logs/correlation/{id}");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let search = Search { trace_id: Some(self.id), ..self.search.read()? };
        find(control, Log::Requests, &search).await
    }
}

/// Search the requests that took long: a second or more, when nothing else is said.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct SlowLogs {
    /// How many milliseconds are long.
    #[serde(default = "slow")]
    #[arg(long, default_value_t = SLOW)]
    pub threshold: f64,
    /// Further conditions.
    #[serde(flatten)]
    #[command(flatten)]
    pub search: Form<Search>,
}

const fn slow() -> f64 {
    SLOW
}

impl Operation for SlowLogs {
    const NAME: &'static str = "slow_logs";
    const COMMAND: &'static [&'static str] = &["log", "slow"];
    const HTTP: Endpoint = get("/logs/slow");
    const SCOPE: Access = Access::User;
    type Output = Page;

    async fn run(self, control: &Control, _: &Context) -> Result<Page, Error> {
        let mut search = Search { slow: Some(self.threshold), ..self.search.read()? };
        search.limit.get_or_insert(50);
        find(control, Log::Requests, &search).await
    }
}
