//! The upstreams of a configuration: who uses them, and how they are as this node sees it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use portcullis_layers::forward::{
    self, Client, HealthCheck, Target, Timeouts, UpstreamState, UpstreamStatus,
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::config::resolve::{Addresses, Around, Destination, of_external, of_host, of_named, of_route};

/// An upstream, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Upstream {
    /// `scheme://host:port`.
    pub url: String,
    /// Who sends requests to it.
    pub used_by: Vec<Use>,
    /// `healthy`; `unhealthy`: checks say so; `ejected`: requests failed, and it gets none for a while; `unreachable`:
    /// no connection could be made when that was tried last, so it comes after the others; `unknown`.
    pub state: &'static str,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when it is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_until: Option<Timestamp>,
    /// Requests on their way. This and what follows is counted for one of several, or one that is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Requests so far, each try counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Those that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
    /// How often it was ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejections: Option<u64>,
    /// When a request failed last, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// What checks found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Check>,
}

/// Who sends requests to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Use {
    /// `host`, `route` or `service`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// How its requests are spread over its upstreams.
    pub policy: &'static str,
    /// The share of this one, compared with the others'.
    pub weight: u16,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LastFailure {
    /// When.
    pub at: Option<Timestamp>,
    /// Why.
    pub error: String,
}

/// What checks of an upstream found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Check {
    /// What is asked for: `GET /healthz`, or `connect`.
    pub asks: String,
    /// When it was asked last.
    pub last: Option<Timestamp>,
    /// When it is asked next.
    pub next: Option<Timestamp>,
    /// What was wrong last, while something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is counted of all upstreams of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Whether all of them get requests.
    pub up: bool,
    /// What was counted.
    pub counts: forward::Counts,
}

/// An upstream and how it is checked: what has one state.
type Subject = (forward::Upstream, Option<HealthCheck>);

/// All that are in use, and by whom.
fn subjects(config: &Config, services: &Addresses) -> HashMap<Subject, BTreeSet<Use>> {
    let mut found: HashMap<Subject, BTreeSet<Use>> = HashMap::new();
    let mut add = |kind, name: &str, destination| {
        let Destination::Upstream(target) = destination else { return };
        let Target { upstreams, balancing, .. } = &*target;
        for upstream in upstreams {
            let one = Use {
                kind,
                name: name.to_owned(),
                policy: policy(&balancing.policy),
                weight: upstream.weight,
            };
            found.entry((upstream.connected(), balancing.check.clone())).or_default().insert(one);
        }
    };
    // Times are no matter of who is asked.
    let around = Around { limits: Timeouts::default(), services };
    for proxy in config.proxies.values().filter(|proxy| proxy.enabled) {
        add("host", proxy.proxy_hostname.as_str(), of_host(config, proxy, around));
    }
    for route in config.matched_routes().filter(|route| route.enabled) {
        add("route", route.route_id.as_str(), of_route(config, route, around));
    }
    for service in config.externals.values() {
        add("service", service.service_name.as_str(), of_external(service, around));
    }
    for name in config.services.keys() {
        add("service", name.as_str(), of_named(config, name, around));
    }
    found
}

/// All upstreams of a configuration; without a client nothing is known of them.
pub fn list(config: &Config, services: &Addresses, client: Option<&Client>) -> Vec<Upstream> {
    let all = subjects(config, services).into_iter().map(|((upstream, check), used_by)| {
        let status = client.and_then(|client| client.upstream_status(&upstream, check.as_ref()));
        Upstream::new(&upstream, check.as_ref(), used_by.into_iter().collect(), status.as_ref())
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|one, other| (&one.url, &one.used_by).cmp(&(&other.url, &other.used_by)));
    all
}

/// What is counted, by the upstreams' names; of at most so many.
pub fn totals(
    config: &Config,
    services: &Addresses,
    client: &Client,
    most: usize,
) -> BTreeMap<String, Totals> {
    let mut totals: BTreeMap<String, Totals> = BTreeMap::new();
    let mut counted = HashSet::new();
    for ((upstream, check), _) in subjects(config, services) {
        let Some(status) = client.upstream_status(&upstream, check.as_ref()) else { continue };
        let Some(counts) = status.counts else { continue };
        let name = status.label.to_string();
        if totals.len() >= most && !totals.contains_key(&name) {
            continue;
        }
        let up = matches!(status.state, UpstreamState::Healthy | UpstreamState::Unknown);
        let total = totals.entry(name).or_insert(Totals { up: true, counts: forward::Counts::default() });
        total.up &= up;
        // Whatever it is checked by, its requests are the same.
        if counted.insert(upstream) {
            total.counts.in_flight += counts.in_flight;
            total.counts.requests += counts.requests;
            total.counts.failures += counts.failures;
            total.counts.ejections += counts.ejections;
        }
    }
    totals
}

impl Upstream {
    fn new(
        upstream: &forward::Upstream,
        check: Option<&HealthCheck>,
        used_by: Vec<Use>,
        status: Option<&UpstreamStatus>,
    ) -> Self {
        let state = status.map_or(UpstreamState::Unknown, |status| status.state);
        let time = |time| Timestamp::try_from(time).ok();
        let counts = status.and_then(|status| status.counts);
        let found = status.and_then(|status| status.check.as_ref());
        Self {
            url: upstream.label().to_string(),
            used_by,
            state: state.as_str(),
            since: status.and_then(|status| time(status.since)),
            ejected_until: status.and_then(|status| status.ejected_until).and_then(time),
            in_flight: counts.map(|counts| counts.in_flight),
            requests: counts.map(|counts| counts.requests),
            failures: counts.map(|counts| counts.failures),
            ejections: counts.map(|counts| counts.ejections),
            last_failure: status
                .and_then(|status| status.last_failure.clone())
                .map(|(at, error)| LastFailure { at: time(at), error }),
            health_check: check.map(|check| Check {
                asks: match &check.path {
                    Some(path) => format!("{} {path}", check.method),
                    None => "connect".to_owned(),
                },
                last: found.and_then(|found| found.last).and_then(time),
                next: found.and_then(|found| found.next).and_then(time),
                error: found.and_then(|found| found.error.clone()),
            }),
        }
    }
}

fn policy(policy: &forward::Policy) -> &'static str {
    use crate::config::balancing::Policy as Word;
    let word = match policy {
        forward::Policy::Failover => Word::Failover,
        forward::Policy::RoundRobin => Word::RoundRobin,
        forward::Policy::LeastConnections => Word::LeastConnections,
        forward::Policy::Hash(_) => Word::Hash,
    };
    word.as_str()
}

#[cfg(test)]
mod tests {
    use portcullis_layers::deadline::Ticker;
    use portcullis_layers::forward::{Forward, PoolSettings, Tunnels};
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::tests::config;
    use crate::store::Kind;

    #[tokio::test]
    async fn each_upstream_is_told_once_with_all_that_use_it() {
        let documents = [
            (
                Kind::Proxy,
                "a.example",
                json!({ "proxy_hostname": "a.example", "target_url": "http://one",
                        "upstreams": [{ "url": "http://two", "weight": 3 }] }),
            ),
            (
                Kind::Proxy,
                "b.example",
                json!({ "proxy_hostname": "b.example", "target_url": "http://two/base" }),
            ),
            (
                Kind::Proxy,
                "off.example",
                json!({ "proxy_hostname": "off.example", "target_url": "http://off", "enabled": false }),
            ),
            (
                Kind::External,
                "web",
                json!({ "service_name": "web", "target_urls": ["http://one"], "health_check": {} }),
            ),
            (
                Kind::Route,
                "r",
                json!({ "route_id": "r", "path_pattern": "/r", "target_type": "service", "target_value": "web" }),
            ),
        ];
        let config = config(&documents);
        let client = Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default());
        let none = Addresses::new();
        let around = Around { limits: Timeouts::default(), services: &none };
        let target = |host: &str| match of_host(&config, &config.proxies[host], around) {
            Destination::Upstream(target) => target,
            other => panic!("{other:?}"),
        };
        let _served = Forward::new(&client, target("a.example"), CancellationToken::new()).expect("valid");
        let list = list(&config, &Addresses::new(), Some(&client));
        let names = |one: &Upstream| {
            one.used_by
                .iter()
                .map(|one| format!("{} {} {}", one.kind, one.name, one.weight))
                .collect::<Vec<_>>()
        };
        let told: Vec<_> =
            list.iter().map(|one| (one.url.as_str(), names(one).join(", "), one.requests)).collect();
        assert_eq!(
            told,
            [
                ("http://one:80", "host a.example 1".to_owned(), Some(0)),
                ("http://one:80", "route r 1, service web 1".to_owned(), Some(0)),
                ("http://two:80", "host a.example 3, host b.example 1".to_owned(), Some(0)),
            ]
        );
        assert!(list.iter().all(|one| one.state == "unknown"));
        assert_eq!(list[1].health_check.as_ref().map(|check| check.asks.as_str()), Some("connect"));
        assert_eq!(list[0].used_by[0].policy, "round_robin");
        let counted = totals(&config, &Addresses::new(), &client, 1000);
        assert_eq!(counted.keys().collect::<Vec<_>>(), ["http://one:80", "http://two:80"]);
        assert!(counted.values().all(|total| total.up));
        assert_eq!(totals(&config, &Addresses::new(), &client, 1).len(), 1);
    }
}
