//! Certificates for names below a wildcard host, made when somebody asks for them first.
//!
//! A handshake that finds no certificate tells [`Demand`], which neither waits nor forgets to count: a name that was seen
//! lately, a network that has had its share, and a full queue end there. [`Judge`] works in the background: it looks
//! at the permission of the host, asks whom the host names, counts what the domain has had, and makes the document of
//! a certificate, which the manager issues like any other one. Whatever fails on the way, there is no certificate.

mod ask;
mod asked;
mod budget;
mod counters;
mod seen;
mod used;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::forward::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::ask::Ask;
pub(crate) use self::asked::is_any_asked_for;
pub(super) use self::asked::note;
use self::budget::Domains;
pub use self::counters::Counters;
use self::seen::{Look, Seen};
pub use self::used::Noted;
use super::manager::is_served;
use super::needs;
use super::plan;
use super::policy::Policy;
use super::renewal::after;
use crate::applied::Applied;
use crate::config::{CertName, Certificate, Config, Entity, HostPattern};
use crate::limiter::Limiter;
use crate::mirror::Mirror;
use crate::store::{self, Expect, Key, Kind, Write};

/// In what time a client network may ask for so many names.
const WINDOW: Duration = Duration::from_secs(3600);

/// How long a name is not looked at again, whatever was decided.
const HOLD: Duration = Duration::from_secs(600);

/// The same after a decision that could not be made.
const AGAIN: Duration = Duration::from_secs(60);

/// Names that wait. More are dropped: their clients come again.
const MAX_WAITING: usize = 256;

/// Names that are judged at once: who is asked about them must not be run over.
const MAX_JUDGED: usize = 4;

/// What handshakes tell. A clone is a reference count.
#[derive(Clone)]
pub struct Demand {
    shared: Arc<Shared>,
}

struct Shared {
    sender: mpsc::Sender<Told>,
    networks: Limiter,
    missed: Mutex<Seen>,
    counters: Arc<Counters>,
}

/// What a handshake has told.
#[derive(Debug)]
enum Told {
    /// A name has no certificate.
    Missed(HostName),
    /// A name is used.
    Used(HostName, Arc<Noted>),
}

/// What handshakes have told, for a [`Judge`].
#[derive(Debug)]
pub struct Requests(mpsc::Receiver<Told>);

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demand").finish_non_exhaustive()
    }
}

impl Demand {
    /// Allows each client network so many names in an hour.
    pub fn new(per_network: u32) -> (Self, Requests) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let networks = Limiter::new(per_network, WINDOW);
        let shared = Shared { sender, networks, missed: Mutex::default(), counters: Arc::default() };
        (Self { shared: Arc::new(shared) }, Requests(receiver))
    }

    /// What became of names on this node.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// A client asked for a name that may have a certificate, as far as its host's patterns say, and has none.
    pub fn missed(&self, name: &HostName, client: IpAddr) {
        self.missed_at(name, client, Timestamp::now());
    }

    fn missed_at(&self, name: &HostName, client: IpAddr, now: Timestamp) {
        let Shared { sender, networks, counters, .. } = &*self.shared;
        let mut missed = self.missed_names();
        match missed.look(name, now) {
            Look::New => {}
            Look::Lately => return,
            Look::Full => return count(&counters.busy),
        }
        // First of all: who finds no place has used up nothing.
        let Ok(place) = sender.try_reserve() else { return count(&counters.busy) };
        if networks.count(Some(client), now).is_err() {
            return count(&counters.network_limit);
        }
        missed.hold(name.clone(), after(now, HOLD));
        place.send(Told::Missed(name.clone()));
    }

    /// A client was served with a certificate that was made on demand; `noted` is kept with the name.
    pub fn used(&self, name: &HostName, noted: &Arc<Noted>) {
        self.used_at(name, noted, Timestamp::now());
    }

    fn used_at(&self, name: &HostName, noted: &Arc<Noted>, now: Timestamp) {
        // Nearly all handshakes end here.
        if !noted.is_due(now) {
            return;
        }
        if let Ok(place) = self.shared.sender.try_reserve()
            && noted.claim(now)
        {
            place.send(Told::Used(name.clone(), Arc::clone(noted)));
        }
    }

    /// A name could not be judged, or what is known of it could not be kept: it is looked at again soon.
    fn retry(&self, told: &Told) {
        let then = after(Timestamp::now(), AGAIN);
        match told {
            Told::Missed(name) => {
                count(&self.shared.counters.failed);
                self.missed_names().hold(name.clone(), then);
            }
            Told::Used(_, noted) => noted.retry_at(then),
        }
    }

    fn missed_names(&self) -> MutexGuard<'_, Seen> {
        self.shared.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Decides about names, one node for what its own handshakes tell.
#[derive(Debug)]
pub struct Judge {
    mirror: Mirror,
    policy: Arc<Policy>,
    ask: Ask,
    domains: Domains,
}

/// What was decided about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It gets a certificate.
    Made,
    /// It has one, or will have one.
    Held,
    /// Nothing allows it.
    Refused,
    /// Too many names of its domain got one lately.
    Exhausted,
}

impl Judge {
    /// Judges by this configuration; `client` asks whom hosts name.
    pub fn new(mirror: Mirror, policy: Arc<Policy>, client: Client) -> Self {
        let domains = Domains::new(Arc::clone(mirror.store()), policy.on_demand);
        Self { mirror, policy, ask: Ask::new(client), domains }
    }

    /// Judges what `requests` brings until it is told to stop.
    pub async fn run(
        self: Arc<Self>,
        demand: Demand,
        mut requests: Requests,
        applied: watch::Receiver<Applied>,
        stop: CancellationToken,
    ) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(told) = requests.0.recv(), if running.len() < MAX_JUDGED => {
                    // A store that nobody has accepted yet is not written to.
                    if is_served(&applied) {
                        let (judge, demand) = (Arc::clone(&self), demand.clone());
                        running.spawn(async move { judge.take(&told, &demand).await });
                    } else {
                        demand.retry(&told);
                    }
                }
                Some(_) = running.join_next() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn take(&self, told: &Told, demand: &Demand) {
        let outcome = match told {
            Told::Missed(name) => self.judge(name, Timestamp::now()).await.map(|verdict| {
                count(demand.shared.counters.of(verdict));
                tell(name, verdict);
            }),
            Told::Used(name, _) => note(&**self.mirror.store(), name).await,
        };
        if let Err(error) = outcome {
            demand.retry(told);
            warn!(?told, %error, "what somebody asked for can't be looked at");
        }
    }

    async fn judge(&self, name: &HostName, now: Timestamp) -> store::Result<Verdict> {
        let view = self.mirror.latest().await?;
        let pattern = HostPattern::from(name.clone());
        let Some(wildcard) = needs::wildcard_of(name, &view.config) else { return Ok(Verdict::Refused) };
        if !self.policy.may_issue(&pattern) {
            return Ok(Verdict::Refused);
        }
        if is_held(&view.config, &pattern, now) {
            return Ok(Verdict::Held);
        }
        if let Some(url) = &wildcard.on_demand_ask
            && !self.ask.allows(url, name).await
        {
            return Ok(Verdict::Refused);
        }
        let is_free = |name: &CertName| !view.contains(&Key::new(Kind::Certificate, name.as_str()));
        let Some(free) = plan::names_for(&pattern).find(is_free) else { return Ok(Verdict::Refused) };
        let Some(place) = self.domains.take(name, now).await? else { return Ok(Verdict::Exhausted) };
        let wanted = Certificate {
            automatic: true,
            on_demand: true,
            created_at: Some(now),
            updated_at: Some(now),
            ..Certificate::wanted(free, vec![pattern])
        };
        let write = Write::Put { key: wanted.key(), value: wanted.stored(), expect: Expect::Absent };
        match self.mirror.store().commit(vec![write]).await {
            Ok(_) => {}
            // Another node was asked, too.
            Err(store::Error::Conflict { .. }) => {
                self.domains.give_back(place).await?;
                return Ok(Verdict::Held);
            }
            // It may have been made nevertheless: the place stays taken.
            Err(error) => return Err(error),
        }
        if let Err(error) = note(&**self.mirror.store(), name).await {
            debug!(host = %name, %error, "that it was asked for is noted when it is used");
        }
        Ok(Verdict::Made)
    }
}

fn tell(name: &HostName, verdict: Verdict) {
    match verdict {
        Verdict::Made => info!(host = %name, "a name gets a certificate because somebody asked for it"),
        Verdict::Exhausted => {
            warn!(host = %name, "no certificate on demand: too many names of this domain got one lately");
        }
        Verdict::Held | Verdict::Refused => debug!(host = %name, ?verdict, "no certificate on demand"),
    }
}

/// Whether a name is served with a certificate, or will be.
fn is_held(config: &Config, name: &HostPattern, now: Timestamp) -> bool {
    config.certificates.values().any(|one| {
        // That of a host that is gone serves to its end, and has no successor.
        let is_kept = one.on_demand || !one.automatic;
        let is_own = one.domains.contains(name) && is_kept && plan::holds(one, now);
        // A wildcard that nobody can have issued is no reason to leave its names without.
        is_own || (one.is_in_force(now) && one.serves(name))
    })
}

#[cfg(all(test, feature = "embedded"))]
mod tests;
