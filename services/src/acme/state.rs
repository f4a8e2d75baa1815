//! What is known of a certificate's issuing beside its document: the last attempt, what is under way, when the next is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Failure;
use super::renewal::Advice;
use crate::config::certificate::ChallengeType;
use crate::config::{CertName, Certificate, HostPattern};
use crate::store::{self, Expect, Record, RecordKey, RecordKind, RecordWrite, Store};

/// An attempt has about ten steps, and three for each authority more.
const MAX_STEPS: usize = 40;

/// What is known of the issuing of one certificate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Issuance {
    /// When the document was made that it is about: another one of the same name is another certificate.
    #[serde(default)]
    pub of: Option<Timestamp>,
    /// The wish that the last attempt was to fulfil.
    #[serde(default)]
    pub asked: Option<Timestamp>,
    /// The steps of the last attempt, the first one first.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// When the last attempt began.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended; absent while it is under way.
    #[serde(default)]
    pub completed_at: Option<Timestamp>,
    /// How many attempts have failed since the last that did not.
    #[serde(default)]
    pub failures: u32,
    /// Why the last attempt failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Before this there is no attempt.
    #[serde(default)]
    pub next_attempt: Option<Timestamp>,
    /// Until when authorities want to be left alone about it, by their directories.
    #[serde(default)]
    pub left_alone: BTreeMap<String, Timestamp>,
    /// The order that is under way.
    #[serde(default)]
    pub order: Option<OpenOrder>,
    /// What has been put into the DNS for it, or may have been, and is to be taken away.
    #[serde(default)]
    pub records: Vec<DnsRecord>,
    /// What the authority says about the time of the next renewal.
    #[serde(default)]
    pub advice: Option<Advice>,
}

/// One step of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// What.
    pub text: String,
}

/// An order that is under way: what it takes to go on with it elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenOrder {
    /// The directory of its authority.
    pub directory: String,
    /// The mail address of its account.
    #[serde(default)]
    pub email: Option<String>,
    /// When it was made.
    #[serde(default)]
    pub made_at: Option<Timestamp>,
    /// Its URL.
    pub url: String,
    /// The names that it is for.
    pub names: Vec<HostPattern>,
    /// How they are validated.
    pub challenge: Option<ChallengeType>,
    /// The certificate's key, sealed.
    pub key: Value,
}

/// A TXT record that answers a challenge. The value is a hash, and public (RFC 8555, section 8.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// Where it was asked for; delegations lead on from there.
    pub name: String,
    /// What it says.
    pub value: String,
}

impl Issuance {
    /// Notes a step.
    pub fn step(&mut self, text: impl Into<String>, now: Timestamp) {
        if self.steps.len() < MAX_STEPS {
            self.steps.push(Step { at: now, text: text.into() });
        }
    }

    /// Whether it is about this certificate, and not about an earlier one of the same name.
    pub fn is_of(&self, certificate: &Certificate) -> bool {
        self.of == certificate.created_at
    }

    /// An attempt begins.
    pub fn begin(&mut self, certificate: &Certificate, now: Timestamp) {
        self.of = certificate.created_at;
        self.asked = certificate.renew_requested_at;
        self.steps.clear();
        self.started_at = Some(now);
        self.completed_at = None;
        self.next_attempt = None;
    }

    /// An attempt has succeeded; nothing that happens by itself begins another one before `next`.
    pub fn succeed(&mut self, now: Timestamp, next: Timestamp) {
        *self = Self {
            of: self.of,
            asked: self.asked,
            next_attempt: Some(next),
            steps: std::mem::take(&mut self.steps),
            records: std::mem::take(&mut self.records),
            started_at: self.started_at,
            completed_at: Some(now),
            ..Self::default()
        };
    }

    /// An attempt has failed; the next one is not before `next`. It counts unless it was our own doing.
    pub fn fail(&mut self, failure: Failure, next: Timestamp, counts: bool) {
        self.completed_at = Some(failure.at);
        self.failures = self.failures.saturating_add(u32::from(counts));
        self.next_attempt = Some(next);
        self.failure = Some(failure);
    }

    /// Whether an attempt is under way, or was when its node ended.
    pub const fn is_under_way(&self) -> bool {
        self.started_at.is_some() && self.completed_at.is_none()
    }
}

/// The record of a certificate.
pub fn key(name: &CertName) -> RecordKey {
    RecordKey::new(RecordKind::Issuance, name.as_str())
}

/// What the seal of an order's key is for.
pub fn seal_name(name: &CertName) -> String {
    format!("acme_order/{name}")
}

/// What a record says, and the version to expect when it is written again. One that can't be read is begun anew.
pub(super) fn known(record: &Record) -> (Issuance, Expect) {
    (record.read().unwrap_or_default(), Expect::Version(record.version))
}

/// Reads what is known, and the version to expect when it is written again.
///
/// # Errors
///
/// When the store fails.
pub async fn read(store: &dyn Store, name: &CertName) -> store::Result<(Issuance, Expect)> {
    Ok(match store.get_record(&key(name)).await? {
        Some(record) => known(&record),
        None => (Issuance::default(), Expect::Absent),
    })
}

/// Writes what is known.
///
/// # Errors
///
/// When the store fails, or another node has written in between.
pub async fn write(
    store: &dyn Store,
    name: &CertName,
    issuance: &Issuance,
    expect: Expect,
) -> store::Result<Expect> {
    let write = RecordWrite::put(key(name), issuance, None, expect, Vec::new())?;
    store.commit_records(vec![write]).await?;
    Ok(match expect {
        Expect::Version(version) => Expect::Version(version + 1),
        _ => Expect::Version(1),
    })
}
