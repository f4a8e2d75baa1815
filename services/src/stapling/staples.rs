//! What this node knows of the responders of its certificates, for whoever reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// What a responder says of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It is not revoked.
    Good,
    /// It is.
    Revoked,
}

/// What this node knows from the responder of a certificate (RFC 6960).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Known {
    /// Where it is asked; absent where that is not possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responder: Option<String>,
    /// What it said last; absent before it has said anything, and when that is over.
    pub status: Option<Said>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// Since when the responder knows this.
    pub this_update: Option<Timestamp>,
    /// Until when its answer goes into handshakes; absent where none does.
    pub stapled_until: Option<Timestamp>,
    /// Why it can't be asked, or why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it is asked again.
    pub next_attempt: Option<Timestamp>,
}

/// How questions ended. For metrics; all only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// With an answer that is stapled.
    pub good: AtomicU64,
    /// The certificate is revoked.
    pub revoked: AtomicU64,
    /// Without an answer of use.
    pub failed: AtomicU64,
}

/// What is known of all certificates that name a responder, by their fingerprints as in documents.
#[derive(Debug, Default)]
pub struct Staples {
    known: Mutex<BTreeMap<String, Known>>,
    counters: Counters,
}

impl Staples {
    /// What is known of a certificate; `None` for one without a responder, and where nobody is asked.
    pub fn of(&self, fingerprint: &str) -> Option<Known> {
        self.lock().get(fingerprint).cloned()
    }

    /// Whether the authority of a certificate has revoked it, as far as this node was told.
    pub fn is_revoked(&self, fingerprint: &str) -> bool {
        self.lock().get(fingerprint).is_some_and(|known| known.status == Some(Said::Revoked))
    }

    /// How many certificates name a responder, and how many of them have an answer stapled now.
    pub fn counts(&self) -> (usize, usize) {
        let (known, now) = (self.lock(), Timestamp::now());
        let stapled = known.values().filter(|one| one.stapled_until.is_some_and(|until| now < until));
        (known.len(), stapled.count())
    }

    /// How questions ended on this node.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn tell(&self, fingerprint: &str, known: Known) {
        self.lock().insert(fingerprint.to_owned(), known);
    }

    /// Forgets all other certificates.
    pub(super) fn retain(&self, fingerprints: &BTreeSet<&str>) {
        self.lock().retain(|fingerprint, _| fingerprints.contains(fingerprint.as_str()));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
