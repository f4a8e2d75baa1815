//! What requests are sent to, and how it is: as the node that is asked sees it.

use std::sync::Arc;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::get;
use super::probes::Probes;
use super::{Access, Context, Control, Endpoint, Error, Operation, Surface, Table};
use crate::config::Config;
use crate::config::resolve::Addresses;
use crate::upstreams::{Upstream, list};

/// Adds the operations of upstreams.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListUpstreams>();
    surface.add::<ShowUpstreams>();
}

/// List what requests are sent to: who uses it, whether it is well, and what was counted, on the node that is asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListUpstreams {}

impl Operation for ListUpstreams {
    const NAME: &'static str = "list_upstreams";
    const COMMAND: &'static [&'static str] = &["upstream", "list"];
    const HTTP: Endpoint = get("/upstreams/");
    const TABLE: Option<Table<Vec<Upstream>>> = Some(Table {
        path: "/upstreams/formatted",
        columns: &["URL", "State", "In flight", "Requests", "Failures", "Used by", "Last failure"],
        rows: |upstreams| upstreams.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::User;
    type Output = Vec<Upstream>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Upstream>, Error> {
        control.upstreams().await
    }
}

fn row(upstream: &Upstream) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
    let used_by: Vec<_> = upstream.used_by.iter().map(|one| format!("{} {}", one.kind, one.name)).collect();
    vec![
        upstream.url.clone(),
        upstream.state.to_owned(),
        number(upstream.in_flight.map(u64::from)),
        number(upstream.requests),
        number(upstream.failures),
        used_by.join(", "),
        upstream.last_failure.as_ref().map_or_else(String::new, |failure| failure.error.clone()),
    ]
}

/// Show the upstreams of a host, a route or a service: whether they are well, and what was counted, on the node that is
/// asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowUpstreams {
    /// The host, the route or the service.
    pub name: String,
}

impl Operation for ShowUpstreams {
    const NAME: &'static str = "show_upstreams";
    const COMMAND: &'static [&'static str] = &["upstream", "show"];
    const HTTP: Endpoint = get("/upstreams/{name}");
    const SCOPE: Access = Access::User;
    type Output = Vec<Upstream>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Upstream>, Error> {
        let mut found = control.upstreams().await?;
        for one in &mut found {
            one.used_by.retain(|user| user.name == self.name);
        }
        found.retain(|one| !one.used_by.is_empty());
        if found.is_empty() {
            return Err(Error::NotFound { what: "host, route or service with upstreams", id: self.name });
        }
        Ok(found)
    }
}

impl Control {
    /// The upstreams of the configuration that this node knows.
    async fn upstreams(&self) -> Result<Vec<Upstream>, Error> {
        let config: Arc<Config> = match self.mirror.known() {
            Some(view) => Arc::clone(&view.config),
            None => self.config().await?,
        };
        Ok(list(&config, &self.containers(), self.probes.as_ref().map(Probes::client)))
    }

    /// Where the containers of this node's services are.
    fn containers(&self) -> Addresses {
        #[cfg(feature = "docker")]
        if let Some(docker) = &self.docker {
            let all = docker.board.all();
            return all.iter().map(|(name, known)| (name.clone(), known.addresses.clone())).collect();
        }
        Addresses::new()
    }
}
