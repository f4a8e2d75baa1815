//! What users have agreed to: per subject, client, redirect host and resource, a set of scopes.
//!
//! Who asks for more is asked for the difference only. What a client is, and what the page says, is not
//! decided here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::opaque;
use super::state::{Filter, Scopes, after};
use crate::store::{
    Error, Expect, MAX_PAGE, Page, Record, RecordCursor, RecordKey, RecordKind, RecordWrite, Result, Store,
};

/// An agreement that was not renewed for a year is asked for again.
pub const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often somebody else may change the same agreement meanwhile.
const ATTEMPTS: usize = 16;

/// Something that was agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Who agreed.
    pub subject: String,
    /// Which client may act for them.
    pub client_id: String,
    /// Where its codes are sent.
    pub redirect_host: String,
    /// At which resource.
    pub resource: String,
    /// With which scopes.
    pub scopes: Scopes,
    /// Since when.
    pub created_at: Timestamp,
    /// When scopes were last added or confirmed.
    pub updated_at: Timestamp,
}

impl Consent {
    /// Whether it has not ended yet.
    fn holds(&self, now: Timestamp) -> bool {
        now < after(self.updated_at, LIFETIME)
    }
}

/// What a client asks a user for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The user.
    pub subject: &'a str,
    /// The client.
    pub client_id: &'a str,
    /// Where the code will be sent.
    pub redirect_host: &'a str,
    /// The resources.
    pub resources: &'a [String],
    /// The scopes, at each of them.
    pub scopes: &'a Scopes,
    /// Whether an agreement holds for the next time. Not for a dynamic client whose redirects are all
    /// loopback: any program on the machine can say that it is that client.
    pub memorable: bool,
}

/// What has not been agreed to yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// At which resource.
    pub resource: String,
    /// Which scopes are new.
    pub scopes: Scopes,
    /// Whether nothing at all was agreed to at this resource.
    pub first: bool,
}

/// The consents of a deployment.
#[derive(Clone)]
pub struct Consents {
    store: Arc<dyn Store>,
}

impl fmt::Debug for Consents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consents").finish_non_exhaustive()
    }
}

impl Request<'_> {
    fn missing(&self, resource: &str, known: Option<&Consent>) -> Option<Missing> {
        let mut scopes = self.scopes.clone();
        if let Some(known) = known {
            scopes.retain(|scope| !known.scopes.contains(scope));
        }
        let first = known.is_none();
        (first || !scopes.is_empty()).then(|| Missing { resource: resource.to_owned(), scopes, first })
    }

    fn key(&self, resource: &str) -> RecordKey {
        // No two requests have one key: each part says how long it is.
        let parts = [self.subject, self.client_id, self.redirect_host, resource];
        let name: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
        RecordKey::new(RecordKind::Consent, opaque::hash(name.as_bytes()))
    }
}

impl Consents {
    /// The consents in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// What the user has to be asked for. Nothing, if they have agreed to all of it before.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn missing(&self, request: &Request<'_>, now: Timestamp) -> Result<Vec<Missing>> {
        if request.resources.is_empty() {
            // A request for nothing must not pass as agreed.
            return Ok(request.missing("", None).into_iter().collect());
        }
        let mut missing = Vec::new();
        for resource in request.resources {
            let known = if request.memorable { self.find(&request.key(resource)).await? } else { None };
            let known = known.as_ref().map(|(_, consent)| consent).filter(|consent| consent.holds(now));
            missing.extend(request.missing(resource, known));
        }
        Ok(missing)
    }

    /// Remembers that the user has agreed: all resources or none. What is not memorable is forgotten.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn remember(&self, request: &Request<'_>, now: Timestamp) -> Result<()> {
        if !request.memorable {
            return Ok(());
        }
        let mut attempt = 0;
        loop {
            let mut writes = Vec::with_capacity(request.resources.len());
            for resource in request.resources {
                writes.push(self.agreed(request, resource, now).await?);
            }
            match self.store.commit_records(writes).await {
                Err(Error::RecordConflict { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// What was agreed to, newest first: of all, a subject or a client.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(
        &self,
        filter: Filter<'_>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<Page<Consent>> {
        let index = filter.index();
        let page = self.store.list_records(RecordKind::Consent, index.as_deref(), after, limit).await?;
        Ok(page.read())
    }

    /// Takes back all that a subject, or a client's users, have agreed to; returns how many. Grants
    /// that were made before stay.
    ///
    /// # Errors
    ///
    /// When the store fails; some may be gone.
    pub async fn forget_all(&self, filter: Filter<'_>) -> Result<usize> {
        self.forget(filter, |_| true).await
    }

    /// Takes back what a subject has agreed to for one client.
    ///
    /// # Errors
    ///
    /// When the store fails; some may be gone.
    pub async fn forget_client(&self, subject: &str, client_id: &str) -> Result<usize> {
        let wanted = |record: &Record| match record.read::<Consent>() {
            Ok(consent) => consent.client_id == client_id,
            // What can't be read is no agreement.
            Err(_) => true,
        };
        self.forget(Filter::Subject(subject), wanted).await
    }

    async fn forget(&self, filter: Filter<'_>, wanted: impl Fn(&Record) -> bool) -> Result<usize> {
        let index = filter.index();
        let (mut count, mut after) = (0, None);
        loop {
            let page =
                self.store.list_records(RecordKind::Consent, index.as_deref(), after, MAX_PAGE).await?;
            let records = page.records.into_iter().filter(|record| wanted(record));
            let writes: Vec<RecordWrite> =
                records.map(|record| RecordWrite::Delete { key: record.key, expect: Expect::Any }).collect();
            count += writes.len();
            self.store.commit_records(writes).await?;
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    async fn find(&self, key: &RecordKey) -> Result<Option<(u64, Consent)>> {
        let record = self.store.get_record(key).await?;
        record.map(|record| Ok((record.version, record.read()?))).transpose()
    }

    /// The step that adds a request to what was agreed to before.
    async fn agreed(&self, request: &Request<'_>, resource: &str, now: Timestamp) -> Result<RecordWrite> {
        let key = request.key(resource);
        let (expect, consent) = match self.find(&key).await? {
            Some((version, mut consent)) if consent.holds(now) => {
                consent.scopes.extend(request.scopes.iter().cloned());
                consent.updated_at = now;
                (Expect::Version(version), consent)
            }
            known => {
                let consent = Consent {
                    subject: request.subject.to_owned(),
                    client_id: request.client_id.to_owned(),
                    redirect_host: request.redirect_host.to_owned(),
                    resource: resource.to_owned(),
                    scopes: request.scopes.clone(),
                    created_at: now,
                    updated_at: now,
                };
                (known.map_or(Expect::Absent, |(version, _)| Expect::Version(version)), consent)
            }
        };
        let filters =
            [Filter::Subject(request.subject), Filter::Client(request.client_id), Filter::Resource(resource)];
        let indexes = filters.into_iter().filter_map(Filter::index).collect();
        RecordWrite::put(key, &consent, Some(LIFETIME), expect, indexes)
    }
}
