//! What went wrong lately with what a service wants, and when it is tried again.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use crate::config::service::Desired;
use crate::config::{Service, ServiceName};

/// The pause after a failure, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// What a document wants, as far as it can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    spec: String,
    runs: bool,
    deleting: bool,
}

impl Wish {
    pub(super) fn of(service: &Service, spec: &str) -> Self {
        let runs = service.desired_state == Desired::Running;
        Self { spec: spec.to_owned(), runs, deleting: service.deleting }
    }
}

/// What a failure leaves: the same wish waits until then.
#[derive(Debug)]
pub(super) struct Failure {
    wish: Wish,
    pub(super) reason: String,
    tries: u32,
    until: Instant,
    pub(super) retry_at: Timestamp,
    /// Whether the work itself failed: then none is begun before.
    of_work: bool,
}

impl Failure {
    /// When it is tried again, if that is still to come.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        Some(self.until).filter(|until| *until > Instant::now())
    }
}

/// The failures of all services, one each.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<ServiceName, Failure>);

impl Failures {
    pub(super) fn add(&mut self, service: &ServiceName, wish: Wish, reason: String, of_work: bool) {
        let before = self.0.remove(service).filter(|failure| failure.wish == wish);
        let tries = before.map_or(0, |failure| failure.tries + 1);
        let pause = BACKOFF.0.saturating_mul(1 << tries.min(10)).min(BACKOFF.1);
        warn!(%service, reason, retry_seconds = pause.as_secs(), "a service is not what it shall be");
        let (until, retry_at) = (Instant::now() + pause, Timestamp::now() + pause);
        self.0.insert(service.clone(), Failure { wish, reason, tries, until, retry_at, of_work });
    }

    /// The failure of a wish. One of another wish is forgotten.
    pub(super) fn of(&mut self, service: &ServiceName, wish: &Wish) -> Option<&Failure> {
        if self.0.get(service).is_some_and(|failure| failure.wish != *wish) {
            self.0.remove(service);
        }
        self.0.get(service)
    }

    /// Until when no work is begun for a service.
    pub(super) fn pause(&self, service: &ServiceName) -> Option<Instant> {
        self.0.get(service).filter(|failure| failure.of_work).and_then(Failure::waits_until)
    }

    /// It is as it shall be.
    pub(super) fn over(&mut self, service: &ServiceName) {
        self.0.remove(service);
    }

    pub(super) fn retain(&mut self, is_there: impl Fn(&ServiceName) -> bool) {
        self.0.retain(|service, _| is_there(service));
    }
}
