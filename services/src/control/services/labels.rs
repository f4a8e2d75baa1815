//! What labels of containers ask for, and what became of it.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Operation};
use crate::docker::Claim;

/// What labels ask for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LabelList {
    /// Whether labels make hosts on this node: `PORTCULLIS_DOCKER_LABELS`.
    pub enabled: bool,
    /// By container and host.
    pub hosts: Vec<Claim>,
    /// How many.
    pub total: usize,
}

/// List the hosts that labels of containers of this node ask for, and what became of that.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListLabels {}

impl Operation for ListLabels {
    const NAME: &'static str = "list_service_labels";
    const COMMAND: &'static [&'static str] = &["service", "labels"];
    const HTTP: Endpoint = get("/services/labels");
    const SCOPE: Access = Access::User;
    type Output = LabelList;

    async fn run(self, control: &Control, _: &Context) -> Result<LabelList, Error> {
        let docker = control.docker()?;
        let hosts = Vec::clone(&docker.claims.borrow());
        Ok(LabelList { enabled: docker.policy.labels, total: hosts.len(), hosts })
    }
}
