//! Browser sessions on the issuer's host: who has signed in, in which browser.
//!
//! The browser has the id in a cookie, the store its hash, which is also what administrators see. The
//! cookie itself, and what a session may do, are not decided here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::opaque;
use super::state::{Filter, Identity, after, left};
use crate::store::{
    Error, Expect, MAX_PAGE, Page, RecordCursor, RecordKey, RecordKind, RecordWrite, Result, Store,
};

/// A session is not written for each request that it is seen in.
const RESOLUTION: Duration = Duration::from_secs(60);

/// How long a secret that was replaced still names its session for who signs in again.
const REPLACED: Duration = Duration::from_secs(60);

/// How often others may change a session meanwhile.
const ATTEMPTS: usize = 4;

/// How long sessions live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Without being used.
    pub idle: Duration,
    /// In all.
    pub absolute: Duration,
}

impl Default for Lifetimes {
    /// A day without use, a month in all.
    fn default() -> Self {
        Self { idle: Duration::from_secs(24 * 3600), absolute: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Names the session, opens nothing.
    pub id: String,
    /// The hash of the secret that the browser has beside the id.
    secret: String,
    /// The one before, if it was replaced just now: another tab may come back from signing in with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Replaced>,
    /// Who signed in.
    pub identity: Identity,
    /// When they last did.
    pub created_at: Timestamp,
    /// When it was last used, give or take a minute.
    pub seen_at: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
}

/// A secret that is good no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Replaced {
    /// Its hash.
    secret: String,
    /// When it was replaced.
    at: Timestamp,
}

impl Session {
    fn kept(&self, secret: &SecretString) -> SecretString {
        format!("{}{}", self.id, secret.expose_secret()).into()
    }
}

/// The sessions of a deployment.
#[derive(Clone)]
pub struct Sessions {
    store: Arc<dyn Store>,
    lifetimes: Lifetimes,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("lifetimes", &self.lifetimes).finish_non_exhaustive()
    }
}

impl Sessions {
    /// The sessions in a store.
    pub fn new(store: Arc<dyn Store>, lifetimes: Lifetimes) -> Self {
        Self { store, lifetimes }
    }

    /// Starts a session. Returns what the browser shall keep: nobody can be told it again.
    ///
    /// # Errors
    ///
    /// When it can't be stored.
    pub async fn create(&self, identity: Identity, now: Timestamp) -> Result<(SecretString, Session)> {
        let secret = opaque::generate();
        let session = Session {
            id: opaque::hash(opaque::generate().expose_secret().as_bytes()),
            secret: opaque::hash(secret.expose_secret().as_bytes()),
            replaced: None,
            identity,
            created_at: now,
            seen_at: now,
            expires_at: after(now, self.lifetimes.absolute),
        };
        self.store.commit_records(vec![self.write(&session, Expect::Absent, now)?]).await?;
        Ok((session.kept(&secret), session))
    }

    /// Goes on with a session whose user has signed in again: what came of it stays. It gets another secret, so that
    /// no session is fixed beforehand. Nothing, if there is none, or it is somebody else's.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn renew(
        &self,
        kept: &str,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<Option<(SecretString, Session)>> {
        for _ in 0..ATTEMPTS {
            let Some((mut session, version, _)) = self.named(kept, now).await? else { return Ok(None) };
            if session.identity.subject != identity.subject {
                return Ok(None);
            }
            let secret = opaque::generate();
            let before = opaque::hash(secret.expose_secret().as_bytes());
            let before = std::mem::replace(&mut session.secret, before);
            session.replaced = Some(Replaced { secret: before, at: now });
            session.identity = identity.clone().with_earlier(&session.identity);
            (session.created_at, session.seen_at) = (now, now);
            session.expires_at = after(now, self.lifetimes.absolute);
            let write = self.write(&session, Expect::Version(version), now)?;
            match self.store.commit_records(vec![write]).await {
                Ok(()) => return Ok(Some((session.kept(&secret), session))),
                Err(Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The session of a browser, by what it kept; notes that it was used.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn find(&self, kept: &str, now: Timestamp) -> Result<Option<Session>> {
        let Some((mut session, version)) = self.presented(kept, now).await? else { return Ok(None) };
        // One that is used must not seem to be idle for that.
        let resolution = RESOLUTION.min(self.lifetimes.idle / 4);
        if now >= after(session.seen_at, resolution) {
            session.seen_at = now;
            let write = self.write(&session, Expect::Version(version), now)?;
            match self.store.commit_records(vec![write]).await {
                // Another request has just noted it, or the session was ended: the next one sees.
                Ok(()) | Err(Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(session))
    }

    /// A session by its id.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn get(&self, id: &str, now: Timestamp) -> Result<Option<Session>> {
        let Some(record) = self.store.get_record(&key(id)).await? else { return Ok(None) };
        let session: Session = record.read()?;
        Ok((now < self.ends(&session)).then_some(session))
    }

    /// Sessions, newest first: all, or those of a subject.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(
        &self,
        filter: Filter<'_>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<Page<Session>> {
        let index = filter.index();
        let page = self.store.list_records(RecordKind::Session, index.as_deref(), after, limit).await?;
        Ok(page.read())
    }

    /// How many there are.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn count(&self, filter: Filter<'_>) -> Result<u64> {
        self.store.count_records(RecordKind::Session, filter.index().as_deref()).await
    }

    /// Ends a session; tells whether there was one. The grants that were made in it are ended by
    /// [`Grants::revoke_all`](super::grants::Grants::revoke_all), after this: then none can be added.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn revoke(&self, id: &str) -> Result<bool> {
        let write = RecordWrite::Delete { key: key(id), expect: Expect::Present };
        match self.store.commit_records(vec![write]).await {
            Ok(()) => Ok(true),
            Err(Error::RecordConflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends all sessions of a subject; returns their ids.
    ///
    /// # Errors
    ///
    /// When the store fails; some may have ended.
    pub async fn revoke_subject(&self, subject: &str) -> Result<Vec<String>> {
        let index = Filter::Subject(subject).index();
        let (mut ended, mut after) = (Vec::new(), None);
        loop {
            let page =
                self.store.list_records(RecordKind::Session, index.as_deref(), after, MAX_PAGE).await?;
            let delete = |key| RecordWrite::Delete { key, expect: Expect::Any };
            let keys: Vec<RecordKey> = page.records.into_iter().map(|record| record.key).collect();
            self.store.commit_records(keys.iter().cloned().map(delete).collect()).await?;
            ended.extend(keys.into_iter().map(|key| key.id));
            after = page.next;
            if after.is_none() {
                return Ok(ended);
            }
        }
    }

    /// The session of who presents what was kept of it, and its version.
    async fn presented(&self, kept: &str, now: Timestamp) -> Result<Option<(Session, u64)>> {
        let named = self.named(kept, now).await?;
        Ok(named.and_then(|(session, version, current)| current.then_some((session, version))))
    }

    /// The same, also for the secret that was replaced just now; tells whether it is the one of now.
    async fn named(&self, kept: &str, now: Timestamp) -> Result<Option<(Session, u64, bool)>> {
        // An id is as long as a secret, and looks like one.
        let Some((id, secret)) = kept.split_at_checked(opaque::LENGTH) else { return Ok(None) };
        let (Some(_), Some(secret)) = (opaque::hash_of_presented(id), opaque::hash_of_presented(secret))
        else {
            return Ok(None);
        };
        let Some(record) = self.store.get_record(&key(id)).await? else { return Ok(None) };
        let session: Session = record.read()?;
        let current = opaque::same(&session.secret, &secret);
        let replaced = session.replaced.as_ref();
        let replaced =
            replaced.is_some_and(|old| opaque::same(&old.secret, &secret) && now < after(old.at, REPLACED));
        let good = (current || replaced) && now < self.ends(&session);
        Ok(good.then_some((session, record.version, current)))
    }

    fn ends(&self, session: &Session) -> Timestamp {
        session.expires_at.min(after(session.seen_at, self.lifetimes.idle))
    }

    fn write(&self, session: &Session, expect: Expect, now: Timestamp) -> Result<RecordWrite> {
        let life = left(self.ends(session), now);
        let indexes = Filter::Subject(&session.identity.subject).index().into_iter().collect();
        RecordWrite::put(key(&session.id), session, Some(life), expect, indexes)
    }
}

/// The record of a session: a commit can require that it is there.
pub(super) fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Session, id)
}
