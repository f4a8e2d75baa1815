//! An external service: an upstream that is registered by name, so that routes can name it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::TargetUrl;
use super::balancing::{Balanced, First, HealthCheck, LoadBalancing, PassiveHealth, Retries, UpstreamUrl};
use super::field::{self, FieldError};
use super::names::ServiceName;
use super::upstream_tls::UpstreamTls;
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

/// An upstream that is registered by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// Its name.
    pub service_name: ServiceName,
    /// Where it is; may be left out where `target_urls` has one.
    pub target_url: TargetUrl,
    /// More upstreams of it, beside `target_url`, which is the first: URLs, or `{"url": …, "weight": …}`. With
    /// `target_url` among them they are all, and in this order.
    #[serde(default)]
    pub target_urls: Vec<UpstreamUrl>,
    /// How requests are spread over the upstreams.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// How the upstreams are asked whether they are well; absent: not at all.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// When an upstream gets nothing for a while because of what became of requests; absent: never.
    #[serde(default)]
    pub passive_health: Option<PassiveHealth>,
    /// When a request is sent to another upstream.
    #[serde(default)]
    pub retries: Retries,
    /// TLS towards the upstreams, their checks included.
    #[serde(default)]
    pub upstream_tls: UpstreamTls,
    /// Speak HTTP/2 to the upstreams: by ALPN over TLS, with prior knowledge without it.
    #[serde(default)]
    pub upstream_http2: bool,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Whether routes may name it.
    #[serde(default = "yes")]
    pub routing_enabled: bool,
    /// Who created it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Grows by one with each change.
    #[serde(default)]
    pub config_version: u64,
}

const fn yes() -> bool {
    true
}

impl External {
    /// What it says of its upstreams.
    pub fn balanced(&self) -> Balanced<'_> {
        Balanced {
            first: First::Url(&self.target_url),
            field: "target_urls",
            more: &self.target_urls,
            load_balancing: &self.load_balancing,
            health_check: self.health_check.as_ref(),
            passive_health: self.passive_health.as_ref(),
            retries: &self.retries,
        }
    }
}

/// The first URL of a list.
fn first_of(list: Option<&Value>) -> Option<Value> {
    let first = list?.as_array()?.first()?;
    Some(first.get("url").unwrap_or(first).clone())
}

impl Entity for External {
    const KIND: Kind = Kind::External;
    const NOUN: &'static str = "external service";
    const ID: &'static str = "service_name";
    const REQUIRED: &'static [&'static str] = &["service_name", "target_url"];
    const ARGUMENTS: &'static [&'static str] = &["service_name", "target_url"];
    const ALIASES: &'static [(&'static str, &'static str)] =
        &[("name", "service_name"), ("outlier", "passive_health")];

    fn id(&self) -> String {
        self.service_name.to_string()
    }

    stamped!();

    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        field::rename(&mut fields, Self::ALIASES).map_err(|error| vec![error])?;
        if !fields.contains_key("target_url")
            && let Some(first) = first_of(fields.get("target_urls"))
        {
            fields.insert("target_url".to_owned(), first);
        }
        let entity: Self = field::read(&Value::Object(fields)).map_err(|error| vec![error])?;
        let problems = entity.problems();
        if problems.is_empty() { Ok(entity) } else { Err(problems) }
    }

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        self.balanced().check(&mut problems);
        self.upstream_tls.check(&mut problems);
        problems
    }

    fn references(&self, _: &Config, _: &mut Vec<FieldError>) -> Vec<Key> {
        Vec::new()
    }
}
