//! The operations: everything that users can do, behind one gate.
//!
//! An [`Operation`] is a struct with a `run`. [`register`] lists all of them; REST, OpenAPI and the
//! command line read that list. [`Control::call`] is the only way to run one: it checks the scope,
//! runs it, counts it and writes the audit log. Identity comes in as a typed [`Caller`]; nothing
//! here ever looks at a header.

pub mod bundle;
pub mod certificates;
pub mod changes;
pub mod commands;
pub mod error;
pub mod explain;
pub mod externals;
pub mod logs;
pub mod logs_by;
pub mod managed;
pub mod mcp_tools;
#[cfg(feature = "oauth")]
pub mod oauth;
pub mod operation;
#[cfg(feature = "docker")]
pub mod ports;
pub mod probes;
pub mod proxies;
pub mod proxy_auth;
pub mod proxy_github;
pub mod proxy_mcp;
pub mod proxy_mcp_policy;
pub mod proxy_oauth_server;
pub mod proxy_resource;
pub mod proxy_routes;
pub mod resource_tokens;
pub mod resources;
pub mod route_auth;
pub mod routes;
pub mod schema;
pub mod secret;
#[cfg(feature = "docker")]
pub mod services;
pub mod setup;
pub mod system;
#[cfg(test)]
pub(crate) mod testing;
pub mod token_details;
pub mod tokens;
pub mod upstream_credentials;
pub mod upstreams;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use changes::{Changes, New};
pub use error::Error;
pub use managed::Managed;
pub use operation::{Access, Caller, Context, Endpoint, Operation, Progress, Surface, Table};
pub use secret::Secret;
pub use tokens::Mint;

use crate::acme;
use crate::applied::Applied;
use crate::config::access::Site;
use crate::config::names::GithubClientId;
use crate::config::{Config, Proxy, TargetUrl};
use crate::logs::{Levels, Writers, now};
use crate::mirror::Mirror;
use crate::oauth::{Judge, rotation};
use crate::stapling::Staples;
use crate::store::{Revision, Store, Write};
use crate::vault::Vault;

/// How long an answer to a write waits until this node serves the change.
const APPLY_WAIT: Duration = Duration::from_secs(2);

/// What operations work on.
pub struct Control {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) mirror: Mirror,
    pub(crate) vault: Arc<Vault>,
    pub(crate) issuer: TargetUrl,
    pub(crate) mint: Arc<dyn Mint>,
    pub(crate) judge: Arc<dyn Judge>,
    pub(crate) levels: Levels,
    pub(crate) writers: Writers,
    pub(crate) applied: watch::Receiver<Applied>,
    pub(crate) accept: Arc<Notify>,
    pub(crate) site: Site,
    /// The client id of the deployment's GitHub app.
    pub(crate) github_app: Option<GithubClientId>,
    pub(crate) key_policy: rotation::Policy,
    pub(crate) acme: Arc<acme::Policy>,
    pub(crate) doctor: Arc<acme::Doctor>,
    pub(crate) staples: Arc<Staples>,
    pub(crate) draining: CancellationToken,
    #[cfg(feature = "oauth")]
    oauth: Option<Arc<crate::oauth::AuthorizationServer>>,
    /// None where there is no engine.
    #[cfg(feature = "docker")]
    docker: Option<crate::docker::Docker>,
    /// None where nothing is called.
    pub(crate) probes: Option<probes::Probes>,
    started: Timestamp,
    calls: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

/// The parts of a [`Control`].
#[derive(Debug)]
pub struct Parts {
    /// Where configuration and logs live, and what this node has read of it.
    pub mirror: Mirror,
    /// Seals secrets.
    pub vault: Arc<Vault>,
    /// The issuer of this deployment.
    pub issuer: TargetUrl,
    /// Makes and revokes named tokens.
    pub mint: Arc<dyn Mint>,
    /// Judges tokens.
    pub judge: Arc<dyn Judge>,
    /// The levels of diagnostics.
    pub levels: Levels,
    /// What writes the logs of this node.
    pub writers: Writers,
    /// What this node serves.
    pub applied: watch::Receiver<Applied>,
    /// What the deployment says about every host.
    pub site: Site,
    /// The client id of the GitHub app that people sign in through where a host has none of its own.
    pub github_app: Option<GithubClientId>,
    /// When signing keys rotate.
    pub key_policy: rotation::Policy,
    /// What the deployment wants of its certificates.
    pub acme: Arc<acme::Policy>,
    /// Looks at what authorities meet with.
    pub doctor: Arc<acme::Doctor>,
    /// What this node knows from the responders of certificates.
    pub staples: Arc<Staples>,
    /// Notified when an admin accepts a store that is older than what is served, or another one.
    pub accept: Arc<Notify>,
    /// Cancelled when the node begins to stop.
    pub draining: CancellationToken,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Control {
    /// A control over its parts.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            mirror,
            vault,
            issuer,
            mint,
            judge,
            levels,
            writers,
            applied,
            site,
            github_app,
            key_policy,
            acme,
            doctor,
            staples,
            accept,
            draining,
        } = parts;
        let (started, calls) = (Timestamp::now(), Mutex::default());
        Self {
            store: Arc::clone(mirror.store()),
            mirror,
            vault,
            issuer,
            mint,
            judge,
            levels,
            writers,
            applied,
            site,
            github_app,
            key_policy,
            acme,
            doctor,
            staples,
            accept,
            draining,
            #[cfg(feature = "oauth")]
            oauth: None,
            #[cfg(feature = "docker")]
            docker: None,
            probes: None,
            started,
            calls,
        }
    }

    /// Refuses callers who may not; the refusal is noted. Surfaces may ask before they read the input,
    /// [`call`](Self::call) asks in any case.
    pub fn admit<O: Operation>(&self, ctx: &Context) -> Result<(), Error> {
        ctx.caller.check(O::SCOPE).inspect_err(|error| {
            self.count(O::NAME, error.code());
            self.audit(O::NAME, None, ctx, Some(error), Duration::ZERO);
        })
    }

    /// Runs an operation for a caller: scope, then the work, then the books.
    pub async fn call<O: Operation>(&self, input: O, ctx: &Context) -> Result<O::Output, Error> {
        self.admit::<O>(ctx)?;
        let started = Instant::now();
        let subject = input.subject();
        let outcome = match self.refuse_unserved::<O>() {
            Ok(()) => input.run(self, ctx).await,
            Err(error) => Err(error),
        };
        self.count(O::NAME, outcome.as_ref().map_or_else(Error::code, |_| "ok"));
        if let Err(Error::Internal(source)) = &outcome {
            tracing::error!(operation = O::NAME, error = %Chain(&**source), "operation failed");
        }
        if O::HTTP.writes() {
            self.audit(O::NAME, subject.as_deref(), ctx, outcome.as_ref().err(), started.elapsed());
        }
        outcome
    }

    /// What is written into a store that is not served would be lost, or appear when nobody expects it.
    fn refuse_unserved<O: Operation>(&self) -> Result<(), Error> {
        let is_replaced = self.applied.borrow().replaced.is_some();
        if is_replaced && O::HTTP.writes() && !O::WITH_REPLACED_STORE {
            return Err(Error::StoreReplaced);
        }
        Ok(())
    }

    fn count(&self, operation: &'static str, code: &'static str) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry((operation, code)).or_default() += 1;
    }

    /// How often each operation ended how: name, code (`ok` for success), count.
    pub fn calls(&self) -> Vec<(&'static str, &'static str, u64)> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().map(|((name, code), count)| (*name, *code, *count)).collect()
    }

    /// The issuer of this deployment.
    pub const fn issuer(&self) -> &TargetUrl {
        &self.issuer
    }

    /// The configuration as it is in the store.
    pub(crate) async fn config(&self) -> Result<Arc<Config>, Error> {
        Ok(Arc::clone(&self.mirror.latest().await?.config))
    }

    /// Commits, and waits briefly until this node serves the change.
    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<Revision, Error> {
        let before = self.applied.borrow().revision.clone();
        let revision = self.store.commit(writes).await?;
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| {
            let at = applied.revision.as_ref();
            applied.replaced.is_some()
                || at.is_some_and(|at| at.epoch == revision.epoch && at.n >= revision.n)
        });
        let reached = tokio::time::timeout(APPLY_WAIT, reached).await;
        let goes_on = |at: &Revision| at.epoch == revision.epoch && at.n <= revision.n;
        match reached {
            // The store was replaced just before: this node does not serve what was written.
            Ok(Ok(applied)) if applied.replaced.is_some() => return Err(Error::StoreReplaced),
            Ok(Ok(_)) => {}
            _ if before.is_some_and(|before| !goes_on(&before)) => return Err(Error::StoreReplaced),
            // Neither a closed channel (nobody serves here) nor a slow swap makes the change undone.
            Ok(Err(_)) => {}
            Err(_) => {
                tracing::warn!(revision = revision.n, "a change is stored, but not yet served by this node");
            }
        }
        Ok(revision)
    }

    /// The resource of a proxy; a wildcard has one for each host.
    pub fn resource_of(&self, proxy: &Proxy) -> Option<String> {
        Some(self.site.resource(proxy, &proxy.proxy_hostname.host()?))
    }

    fn audit(
        &self,
        operation: &'static str,
        subject: Option<&str>,
        ctx: &Context,
        error: Option<&Error>,
        elapsed: Duration,
    ) {
        let record = json!({
            "timestamp": now(),
            "level": if error.is_some() { "WARNING" } else { "INFO" },
            "component": "audit",
            "event_type": operation,
            "message": error.map_or_else(|| "done".to_owned(), outcome),
            "subject": subject,
            "auth_user": ctx.caller.name().as_deref().unwrap_or("anonymous"),
            "client_ip": ctx.client.map(|client| client.to_string()).unwrap_or_default(),
            "trace_id": ctx.request_id.as_deref().unwrap_or_default(),
            "status_code": error.map_or(200, |error| error.status().as_u16()),
            "error": error.map_or("", Error::code),
            "response_time_ms": elapsed.as_secs_f64() * 1000.0,
        });
        if let Err(error) = self.writers.audit.push_json(now(), &record) {
            tracing::error!(operation, %error, "audit entry is lost");
        }
    }
}

/// An error without the values that it complains about: what stood in a wrong field may be a secret.
fn outcome(error: &Error) -> String {
    match error {
        Error::Invalid(errors) => {
            let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
            format!("invalid: {}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// An error with its causes.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(source) = cause {
            write!(f, ": {source}")?;
            cause = source.source();
        }
        Ok(())
    }
}

/// What an operation without a result says.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Done {
    /// What was done, in a word.
    pub status: &'static str,
    /// What it was done to.
    pub subject: String,
    /// What else was changed with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
}

impl Done {
    /// Something was done to something.
    pub fn new(status: &'static str, subject: impl fmt::Display) -> Self {
        Self { status, subject: subject.to_string(), also: Vec::new() }
    }
}

/// The list of all operations.
pub fn register(surface: &mut impl Surface) {
    proxies::register(surface);
    proxy_auth::register(surface);
    proxy_github::register(surface);
    proxy_oauth_server::register(surface);
    proxy_mcp::register(surface);
    proxy_mcp_policy::register(surface);
    proxy_resource::register(surface);
    proxy_routes::register(surface);
    routes::register(surface);
    route_auth::register(surface);
    certificates::register(surface);
    externals::register(surface);
    #[cfg(feature = "docker")]
    services::register(surface);
    #[cfg(feature = "docker")]
    ports::register(surface);
    upstreams::register(surface);
    resources::register(surface);
    resource_tokens::register(surface);
    tokens::register(surface);
    token_details::register(surface);
    upstream_credentials::register(surface);
    mcp_tools::register(surface);
    logs::register(surface);
    logs_by::register(surface);
    system::register(surface);
    setup::register(surface);
    #[cfg(feature = "oauth")]
    oauth::register(surface);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::proxies::CreateProxy;
    use crate::control::testing::{caller, control_serving};

    fn create() -> CreateProxy {
        let fields = json!({ "proxy_hostname": "app.example.com", "target_url": "http://10.0.0.5" });
        serde_json::from_value(fields).expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_waits_until_this_node_serves_it() {
        let (publish, applied) = watch::channel(Applied::default());
        let (control, store) = control_serving(applied);
        let ctx = Context::of(caller("root", &["admin"]));
        let mut call = Box::pin(control.call(create(), &ctx));
        let serve = async {
            let (revision, documents) = loop {
                let (revision, documents) = store.load().await.expect("a store");
                if !documents.is_empty() {
                    break (revision, documents);
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(documents.len(), 1, "it is stored, but not yet served");
            revision
        };
        let revision = tokio::select! {
            _ = &mut call => panic!("nobody serves it yet"),
            revision = serve => revision,
        };
        publish.send_modify(|applied| applied.revision = Some(revision));
        assert!(call.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_node_delays_a_write_only_so_long() {
        let (_publish, applied) = watch::channel(Applied::default());
        let (control, _) = control_serving(applied);
        let started = Instant::now();
        let ctx = Context::of(Caller::Local);
        assert!(control.call(create(), &ctx).await.is_ok());
        assert!(started.elapsed() >= APPLY_WAIT && started.elapsed() < APPLY_WAIT * 2);
    }

    #[tokio::test]
    async fn nobody_gets_past_the_gate() {
        let (_, applied) = watch::channel(Applied::default());
        let (control, store) = control_serving(applied);
        let refused = control.call(create(), &Context::default()).await;
        assert!(matches!(refused, Err(Error::Unauthenticated)));
        let refused = control.call(create(), &Context::of(caller("eve", &["user", "mcp"]))).await;
        assert!(matches!(refused, Err(Error::Forbidden { .. })));
        assert!(store.load().await.expect("a store").1.is_empty());
    }
}
