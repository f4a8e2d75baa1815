//! Makes the engine's containers what documents want: on start, on change, on the engine's events, and from time to
//! time. Nothing is remembered that a plan depends on: whoever dies in the middle is followed by one who looks anew.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::engine::{self, Error};
use super::observe::{self, Container, Health};
use super::plan::{Phase, Plan, Seen, Step, Wanted, plan};
use super::spec::{self, Secrets};
use super::state::Known;
use super::{Docker, Status, Switchboard};
use crate::applied::Applied;
use crate::config::resolve::Addresses;
use crate::config::service::Desired;
use crate::config::view::View;
use crate::config::{Entity, Service, ServiceName};
use crate::store::{Expect, Store, Write};
use crate::vault::Vault;

mod told;
mod work;

use work::{Job, Outcome};

/// A full look, even when nothing happened.
const FULL: Duration = Duration::from_secs(30);

/// Between two looks at what starts, and at an engine that is away.
const SOON: Duration = Duration::from_millis(200);
const AWAY: Duration = Duration::from_secs(1);

/// The pause after a failure, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// So often a container may end before it counts as a loop.
const LOOP: i64 = 3;

/// So long somebody who has ended before must run before requests go there.
const STEADY: Duration = Duration::from_secs(5);

/// So many ports are tried, and services worked on, at a time.
const AT_ONCE: usize = 16;

/// A service that is worked on, and how that went.
type Working = Pin<Box<dyn Future<Output = (ServiceName, Outcome)> + Send>>;

/// What the engine tells of its containers.
type Events = Pin<Box<dyn Stream<Item = engine::Result<EventMessage>> + Send>>;

/// What a failure leaves: the same wish waits until then.
#[derive(Debug)]
struct Failure {
    spec: String,
    reason: String,
    tries: u32,
    until: Instant,
    retry_at: Timestamp,
}

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
    failures: HashMap<ServiceName, Failure>,
    /// The ports that have accepted, by container, with the start that this is about.
    accepted: HashMap<String, Option<String>>,
    oom_killed: std::collections::HashSet<String>,
    retiring: HashMap<String, Retiring>,
    busy: BTreeMap<ServiceName, String>,
    working: FuturesUnordered<Working>,
    was_away: bool,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("docker", &self.docker).finish_non_exhaustive()
    }
}

impl Reconciler {
    /// One over an engine.
    pub fn new(docker: Docker, vault: Arc<Vault>, store: Arc<dyn Store>, switchboard: Switchboard) -> Self {
        Self {
            docker,
            vault,
            store,
            switchboard,
            failures: HashMap::new(),
            accepted: HashMap::new(),
            oom_killed: std::collections::HashSet::new(),
            retiring: HashMap::new(),
            busy: BTreeMap::new(),
            working: FuturesUnordered::new(),
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
        loop {
            let woken = Arc::clone(&self.docker.wake);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
                _ = served.changed() => {}
                () = woken.notified() => {}
                Some((service, outcome)) = self.working.next() => self.finish(&service, outcome),
                event = next(&mut events) => match event {
                    Some(Ok(event)) => self.note(event),
                    _ => events = None,
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
            // What a replaced store wants is nobody's wish yet.
            let acts = applied.borrow_and_update().replaced.is_none();
            wake_at = self.pass(&view, acts).await;
            // An engine that refuses to tell is not asked without a pause.
            let pause = listened_at.map_or(Duration::ZERO, |at| AWAY.saturating_sub(at.elapsed()));
            if events.is_none() && !pause.is_zero() {
                wake_at = wake_at.min(Instant::now() + pause);
            } else if events.is_none() && !self.was_away {
                listened_at = Some(Instant::now());
                events = self
                    .docker
                    .engine
                    .events(&self.docker.owner)
                    .ok()
                    .map(|events| Box::pin(events) as Events);
                // What happened before they were listened to.
                wake_at = wake_at.min(Instant::now() + AWAY);
            }
        }
    }

    fn note(&mut self, event: EventMessage) {
        if event.action.as_deref() == Some("oom") {
            self.oom_killed.extend(event.actor.and_then(|actor| actor.id));
        }
    }

    fn finish(&mut self, service: &ServiceName, outcome: Outcome) {
        let spec = self.busy.remove(service).unwrap_or_default();
        match outcome {
            Outcome::Done => {}
            // It is asked again soon; the wish is not to blame.
            Outcome::Away => self.was_away = true,
            Outcome::Failed(reason) => self.fail(service, spec, reason),
        }
    }

    fn fail(&mut self, service: &ServiceName, spec: String, reason: String) {
        let before = self.failures.remove(service).filter(|failure| failure.spec == spec);
        let tries = before.map_or(0, |failure| failure.tries + 1);
        let pause = BACKOFF.0.saturating_mul(1 << tries.min(10)).min(BACKOFF.1);
        warn!(%service, reason, retry_seconds = pause.as_secs(), "a service is not what it shall be");
        let (until, retry_at) = (Instant::now() + pause, Timestamp::now() + pause);
        self.failures.insert(service.clone(), Failure { spec, reason, tries, until, retry_at });
    }

    /// One look, and what follows from it; when the next one is due.
    async fn pass(&mut self, view: &View, acts: bool) -> Instant {
        let now = Instant::now();
        let mut found = match observe::containers(&self.docker.engine, &self.docker.owner).await {
            Ok(found) => found,
            Err(error) => {
                self.report_away(view, &error);
                return now + AWAY;
            }
        };
        if std::mem::take(&mut self.was_away) {
            info!("the Docker engine answers");
        }
        self.judge(&mut found).await;
        self.forget(&found);
        let mut next = now + FULL;
        let mut addresses = Addresses::new();
        let mut board = BTreeMap::new();
        let mut due: Vec<(Arc<Service>, String, Plan)> = Vec::new();
        for (name, service) in &view.config.services {
            if service.node.as_ref().is_some_and(|node| *node != self.docker.owner.node) {
                let version = service.version();
                board.insert(name.clone(), Known { status: Status::Elsewhere, version, ..Known::default() });
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
            let plan = self.plan(service, &spec, &mine);
            let failure = self.failures.get(name).filter(|failure| failure.spec == spec);
            if let Some(failure) = failure {
                next = next.min(failure.until);
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
            due.push((Arc::clone(service), spec, plan));
        }
        self.failures.retain(|name, _| view.config.services.contains_key(name));
        addresses.retain(|_, all| !all.is_empty());
        let serial = self.switchboard.publish(addresses);
        self.docker.board.write(board);
        if acts {
            for (service, spec, plan) in due {
                let at = self.act(view, service, spec, plan, &found, serial);
                next = next.min(at);
            }
        }
        next
    }

    fn report_away(&mut self, view: &View, error: &Error) {
        if !std::mem::replace(&mut self.was_away, true) {
            warn!(%error, "the Docker engine can't be used: services stay as they are");
        }
        let known = |name: &ServiceName, service: &Service| {
            let before = self.docker.board.of(name).map(|known| Known::clone(&known)).unwrap_or_default();
            let elsewhere = service.node.as_ref().is_some_and(|node| *node != self.docker.owner.node);
            let status = if elsewhere { Status::Elsewhere } else { Status::Unknown };
            let last_error = (!elsewhere).then(|| error.to_string());
            Known { status, version: service.version(), last_error, ..before }
        };
        let all = view.config.services.iter().map(|(name, service)| (name.clone(), known(name, service)));
        self.docker.board.write(all.collect());
    }

    /// Finds out which containers are ready.
    async fn judge(&mut self, found: &mut [Container]) {
        let now = Timestamp::now();
        let mut unknown = Vec::new();
        for (at, one) in found.iter_mut().enumerate() {
            one.oom_killed |= self.oom_killed.contains(&one.id);
            if one.phase != Phase::Running {
                continue;
            }
            let since = one.started_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
            let ran = since.and_then(|since| Duration::try_from(now.duration_since(since)).ok());
            if one.restarts > 0 && ran.is_none_or(|ran| ran < STEADY) {
                continue;
            }
            match one.health {
                Health::Healthy => one.ready = one.address.is_some(),
                Health::Starting | Health::Unhealthy(_) => {}
                Health::None => match self.accepted.get(&one.id) {
                    Some(start) if *start == one.started_at => one.ready = true,
                    _ => unknown.extend(one.address.map(|address| (at, address))),
                },
            }
        }
        let probes =
            unknown.into_iter().map(|(at, address)| async move { (at, observe::accepts(address).await) });
        let mut probes = futures_util::stream::iter(probes).buffer_unordered(AT_ONCE);
        while let Some((at, accepts)) = probes.next().await {
            if accepts {
                found[at].ready = true;
                self.accepted.insert(found[at].id.clone(), found[at].started_at.clone());
            }
        }
    }

    /// Keeps nothing of containers that are gone.
    fn forget(&mut self, found: &[Container]) {
        let there = |id: &String| found.iter().any(|one| one.id == *id);
        self.accepted.retain(|id, _| there(id));
        self.oom_killed.retain(there);
        self.retiring.retain(|id, _| there(id));
    }

    fn plan(&mut self, service: &Service, spec: &str, mine: &[&Container]) -> Plan {
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
        let failed = |failures: &HashMap<ServiceName, Failure>| {
            failures.get(name).is_some_and(|failure| failure.spec == spec && failure.until > Instant::now())
        };
        let mut wanted = Wanted {
            spec,
            replicas: service.replicas,
            runs: service.desired_state == Desired::Running,
            deleting: service.deleting,
            restart: service.restart_policy,
            failed: failed(&self.failures),
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
        self.fail(name, spec.to_owned(), reason);
        wanted.failed = true;
        plan(&wanted, &seen)
    }

    /// Begins what has to be done for a service; when it has to be looked at again.
    fn act(
        &mut self,
        view: &View,
        service: Arc<Service>,
        spec: String,
        plan: Plan,
        found: &[Container],
        serial: u64,
    ) -> Instant {
        let now = Instant::now();
        let mut again = now + FULL;
        let name = service.service_name.clone();
        if self.busy.contains_key(&name) {
            return again;
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
            service,
            steps,
            secrets,
            forget,
        };
        self.busy.insert(name.clone(), spec);
        self.working.push(Box::pin(async move { (name, job.run().await) }));
        again
    }
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
