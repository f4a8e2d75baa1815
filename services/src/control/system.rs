//! The system: health, facts about the node, and the configuration as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bundle::{Bundle, Import, import};
use super::operation::{get, post};
use super::secret::text_or_file;
use super::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::acme::alerts;
use crate::config::Problem;
use crate::store::{Revision, Stream};

/// How long the store may take to answer a look at its health.
const PING: Duration = Duration::from_secs(1);

/// How long an accepted store may take until it is served.
const ACCEPT_WAIT: Duration = Duration::from_secs(10);

/// The setting that says which store an admin has accepted, for all nodes.
pub const ACCEPTED_STORE: &str = "accepted_store";

/// Adds the operations of the system.
pub fn register(surface: &mut impl Surface) {
    surface.add::<Health>();
    surface.add::<Ready>();
    surface.add::<ShowInfo>();
    surface.add::<ShowVersion>();
    surface.add::<SystemStats>();
    surface.add::<ExportConfig>();
    surface.add::<ImportConfig>();
    surface.add::<ValidateConfig>();
    surface.add::<AcceptStore>();
}

/// How the node is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HealthReport {
    /// `healthy`, `degraded` when the store is away or something is not in force, or `draining` when the node stops.
    pub status: &'static str,
    /// `connected`, `unavailable`, or `replaced` when it is another one than what is served, or an older state of it,
    /// and waits for an admin to accept it.
    pub store: &'static str,
    /// The same: the older name, whatever the store is.
    pub redis: &'static str,
    /// How many certificates are loaded.
    pub certificates_loaded: usize,
    /// Whether the HTTPS port is served.
    pub https_enabled: bool,
    /// How many hosts are served: those that are enabled.
    pub hosts: usize,
    /// Whether the configuration comes from this node's own copy, because the store was away or replaced at start.
    pub from_copy: bool,
    /// How many documents are not, or not wholly, in force.
    pub orphaned_resources: usize,
    /// Which, and why: for callers with a token only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Show whether the node is healthy.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct Health {}

impl Operation for Health {
    const NAME: &'static str = "health";
    const COMMAND: &'static [&'static str] = &["system", "health"];
    const HTTP: Endpoint = get("/health");
    const ALIASES: &'static [Endpoint] = &[get("/system/health")];
    const SCOPE: Access = Access::Public;
    type Output = HealthReport;

    async fn run(self, control: &Control, ctx: &Context) -> Result<HealthReport, Error> {
        let reached = matches!(tokio::time::timeout(PING, control.store.ping()).await, Ok(Ok(())));
        let applied = control.applied.borrow().clone();
        let mut problems = applied.problems;
        let config = control.mirror.known().map(|view| Arc::clone(&view.config));
        if let Some(config) = &config {
            problems.extend(alerts::problems(config, Timestamp::now()));
            problems.extend(alerts::revoked(config, |fingerprint| control.staples.is_revoked(fingerprint)));
        }
        let well = reached && problems.is_empty() && !applied.from_copy;
        let store = match &applied.replaced {
            _ if !reached => "unavailable",
            Some(_) => "replaced",
            None => "connected",
        };
        Ok(HealthReport {
            status: match well {
                _ if control.draining.is_cancelled() => "draining",
                true => "healthy",
                false => "degraded",
            },
            store,
            redis: store,
            certificates_loaded: applied.certificates,
            https_enabled: applied.https,
            hosts: applied.hosts,
            from_copy: applied.from_copy,
            orphaned_resources: problems.len(),
            // They name hosts and routes: not for everybody.
            problems: if ctx.caller.may(Access::User) { problems } else { Vec::new() },
        })
    }
}

/// What is in force on the node.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Readiness {
    /// Always true: a node that is not ready answers 503.
    pub ready: bool,
    /// The revision of the configuration that is served.
    pub revision: Option<u64>,
}

/// Show whether the node serves; 503 until its first configuration is in force, and from when it begins to stop.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct Ready {}

impl Operation for Ready {
    const NAME: &'static str = "ready";
    const COMMAND: &'static [&'static str] = &["system", "ready"];
    const HTTP: Endpoint = get("/ready");
    const ALIASES: &'static [Endpoint] = &[get("/system/ready")];
    const SCOPE: Access = Access::Public;
    type Output = Readiness;

    async fn run(self, control: &Control, _: &Context) -> Result<Readiness, Error> {
        if control.draining.is_cancelled() {
            return Err(Error::Draining);
        }
        match &control.applied.borrow().revision {
            Some(revision) => Ok(Readiness { ready: true, revision: Some(revision.n) }),
            None => Err(Error::NotReady),
        }
    }
}

/// Accept a store that is older than what is served, or another one: what it holds is served from now on, by all
/// nodes. Ask a node whose health says `replaced`.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct AcceptStore {}

impl Operation for AcceptStore {
    const NAME: &'static str = "accept_store";
    const COMMAND: &'static [&'static str] = &["system", "accept-store"];
    const HTTP: Endpoint = post("/system/accept-store");
    const SCOPE: Access = Access::Admin;
    const WITH_REPLACED_STORE: bool = true;
    type Output = Done;

    async fn run(self, control: &Control, _: &Context) -> Result<Done, Error> {
        let mut applied = control.applied.clone();
        // Nobody may accept what they could not have seen: a store that is replaced a moment later.
        if applied.borrow().replaced.is_none() {
            let detail = "this node serves what its store holds: there is nothing to accept";
            return Err(Error::Conflict(detail.to_owned()));
        }
        control.accept.notify_one();
        let served = applied.wait_for(|applied| applied.replaced.is_none());
        match tokio::time::timeout(ACCEPT_WAIT, served).await {
            Ok(Ok(_)) => Ok(Done::new("accepted", "store")),
            _ => Err(Error::Conflict(
                "the store is not served yet: the node's log says why, and `health` when it is".to_owned(),
            )),
        }
    }
}

/// Facts about the node.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Info {
    /// The version of the software.
    pub version: &'static str,
    /// The issuer of this deployment.
    pub issuer: String,
    /// When the node started.
    pub started_at: Timestamp,
    /// How long ago.
    pub uptime_seconds: i64,
    /// The configuration that is in force: which store it comes from.
    pub epoch: Option<String>,
    /// The configuration that is in force: how many changes the store has seen.
    pub revision: Option<u64>,
    /// How many hosts are served: those that are enabled.
    pub hosts: usize,
    /// How many certificates are loaded.
    pub certificates: usize,
    /// The key that seals secrets, by its id.
    pub secret_key_id: String,
}

/// Show facts about the node.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowInfo {}

impl Operation for ShowInfo {
    const NAME: &'static str = "system_info";
    const COMMAND: &'static [&'static str] = &["system", "info"];
    const HTTP: Endpoint = get("/system/info");
    const SCOPE: Access = Access::User;
    type Output = Info;

    async fn run(self, control: &Control, _: &Context) -> Result<Info, Error> {
        let applied = control.applied.borrow().clone();
        let revision = applied.revision.as_ref();
        Ok(Info {
            version: VERSION,
            issuer: control.issuer().to_string(),
            started_at: control.started,
            uptime_seconds: Timestamp::now().as_second() - control.started.as_second(),
            epoch: revision.map(|revision| revision.epoch.clone()),
            revision: revision.map(|revision| revision.n),
            hosts: applied.hosts,
            certificates: applied.certificates,
            secret_key_id: control.vault.key_id().to_owned(),
        })
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of the software and of the API.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Version {
    /// Of the software.
    pub version: &'static str,
    /// Of the API.
    pub api_version: &'static str,
}

/// Show the version.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowVersion {}

impl Operation for ShowVersion {
    const NAME: &'static str = "system_version";
    const COMMAND: &'static [&'static str] = &["system", "version"];
    const HTTP: Endpoint = get("/system/version");
    const SCOPE: Access = Access::Public;
    type Output = Version;

    async fn run(self, _: &Control, _: &Context) -> Result<Version, Error> {
        Ok(Version { version: VERSION, api_version: "v1" })
    }
}

/// Counts.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Stats {
    /// The documents of each kind.
    pub documents: BTreeMap<&'static str, usize>,
    /// The calls of each operation since the node started, by outcome.
    pub calls: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// What became of the records of each log since the node started.
    pub logs: BTreeMap<&'static str, LogCounts>,
}

/// What became of the records of a log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LogCounts {
    /// Reached the store.
    pub written: u64,
    /// Lost, because the store was away too long.
    pub dropped: u64,
}

/// Count documents, calls and log records.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SystemStats {}

impl Operation for SystemStats {
    const NAME: &'static str = "system_stats";
    const COMMAND: &'static [&'static str] = &["system", "stats"];
    const HTTP: Endpoint = get("/system/stats");
    const SCOPE: Access = Access::User;
    type Output = Stats;

    async fn run(self, control: &Control, _: &Context) -> Result<Stats, Error> {
        let config = control.config().await?;
        let documents = BTreeMap::from([
            ("proxies", config.proxies.len()),
            ("routes", config.routes.len()),
            ("certificates", config.certificates.len()),
            ("externals", config.externals.len()),
            ("services", config.services.len()),
            ("resources", config.resources.len()),
            ("tokens", config.tokens.len()),
            ("problems", config.problems.len()),
        ]);
        let mut calls: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (name, code, count) in control.calls() {
            calls.entry(name).or_default().insert(code, count);
        }
        let writers = &control.writers;
        let logs = [&writers.requests, &writers.diagnostics, &writers.audit, &writers.oauth, &writers.mcp]
            .map(|writer| {
                let counts = writer.counts();
                (
                    Stream::as_str(writer.stream()),
                    LogCounts { written: counts.written, dropped: counts.dropped },
                )
            });
        Ok(Stats { documents, calls, logs: logs.into() })
    }
}

/// Export the configuration as one document. Secrets are left out, unless they are asked for; then
/// they stay sealed with this deployment's secret key.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Include secrets (keys of certificates, signing keys), sealed.
    #[serde(default)]
    #[arg(long)]
    pub include_secrets: bool,
    /// Include what is known of named tokens.
    #[serde(default)]
    #[arg(long)]
    pub include_tokens: bool,
}

/// An exported configuration.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Export {
    /// When it was exported.
    pub exported_at: Timestamp,
    /// The state of the store.
    pub epoch: String,
    /// The state of the store.
    pub revision: u64,
    /// The configuration: what an import takes.
    pub config: Bundle,
}

impl Operation for ExportConfig {
    const NAME: &'static str = "export_config";
    const COMMAND: &'static [&'static str] = &["system", "config", "export"];
    const HTTP: Endpoint = get("/system/config/export");
    const SCOPE: Access = Access::Admin;
    type Output = Export;

    async fn run(self, control: &Control, ctx: &Context) -> Result<Export, Error> {
        let (Revision { epoch, n: revision }, documents) = control.store.load().await?;
        ctx.progress.report(format!("{} documents", documents.len()));
        let config = Bundle::of(documents, self.include_secrets, self.include_tokens);
        Ok(Export { exported_at: Timestamp::now(), epoch, revision, config })
    }
}

/// Import a configuration: all of it or nothing.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// The configuration, as the export has it.
    #[arg(value_name = "@FILE", value_parser = bundle)]
    pub config: Bundle,
    /// Replace what exists.
    #[serde(default)]
    #[arg(long, conflicts_with = "skip_existing")]
    pub force: bool,
    /// Leave what exists as it is.
    #[serde(default)]
    #[arg(long)]
    pub skip_existing: bool,
    /// Check everything, and change nothing.
    #[serde(default)]
    #[arg(long)]
    pub dry_run: bool,
}

/// Reads a configuration from an argument: JSON, or `@file`; a whole export or its `config`.
fn bundle(text: &str) -> Result<Bundle, String> {
    let text = text_or_file(text).map_err(|error| error.to_string())?;
    Bundle::parse(&text).map_err(|error| error.to_string())
}

impl Operation for ImportConfig {
    const NAME: &'static str = "import_config";
    const COMMAND: &'static [&'static str] = &["system", "config", "import"];
    const HTTP: Endpoint = post("/system/config/import");
    const SCOPE: Access = Access::Admin;
    const BODY_LIMIT: usize = 64 << 20;
    type Output = Import;

    fn subject(&self) -> Option<String> {
        Some(if self.dry_run { "dry run" } else { "import" }.to_owned())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Import, Error> {
        import(control, ctx, &self.config, self.force, self.skip_existing, self.dry_run).await
    }
}

/// Whether a configuration could be imported.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Validation {
    /// Whether it could.
    pub valid: bool,
    /// What it would do.
    pub import: Option<Import>,
    /// What is wrong.
    pub errors: Vec<crate::config::FieldError>,
}

/// Check a configuration without importing it; without one, check the one that is stored.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ValidateConfig {
    /// The configuration, as the export has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(value_name = "@FILE", value_parser = bundle)]
    pub config: Option<Bundle>,
}

impl Operation for ValidateConfig {
    const NAME: &'static str = "validate_config";
    const COMMAND: &'static [&'static str] = &["system", "config", "validate"];
    const HTTP: Endpoint = post("/system/config/validate");
    const SCOPE: Access = Access::Admin;
    // It only reads.
    const WITH_REPLACED_STORE: bool = true;
    const BODY_LIMIT: usize = 64 << 20;
    type Output = Validation;

    async fn run(self, control: &Control, ctx: &Context) -> Result<Validation, Error> {
        let Some(config) = self.config else {
            // Not what is known already: a hand may have written what is asked about.
            let problems = control.mirror.load().await?.config.problems.clone();
            let error = |problem: Problem| {
                let field = problem.field.map(|field| format!(".{field}")).unwrap_or_default();
                crate::config::FieldError::bare(
                    format!("{}[{}]{field}", problem.kind, problem.id),
                    problem.message,
                )
            };
            let errors: Vec<_> = problems.into_iter().map(error).collect();
            return Ok(Validation { valid: errors.is_empty(), import: None, errors });
        };
        match import(control, ctx, &config, true, false, true).await {
            Ok(import) => Ok(Validation { valid: true, import: Some(import), errors: Vec::new() }),
            Err(Error::Invalid(errors)) => Ok(Validation { valid: false, import: None, errors }),
            Err(error) => Err(error),
        }
    }
}
