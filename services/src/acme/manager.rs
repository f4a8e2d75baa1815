//! Makes the certificates that are wanted: one node at a time, under a lease.
//!
//! Whoever holds the lease compares what is wanted with what is held, runs an order for each difference, a few at a
//! time, and looks again whenever the configuration changes or something becomes due. Each commit proves that the lease
//! is still held. A node that loses it drops what it does; the next one finds the orders under way and goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::forward::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::account::Accounts;
use super::alerts::{self, Alert};
use super::budget::Budget;
use super::challenges::Challenges;
use super::dns::DnsProvider;
use super::needs::Needs;
use super::plan::{self, Why};
use super::policy::Policy;
use super::progress::{Known, Progress, insists};
use super::renewal::after;
use super::state::{self, Issuance};
use crate::applied::Applied;
use crate::config::{CertName, Certificate, Config};
use crate::mirror::Mirror;
use crate::random;
use crate::store::{self, Expect, Lease, MAX_PAGE, RecordKind, Write};
use crate::vault::Vault;

mod attempt;
mod questions;
mod tidy;

/// The lease of whoever issues.
const LEASE: &str = "acme";

/// A node that ended without a word is followed by another one after this.
const LEASE_TIME: Duration = Duration::from_secs(15);

/// How often the lease is renewed.
const HOLD: Duration = Duration::from_secs(4);

/// How many questions about renewals are asked at a time.
const QUESTIONS: usize = 2;

/// Between an attempt that broke off and the next one.
const PAUSE: Duration = Duration::from_secs(1);

/// How soon to look again when another node holds the lease, or the store is away.
const AGAIN: Duration = Duration::from_secs(3);

/// Issues and renews the certificates of a deployment.
pub struct Manager {
    mirror: Mirror,
    vault: Arc<Vault>,
    policy: Arc<Policy>,
    challenges: Challenges,
    dns: Option<Arc<dyn DnsProvider>>,
    accounts: Accounts,
    budget: Budget,
    holder: String,
    counters: Arc<Counters>,
}

/// How attempts ended on this node. For metrics; both only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// With a certificate that serves.
    pub issued: AtomicU64,
    /// Without one.
    pub failed: AtomicU64,
}

/// What a [`Manager`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where certificates are wanted and held.
    pub mirror: Mirror,
    /// Seals keys and accounts.
    pub vault: Arc<Vault>,
    /// Calls authorities.
    pub client: Client,
    /// What the deployment wants.
    pub policy: Arc<Policy>,
    /// What answers authorities.
    pub challenges: Challenges,
    /// Who changes the DNS, if anybody does.
    pub dns: Option<Arc<dyn DnsProvider>>,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// What a task has done.
struct Done {
    name: CertName,
    /// Whether it has only asked about a renewal.
    asked: bool,
    known: Option<Known>,
}

/// What is in hand while the lease is held.
struct Hand {
    lease: Lease,
    known: BTreeMap<CertName, Known>,
    busy: BTreeSet<CertName>,
    running: JoinSet<Done>,
    /// How many of them only ask about a renewal.
    asking: usize,
    /// What was told already.
    told: BTreeMap<CertName, Alert>,
    /// Names that nobody has asked for lately, and when to look again.
    idle: BTreeMap<CertName, Timestamp>,
}

impl Manager {
    /// A manager of its parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { mirror, vault, client, policy, challenges, dns } = parts;
        let store = mirror.store();
        let accounts = Accounts::new(Arc::clone(store), Arc::clone(&vault), client);
        let budget = Budget::new(Arc::clone(store), policy.orders);
        let holder = random::name("");
        Self { mirror, vault, policy, challenges, dns, accounts, budget, holder, counters: Arc::default() }
    }

    /// How attempts ended on this node.
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The mail address of whoever looks after a certificate.
    fn email_of<'a>(&'a self, certificate: &'a Certificate) -> Option<&'a str> {
        certificate.email.as_deref().or(self.policy.email.as_deref())
    }

    /// What the deployment wants.
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Issues and renews until it is told to stop.
    pub async fn run(self: Arc<Self>, mut applied: watch::Receiver<Applied>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            // A store that nobody has accepted yet is not written to.
            let serves = is_served(&applied);
            let led = if serves { self.try_lead(&mut applied, &stop).await } else { Ok(()) };
            match led {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "certificates can't be looked after");
                    }
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
    }

    async fn try_lead(
        self: &Arc<Self>,
        applied: &mut watch::Receiver<Applied>,
        stop: &CancellationToken,
    ) -> store::Result<()> {
        let Some(lease) = self.acquire().await? else { return Ok(()) };
        // Another node may have gone on meanwhile.
        self.budget.forget().await;
        self.accounts.close().await;
        let mut hand = Hand {
            lease,
            known: self.read_all().await?,
            busy: BTreeSet::new(),
            running: JoinSet::new(),
            asking: 0,
            told: BTreeMap::new(),
            idle: BTreeMap::new(),
        };
        let outcome = self.lead(&mut hand, applied, stop).await;
        // Whatever is under way is gone on with by whoever comes next.
        hand.running.shutdown().await;
        self.challenges.forget_own();
        if let Err(error) = self.mirror.store().release(LEASE, &self.holder).await {
            debug!(%error, "the lease of certificates ends by its time only");
        }
        outcome
    }

    async fn lead(
        self: &Arc<Self>,
        hand: &mut Hand,
        applied: &mut watch::Receiver<Applied>,
        stop: &CancellationToken,
    ) -> store::Result<()> {
        let mut hold = tokio::time::interval(HOLD);
        hold.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wait = self.look(hand).await?;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = hold.tick() => match self.acquire().await? {
                    Some(lease) if lease.number == hand.lease.number => {}
                    _ => {
                        warn!("another node looks after certificates now");
                        return Ok(());
                    }
                },
                changed = applied.changed() => if changed.is_err() || !is_served(applied) { return Ok(()) },
                Some(done) = hand.running.join_next() => hand.note(done),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn acquire(&self) -> store::Result<Option<Lease>> {
        self.mirror.store().acquire(LEASE, &self.holder, LEASE_TIME).await
    }

    async fn read_all(&self) -> store::Result<BTreeMap<CertName, Known>> {
        let (mut known, mut from) = (BTreeMap::new(), None);
        loop {
            let page = self.mirror.store().list_records(RecordKind::Issuance, None, from, MAX_PAGE).await?;
            for record in &page.records {
                // Some are about other things than certificates.
                if let Ok(name) = record.key.id.parse::<CertName>() {
                    known.insert(name, state::known(record));
                }
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(known),
            }
        }
    }

    /// Begins what is due; tells how long to wait for the next.
    async fn look(self: &Arc<Self>, hand: &mut Hand) -> store::Result<Duration> {
        let now = Timestamp::now();
        let mut view = self.mirror.latest().await?;
        if self.tidy(&view, hand, now).await? {
            view = self.mirror.latest().await?;
        }
        let config = &view.config;
        hand.alert(config, now);
        let needs = Needs::of(config);
        let mut soonest = after(now, self.policy.look);
        let (mut due, mut questions) = (Vec::new(), Vec::new());
        for (name, certificate) in &config.certificates {
            if hand.busy.contains(name) {
                continue;
            }
            let known =
                hand.known.get(name).map(|(issuance, _)| issuance).filter(|one| one.is_of(certificate));
            let next = plan::next(certificate, known, &needs, &self.policy);
            let asks_at = questions::asks_at(certificate, known);
            match next {
                Some((why, at)) if at <= now => {
                    let mut waits = self.waits(certificate, known, now).await?;
                    if why == Why::Renewal && waits.is_none() {
                        waits = self.rests_until(hand, certificate, &needs, now).await?;
                    }
                    match waits {
                        Some(again) => soonest = soonest.min(again),
                        None => due.push((at, why, certificate)),
                    }
                }
                Some((_, at)) => {
                    soonest = soonest.min(at);
                    match asks_at {
                        Some(at) if at <= now => questions.push(certificate),
                        Some(at) => soonest = soonest.min(at),
                        None => {}
                    }
                }
                None => {}
            }
        }
        // What broke off first, then what is longest due.
        due.sort_by_key(|(at, why, _)| (*why != Why::Resumed, *at));
        for (_, why, certificate) in due {
            if hand.busy.len() >= self.policy.workers {
                break;
            }
            // Both would answer for the same name.
            let mut busy = hand.busy.iter().filter_map(|name| config.certificates.get(name));
            if !busy.any(|one| one.domains.iter().any(|name| certificate.domains.contains(name))) {
                self.issue(hand, certificate, why);
            }
        }
        // With what is left, and never with all of it: a slow answer must not keep orders waiting.
        let places =
            self.policy.workers.saturating_sub(hand.busy.len()).min(QUESTIONS.saturating_sub(hand.asking));
        for certificate in questions.into_iter().take(places) {
            self.ask(hand, certificate);
        }
        Ok(Duration::try_from(soonest.duration_since(now)).unwrap_or_default().max(Duration::from_millis(10)))
    }

    /// When there is room for an order at one of the authorities of a certificate, where there is none now: until then
    /// there is no attempt, because each would end with its first step.
    async fn waits(
        &self,
        certificate: &Certificate,
        known: Option<&Issuance>,
        now: Timestamp,
    ) -> store::Result<Option<Timestamp>> {
        if known.is_some_and(|known| known.order.is_some()) {
            return Ok(None);
        }
        let insists = insists(certificate, known);
        let mut soonest = None;
        for authority in self.policy.authorities_of(certificate) {
            match self.budget.room(&authority.directory.to_string(), insists, now).await? {
                None => return Ok(None),
                Some(full) => soonest = soonest.into_iter().chain([full.until()]).min(),
            }
        }
        Ok(soonest)
    }

    fn issue(self: &Arc<Self>, hand: &mut Hand, certificate: &Arc<Certificate>, why: Why) {
        let name = certificate.cert_name.clone();
        let known = hand.known_of(certificate);
        hand.busy.insert(name.clone());
        let (manager, certificate, fence) = (Arc::clone(self), Arc::clone(certificate), fence(hand.lease));
        hand.running.spawn(async move {
            let mut progress = Progress::new(&**manager.mirror.store(), &name, known);
            let outcome = manager.attempt(&certificate, why, &mut progress, &fence).await;
            let known = progress.into_known();
            match outcome {
                Ok(()) => Done { name, asked: false, known: Some(known) },
                Err(error) => {
                    warn!(certificate = %name, %error, "an attempt to issue a certificate broke off");
                    // What the store has is read again before the next one, which should not come at once.
                    tokio::time::sleep(PAUSE).await;
                    let read = state::read(&**manager.mirror.store(), &name).await;
                    Done { name, asked: false, known: read.ok() }
                }
            }
        });
    }
}

impl Hand {
    /// What is known of a certificate. Of an earlier one of the same name only the version counts.
    fn known_of(&self, certificate: &Certificate) -> Known {
        match self.known.get(&certificate.cert_name) {
            Some((issuance, expect)) if issuance.is_of(certificate) => (issuance.clone(), *expect),
            known => {
                let expect = known.map_or(Expect::Absent, |(_, expect)| *expect);
                (Issuance { of: certificate.created_at, ..Issuance::default() }, expect)
            }
        }
    }

    /// Tells of the certificates that end soon, once for each time that it gets worse.
    fn alert(&mut self, config: &Config, now: Timestamp) {
        let all: BTreeMap<_, _> =
            alerts::all(config, now).map(|(name, alert)| (name.clone(), alert)).collect();
        for (name, alert) in &all {
            // Those that could not be issued are told of where that happens.
            if *alert != Alert::Failed && self.told.get(name) < Some(alert) {
                warn!(certificate = %name, "a certificate {alert}");
            }
        }
        self.told = all;
    }

    fn note(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done { name, asked, known }) => {
                self.busy.remove(&name);
                self.asking -= usize::from(asked);
                match known {
                    Some(known) => drop(self.known.insert(name, known)),
                    None => drop(self.known.remove(&name)),
                }
            }
            Err(error) => warn!(%error, "an attempt to issue a certificate ended badly"),
        }
        // Of one that ended badly nobody knows whose it was.
        if self.running.is_empty() {
            self.busy.clear();
            self.asking = 0;
        }
    }
}

fn fence(lease: Lease) -> Write {
    Write::Fence { lease: LEASE.to_owned(), number: lease.number }
}

pub(super) fn is_served(applied: &watch::Receiver<Applied>) -> bool {
    let applied = applied.borrow();
    applied.replaced.is_none() && !applied.from_copy
}
