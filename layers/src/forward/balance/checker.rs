//! The task that has upstreams checked, each in its own time, as long as a target wants it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::check::Checked;
use super::pick::{mix, number};
use super::settings::HealthCheck;
use crate::forward::pool::{Client, Endpoint};
use crate::forward::target::Upstream;

/// How many checks are made at a time: a large configuration must not ask everybody at once when it is read.
const AT_ONCE: usize = 64;

/// What is checked. Whoever builds a target registers it; it is forgotten with the last target that wants it.
#[derive(Debug, Default)]
pub(in crate::forward) struct Checks {
    known: Mutex<Known>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct Known {
    all: HashMap<(Arc<Upstream>, HealthCheck), Weak<Checked>>,
    /// Those that nobody checks yet.
    new: Vec<Weak<Checked>>,
}

impl Checks {
    /// The check of an upstream: the one that there is, else a new one.
    pub(super) fn of(&self, endpoint: &Arc<Endpoint>, settings: &HealthCheck) -> Arc<Checked> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(&endpoint.upstream), settings.clone());
        if let Some(checked) = known.all.get(&key).and_then(Weak::upgrade) {
            return checked;
        }
        known.all.retain(|_, checked| checked.strong_count() > 0);
        known.new.retain(|checked| checked.strong_count() > 0);
        let checked = Arc::new(Checked::new(settings.clone(), Arc::clone(endpoint)));
        known.all.insert(key, Arc::downgrade(&checked));
        known.new.push(Arc::downgrade(&checked));
        drop(known);
        self.grown.notify_one();
        checked
    }

    /// The check of an upstream, if there is one.
    pub(super) fn get(&self, endpoint: &Arc<Endpoint>, settings: &HealthCheck) -> Option<Arc<Checked>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.all.get(&(Arc::clone(&endpoint.upstream), settings.clone())).and_then(Weak::upgrade)
    }

    fn take_new(&self) -> Vec<Weak<Checked>> {
        std::mem::take(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner).new)
    }
}

/// Has the upstreams of a client's targets checked. There is to be one for each client.
#[derive(Debug)]
pub struct Checker {
    client: Client,
}

impl Checker {
    /// For the targets that are and will be built with this client.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Checks until it is told to stop. An upstream is checked for the first time when a target wants it.
    pub async fn run(self, stop: CancellationToken) {
        let checks = self.client.checks();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        loop {
            for checked in checks.take_new() {
                running.spawn(follow(checked, Arc::clone(&turns)));
            }
            tokio::select! {
                () = checks.grown.notified() => {}
                // Those whose targets are gone.
                Some(_) = running.join_next() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Checks one upstream as long as somebody wants it.
async fn follow(checked: Weak<Checked>, turns: Arc<Semaphore>) {
    let mut chance = 0;
    loop {
        let Some(one) = checked.upgrade() else { return };
        let Ok(turn) = turns.acquire().await else { return };
        one.check().await;
        drop(turn);
        chance = mix(chance ^ number(one.endpoint.label.as_bytes()));
        let pause = jittered(one.settings.interval, chance);
        one.plan(pause);
        drop(one);
        tokio::time::sleep(pause).await;
    }
}

/// Up to a tenth more or less, so that checks don't stay in step.
fn jittered(interval: Duration, chance: u64) -> Duration {
    let part = u32::try_from(chance % 201).unwrap_or(100) + 900;
    interval * part / 1000
}
