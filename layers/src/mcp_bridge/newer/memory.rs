//! What this process holds for new clients: sessions with old servers that wait for the next request, and exchanges
//! that wait for their client's input.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::exchange::Exchange;
use super::session::Session;
use super::state::fingerprint;
use super::translate::About;
use crate::mcp_bridge::slots::{Slot, Slots};
use crate::mcp_bridge::upstream::Stop;
use crate::mcp_bridge::{Caller, Limits, too_much};

/// How often is looked for what has waited long enough.
const SWEEP: Duration = Duration::from_secs(5);

pub(in super::super) struct Memory {
    slots: Slots,
    idle: Mutex<HashMap<Key, Vec<Waiting<Session>>>>,
    parked: Mutex<HashMap<String, Waiting<Exchange>>>,
    sweeping: AtomicBool,
}

struct Waiting<T> {
    what: T,
    until: Instant,
}

/// Clients whose sessions are the same: of one subject, that say the same of themselves.
pub(super) type Key = String;

/// Where nobody logs in there is no such thing as the same client: what a server keeps of a session is for one.
fn key_of(caller: &Caller, about: &About) -> Option<Key> {
    let subject = &caller.subject.name;
    (!subject.is_empty()).then(|| {
        fingerprint(&json!([
            caller.settings.upstream.as_str(),
            subject.as_str(),
            about.client_info,
            about.capabilities,
            about.level,
        ]))
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    pub(in super::super) fn new(limits: Limits) -> Self {
        Self {
            slots: Slots::new(limits.sessions, limits.sessions_per_subject),
            idle: Mutex::default(),
            parked: Mutex::default(),
            sweeping: AtomicBool::new(false),
        }
    }

    /// A session for this client, and where it goes afterwards: one that waits, or a new one.
    pub(super) async fn lease(&self, caller: &Caller, about: &About) -> Result<(Session, Option<Key>), Stop> {
        let key = key_of(caller, about);
        if let Some(mut session) = key.as_ref().and_then(|key| self.pop(key)) {
            session.lend(caller);
            return Ok((session, key));
        }
        let slot = self.slot(caller)?;
        Ok((Session::begin(caller, about, slot).await?, key))
    }

    fn pop(&self, key: &Key) -> Option<Session> {
        let mut idle = locked(&self.idle);
        let waiting = idle.get_mut(key)?;
        let found = waiting.pop();
        if waiting.is_empty() {
            idle.remove(key);
        }
        found.filter(|found| Instant::now() < found.until).map(|found| found.what)
    }

    /// A place for a new session. Those that wait make room for it: the subject's own, or those of one client.
    pub(super) fn slot(&self, caller: &Caller) -> Result<Slot, Stop> {
        let bucket = &caller.subject.bucket;
        if let Some(slot) = self.slots.take(bucket) {
            return Ok(slot);
        }
        let mut ended = Vec::new();
        let mut idle = locked(&self.idle);
        idle.retain(|_, waiting| {
            ended.extend(waiting.extract_if(.., |waiting| waiting.what.is_of(bucket)));
            !waiting.is_empty()
        });
        if ended.is_empty()
            && let Some(key) = idle.keys().next().cloned()
        {
            ended.extend(idle.remove(&key).into_iter().flatten());
        }
        drop(idle);
        // They are ended outside the lock.
        drop(ended);
        self.slots.take(bucket).ok_or_else(|| too_much().into())
    }

    /// Keeps a session for the next request of the same client.
    pub(super) fn give_back(self: &Arc<Self>, key: Option<Key>, session: Session, idle: Duration) {
        let Some(key) = key else { return };
        let waiting = Waiting { what: session, until: Instant::now() + idle };
        locked(&self.idle).entry(key).or_default().push(waiting);
        self.sweep();
    }

    /// Keeps an exchange until its client has answered.
    pub(super) fn park(self: &Arc<Self>, id: String, exchange: Exchange, time: Duration) {
        let waiting = Waiting { what: exchange, until: Instant::now() + time };
        locked(&self.parked).insert(id, waiting);
        self.sweep();
    }

    /// An exchange that waits, if it does so in this round. Nobody else gets it.
    pub(super) fn unpark(&self, id: &str, round: u32) -> Option<Exchange> {
        let mut parked = locked(&self.parked);
        parked.get(id).filter(|waiting| waiting.what.round == round && Instant::now() < waiting.until)?;
        parked.remove(id).map(|waiting| waiting.what)
    }

    /// Ends what has waited long enough; the task is there as long as anything waits.
    fn sweep(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let memory = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(SWEEP).await;
                if !sweep_once(&memory) {
                    return;
                }
            }
        });
    }

    #[cfg(test)]
    pub(in super::super) fn waiting(&self) -> (usize, usize) {
        (locked(&self.idle).values().map(Vec::len).sum(), locked(&self.parked).len())
    }
}

/// Whether there is anything left to wait for.
fn sweep_once(memory: &Weak<Memory>) -> bool {
    let Some(memory) = memory.upgrade() else { return false };
    let now = Instant::now();
    let mut sessions = Vec::new();
    let mut idle = locked(&memory.idle);
    idle.retain(|_, waiting| {
        sessions.extend(waiting.extract_if(.., |waiting| waiting.until <= now));
        !waiting.is_empty()
    });
    let mut parked = locked(&memory.parked);
    let exchanges: Vec<_> = parked.extract_if(|_, waiting| waiting.until <= now).collect();
    let left = !idle.is_empty() || !parked.is_empty();
    if !left {
        // Under both locks: whoever puts something there next begins a task of its own.
        memory.sweeping.store(false, Ordering::Release);
    }
    drop((idle, parked));
    // They are ended outside the locks.
    drop((sessions, exchanges));
    left
}
