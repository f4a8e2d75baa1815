//! The access tokens that were issued: never the tokens, but what they say and how to revoke them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{Error, Grant, Grants, Wanted, index};
use crate::oauth::claims::{Claims, InvalidClaims, token_id};
use crate::oauth::state::{Filter, Identity, Scopes, after, left, seconds};
use crate::store::{
    self, Expect, MAX_PAGE, Page, Record, RecordCursor, RecordKey, RecordKind, RecordPage, RecordWrite,
};

/// About how many access tokens of a grant there are at a time. Those that were revoked count until they
/// would have ended: a client that refreshes, or refreshes and revokes, without end must not fill the store
/// or the list of revocations.
const PER_GRANT: u64 = 64;

/// How long a token is remembered after its end. Verifiers take it a minute longer, and clocks differ: until
/// nobody takes it, it can be revoked.
pub(super) const GRACE: Duration = Duration::from_secs(120);

/// An access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Its id.
    pub jti: String,
    /// The grant that it is of.
    pub grant: String,
    /// Its subject.
    pub subject: String,
    /// The person's login name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The client that has it.
    pub client_id: String,
    /// The resources that it is for.
    pub resources: Vec<String>,
    /// Its scopes.
    pub scopes: Scopes,
    /// When it was issued, in whole seconds.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Whether it was revoked alone: then it is only counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    revoked: bool,
    /// The access tokens that it was exchanged for, the first one first (RFC 8693): it ends with any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

impl Access {
    pub(super) fn new(
        grant: &Grant,
        wanted: Wanted<'_>,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let scopes = wanted.scopes.unwrap_or(&grant.scopes);
        if !scopes.is_subset(&grant.scopes) {
            return Err(Error::Scope);
        }
        let mut resources: Vec<String> = Vec::new();
        let asked = if wanted.resources.is_empty() { &grant.resources } else { wanted.resources };
        for resource in asked {
            if !grant.resources.contains(resource) {
                return Err(Error::Target);
            }
            if !resources.contains(resource) {
                resources.push(resource.clone());
            }
        }
        // A token for nothing would be good nowhere, or everywhere.
        if resources.is_empty() {
            return Err(Error::Target);
        }
        let issued_at = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Ok(Self {
            jti: token_id(),
            grant: grant.id.clone(),
            subject: grant.subject.clone(),
            username: grant.identity.as_ref().map(|identity| identity.login.clone()),
            client_id: grant.client.id.clone(),
            resources,
            scopes: scopes.clone(),
            issued_at,
            expires_at: after(issued_at, lifetime).min(grant.expires_at),
            revoked: false,
            from: Vec::new(),
        })
    }

    /// What the token says (RFC 9068, section 2.2).
    ///
    /// # Errors
    ///
    /// When a scope is none, or the life is shorter than a second.
    pub fn claims(&self, issuer: &str, identity: Option<&Identity>) -> Result<Claims, InvalidClaims> {
        let scopes: Vec<String> = self.scopes.iter().cloned().collect();
        let lifetime = Duration::from_secs(left(self.expires_at, self.issued_at).as_secs());
        let claims = Claims::new(
            issuer,
            &self.subject,
            &self.client_id,
            &self.resources,
            &scopes,
            lifetime,
            self.issued_at,
        )?;
        Ok(Claims {
            jti: self.jti.clone(),
            username: self.username.clone(),
            email: identity.and_then(|identity| identity.emails.first().cloned()),
            name: identity.and_then(|identity| identity.name.clone()),
            ..claims
        })
    }

    pub(super) fn write(&self, expect: Expect, now: Timestamp) -> store::Result<RecordWrite> {
        let mut indexes = vec![counted(&self.grant)];
        if !self.revoked {
            let filters = [
                Filter::All,
                Filter::Grant(&self.grant),
                Filter::Client(&self.client_id),
                Filter::Subject(&self.subject),
            ];
            let resources = self.resources.iter().map(|resource| Filter::Resource(resource));
            indexes.extend(filters.into_iter().chain(resources).map(index));
            indexes.extend(self.from.iter().map(|jti| derived_from(jti)));
        }
        let life = left(self.expires_at, now) + GRACE;
        RecordWrite::put(key(&self.jti), self, Some(life), expect, indexes)
    }
}

impl Grants {
    /// An access token by its id, if it is known and has not ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn get_access(&self, jti: &str, now: Timestamp) -> store::Result<Option<Access>> {
        Ok(self.versioned_access(jti, now).await?.map(|(access, _)| access))
    }

    /// The same, and what a commit has to expect that no one ends it meanwhile.
    pub(super) async fn versioned_access(
        &self,
        jti: &str,
        now: Timestamp,
    ) -> store::Result<Option<(Access, RecordWrite)>> {
        let Some(record) = self.store.get_record(&key(jti)).await? else { return Ok(None) };
        let access: Access = record.read()?;
        let good = now < access.expires_at && !access.revoked;
        let unchanged = RecordWrite::Check { key: key(jti), expect: Expect::Version(record.version) };
        Ok(good.then_some((access, unchanged)))
    }

    /// Access tokens that have not ended, or just now, newest first: all, or those of a grant, client,
    /// subject or resource.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list_access(
        &self,
        filter: Filter<'_>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> store::Result<Page<Access>> {
        let page = self.store.list_records(RecordKind::Access, Some(&index(filter)), after, limit).await?;
        Ok(page.read())
    }

    /// How many access tokens have not ended, or just now.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn count_access(&self, filter: Filter<'_>) -> store::Result<u64> {
        self.store.count_records(RecordKind::Access, Some(&index(filter))).await
    }

    /// Revokes one access token (RFC 7009), with what it was exchanged for; its grant goes on. The caller has
    /// verified that there is such a token, and whose it is.
    ///
    /// # Errors
    ///
    /// When the store fails: then other nodes may still take it.
    pub async fn revoke_access(&self, jti: &str, expires_at: Timestamp) -> store::Result<()> {
        // First, for who repeats it after a failure has to come here again: with a token that is still good.
        self.revoke_derived(jti, expires_at).await?;
        self.revocations.revoke(jti, seconds(expires_at)).await?;
        if let Some(record) = self.store.get_record(&key(jti)).await? {
            let write = mark(record, Timestamp::now())?;
            match self.store.commit_records(vec![write]).await {
                // Its grant has ended at the same time, or it was revoked twice.
                Ok(()) | Err(store::Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // Now that there is nothing left to exchange: what was exchanged meanwhile.
        self.revoke_derived(jti, expires_at).await
    }

    /// Revokes all that came of an access token by exchange; none of it ends later than `latest`.
    async fn revoke_derived(&self, jti: &str, latest: Timestamp) -> store::Result<()> {
        let derived = derived_from(jti);
        loop {
            // What is marked leaves the index.
            let page = self.store.list_records(RecordKind::Access, Some(&derived), None, MAX_PAGE).await?;
            if page.records.is_empty() {
                return Ok(());
            }
            self.revocations.revoke_all(&revoked(&page, latest)).await?;
            let now = Timestamp::now();
            let writes = page.records.into_iter().map(|record| mark(record, now));
            match self.store.commit_records(writes.collect::<Result<_, _>>()?).await {
                // One of them was revoked alone meanwhile: the others once more.
                Ok(()) | Err(store::Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a grant may have one more access token.
    pub(super) async fn check_room(&self, grant: &str, now: Timestamp) -> Result<(), Error> {
        let index = counted(grant);
        if self.store.count_records(RecordKind::Access, Some(&index)).await? < PER_GRANT {
            return Ok(());
        }
        let page = self.store.list_records(RecordKind::Access, Some(&index), None, MAX_PAGE).await?;
        let first = page.read::<Access>().items.into_iter().map(|access| access.expires_at).min();
        Err(Error::Full { retry_after: left(after(first.unwrap_or(now), GRACE), now) })
    }

    /// Revokes all access tokens of a grant; returns how many were good.
    pub(super) async fn revoke_access_of(&self, grant: &str, now: Timestamp) -> store::Result<usize> {
        let index = index(Filter::Grant(grant));
        // What can't be read was issued within the longest life.
        let latest = after(now, self.lifetimes.access);
        let (mut good, mut next) = (0, None);
        loop {
            let page = self.store.list_records(RecordKind::Access, Some(&index), next, MAX_PAGE).await?;
            let ends = revoked(&page, latest);
            self.revocations.revoke_all(&ends).await?;
            good += ends.iter().filter(|(_, end)| seconds(now) < *end).count();
            let delete = |key| RecordWrite::Delete { key, expect: Expect::Any };
            next = page.next;
            let writes = page.records.into_iter().map(|record| delete(record.key)).collect();
            self.store.commit_records(writes).await?;
            if next.is_none() {
                return Ok(good);
            }
        }
    }
}

fn key(jti: &str) -> RecordKey {
    RecordKey::new(RecordKind::Access, jti)
}

/// The index of all access tokens that a grant has yielded and that would not have ended.
fn counted(grant: &str) -> String {
    format!("counted:{grant}")
}

/// The index of what an access token was exchanged for.
fn derived_from(jti: &str) -> String {
    format!("from:{jti}")
}

/// The tokens of a page with their ends, as revocations; what can't be read ends by `latest`.
fn revoked(page: &RecordPage, latest: Timestamp) -> Vec<(SmolStr, u64)> {
    let ends = |record: &Record| record.read::<Access>().map_or(latest, |access| access.expires_at);
    page.records.iter().map(|record| (SmolStr::new(&record.key.id), seconds(ends(record)))).collect()
}

/// Marks a token as revoked: from then on it is only counted.
fn mark(record: Record, now: Timestamp) -> store::Result<RecordWrite> {
    let expect = Expect::Version(record.version);
    match record.read::<Access>() {
        Ok(access) => Access { revoked: true, ..access }.write(expect, now),
        Err(_) => Ok(RecordWrite::Delete { key: record.key, expect }),
    }
}
