//! Several upstreams of one target: how requests are spread over them, and which of them are well.

mod words;

use std::collections::HashSet;

use portcullis_layers::forward;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::TargetUrl;
use super::field::FieldError;
pub use words::{CheckPath, HashKey, StatusRange, UpstreamUrl};

/// The most upstreams of one target: each request looks at all of them.
const MAX_UPSTREAMS: usize = 256;

/// The largest weight.
const MAX_WEIGHT: u16 = 1000;

/// How requests are spread over several upstreams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoadBalancing {
    /// Which upstream gets a request, of those that are well; absent: `round_robin` where an upstream has a weight
    /// above 1, else `failover`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// What is alike in requests that go to the same upstream, for the policy `hash`: `client` (the address),
    /// `header:NAME` or `cookie:NAME`; absent: `client`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashKey>,
    /// For how long the share of an upstream grows that was added, or has come back; 0: it has all of it at once.
    pub slow_start_seconds: u32,
}

/// Which upstream gets a request, of those that are well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The first one.
    #[default]
    Failover,
    /// One after the other, each as often as its weight says.
    RoundRobin,
    /// The one with the fewest requests on their way, by its weight.
    LeastConnections,
    /// Always the same one for what is alike in `hash_on`.
    Hash,
}

impl Policy {
    /// As in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::Hash => "hash",
        }
    }
}

/// How upstreams are asked whether they are well, beside all requests. `{}` is a connection every ten seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// The path to ask for; absent: a connection is all that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<CheckPath>,
    /// `GET` or `HEAD`.
    pub method: CheckMethod,
    /// The `Host` to ask for; absent: the upstream's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The answers that are good: statuses, and ranges such as `200-299`.
    pub statuses: Vec<StatusRange>,
    /// From the end of one check to the beginning of the next, give or take a tenth.
    pub interval_seconds: u32,
    /// How long the answer may take, the connection included.
    pub timeout_seconds: u32,
    /// After so many good answers an upstream that was not well is. The first one ever is enough.
    pub healthy_threshold: u32,
    /// After so many bad answers it is not.
    pub unhealthy_threshold: u32,
    /// Whether an upstream gets requests before its first answer.
    pub initially_healthy: bool,
    /// Whether requests get 503 while no upstream is well; otherwise all are asked then.
    pub fail_when_all_unhealthy: bool,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            method: CheckMethod::Get,
            host: None,
            statuses: vec![StatusRange { from: 200, to: 399 }],
            interval_seconds: 10,
            timeout_seconds: 5,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            initially_healthy: true,
            fail_when_all_unhealthy: false,
        }
    }
}

/// The method of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckMethod {
    /// With a body in the answer, which nobody reads.
    #[default]
    Get,
    /// Without.
    Head,
}

/// When an upstream gets nothing for a while because of what became of requests. `{}` has all defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PassiveHealth {
    /// After so many failures, one after the other: no connection, no answer, too late an answer.
    pub consecutive_failures: u32,
    /// Answers that are failures, too, e.g. 502, 503, 504.
    pub statuses: Vec<u16>,
    /// For how long, the first time; twice that the second time, and so on.
    pub ejection_seconds: u32,
    /// The longest that it gets.
    pub max_ejection_seconds: u32,
    /// How many of the upstreams may be ejected at a time, of a hundred; always one, but never a single upstream.
    pub max_ejected_percent: u8,
}

impl Default for PassiveHealth {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            statuses: Vec::new(),
            ejection_seconds: 30,
            max_ejection_seconds: 300,
            max_ejected_percent: 50,
        }
    }
}

/// When a request is sent to another upstream: if nothing of it was sent, or if it has no body, its method may be
/// repeated (GET, PUT, DELETE …, not POST), and it was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// How often; absent: once, and as long as there is another upstream where no connection can be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Answers that are as good as none, e.g. 502, 503, 504.
    pub statuses: Vec<u16>,
    /// How many retries there may be, of a hundred requests of the last ten seconds, …
    pub budget_percent: u32,
    /// … beside so many in each second.
    pub budget_per_second: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: None, statuses: Vec::new(), budget_percent: 20, budget_per_second: 10 }
    }
}

/// The first upstream of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First<'a> {
    /// At a URL.
    Url(&'a TargetUrl),
    /// The upstreams are those of a service.
    Service,
    /// There are none: the target is built in.
    Builtin,
}

/// What a document says of its upstreams.
#[derive(Debug, Clone, Copy)]
pub struct Balanced<'a> {
    /// The first one, unless the list says otherwise.
    pub first: First<'a>,
    /// The field of the others.
    pub field: &'static str,
    /// The others; with the first one among them, all.
    pub more: &'a [UpstreamUrl],
    /// How requests are spread.
    pub load_balancing: &'a LoadBalancing,
    /// How they are asked whether they are well.
    pub health_check: Option<&'a HealthCheck>,
    /// When one is ejected.
    pub passive_health: Option<&'a PassiveHealth>,
    /// When a request is sent to another one.
    pub retries: &'a Retries,
}

impl Balanced<'_> {
    /// All upstreams.
    pub fn upstreams(&self) -> Vec<UpstreamUrl> {
        let First::Url(first) = self.first else { return Vec::new() };
        let is_listed = self.more.iter().any(|one| one.url == *first);
        let first = (!is_listed).then(|| UpstreamUrl { url: first.clone(), weight: 1 });
        first.into_iter().chain(self.more.iter().cloned()).collect()
    }

    /// The policy, said or not.
    pub fn policy(&self) -> Policy {
        let weighted = || self.more.iter().any(|one| one.weight > 1);
        // Containers of a service are all the same.
        let alike = || self.first == First::Service || weighted();
        let usual = || if alike() { Policy::RoundRobin } else { Policy::Failover };
        self.load_balancing.policy.unwrap_or_else(usual)
    }

    /// Whether it says anything of how upstreams are asked.
    pub fn is_said(&self) -> bool {
        *self.load_balancing != LoadBalancing::default()
            || self.health_check.is_some()
            || self.passive_health.is_some()
            || *self.retries != Retries::default()
    }

    /// As the layers want it.
    pub fn balancing(&self) -> forward::Balancing {
        let policy = match (self.policy(), &self.load_balancing.hash_on) {
            (Policy::Failover, _) => forward::Policy::Failover,
            (Policy::RoundRobin, _) => forward::Policy::RoundRobin,
            (Policy::LeastConnections, _) => forward::Policy::LeastConnections,
            (Policy::Hash, on) => forward::Policy::Hash(on.as_ref().map(HashKey::on).unwrap_or_default()),
        };
        let check = self.health_check.filter(|_| self.first != First::Builtin);
        forward::Balancing {
            policy,
            slow_start: seconds(self.load_balancing.slow_start_seconds),
            check: check.map(HealthCheck::check),
            fail_when_all_unhealthy: check.is_some_and(|check| check.fail_when_all_unhealthy),
            passive: self.passive_health.map(|passive| forward::PassiveHealth {
                consecutive_failures: passive.consecutive_failures,
                statuses: passive.statuses.clone(),
                ejection: seconds(passive.ejection_seconds),
                max_ejection: seconds(passive.max_ejection_seconds),
                max_percent: passive.max_ejected_percent,
            }),
            retries: forward::Retries {
                attempts: self.retries.attempts,
                statuses: self.retries.statuses.clone(),
                percent: self.retries.budget_percent,
                per_second: self.retries.budget_per_second,
            },
            observed: true,
        }
    }

    /// What is wrong with it.
    pub fn check(&self, problems: &mut Vec<FieldError>) {
        match self.first {
            First::Builtin => return self.check_builtin(problems),
            First::Service if !self.more.is_empty() => {
                let detail = "has no meaning beside a service, which has its own: expected no such field";
                problems.push(FieldError::bare(self.field, detail));
            }
            First::Service => {}
            First::Url(first) => self.check_list(first, problems),
        }
        let LoadBalancing { hash_on, slow_start_seconds, .. } = self.load_balancing;
        if let Some(on) = hash_on
            && self.policy() != Policy::Hash
        {
            let detail = "has a meaning for the policy `hash` only: expected that, or no such field";
            problems.push(FieldError::new("load_balancing.hash_on", on.to_string(), detail));
        }
        let mut check = Checks { problems };
        check.number("load_balancing.slow_start_seconds", *slow_start_seconds, 0, 3600);
        if let Some(health) = self.health_check {
            check.number("health_check.interval_seconds", health.interval_seconds, 1, 3600);
            check.number("health_check.timeout_seconds", health.timeout_seconds, 1, 300);
            check.number("health_check.healthy_threshold", health.healthy_threshold, 1, 100);
            check.number("health_check.unhealthy_threshold", health.unhealthy_threshold, 1, 100);
            if health.statuses.is_empty() {
                let detail = "expected at least one status, or a range such as 200-299";
                check.problems.push(FieldError::bare("health_check.statuses", detail));
            }
            if let Some(host) = &health.host
                && !is_authority(host)
            {
                let detail = "expected a host such as app.example.com, or a host and a port";
                check.problems.push(FieldError::new("health_check.host", host.as_str(), detail));
            }
        }
        if let Some(passive) = self.passive_health {
            check.number("passive_health.consecutive_failures", passive.consecutive_failures, 1, 1000);
            check.number("passive_health.ejection_seconds", passive.ejection_seconds, 1, 3600);
            let shortest = passive.ejection_seconds.min(86_400);
            check.number(
                "passive_health.max_ejection_seconds",
                passive.max_ejection_seconds,
                shortest,
                86_400,
            );
            check.number("passive_health.max_ejected_percent", passive.max_ejected_percent.into(), 0, 100);
            check.statuses("passive_health.statuses", &passive.statuses);
        }
        check.number("retries.attempts", self.retries.attempts.unwrap_or_default(), 0, 10);
        check.number("retries.budget_percent", self.retries.budget_percent, 0, 100);
        check.number("retries.budget_per_second", self.retries.budget_per_second, 0, 1000);
        check.statuses("retries.statuses", &self.retries.statuses);
    }

    fn check_builtin(&self, problems: &mut Vec<FieldError>) {
        let said = [
            (self.field, !self.more.is_empty()),
            ("load_balancing", *self.load_balancing != LoadBalancing::default()),
            ("health_check", self.health_check.is_some()),
            ("passive_health", self.passive_health.is_some()),
            ("retries", *self.retries != Retries::default()),
        ];
        for (field, _) in said.into_iter().filter(|(_, is_said)| *is_said) {
            let detail = "has no meaning beside a target that is built in: expected no such field";
            problems.push(FieldError::bare(field, detail));
        }
    }

    fn check_list(&self, first: &TargetUrl, problems: &mut Vec<FieldError>) {
        let field = self.field;
        if self.more.len() > MAX_UPSTREAMS {
            problems.push(FieldError::bare(field, format!("expected {MAX_UPSTREAMS} upstreams at most")));
        }
        let mut seen = HashSet::new();
        for (index, one) in self.more.iter().enumerate() {
            let at = format!("{field}[{index}]");
            if one.url.path != first.path || one.url.https != first.https {
                let detail = "differs from target_url in its scheme or path: upstreams of one target may differ in host and port only";
                problems.push(FieldError::new(at.as_str(), one.url.to_string(), detail));
            }
            if !seen.insert(&one.url) {
                let detail = "is listed twice: expected each upstream once, with its weight";
                problems.push(FieldError::new(at.as_str(), one.url.to_string(), detail));
            }
            if one.weight > MAX_WEIGHT {
                let detail = format!("expected 0 (no new requests) to {MAX_WEIGHT}");
                problems.push(FieldError::new(format!("{at}.weight"), one.weight, detail));
            }
        }
        if self.upstreams().iter().all(|one| one.weight == 0) {
            let detail = "has no upstream that takes requests: expected a weight above 0";
            problems.push(FieldError::bare(field, detail));
        }
    }
}

impl HealthCheck {
    fn check(&self) -> forward::HealthCheck {
        forward::HealthCheck {
            path: self.path.as_ref().map(|path| path.as_str().into()),
            method: match self.method {
                CheckMethod::Get => http::Method::GET,
                CheckMethod::Head => http::Method::HEAD,
            },
            host: self.host.as_deref().map(Into::into),
            statuses: self.statuses.iter().map(|range| (range.from, range.to)).collect(),
            interval: seconds(self.interval_seconds),
            timeout: seconds(self.timeout_seconds),
            healthy_threshold: self.healthy_threshold,
            unhealthy_threshold: self.unhealthy_threshold,
            initially_healthy: self.initially_healthy,
        }
    }
}

/// Collects what is out of bounds.
struct Checks<'a> {
    problems: &'a mut Vec<FieldError>,
}

impl Checks<'_> {
    fn number(&mut self, field: &str, number: u32, least: u32, most: u32) {
        if !(least..=most).contains(&number) {
            self.problems.push(FieldError::new(field, number, format!("expected {least} to {most}")));
        }
    }

    fn statuses(&mut self, field: &str, statuses: &[u16]) {
        for (index, status) in statuses.iter().enumerate() {
            if !(500..=599).contains(status) {
                let detail = "expected a status of a server's failure: 500 to 599";
                self.problems.push(FieldError::new(format!("{field}[{index}]"), *status, detail));
            }
        }
    }
}

/// Whether this can be a `Host`: a name or an address, and perhaps a port.
fn is_authority(text: &str) -> bool {
    let authority: Result<http::uri::Authority, _> = text.parse();
    authority.is_ok_and(|authority| {
        let rest = text.strip_prefix(authority.host());
        let has_port =
            rest.and_then(|rest| rest.strip_prefix(':')).is_some_and(|port| port.parse::<u16>().is_ok());
        authority.host().parse::<portcullis_layers::HostName>().is_ok() && (rest == Some("") || has_port)
    })
}

fn seconds(seconds: u32) -> std::time::Duration {
    std::time::Duration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests;
