//! Makes the engine's containers what documents want: on start, on change, on the engine's events, and from time to
//! time. Nothing is remembered that a plan depends on: whoever dies in the middle is followed by one who looks anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::claim::{self, Claim};
use super::engine::{self, Error};
use super::labels::Looked;
use super::observe::{self, Container};
use super::plan::{Phase, Plan, Seen, Step, Wanted, plan};
use super::spec::{self, Secrets};
use super::state::Known;
use super::{Docker, Status, Switchboard, foreign};
use crate::applied::Applied;
use crate::config::resolve::Addresses;
use crate::config::service::Desired;
use crate::config::view::View;
use crate::config::{Entity, NodeName, Service, ServiceName};
use crate::store::{Expect, Store, Write};
use crate::vault::Vault;

mod failures;
mod ready;
mod told;
mod work;

use failures::{Failure, Failures, Wish};
use ready::{Readiness, STEADY};
use work::{Job, Outcome};

/// A full look, even when nothing happened.
const FULL: Duration = Duration::from_secs(30);

/// Between two looks at what runs but is not ready.
const UNREADY: Duration = Duration::from_secs(1);

/// Between two looks at what starts, and at an engine that is away.
const SOON: Duration = Duration::from_millis(200);
const AWAY: Duration = Duration::from_secs(1);

/// So often a container may end before it counts as a loop.
const LOOP: i64 = 3;

/// A service that is worked on, and how that went.
type Working = Pin<Box<dyn Future<Output = (ServiceName, Outcome)> + Send>>;

/// What the engine tells of its containers.
type Events = Pin<Box<dyn Stream<Item = engine::Result<EventMessage>> + Send>>;

/// An old container that nobody shall be sent to any more.
#[derive(Debug)]
struct Retiring {
    /// From this serial on nobody is.
    serial: u64,
    /// Since when that is in force.
    since: Option<Instant>,
}

/// The one task that works on the engine.
pub struct Reconciler {
    docker: Docker,
    vault: Arc<Vault>,
    store: Arc<dyn Store>,
    switchboard: Switchboard,
    failures: Failures,
    /// The engine did not answer work that was begun.
    away_until: Option<Instant>,
    readiness: Readiness,
    /// Containers that were ready, and of which the engine has told nothing since: while another one starts they are not
    /// looked at again.
    steady: HashMap<String, Container>,
    looked_at: Option<Instant>,
    retiring: HashMap<String, Retiring>,
    /// What is worked on, for which wish, and how to end that.
    busy: BTreeMap<ServiceName, (Wish, CancellationToken)>,
    working: FuturesUnordered<Working>,
    watch: foreign::Watch,
    was_away: bool,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("docker", &self.docker).finish_non_exhaustive()
    }
}

impl Reconciler {
    /// One over an engine.
    pub fn new(docker: Docker, vault: Arc<Vault>, store: Arc<dyn Store>) -> Self {
        Self {
            switchboard: docker.switchboard.clone(),
            docker,
            vault,
            store,
            failures: Failures::default(),
            away_until: None,
            readiness: Readiness::default(),
            steady: HashMap::new(),
            looked_at: None,
            retiring: HashMap::new(),
            busy: BTreeMap::new(),
            working: FuturesUnordered::new(),
            watch: foreign::Watch::default(),
            was_away: false,
        }
    }

    /// Finds what runs already, and changes nothing: so that requests of the first moment find it.
    pub async fn look(&mut self, view: &View) {
        self.pass(view, false).await;
    }

    /// Follows what is in force until `stop`. `current` tells that.
    pub async fn run(
        mut self,
        current: impl Fn() -> Option<Arc<View>> + Send,
        mut applied: watch::Receiver<Applied>,
        stop: CancellationToken,
    ) {
        let mut served = self.switchboard.on_served();
        let mut events: Option<Events> = None;
        let mut listened_at: Option<Instant> = None;
        let mut wake_at = Instant::now();
        let (told, mut claim) = watch::channel(Claim::default());
        let mut claiming = Box::pin(claim::hold(self.docker.clone(), Arc::clone(&self.store), told));
        loop {
            let woken = Arc::clone(&self.docker.wake);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
                _ = served.changed() => {}
                () = &mut claiming => {}
                _ = claim.changed() => {}
                () = woken.notified() => {}
                Some((service, outcome)) = self.working.next() => self.finish(&service, outcome),
                event = next(&mut events) => match event {
                    // What others do with containers of their own is no reason to look.
                    Some(Ok(event)) if !self.watch.concerns(&event, &self.docker) => continue,
                    Some(Ok(event)) => self.note(event),
                    _ => {
                        events = None;
                        self.steady.clear();
                    }
                },
                () = tokio::time::sleep_until(wake_at) => {}
            }
            // What happened at the same time is one look's work.
            while let Some(Some(Ok(event))) = next(&mut events).now_or_never() {
                self.note(event);
            }
            while let Some(Some((service, outcome))) = self.working.next().now_or_never() {
                self.finish(&service, outcome);
            }
            let Some(view) = current() else { continue };
            // What a replaced store wants is nobody's wish yet, and what a copy wants may be long over.
            let acts = {
                let applied = applied.borrow_and_update();
                applied.replaced.is_none() && !applied.from_copy
            };
            let claim = *claim.borrow_and_update();
            if claim == Claim::Anothers {
                self.report(&view, Status::Failed, &claim::reason(&self.docker));
                wake_at = Instant::now() + FULL;
                continue;
            }
            wake_at = self.pass(&view, acts && claim == Claim::Ours).await;
            if events.is_none() {
                self.steady.clear();
            }
            // An engine that refuses to tell is not asked without a pause.
            let pause = listened_at.map_or(Duration::ZERO, |at| AWAY.saturating_sub(at.elapsed()));
            if events.is_none() && !pause.is_zero() {
                wake_at = wake_at.min(Instant::now() + pause);
            } else if events.is_none() && !self.was_away {
                listened_at = Some(Instant::now());
                events = self
                    .docker
                    .engine
                    .events(&self.docker.owner, self.docker.policy.watches_others())
                    .ok()
                    .map(|events| Box::pin(events) as Events);
                // What happened before they were listened to.
                wake_at = wake_at.min(Instant::now() + AWAY);
            }
        }
    }

    fn note(&mut self, event: EventMessage) {
        if let Some(id) = event.actor.as_ref().and_then(|actor| actor.id.as_ref()) {
            self.steady.remove(id);
        }
        self.readiness.note(event);
    }

    fn finish(&mut self, service: &ServiceName, outcome: Outcome) {
        let Some((wish, _)) = self.busy.remove(service) else { return };
        match outcome {
            Outcome::Done => {}
            // It is asked again soon; the wish is not to blame.
            Outcome::Away => self.away_until = Some(Instant::now() + AWAY),
            Outcome::Failed(reason) => self.failures.add(service, wish, reason, true),
        }
    }

    /// One look, and what follows from it; when the next one is due.
    async fn pass(&mut self, view: &View, acts: bool) -> Instant {
        let now = Instant::now();
        if self.looked_at.is_none_or(|at| now - at >= FULL) {
            self.steady.clear();
            self.looked_at = Some(now);
        }
        let found = observe::containers(&self.docker.engine, &self.docker.owner, &self.steady);
        let others = foreign::look(&self.docker, view.config.services.values());
        let labelled = foreign::labelled(&self.docker);
        let (mut found, mut others, labelled) = match tokio::try_join!(found, others, labelled) {
            Ok(found) => found,
            Err(error) => {
                self.report_away(view, &error);
                return now + AWAY;
            }
        };
        if std::mem::take(&mut self.was_away) {
            info!("the Docker engine answers");
        }
        let all = found.iter_mut().chain(others.values_mut().filter_map(|other| other.container.as_mut()));
        self.readiness.judge(all.collect()).await;
        let steady = found.iter().filter(|one| one.ready);
        self.steady = steady.map(|one| (one.id.clone(), one.clone())).collect();
        self.forget(found.iter().chain(others.values().filter_map(|other| other.container.as_ref())));
        if self.docker.policy.labels {
            self.docker.looked.send_replace(Arc::new(Looked { at: Some(now), containers: labelled }));
        }
        self.watch = foreign::Watch::of(&view.config.services, &others);
        let mut next = now + FULL;
        let mut addresses = Addresses::new();
        let mut board = BTreeMap::new();
        let mut due: Vec<(Arc<Service>, Wish, Plan)> = Vec::new();
        for (name, service) in &view.config.services {
            if service.node.as_ref().is_some_and(|node| *node != self.docker.owner.node) {
                let version = service.version();
                board.insert(name.clone(), Known { status: Status::Elsewhere, version, ..Known::default() });
                continue;
            }
            if service.container.is_some() && !service.deleting {
                let known = match self.docker.policy.check_container(service) {
                    Ok(()) => told::foreign(service, others.get(name), self.docker.policy.start),
                    Err(refusal) => told::refused(service, &[], &[], refusal.to_string()),
                };
                if !known.status.is_settled() {
                    next = next.min(now + SOON);
                } else if known.status == Status::Unhealthy {
                    // Nobody else tells when a port accepts after all.
                    next = next.min(now + STEADY);
                }
                addresses.insert(name.clone(), known.addresses.clone());
                board.insert(name.clone(), known);
                continue;
            }
            let mine: Vec<&Container> = found.iter().filter(|one| one.service == *name).collect();
            let spec = match spec::fingerprint(service, &self.docker.policy) {
                Ok(spec) => spec,
                // What policy allows no more may end: whatever runs is none of what is wanted.
                Err(_) if service.deleting || service.desired_state == Desired::Stopped => String::new(),
                // What runs goes on; the document asks for what is not allowed any more.
                Err(refusal) => {
                    let reason = refusal.to_string();
                    let serving: Vec<_> =
                        mine.iter().filter(|one| one.ready).map(|one| one.id.clone()).collect();
                    let known = told::refused(service, &mine, &serving, reason);
                    addresses.insert(name.clone(), known.addresses.clone());
                    board.insert(name.clone(), known);
                    continue;
                }
            };
            let wish = Wish::of(service, &spec);
            let plan = self.plan(service, &wish, &spec, &mine);
            if mine.iter().filter(|one| one.spec == spec && one.ready).count() >= service.replicas as usize {
                self.failures.over(name);
            }
            let failure = self.failures.of(name, &wish);
            next = failure.and_then(Failure::waits_until).map_or(next, |until| next.min(until));
            if mine.iter().any(|one| one.phase == Phase::Running && !one.ready) {
                // Nobody else tells when a port accepts, or that somebody who had ended runs on.
                next = next.min(now + UNREADY);
            }
            let known = told::known(&told::Facts {
                service,
                spec: &spec,
                containers: &mine,
                plan: &plan,
                busy: self.busy.contains_key(name),
                failure: failure.map(|failure| (failure.reason.as_str(), failure.retry_at)),
                patience: self.docker.policy.start,
            });
            if !known.status.is_settled() {
                next = next.min(now + SOON);
            }
            addresses.insert(name.clone(), known.addresses.clone());
            board.insert(name.clone(), known);
            due.push((Arc::clone(service), wish, plan));
        }
        self.failures.retain(|name| view.config.services.contains_key(name));
        addresses.retain(|_, all| !all.is_empty());
        let serial = self.switchboard.publish(addresses);
        self.docker.board.write(board);
        if acts {
            for (service, wish, plan) in due {
                let at = self.act(view, service, wish, plan, &found, serial);
                next = next.min(at);
            }
        }
        next
    }

    fn report_away(&mut self, view: &View, error: &Error) {
        if !std::mem::replace(&mut self.was_away, true) {
            warn!(%error, "the Docker engine can't be used: services stay as they are");
        }
        self.report(view, Status::Unknown, &error.to_string());
    }

    /// Tells of all services of this node what is with all of them.
    fn report(&self, view: &View, status: Status, reason: &str) {
        let known = |name: &ServiceName, service: &Service| {
            let before = self.docker.board.of(name).map(|known| Known::clone(&known)).unwrap_or_default();
            let elsewhere = service.node.as_ref().is_some_and(|node| *node != self.docker.owner.node);
            let status = if elsewhere { Status::Elsewhere } else { status };
            let last_error = (!elsewhere).then(|| reason.to_owned());
            Known { status, version: service.version(), last_error, ..before }
        };
        let all = view.config.services.iter().map(|(name, service)| (name.clone(), known(name, service)));
        self.docker.board.write(all.collect());
    }

    /// Keeps nothing of containers that are gone.
    fn forget<'a>(&mut self, found: impl Iterator<Item = &'a Container>) {
        let ids: HashSet<_> = found.map(|one| one.id.as_str()).collect();
        self.readiness.forget(&ids);
        self.retiring.retain(|id, _| ids.contains(id.as_str()));
    }

    fn plan(&mut self, service: &Service, wish: &Wish, spec: &str, mine: &[&Container]) -> Plan {
        let seen: Vec<_> = mine
            .iter()
            .map(|one| Seen {
                id: &one.id,
                spec: &one.spec,
                replica: one.replica,
                phase: one.phase,
                exit_code: one.exit_code.unwrap_or_default(),
                ready: one.ready,
            })
            .collect();
        let name = &service.service_name;
        let mut wanted = Wanted {
            spec,
            replicas: service.replicas,
            runs: service.desired_state == Desired::Running,
            deleting: service.deleting,
            restart: service.restart_policy,
            failed: self.failures.of(name, wish).is_some_and(|failure| failure.waits_until().is_some()),
        };
        let first = plan(&wanted, &seen);
        if !first.updating || wanted.failed || self.busy.contains_key(name) {
            return first;
        }
        // Beside one that serves a new one has to become ready in time.
        let new = mine.iter().filter(|one| one.spec == spec && !one.ready);
        let Some(reason) = new.filter_map(|one| told::failed(one, service, self.docker.policy.start)).next()
        else {
            return first;
        };
        self.failures.add(name, wish.clone(), reason, false);
        wanted.failed = true;
        plan(&wanted, &seen)
    }

    /// Begins what has to be done for a service; when it has to be looked at again.
    fn act(
        &mut self,
        view: &View,
        service: Arc<Service>,
        wish: Wish,
        plan: Plan,
        found: &[Container],
        serial: u64,
    ) -> Instant {
        let now = Instant::now();
        let mut again = now + FULL;
        let name = service.service_name.clone();
        if let Some((begun, over)) = self.busy.get(&name) {
            if *begun != wish {
                over.cancel();
            }
            return again;
        }
        let paused = self.failures.pause(&name).max(self.away_until.filter(|until| *until > now));
        if let Some(until) = paused {
            return again.min(until);
        }
        let gone = service.deleting && !found.iter().any(|one| one.service == name);
        let mut steps = Vec::new();
        // Who serves again is not on its way out.
        self.retiring.retain(|id, _| !plan.serving.contains(id));
        for step in plan.steps {
            match step {
                Step::Retire(id) => {
                    let serves = found.iter().any(|one| one.id == id && one.ready);
                    let retiring =
                        self.retiring.entry(id.clone()).or_insert(Retiring { serial, since: None });
                    if retiring.since.is_none() && self.switchboard.is_served(retiring.serial) {
                        retiring.since = Some(now);
                    }
                    let end = retiring.since.map(|since| since + self.docker.policy.drain);
                    match end {
                        _ if !serves => steps.push(Step::Remove(id)),
                        Some(end) if end <= now => steps.extend([Step::Stop(id.clone()), Step::Remove(id)]),
                        // `served` wakes.
                        None => {}
                        Some(end) => again = again.min(end),
                    }
                }
                step => steps.push(step),
            }
        }
        if steps.is_empty() && !gone {
            return again;
        }
        debug!(service = %name, ?steps, "works");
        let secrets = secrets(view, &self.vault, &service);
        let forget = gone.then(|| {
            vec![
                Write::Delete { key: service.key(), expect: Expect::Version(service.version()) },
                Vault::delete(&Service::secret_id(&name), Expect::Any),
            ]
        });
        let job = Job {
            docker: self.docker.clone(),
            store: Arc::clone(&self.store),
            beside: beside(view, &self.docker.owner.node),
            service,
            steps,
            secrets,
            forget,
            over: CancellationToken::new(),
        };
        self.busy.insert(name.clone(), (wish, job.over.clone()));
        self.working.push(Box::pin(async move { (name, job.run().await) }));
        again
    }
}

/// Services that an engine runs.
fn beside(view: &View, node: &NodeName) -> Vec<Arc<Service>> {
    let all = view.config.services.values().filter(|service| !service.volumes.is_empty());
    all.filter(|service| service.node.as_ref().is_none_or(|other| other == node)).cloned().collect()
}

async fn next(events: &mut Option<Events>) -> Option<engine::Result<EventMessage>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The values of a service's secret variables. What can't be opened is missing, and then says so.
fn secrets(view: &View, vault: &Vault, service: &Service) -> Secrets {
    if service.secrets.is_empty() {
        return Secrets::new();
    }
    let id = Service::secret_id(&service.service_name);
    let opened = view.secret(&id).and_then(|sealed| vault.open(&id, &sealed).ok());
    let values: Option<BTreeMap<String, String>> =
        opened.and_then(|opened| serde_json::from_slice(opened.expose_secret()).ok());
    values.unwrap_or_default().into_iter().map(|(name, value)| (name, SecretString::from(value))).collect()
}
