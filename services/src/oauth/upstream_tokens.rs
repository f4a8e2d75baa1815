//! The tokens of GitHub's that hosts want to have kept (`oauth_vault_upstream_token`): one for each host and user,
//! sealed, replaced at each login.
//!
//! - this file: what is kept, and how it is read.
//! - `ends.rs`: until when a token is wanted, and its end, which is an end at GitHub, too.
//! - `held.rs`: those that upstreams are called with, in memory; `follow.rs`: how they come and go there.
//! - `sweep.rs`: sees to those whose end nobody noticed.
//!
//! A token ends in two steps: first it is marked, so that nobody reads it again, then GitHub is told, and it is
//! forgotten. Who finds one that is marked goes on from there. One that is replaced is set aside under an id of its
//! own, marked, by the very write that puts the other in its place. Nothing here decides who may use a host.

mod ends;
mod follow;
mod held;
mod sweep;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::HostName;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::ends::UpstreamToken;
pub use self::follow::Follower;
pub use self::held::{Found, HeldTokens, HostTokens};
#[cfg(test)]
pub(crate) use self::sweep::Outcome;
pub use self::sweep::Sweep;
use super::claims::token_id;
use super::github::{App, Token};
use super::state::{Filter, Identity};
use super::{opaque, sessions};
use crate::config::names::GithubClientId;
use crate::store::{self, Error, Expect, Page, RecordCursor, RecordKey, RecordKind, RecordWrite, Store};
use crate::vault::{self, Vault};

/// How often somebody else may keep another one for the same user meanwhile.
const ATTEMPTS: usize = 8;

/// How long it is tried to end a token at GitHub.
const ENDING: Duration = Duration::from_secs(24 * 3600);

/// The index of a host.
const HOST: &str = "host";

/// A token that is kept: everything but the token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Kept {
    /// Its id, which stands for the host and the user. One that was replaced has another.
    pub id: String,
    /// The host that it is for.
    pub host: HostName,
    /// The numeric id of the user.
    pub subject: String,
    /// The login name of the user.
    pub login: String,
    /// The client id of the app that it was given to.
    pub app: String,
    /// What it may be used for at GitHub. A GitHub App's token says nothing here.
    pub scopes: Vec<String>,
    /// The session that began with it.
    pub session: String,
    /// When it was given.
    pub kept_at: Timestamp,
    /// Whether it has ended here, and waits for its end at GitHub.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    sealed: Value,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("host", &self.host)
            .field("subject", &self.subject)
            .field("app", &self.app)
            .field("kept_at", &self.kept_at)
            .finish_non_exhaustive()
    }
}

/// What is sealed. The app's secret is in it, because a host that is deleted takes its own along, and only the app can
/// end its tokens.
#[derive(Serialize, Deserialize)]
struct Sealed {
    token: String,
    client_id: GithubClientId,
    client_secret: String,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        use secrecy::zeroize::Zeroize;
        self.token.zeroize();
        self.client_secret.zeroize();
    }
}

/// A token that was just given.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The host whose login it comes from.
    pub host: &'a HostName,
    /// The user.
    pub identity: &'a Identity,
    /// The session that began with the login. It must not have ended.
    pub session: &'a str,
    /// The app.
    pub app: &'a App,
    /// The token.
    pub token: &'a Token,
}

/// Why a token is not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The session ended meanwhile.
    #[error("the session that began with the token has ended")]
    SessionEnded,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// It can't be sealed.
    #[error(transparent)]
    Vault(#[from] vault::Error),
}

/// The tokens that a deployment keeps.
#[derive(Clone)]
pub struct UpstreamTokens {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    lifetime: Duration,
    held: HeldTokens,
}

impl fmt::Debug for UpstreamTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTokens").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

impl UpstreamTokens {
    /// The tokens in a store; none lives longer than this without a login.
    pub fn new(store: Arc<dyn Store>, vault: Arc<Vault>, lifetime: Duration) -> Self {
        Self { store, vault, lifetime, held: HeldTokens::default() }
    }

    /// Holds those that upstreams are called with there.
    #[must_use]
    pub(crate) fn held_in(self, held: HeldTokens) -> Self {
        Self { held, ..self }
    }

    /// Those that upstreams are called with.
    pub const fn held(&self) -> &HeldTokens {
        &self.held
    }

    /// Keeps a token in place of the one before, which is set aside and returned: it still has to end at GitHub,
    /// unless it is the same.
    ///
    /// # Errors
    ///
    /// See [`KeepError`]: then the token is not kept.
    pub async fn keep(&self, given: Given<'_>, now: Timestamp) -> Result<Option<Kept>, KeepError> {
        let id = id_of(given.host, &given.identity.subject);
        let kept = Kept {
            sealed: self.seal(&id, given.token, given.app)?,
            host: given.host.clone(),
            subject: given.identity.subject.clone(),
            login: given.identity.login.clone(),
            app: given.app.client_id().to_owned(),
            scopes: given.token.scopes().iter().map(ToString::to_string).collect(),
            session: given.session.to_owned(),
            kept_at: now,
            ended: false,
            id,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = self.read(&kept.id).await?;
            let expect = before.as_ref().map_or(Expect::Absent, |(version, _)| Expect::Version(*version));
            let session = RecordWrite::Check { key: sessions::key(given.session), expect: Expect::Present };
            let mut writes = vec![self.write(&kept, expect)?, session];
            let replaced = before.and_then(|(_, before)| self.set_aside(before, given.token));
            if let Some(replaced) = &replaced {
                writes.push(self.write(replaced, Expect::Absent)?);
            }
            match self.store.commit_records(writes).await {
                Ok(()) => {
                    if let Some(token) = self.held_form(&kept) {
                        self.held.put(&kept.host, &kept.id, token);
                    }
                    self.tell(&kept.id).await;
                    return Ok(replaced);
                }
                Err(Error::RecordConflict { key }) if key.kind == RecordKind::Session => {
                    return Err(KeepError::SessionEnded);
                }
                Err(Error::RecordConflict { .. }) if attempt < ATTEMPTS => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The token of a user at a host, if there is one that has not ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn find(&self, host: &HostName, subject: &str) -> store::Result<Option<Kept>> {
        self.get(&id_of(host, subject)).await
    }

    /// A token by its id, if it has not ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn get(&self, id: &str) -> store::Result<Option<Kept>> {
        Ok(self.read(id).await?.map(|(_, kept)| kept).filter(|kept| !kept.ended))
    }

    /// Tokens, newest first: all, or those of a user or a session. Some may have ended.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(
        &self,
        filter: Filter<'_>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> store::Result<Page<Kept>> {
        let index = filter.index();
        Ok(self.store.list_records(RecordKind::Upstream, index.as_deref(), after, limit).await?.read())
    }

    /// Those of a host.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list_of_host(
        &self,
        host: &HostName,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> store::Result<Page<Kept>> {
        let index = host_index(host);
        Ok(self.store.list_records(RecordKind::Upstream, Some(&index), after, limit).await?.read())
    }

    /// Marks a token as ended, unless there is another one in its place by now; tells whether it is.
    async fn mark(&self, kept: &Kept) -> store::Result<bool> {
        let Some((version, found)) = self.read(&kept.id).await? else { return Ok(false) };
        if found.kept_at != kept.kept_at {
            return Ok(false);
        }
        if found.ended {
            return Ok(true);
        }
        let write = self.write(&Kept { ended: true, ..found }, Expect::Version(version))?;
        match self.store.commit_records(vec![write]).await {
            Ok(()) => {
                self.held.remove(&kept.id);
                self.tell(&kept.id).await;
                Ok(true)
            }
            // Replaced, or marked by somebody else, who goes on with it.
            Err(Error::RecordConflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets a token that has ended, unless there is another one in its place by now.
    async fn forget(&self, kept: &Kept) -> store::Result<()> {
        let Some((version, found)) = self.read(&kept.id).await? else { return Ok(()) };
        if found.kept_at != kept.kept_at {
            return Ok(());
        }
        let write = RecordWrite::Delete { key: key(&kept.id), expect: Expect::Version(version) };
        match self.store.commit_records(vec![write]).await {
            Ok(()) | Err(Error::RecordConflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A token as it waits for its end, when another one takes its place. None where there is nothing to end.
    fn set_aside(&self, before: Kept, by: &Token) -> Option<Kept> {
        let id = token_id();
        let sealed = match self.open(&before) {
            // GitHub gave the same one again.
            Ok((token, _)) if token.expose() == by.expose() => return None,
            Ok((token, app)) => self.seal(&id, &token, &app),
            Err(error) => Err(error),
        };
        match sealed {
            Ok(sealed) => Some(Kept { id, sealed, ended: true, ..before }),
            Err(error) => {
                tracing::warn!(%error, host = %before.host, "a token of GitHub's that is replaced can't be ended");
                None
            }
        }
    }

    fn seal(&self, id: &str, token: &Token, app: &App) -> Result<Value, vault::Error> {
        let sealed = Sealed {
            token: token.expose().to_owned(),
            client_id: app.id().clone(),
            client_secret: app.client_secret().expose_secret().to_owned(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&sealed).expect("texts serialise"));
        self.vault.seal(&name(id), &json)
    }

    /// The token, and the app as it was when it was given.
    fn open(&self, kept: &Kept) -> Result<(Token, App), vault::Error> {
        let opened = self.vault.open(&name(&kept.id), &kept.sealed)?;
        let damaged = || vault::Error::Damaged { name: name(&kept.id) };
        // What is wrong with it is not told, because it is secret.
        let sealed: Sealed = serde_json::from_slice(opened.expose_secret()).map_err(|_| damaged())?;
        let secret = SecretString::from(sealed.client_secret.as_str());
        let app = App::new(sealed.client_id.clone(), secret).map_err(|_| damaged())?;
        Ok((Token::kept(sealed.token.as_str().into(), &kept.scopes), app))
    }

    async fn read(&self, id: &str) -> store::Result<Option<(u64, Kept)>> {
        let record = self.store.get_record(&key(id)).await?;
        record.map(|record| Ok((record.version, record.read()?))).transpose()
    }

    fn write(&self, kept: &Kept, expect: Expect) -> store::Result<RecordWrite> {
        let filters = [Filter::Subject(&kept.subject), Filter::Session(&kept.session)];
        let mut indexes: Vec<String> = filters.into_iter().filter_map(Filter::index).collect();
        indexes.push(host_index(&kept.host));
        let life = if kept.ended { ENDING } else { self.lifetime };
        RecordWrite::put(key(&kept.id), kept, Some(life), expect, indexes)
    }
}

/// No two pairs have one id: the host says how long it is.
fn id_of(host: &HostName, subject: &str) -> String {
    let host = host.as_str();
    opaque::hash(format!("{}:{host}{subject}", host.len()).as_bytes())
}

fn host_index(host: &HostName) -> String {
    format!("{HOST}:{host}")
}

fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Upstream, id)
}

/// What the seal is for, so that the token of one user or host can't stand in for that of another.
fn name(id: &str) -> String {
    format!("upstream/{id}")
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::oauth::sessions::{Lifetimes, Sessions};
    use crate::store::embedded::Embedded;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    struct Deployment {
        tokens: UpstreamTokens,
        sessions: Sessions,
        store: Arc<dyn Store>,
    }

    fn deployment() -> Deployment {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("memory"));
        let vault = Vault::new(&"0123456789abcdef0123456789abcdef".into()).expect("a key");
        Deployment {
            tokens: UpstreamTokens::new(Arc::clone(&store), Arc::new(vault), DAY),
            sessions: Sessions::new(Arc::clone(&store), Lifetimes::default()),
            store,
        }
    }

    fn person(subject: &str) -> Identity {
        Identity {
            subject: subject.to_owned(),
            login: format!("login{subject}"),
            name: None,
            emails: Vec::new(),
            memberships: Vec::new(),
        }
    }

    fn host(name: &str) -> HostName {
        name.parse().expect("a host")
    }

    impl Deployment {
        async fn session(&self, identity: &Identity) -> String {
            self.sessions.create(identity.clone(), Timestamp::now()).await.expect("stored").1.id
        }

        async fn keep(&self, host: &HostName, who: &Identity, session: &str, token: &str) -> Option<Kept> {
            self.try_keep(host, who, session, token).await.expect("kept")
        }

        async fn try_keep(
            &self,
            host: &HostName,
            who: &Identity,
            session: &str,
            token: &str,
        ) -> Result<Option<Kept>, KeepError> {
            let app = App::new("Iv1.app".parse().expect("an id"), "hush-app".into()).expect("an app");
            let token = Token::kept(token.into(), &["read:user".to_owned()]);
            let given = Given { host, identity: who, session, app: &app, token: &token };
            self.tokens.keep(given, Timestamp::now()).await
        }

        fn opened(&self, kept: &Kept) -> (String, String) {
            let (token, app) = self.tokens.open(kept).expect("opened");
            (token.expose().to_owned(), app.client_secret().expose_secret().to_owned())
        }
    }

    #[tokio::test]
    async fn each_host_and_user_has_one_token_that_a_login_replaces() {
        let deployment = deployment();
        let (ann, ben) = (person("1"), person("2"));
        let (a, b) = (host("a.example"), host("b.example"));
        let session = deployment.session(&ann).await;
        for (host, who, token) in [(&a, &ann, "one"), (&b, &ann, "two"), (&a, &ben, "three")] {
            assert!(deployment.keep(host, who, &session, token).await.is_none());
        }
        let again = deployment.session(&ann).await;
        let before = deployment.keep(&a, &ann, &again, "four").await.expect("the one before");
        assert_eq!(deployment.opened(&before), ("one".to_owned(), "hush-app".to_owned()));
        let now = deployment.tokens.find(&a, "1").await.expect("read").expect("kept");
        assert_eq!(deployment.opened(&now).0, "four");
        assert_eq!((now.login.as_str(), now.app.as_str()), ("login1", "Iv1.app"));
        assert_eq!(now.scopes, ["read:user"]);
        assert!(deployment.tokens.find(&b, "2").await.expect("read").is_none());
        let list = async |filter| deployment.tokens.list(filter, None, 10).await.expect("read").items.len();
        // The one before waits for its end, and is nobody's to read.
        assert!(before.ended && deployment.tokens.get(&before.id).await.expect("read").is_none());
        assert_eq!(list(Filter::All).await, 4);
        deployment.tokens.forget(&before).await.expect("forgotten");
        assert_eq!(list(Filter::All).await, 3);
        assert_eq!(list(Filter::Subject("1")).await, 2);
        assert_eq!((list(Filter::Session(&session)).await, list(Filter::Session(&again)).await), (2, 1));
        assert_eq!(deployment.tokens.list_of_host(&a, None, 10).await.expect("read").items.len(), 2);
        // The same token again is nothing to end.
        assert!(deployment.keep(&a, &ann, &again, "four").await.is_none());
        assert_eq!(list(Filter::All).await, 3);
    }

    #[tokio::test]
    async fn nothing_is_kept_in_clear_or_for_a_session_that_has_ended() {
        let deployment = deployment();
        let (ann, a) = (person("1"), host("a.example"));
        let session = deployment.session(&ann).await;
        deployment.keep(&a, &ann, &session, "gho_hush").await;
        let kept = deployment.tokens.find(&a, "1").await.expect("read").expect("kept");
        let record = deployment.store.get_record(&key(&kept.id)).await.expect("read").expect("there");
        for text in [String::from_utf8_lossy(&record.value).into_owned(), format!("{kept:?}")] {
            assert!(!text.contains("hush"), "{text}");
        }
        // The seal is for one host and one user.
        let other = Kept { id: id_of(&a, "2"), ..kept.clone() };
        assert!(matches!(deployment.tokens.open(&other), Err(vault::Error::Damaged { .. })));
        assert!(deployment.sessions.revoke(&session).await.expect("ended"));
        let late = deployment.try_keep(&a, &ann, &session, "late").await;
        assert!(matches!(late, Err(KeepError::SessionEnded)), "{late:?}");
        assert_eq!(deployment.opened(&kept).0, "gho_hush");
    }

    #[tokio::test]
    async fn one_that_was_marked_is_read_by_nobody_and_replaced_by_the_next() {
        let deployment = deployment();
        let (ann, a) = (person("1"), host("a.example"));
        let session = deployment.session(&ann).await;
        deployment.keep(&a, &ann, &session, "one").await;
        let first = deployment.tokens.find(&a, "1").await.expect("read").expect("kept");
        assert!(deployment.tokens.mark(&first).await.expect("marked"));
        assert!(deployment.tokens.mark(&first).await.expect("marked"), "it is, already");
        assert!(deployment.tokens.find(&a, "1").await.expect("read").is_none());
        assert!(deployment.tokens.get(&first.id).await.expect("read").is_none());
        let before = deployment.keep(&a, &ann, &session, "two").await.expect("the one before");
        assert!(before.ended && before.id != first.id);
        assert_eq!(deployment.opened(&before).0, "one");
        assert!(deployment.tokens.mark(&before).await.expect("marked"), "it is, already");
        // Whoever still ends the first one does not touch the second.
        assert!(!deployment.tokens.mark(&first).await.expect("read"));
        deployment.tokens.forget(&first).await.expect("read");
        let second = deployment.tokens.find(&a, "1").await.expect("read").expect("kept");
        assert_eq!(deployment.opened(&second).0, "two");
        deployment.tokens.forget(&second).await.expect("forgotten");
        deployment.tokens.forget(&before).await.expect("forgotten");
        assert!(deployment.tokens.list(Filter::All, None, 10).await.expect("read").items.is_empty());
    }
}
