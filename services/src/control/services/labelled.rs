//! Makes the services and hosts that labels of containers ask for, and removes what is not asked for any more.
//!
//! What is written is decided from the store's state of that moment, and holds only if nobody has changed it since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Error;
use super::delete::going_with as going_with_service;
use crate::applied::Applied;
use crate::config::view::View;
use crate::config::{Config, Entity, Proxy, Service};
use crate::control::certificates::of_host::CertificateOfHost;
use crate::control::managed::{checks, put, replace, sign};
use crate::control::proxies::going_with as going_with_proxy;
use crate::control::{Context, Control, Managed};
use crate::docker::labels::{Decision, Facts, Going, Looked, Make, decide, markers};
use crate::docker::{Claim, ClaimState, Docker};
use crate::store::{Expect, Key, Kind, Write};

/// How long a container may be gone until its hosts go: a new one of the same name often follows.
const GRACE: Duration = Duration::from_secs(30);

/// A look, even when nothing happened.
const FULL: Duration = Duration::from_secs(30);

/// The pause after a write that failed, or that is not in force yet.
const PAUSE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(1);

/// The one task of a node that makes what labels ask for.
#[derive(Debug)]
pub struct LabelledHosts {
    control: Arc<Control>,
    docker: Docker,
    /// Since when the containers of markers are gone.
    gone: BTreeMap<String, Instant>,
    /// Why what a marker wants could not be written.
    failed: HashMap<String, String>,
    /// What was told of containers and hosts in the log.
    told: HashMap<(String, String), String>,
    paused: Instant,
}

impl LabelledHosts {
    /// One for the engine of this node.
    pub fn new(control: Arc<Control>, docker: Docker) -> Self {
        Self {
            control,
            docker,
            gone: BTreeMap::new(),
            failed: HashMap::new(),
            told: HashMap::new(),
            paused: Instant::now(),
        }
    }

    /// Follows what is in force, and which labels there are, until `stop`. `current` tells what is in force. Where labels
    /// are off, what they have made before is removed, and that is all.
    pub async fn run(
        mut self,
        current: impl Fn() -> Option<Arc<View>> + Send,
        mut applied: watch::Receiver<Applied>,
        stop: CancellationToken,
    ) {
        let mut looked = self.docker.looked.subscribe();
        let mut wake_at = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
                _ = looked.changed() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
            wake_at = Instant::now() + FULL;
            let Some(view) = current() else { continue };
            // A store that was replaced, or a copy, may know nothing of what is there.
            let acts = {
                let applied = applied.borrow_and_update();
                applied.replaced.is_none() && !applied.from_copy
            };
            let seen = Arc::clone(&looked.borrow_and_update());
            let on = self.docker.policy.labels;
            if on && seen.at.is_none() {
                continue;
            }
            wake_at = self.note_gone(&view.config, &seen).min(wake_at);
            let decision = self.decide(&view.config, &seen);
            let idle = decision.is_idle();
            self.tell(decision.claims);
            if !acts {
                continue;
            }
            if !idle && self.paused <= Instant::now() {
                wake_at = wake_at.min(self.work(&seen).await);
            } else if !idle {
                wake_at = wake_at.min(self.paused);
            } else if !on {
                return;
            }
        }
    }

    /// Notes which containers are gone, and since when. When the next one is gone for long enough.
    fn note_gone(&mut self, config: &Config, seen: &Looked) -> Instant {
        let now = Instant::now();
        let name =
            |marker: &str| marker.split_once('/').map_or_else(String::new, |(_, name)| name.to_owned());
        let there: BTreeSet<_> = seen.containers.iter().map(|one| one.container.as_str()).collect();
        let mut gone = markers(config, &self.docker.owner.node);
        gone.retain(|marker| !there.contains(name(marker).as_str()));
        self.gone.retain(|marker, _| gone.contains(marker));
        for marker in gone {
            self.gone.entry(marker).or_insert_with(|| seen.at.unwrap_or(now));
        }
        let ends = self.gone.values().map(|since| *since + GRACE);
        let waiting = ends.filter(|end| seen.at.is_some_and(|at| at < *end)).min();
        match waiting {
            // What was seen before is no proof that it is still so.
            Some(end) if end <= now => {
                self.docker.wake.notify_one();
                now + SOON
            }
            Some(end) => end,
            None => now + FULL,
        }
    }

    fn decide(&self, config: &Config, seen: &Looked) -> Decision {
        let on = self.docker.policy.labels;
        let over = |since: &Instant| !on || seen.at.is_some_and(|at| at >= *since + GRACE);
        let over = self.gone.iter().filter(|(_, since)| over(since)).map(|(marker, _)| marker.clone());
        decide(&Facts {
            config,
            node: &self.docker.owner.node,
            issuer: self.control.issuer().host.as_str(),
            policy: &self.docker.policy,
            seen: &seen.containers,
            over: &over.collect(),
        })
    }

    /// Tells what became of what is asked for: whoever asks, and once in the log.
    fn tell(&mut self, mut claims: Vec<Claim>) {
        for claim in &mut claims {
            let marker = format!("{}/{}", self.docker.owner.node, claim.container);
            if let Some(reason) = self.failed.get(&marker).filter(|_| claim.state != ClaimState::Made) {
                if claim.state == ClaimState::Pending {
                    claim.state = ClaimState::Refused;
                }
                claim.reason = Some(reason.clone());
            }
        }
        let refused = claims.iter().filter(|claim| claim.state == ClaimState::Refused);
        let refused = refused.map(|claim| {
            let reason = claim.reason.clone().unwrap_or_default();
            ((claim.container.clone(), claim.host.clone()), reason)
        });
        let refused: HashMap<_, _> = refused.collect();
        for (key, reason) in refused.iter().filter(|(key, reason)| self.told.get(*key) != Some(reason)) {
            warn!(container = key.0, host = key.1, reason, "a label makes no host");
        }
        self.told = refused;
        self.docker.claims.send_replace(Arc::new(claims));
    }

    /// Writes what has to be written; when to look again.
    async fn work(&mut self, seen: &Looked) -> Instant {
        let config = match self.control.config().await {
            Ok(config) => config,
            Err(error) => return self.pause(&error),
        };
        let decision = self.decide(&config, seen);
        self.failed.clear();
        for make in &decision.makes {
            match self.make(make, &config).await {
                Ok(()) => info!(
                    container = make.marker,
                    service = %make.service.0.service_name,
                    hosts = ?make.proxies.iter().map(|proxy| &proxy.proxy_hostname).collect::<Vec<_>>(),
                    "labels have made a service and its hosts"
                ),
                Err(error @ Error::Unavailable(_)) => return self.pause(&error),
                Err(error) => self.fail(&make.marker, &error),
            }
        }
        for going in &decision.goings {
            match self.remove(going).await {
                Ok(()) => info!(
                    container = going.marker,
                    hosts = ?going.proxies,
                    services = ?going.services,
                    "what labels have made is removed"
                ),
                Err(error @ Error::Unavailable(_)) => return self.pause(&error),
                Err(error) => self.fail(&going.marker, &error),
            }
        }
        let now = Instant::now();
        if self.failed.is_empty() {
            return now + SOON;
        }
        self.paused = now + PAUSE;
        self.paused
    }

    fn pause(&mut self, error: &Error) -> Instant {
        warn!(%error, "what labels ask for can't be written yet");
        self.paused = Instant::now() + PAUSE;
        self.paused
    }

    fn fail(&mut self, marker: &str, error: &Error) {
        self.failed.insert(marker.to_owned(), error.to_string());
    }

    /// Makes a service and its hosts in one commit.
    async fn make(&self, make: &Make, config: &Config) -> Result<(), Error> {
        let (service, is_changed) = &make.service;
        let ctx = Context::default();
        let mut next = config.clone();
        next.services.insert(service.service_name.clone(), Arc::new(service.clone()));
        let mut writes = Vec::new();
        if *is_changed {
            writes.extend(checks(self.checked(service, &next)?));
            // Both kinds of services share their names.
            let other = Key::new(Kind::External, service.service_name.as_str());
            writes.push(Write::Check { key: other, expect: Expect::Absent });
            writes.push(written(service.clone(), &ctx));
        }
        for proxy in &make.proxies {
            let keys = self.checked(proxy, &next)?.into_iter();
            // It is made in the same commit.
            writes.extend(checks(keys.filter(|key| *key != service.key() || !is_changed).collect()));
            if proxy.version() == 0 {
                let wanted = CertificateOfHost::default().wanted(proxy, &next, &self.control, &ctx)?;
                writes.extend(wanted.iter().map(|one| put(one, Expect::Absent)));
            }
            writes.push(written(proxy.clone(), &ctx));
        }
        self.control.commit(writes).await.map(drop)
    }

    /// The documents that one relies on, or what is wrong with it.
    fn checked<T: Managed>(&self, entity: &T, config: &Config) -> Result<Vec<Key>, Error> {
        let problems = entity.problems();
        if problems.is_empty() { self.control.examine(entity, config) } else { Err(Error::Invalid(problems)) }
    }

    /// Removes hosts, and then their services.
    async fn remove(&self, going: &Going) -> Result<(), Error> {
        let ctx = Context::default();
        for host in &going.proxies {
            let steps = |proxy: &Proxy, config: &Config| {
                check_marker(proxy.labelled_by.as_deref(), going)?;
                going_with_proxy(proxy, config)
            };
            gone_is_good(self.control.delete::<Proxy>(&ctx, host.as_str(), steps).await)?;
        }
        for service in &going.services {
            let steps = |service: &Service, config: &Config| {
                check_marker(service.labelled_by.as_deref(), going)?;
                going_with_service(service, config)
            };
            gone_is_good(self.control.delete::<Service>(&ctx, service.as_str(), steps).await)?;
        }
        Ok(())
    }
}

/// The step that stores a document that is new, or that nobody else has changed.
fn written<T: Entity>(mut entity: T, ctx: &Context) -> Write {
    if entity.version() == 0 {
        sign(&mut entity, ctx);
        return put(&entity, Expect::Absent);
    }
    *entity.stamps_mut().updated_at = Some(Timestamp::now());
    replace(&entity)
}

fn check_marker(marker: Option<&str>, going: &Going) -> Result<(), Error> {
    if marker == Some(&going.marker) {
        return Ok(());
    }
    Err(Error::Conflict("somebody else made it anew meanwhile".to_owned()))
}

fn gone_is_good<T>(outcome: Result<T, Error>) -> Result<(), Error> {
    match outcome {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
