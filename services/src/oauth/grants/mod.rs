//! Grants: what one authorization yielded, as one family of tokens that ends as a whole.
//!
//! - `family.rs`: a family in the store, and which of its refresh tokens counts when.
//! - `token.rs`: the form of refresh tokens.
//! - `access.rs`: the access tokens that were issued, which are records of their own.
//! - `refresh.rs`: rotation (OAuth 2.1, section 4.3.1; RFC 9700, section 4.14.2).
//! - `exchange.rs`: an access token for an access token (RFC 8693).
//!
//! A family ends in two steps: first it is marked, so that nothing can be added to it, then the access
//! tokens that it still has are revoked on all nodes by their `jti`. It has a bounded number of them, for
//! each revocation takes a place that all share. Who repeats what failed between
//! the two finishes it. Codes, consents and lists of users are not looked at here; access tokens are
//! counted, not signed.

mod access;
mod exchange;
mod family;
mod refresh;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::access::Access;
use self::family::{Family, Stored};
use self::token::RefreshToken;
pub use self::token::{PREFIX, new_id};
use super::revocations::Revocations;
use super::sessions;
use super::state::{Filter, Identity, Scopes, after, left};
use crate::store::{self, Expect, MAX_PAGE, Page, RecordCursor, RecordKey, RecordKind, RecordWrite, Store};

/// How long a family that has ended is remembered at least: as long as a code that was taken.
const MEMORY: Duration = super::codes::REPLAY_MEMORY;

/// The index of the families that have not ended.
const LIVE: &str = "live";

/// The index of those of them that have a refresh token; behind it may stand a client.
const REFRESHABLE: &str = "refreshable";

/// How long tokens live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// An access token.
    pub access: Duration,
    /// A grant whose refresh token is not used.
    pub idle: Duration,
    /// A grant in all.
    pub absolute: Duration,
    /// How long after a rotation the predecessor still yields the same successor: several processes of
    /// one client share a grant. With nothing, each token is good once.
    pub window: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        Self {
            access: Duration::from_secs(1800),
            idle: days(90),
            absolute: days(365),
            window: Duration::from_secs(30),
        }
    }
}

/// The client of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// What was known of it when the user agreed.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub snapshot: Value,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id: names the family, opens nothing.
    pub id: String,
    /// The `sub` of its tokens: a person's numeric id, or the client's own id.
    pub subject: String,
    /// The person, as they were known at login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The client.
    pub client: Client,
    /// The resources that tokens can be for (RFC 8707), in canonical form.
    pub resources: Vec<String>,
    /// The scopes that tokens can have.
    pub scopes: Scopes,
    /// The browser session in which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whether it has a refresh token. One without ends with its access token.
    #[serde(default)]
    pub refreshable: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its refresh token was last rotated.
    pub used_at: Timestamp,
    /// How often it was. Who repeats a rotation within the window is not counted once more: then nothing is written.
    #[serde(default)]
    pub rotations: u64,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
}

impl Grant {
    /// When its refresh token was last used, if it ever was.
    pub fn last_rotation(&self) -> Option<Timestamp> {
        (self.used_at > self.created_at).then_some(self.used_at)
    }
}

/// How much was ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Grants.
    pub grants: usize,
    /// Their tokens that were good: access tokens, and the refresh tokens.
    pub tokens: usize,
}

impl std::ops::AddAssign for Ended {
    fn add_assign(&mut self, more: Self) {
        self.grants += more.grants;
        self.tokens += more.tokens;
    }
}

/// What a grant is made from.
#[derive(Debug, Clone)]
pub struct NewGrant {
    /// From [`new_id`]; for a code, the one that the code names.
    pub id: String,
    /// The `sub` of its tokens.
    pub subject: String,
    /// The person, if it is one.
    pub identity: Option<Identity>,
    /// The client.
    pub client: Client,
    /// The resources, at least one.
    pub resources: Vec<String>,
    /// The scopes.
    pub scopes: Scopes,
    /// The browser session, which must not have ended.
    pub session: Option<String>,
    /// Whether it gets a refresh token. One without ends with its access token.
    pub refreshable: bool,
}

/// What a token request asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// The scopes (RFC 6749, section 6); those of the grant if nothing is said.
    pub scopes: Option<&'a Scopes>,
    /// The resources (RFC 8707, section 2.2), in canonical form; those of the grant if there are none.
    pub resources: &'a [String],
}

/// What a token request is answered with.
#[derive(Debug)]
pub struct Issued {
    /// The grant.
    pub grant: Grant,
    /// The access token to sign.
    pub access: Access,
    /// The refresh token.
    pub refresh: Option<SecretString>,
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The refresh token is unknown, has expired, was revoked, or is another client's; or the grant was
    /// ended before it began.
    #[error("the grant is not valid")]
    Invalid,
    /// The refresh token was used before: its family has ended now.
    #[error("the refresh token was used before, so its grant has ended")]
    Replayed {
        /// The id of the grant.
        grant: String,
    },
    /// The browser session has ended meanwhile.
    #[error("the session in which access was granted has ended")]
    SessionEnded,
    /// A scope beyond those of the grant.
    #[error("a scope was not granted")]
    Scope,
    /// A resource beyond those of the grant, or none at all.
    #[error("a resource was not granted")]
    Target,
    /// The code that the grant comes from was used at the same time.
    #[error("the code was used before, so what it yielded has ended")]
    Taken,
    /// As many access tokens of the grant are good as may be. Nothing was rotated.
    #[error("the grant has too many access tokens that have not ended")]
    Full {
        /// When the first of them will have ended.
        retry_after: Duration,
    },
    /// The store failed: nothing was issued. A refresh may be asked for again, if there is a window: its
    /// token may or may not have been rotated.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The grants of a deployment.
#[derive(Clone)]
pub struct Grants {
    store: Arc<dyn Store>,
    revocations: Arc<Revocations>,
    lifetimes: Lifetimes,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").field("lifetimes", &self.lifetimes).finish_non_exhaustive()
    }
}

impl Grants {
    /// The grants in a store; what ends is told to `revocations`.
    pub fn new(store: Arc<dyn Store>, revocations: Arc<Revocations>, lifetimes: Lifetimes) -> Self {
        Self { store, revocations, lifetimes }
    }

    /// Makes a grant and issues its first tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is or was a grant of this id: the code that it comes from was
    /// presented twice. Otherwise see [`Error`].
    pub async fn create(&self, new: NewGrant, wanted: Wanted<'_>, now: Timestamp) -> Result<Issued, Error> {
        self.create_with(new, wanted, None, now).await
    }

    /// Makes a grant as [`Self::create`] does, and takes the [code](super::codes::Fresh::used) that it comes
    /// from in the same step.
    ///
    /// # Errors
    ///
    /// [`Error::Taken`] if somebody was faster: then the grant has to [end](Self::forbid). Otherwise see
    /// [`Error`].
    pub async fn create_with(
        &self,
        new: NewGrant,
        wanted: Wanted<'_>,
        code: Option<RecordWrite>,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let life = if new.refreshable { self.lifetimes.absolute } else { self.lifetimes.access };
        let grant = Grant {
            id: new.id,
            subject: new.subject,
            identity: new.identity,
            client: new.client,
            resources: new.resources,
            scopes: new.scopes,
            session: new.session,
            refreshable: new.refreshable,
            created_at: now,
            used_at: now,
            rotations: 0,
            expires_at: after(now, life),
        };
        let access = Access::new(&grant, wanted, self.lifetimes.access, now)?;
        let first = RefreshToken::first(&grant.id).ok_or(Error::Invalid)?;
        let refresh = new.refreshable.then_some(first);
        let family = Family::new(grant, refresh.as_ref());
        // The code comes first: that it is taken is why there may be such a grant.
        let mut writes: Vec<RecordWrite> = code.into_iter().collect();
        writes.push(self.write_family(&family, Expect::Absent, now)?);
        writes.push(access.write(Expect::Absent, now)?);
        if let Some(session) = &family.grant.session {
            writes.push(RecordWrite::Check { key: sessions::key(session), expect: Expect::Present });
        }
        match self.store.commit_records(writes).await {
            Ok(()) => {}
            Err(store::Error::RecordConflict { key }) if key.kind == RecordKind::Session => {
                return Err(Error::SessionEnded);
            }
            Err(store::Error::RecordConflict { key }) if key.kind == RecordKind::Code => {
                return Err(Error::Taken);
            }
            Err(store::Error::RecordConflict { .. }) => return Err(Error::Invalid),
            Err(error) => return Err(error.into()),
        }
        Ok(Issued { grant: family.grant, access, refresh: refresh.map(|token| token.text()) })
    }

    /// A grant by its id, if it has not ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn get(&self, id: &str, now: Timestamp) -> store::Result<Option<Grant>> {
        let Some(record) = self.store.get_record(&key(id)).await? else { return Ok(None) };
        let Stored::Live(family) = record.read()? else { return Ok(None) };
        Ok((now < self.ends(&family.grant)).then_some(family.grant))
    }

    /// Grants that have not ended, newest first: of all, a client, a subject, a session or a resource.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(
        &self,
        filter: Filter<'_>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> store::Result<Page<Grant>> {
        self.list_index(&index(filter), after, limit).await
    }

    /// How many grants have not ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn count(&self, filter: Filter<'_>) -> store::Result<u64> {
        self.store.count_records(RecordKind::Grant, Some(&index(filter))).await
    }

    /// Those that have a refresh token, newest first: all, or those of a client.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list_refreshable(
        &self,
        client: Option<&str>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> store::Result<Page<Grant>> {
        self.list_index(&refreshable(client), after, limit).await
    }

    /// How many have a refresh token.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn count_refreshable(&self, client: Option<&str>) -> store::Result<u64> {
        self.store.count_records(RecordKind::Grant, Some(&refreshable(client))).await
    }

    async fn list_index(
        &self,
        index: &str,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> store::Result<Page<Grant>> {
        let page = self.store.list_records(RecordKind::Grant, Some(index), after, limit).await?;
        let Page { items, next } = page.read::<Stored>();
        let live = items.into_iter().filter_map(|stored| match stored {
            Stored::Live(family) => Some(family.grant),
            Stored::Ending(_) | Stored::Ended => None,
        });
        Ok(Page { items: live.collect(), next })
    }

    /// Ends a grant with all its tokens; tells whether there was one.
    ///
    /// # Errors
    ///
    /// When the store fails: then it has to be repeated, for access tokens may still be good.
    pub async fn revoke(&self, id: &str, now: Timestamp) -> store::Result<bool> {
        Ok(self.revoke_counted(id, now).await?.grants > 0)
    }

    async fn revoke_counted(&self, id: &str, now: Timestamp) -> store::Result<Ended> {
        let Some(record) = self.store.get_record(&key(id)).await? else { return Ok(Ended::default()) };
        let stored = record.read();
        let live = !matches!(stored, Ok(Stored::Ended));
        // One that is about to end yields nothing any more.
        let refreshes = matches!(&stored, Ok(Stored::Live(family))
            if family.grant.refreshable && now < self.ends(&family.grant));
        let tokens = self.end(id, now).await? + usize::from(refreshes);
        Ok(Ended { grants: usize::from(live), tokens })
    }

    /// Ends the grant of a code that was presented twice, or sees to it that it never begins: whoever
    /// took the code first may not have made it yet.
    ///
    /// # Errors
    ///
    /// As [`Self::revoke`].
    pub async fn forbid(&self, id: &str, now: Timestamp) -> store::Result<()> {
        self.end(id, now).await?;
        Ok(())
    }

    /// Ends all grants of a client, a subject, a session or a resource; returns how much. Ending the
    /// client or the session itself comes first: then none can be added.
    ///
    /// # Errors
    ///
    /// As [`Self::revoke`]; some may have ended.
    pub async fn revoke_all(&self, filter: Filter<'_>, now: Timestamp) -> store::Result<Ended> {
        self.revoke_those(filter, now, |_| true).await
    }

    /// Ends those that are wanted of the grants that a filter finds; what can't be read is.
    ///
    /// # Errors
    ///
    /// As [`Self::revoke`]; some may have ended.
    pub async fn revoke_those(
        &self,
        filter: Filter<'_>,
        now: Timestamp,
        wanted: impl Fn(&Grant) -> bool,
    ) -> store::Result<Ended> {
        let index = index(filter);
        let (mut ended, mut after) = (Ended::default(), None);
        loop {
            let page = self.store.list_records(RecordKind::Grant, Some(&index), after, MAX_PAGE).await?;
            for record in page.records {
                if let Ok(Stored::Live(family) | Stored::Ending(family)) = record.read()
                    && !wanted(&family.grant)
                {
                    continue;
                }
                ended += self.revoke_counted(&record.key.id, now).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(ended);
            }
        }
    }

    /// Marks a family, so that nothing can be added to it, revokes what it has, and forgets it. Returns how many
    /// access tokens it had that were good.
    async fn end(&self, id: &str, now: Timestamp) -> store::Result<usize> {
        while let Some(record) = self.store.get_record(&key(id)).await? {
            // What can't be read, and what has ended, has nothing to be found by.
            let Ok(Stored::Live(family)) = record.read() else { break };
            let expect = Expect::Version(record.version);
            let write = self.write(&family.grant, &Stored::Ending(family.clone()), expect, now)?;
            match self.store.commit_records(vec![write]).await {
                Ok(()) => break,
                // It was refreshed meanwhile.
                Err(store::Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // A grant that can't be read, or is only about to begin, is marked here.
        let tokens = self.revoke_access_of(id, now).await?;
        let memory = self.lifetimes.access.max(MEMORY);
        let write = RecordWrite::put(key(id), &Stored::Ended, Some(memory), Expect::Any, Vec::new())?;
        self.store.commit_records(vec![write]).await?;
        Ok(tokens + self.revoke_access_of(id, now).await?)
    }

    /// When a family ends, unless it is used before.
    pub(crate) fn ends(&self, grant: &Grant) -> Timestamp {
        grant.expires_at.min(after(grant.used_at, self.lifetimes.idle))
    }

    fn write_family(&self, family: &Family, expect: Expect, now: Timestamp) -> store::Result<RecordWrite> {
        self.write(&family.grant, &Stored::Live(Box::new(family.clone())), expect, now)
    }

    fn write(
        &self,
        grant: &Grant,
        stored: &Stored,
        expect: Expect,
        now: Timestamp,
    ) -> store::Result<RecordWrite> {
        let mut indexes = vec![LIVE.to_owned()];
        if grant.refreshable {
            indexes.extend([None, Some(grant.client.id.as_str())].map(refreshable));
        }
        let filters = [Filter::Client(&grant.client.id), Filter::Subject(&grant.subject)];
        indexes.extend(filters.into_iter().map(index));
        indexes.extend(grant.session.as_deref().map(|id| index(Filter::Session(id))));
        indexes.extend(grant.resources.iter().map(|resource| index(Filter::Resource(resource))));
        // As long as one of its access tokens is taken somewhere, it can be revoked.
        let life = left(self.ends(grant), now) + access::GRACE;
        RecordWrite::put(key(&grant.id), stored, Some(life), expect, indexes)
    }
}

fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Grant, id)
}

/// The index of the grants that have a refresh token: of all clients, or of one.
fn refreshable(client: Option<&str>) -> String {
    client.map_or_else(|| REFRESHABLE.to_owned(), |client| format!("{REFRESHABLE}:{client}"))
}

fn index(filter: Filter<'_>) -> String {
    filter.index().unwrap_or_else(|| LIVE.to_owned())
}
