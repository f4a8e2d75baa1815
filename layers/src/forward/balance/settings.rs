//! What is said of the balance of a target: pure data, compared to tell whether a reload changed anything.

use std::time::Duration;

use http::{HeaderName, Method};
use smol_str::SmolStr;

/// How requests are spread over the upstreams of a target, and which of them get any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancing {
    /// Which upstream gets a request.
    pub policy: Policy,
    /// For how long the share of an upstream grows that was added, or has come back; zero: it has all of it at once.
    pub slow_start: Duration,
    /// How upstreams are asked whether they are well, beside all requests.
    pub check: Option<HealthCheck>,
    /// Whether requests are refused while no check has found an upstream well. Otherwise all are asked then.
    pub fail_when_all_unhealthy: bool,
    /// When an upstream gets nothing for a while because of what became of requests.
    pub passive: Option<PassiveHealth>,
    /// When a request is sent to another upstream.
    pub retries: Retries,
    /// Whether operators are told: what is counted, and each change of an upstream's state in the log.
    pub observed: bool,
}

/// Which upstream gets a request, of those that are well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// The first of the list.
    #[default]
    Failover,
    /// One after the other, each as often as its weight says.
    RoundRobin,
    /// The one with the fewest requests on their way, by its weight.
    LeastConnections,
    /// Always the same one for what is alike here. What lacks it goes to one after the other.
    Hash(HashOn),
}

/// What is alike in requests that go to the same upstream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HashOn {
    /// The address of the client.
    #[default]
    Client,
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(SmolStr),
}

/// How an upstream is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// The path to ask for, with a slash in front; `None`: a connection is all that is wanted.
    pub path: Option<SmolStr>,
    /// GET or HEAD.
    pub method: Method,
    /// The `Host` to ask for; `None`: the upstream's own.
    pub host: Option<SmolStr>,
    /// The answers that are good: from one status to another.
    pub statuses: Vec<(u16, u16)>,
    /// From the end of one check to the beginning of the next, give or take a tenth.
    pub interval: Duration,
    /// How long the answer may take, the connection included.
    pub timeout: Duration,
    /// After so many good answers an upstream that was not well is. The first one ever is enough.
    pub healthy_threshold: u32,
    /// After so many bad answers it is not.
    pub unhealthy_threshold: u32,
    /// Whether an upstream is taken to be well before the first answer.
    pub initially_healthy: bool,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            method: Method::GET,
            host: None,
            statuses: vec![(200, 399)],
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            initially_healthy: true,
        }
    }
}

/// When an upstream is ejected: gets nothing for a while because of what became of requests. A single one never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassiveHealth {
    /// After so many failures, one after the other: no connection, no answer, too late an answer.
    pub consecutive_failures: u32,
    /// Answers that are failures, too.
    pub statuses: Vec<u16>,
    /// For how long, the first time; twice that the second time, and so on.
    pub ejection: Duration,
    /// The longest that it gets. Who has not been ejected for as long begins anew.
    pub max_ejection: Duration,
    /// How many of the upstreams may be ejected at a time, of a hundred; always one.
    pub max_percent: u8,
}

impl Default for PassiveHealth {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            statuses: Vec::new(),
            ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_percent: 50,
        }
    }
}

/// When a request is sent to another upstream: if it never left, or if it has no body, may be repeated (RFC 9110,
/// section 9.2.2) and was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How often; `None`: once, and as long as there is another one where no connection can be made.
    pub attempts: Option<u32>,
    /// Answers that are as good as none.
    pub statuses: Vec<u16>,
    /// How many retries there may be, of a hundred requests of the last ten seconds, …
    pub percent: u32,
    /// … beside so many in each second.
    pub per_second: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: None, statuses: Vec::new(), percent: 20, per_second: 10 }
    }
}
