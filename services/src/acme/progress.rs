//! What an attempt to issue a certificate notes while it runs, for whoever watches and for whoever goes on with it.

use jiff::Timestamp;

use super::failure::Failure;
use super::state::{self, DnsRecord, Issuance, OpenOrder};
use crate::config::{CertName, Certificate};
use crate::store::{self, Expect, Store};

/// What is known of the issuing of a certificate, and the version to expect.
pub(super) type Known = (Issuance, Expect);

/// The notes of one attempt.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    store: &'a dyn Store,
    name: &'a CertName,
    known: Known,
    email: Option<String>,
    insists: bool,
}

impl<'a> Progress<'a> {
    pub(super) const fn new(store: &'a dyn Store, name: &'a CertName, known: Known) -> Self {
        Self { store, name, known, email: None, insists: false }
    }

    /// An attempt begins anew.
    pub(super) fn begin(&mut self, certificate: &Certificate, now: Timestamp) {
        self.insists = insists(certificate, Some(&self.known.0));
        self.known.0.begin(certificate, now);
    }

    /// Notes a step.
    pub(super) async fn step(&mut self, text: impl Into<String>) -> store::Result<()> {
        self.known.0.step(text, Timestamp::now());
        self.save().await
    }

    /// It has succeeded; nothing that happens by itself begins another one before `next`.
    pub(super) async fn succeed(
        &mut self,
        text: String,
        now: Timestamp,
        next: Timestamp,
    ) -> store::Result<()> {
        self.known.0.step(text, now);
        self.known.0.succeed(now, next);
        self.save().await
    }

    /// It has failed; it counts unless it was our own doing.
    pub(super) async fn fail(
        &mut self,
        failure: Failure,
        next: Timestamp,
        counts: bool,
    ) -> store::Result<()> {
        self.known.0.fail(failure, next, counts);
        self.save().await
    }

    /// Until when an authority wants to be left alone about this certificate, if that is not over.
    pub(super) fn left_alone(&self, directory: &str, now: Timestamp) -> Option<Timestamp> {
        self.known.0.left_alone.get(directory).copied().filter(|until| *until > now && !self.insists)
    }

    /// An authority wants to be left alone until then; it is noted with the next step.
    pub(super) fn leave_alone(&mut self, directory: &str, until: Timestamp) {
        self.known.0.left_alone.insert(directory.to_owned(), until);
    }

    /// The order that is under way.
    pub(super) const fn order(&self) -> Option<&OpenOrder> {
        self.known.0.order.as_ref()
    }

    /// Keeps an order, so that it can be gone on with.
    pub(super) async fn keep_order(&mut self, order: OpenOrder) -> store::Result<()> {
        self.known.0.order = Some(order);
        self.step("an order is under way").await
    }

    /// Keeps a record of the order before it goes into the DNS, so that it is taken away whatever happens.
    pub(super) async fn keep_record(&mut self, record: &DnsRecord) -> store::Result<()> {
        if self.known.0.records.contains(record) {
            return Ok(());
        }
        self.known.0.records.push(record.clone());
        self.save().await
    }

    /// The records that are in the DNS for the order. Those that are not taken away are put back.
    pub(super) fn records(&mut self) -> Vec<DnsRecord> {
        std::mem::take(&mut self.known.0.records)
    }

    /// These records could not be taken away: the next attempt tries again.
    pub(super) fn put_back(&mut self, records: Vec<DnsRecord>) {
        self.known.0.records.extend(records);
    }

    /// The order has ended; it is forgotten with the next step.
    pub(super) fn forget_order(&mut self) {
        self.known.0.order = None;
    }

    /// The mail address of the account that orders.
    pub(super) fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    pub(super) fn set_email(&mut self, email: Option<&str>) {
        self.email = email.map(str::to_owned);
    }

    pub(super) const fn failures(&self) -> u32 {
        self.known.0.failures
    }

    /// Whether somebody wants it now, whatever was said before.
    pub(super) const fn insists(&self) -> bool {
        self.insists
    }

    pub(super) fn into_known(self) -> Known {
        self.known
    }

    async fn save(&mut self) -> store::Result<()> {
        let (issuance, expect) = &self.known;
        self.known.1 = state::write(self.store, self.name, issuance, *expect).await?;
        Ok(())
    }
}

/// Whether somebody has asked for a certificate since the last attempt.
pub(crate) fn insists(certificate: &Certificate, last: Option<&Issuance>) -> bool {
    let asked = certificate.renew_requested_at;
    certificate.is_requested() && last.is_none_or(|last| last.asked != asked)
}
