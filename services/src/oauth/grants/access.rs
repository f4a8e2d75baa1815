//! The access tokens that were issued: never the tokens, but what they say and how to revoke them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{Error, Grant, Grants, Wanted};
use crate::oauth::claims::{Claims, InvalidClaims, token_id};
use crate::oauth::state::{Filter, Identity, Scopes, after, left, seconds};
use crate::store::{self, Expect, MAX_PAGE, Page, RecordCursor, RecordKey, RecordKind, RecordWrite};

/// About how many access tokens of a grant are good at the same time; the oldest ones are revoked. A
/// client that refreshes without end must not fill the store.
pub(super) const PER_GRANT: usize = 64;

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
        let mut filters =
            vec![Filter::Grant(&self.grant), Filter::Client(&self.client_id), Filter::Subject(&self.subject)];
        filters.extend(self.resources.iter().map(|resource| Filter::Resource(resource)));
        let indexes = filters.into_iter().filter_map(Filter::index).collect();
        RecordWrite::put(key(&self.jti), self, Some(left(self.expires_at, now)), expect, indexes)
    }
}

impl Grants {
    /// An access token by its id, if it is known and has not ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn get_access(&self, jti: &str, now: Timestamp) -> store::Result<Option<Access>> {
        let Some(record) = self.store.get_record(&key(jti)).await? else { return Ok(None) };
        let access: Access = record.read()?;
        Ok((now < access.expires_at).then_some(access))
    }

    /// Access tokens that have not ended, newest first: all, or those of a grant, client, subject or
    /// resource.
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
        let index = filter.index();
        let page = self.store.list_records(RecordKind::Access, index.as_deref(), after, limit).await?;
        Ok(page.read())
    }

    /// How many access tokens have not ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn count_access(&self, filter: Filter<'_>) -> store::Result<u64> {
        self.store.count_records(RecordKind::Access, filter.index().as_deref()).await
    }

    /// Revokes one access token (RFC 7009); its grant goes on. The caller has verified that there is
    /// such a token, and whose it is.
    ///
    /// # Errors
    ///
    /// When the store fails: then other nodes may still take it.
    pub async fn revoke_access(&self, jti: &str, expires_at: Timestamp) -> store::Result<()> {
        self.revocations.revoke(jti, seconds(expires_at)).await?;
        let delete = RecordWrite::Delete { key: key(jti), expect: Expect::Any };
        self.store.commit_records(vec![delete]).await
    }

    /// Revokes all access tokens of a grant.
    pub(super) async fn revoke_access_of(&self, grant: &str, now: Timestamp) -> store::Result<()> {
        self.revoke_pages(grant, None, now).await
    }

    /// Makes room for one more access token of a grant: the oldest ones are revoked.
    pub(super) async fn trim_access(&self, grant: &str, now: Timestamp) -> store::Result<()> {
        let filter = Filter::Grant(grant);
        if self.count_access(filter).await? < PER_GRANT as u64 {
            return Ok(());
        }
        let index = filter.index();
        let kept = self.store.list_records(RecordKind::Access, index.as_deref(), None, PER_GRANT - 1).await?;
        match kept.next {
            Some(next) => self.revoke_pages(grant, Some(next), now).await,
            None => Ok(()),
        }
    }

    async fn revoke_pages(
        &self,
        grant: &str,
        mut after: Option<RecordCursor>,
        now: Timestamp,
    ) -> store::Result<()> {
        let index = Filter::Grant(grant).index();
        loop {
            let page = self.store.list_records(RecordKind::Access, index.as_deref(), after, MAX_PAGE).await?;
            let tokens = page.records.iter().map(|record| {
                // What can't be read was issued within the longest life.
                let expires_at = record
                    .read::<Access>()
                    .map_or_else(|_| super::after(now, self.lifetimes.access), |access| access.expires_at);
                (SmolStr::new(&record.key.id), seconds(expires_at))
            });
            self.revocations.revoke_all(&tokens.collect::<Vec<_>>()).await?;
            let delete = |key| RecordWrite::Delete { key, expect: Expect::Any };
            let next = page.next;
            let writes = page.records.into_iter().map(|record| delete(record.key)).collect();
            self.store.commit_records(writes).await?;
            if next.is_none() {
                return Ok(());
            }
            after = next;
        }
    }
}

fn key(jti: &str) -> RecordKey {
    RecordKey::new(RecordKind::Access, jti)
}
