//! All sessions of a wrapped server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::http::{STATELESS, VERSIONS};
use super::message::Message;
use super::session::Session;

/// How often it is looked for sessions that nobody uses.
const SWEEP: Duration = Duration::from_secs(15);

/// How long processes may take to end when the wrapper does; each gets less than that until it is killed.
const LEAVE: Duration = Duration::from_secs(8);

/// The longest greeting, in bytes: it is kept, to be said again.
const MAX_HELLO: usize = 256 << 10;

/// The sessions by id.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) settings: Settings,
    known: Mutex<HashMap<String, Arc<Session>>>,
    /// A place for each process, from before it starts until it has ended.
    free: Arc<Semaphore>,
    /// Cancelled when there shall be none any more; each ends by it.
    closed: CancellationToken,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

/// Why there is no new session.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSession {
    #[error("all sessions are in use: try again later")]
    Full,
    #[error("no sessions begin any more: this server stops")]
    Stopping,
    #[error("a greeting must not be longer than {MAX_HELLO} bytes")]
    TooLong,
    #[error("the server does not work: {0}")]
    Broken(String),
}

impl Sessions {
    pub(super) fn new(settings: Settings) -> Self {
        let free = Arc::new(Semaphore::new(settings.max_sessions));
        Self { settings, known: Mutex::default(), free, closed: CancellationToken::new() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one: its id, and the server's answer.
    pub(super) async fn begin(&self, hello: &Message) -> Result<(String, Message), NoSession> {
        if self.closed.is_cancelled() {
            return Err(NoSession::Stopping);
        }
        if hello.text.len() > MAX_HELLO {
            return Err(NoSession::TooLong);
        }
        let broken = |text: &str| NoSession::Broken(text.to_owned());
        let mut hello: Value =
            serde_json::from_str(&hello.text).map_err(|_| broken("its greeting can't be read"))?;
        // Whoever speaks only what has no sessions is told what there is.
        let asked = hello.pointer("/params/protocolVersion").and_then(Value::as_str);
        if asked.is_some_and(|version| version >= STATELESS) {
            hello["params"]["protocolVersion"] = VERSIONS[0].into();
        }
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| NoSession::Full)?;
        let Settings { program, start, .. } = &self.settings;
        let begun = Session::begin(Arc::clone(program), hello, *start, permit, self.closed.child_token());
        let (session, answer) = begun.await.map_err(NoSession::Broken)?;
        // A server that refuses its client has no session with it.
        if answer.failed {
            session.ended.cancel();
            return Ok((String::new(), answer));
        }
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| {
            session.ended.cancel();
            broken("there is no randomness")
        })?;
        let id = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        self.known().insert(id.clone(), session);
        Ok((id, answer))
    }

    /// One that is known.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Session>> {
        self.known().get(id).filter(|session| !session.ended.is_cancelled()).cloned()
    }

    /// Ends one; whether it was known.
    pub(super) fn end(&self, id: &str) -> bool {
        self.known().remove(id).is_some_and(|session| {
            session.ended.cancel();
            true
        })
    }

    /// Ends all, those that begin as well, and takes no new ones.
    pub(super) fn close(&self) {
        self.closed.cancel();
        self.known().clear();
    }

    /// Done when there shall be no sessions any more.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Waits until all processes have ended, for a while.
    pub(super) async fn gone(&self) {
        let places = u32::try_from(self.settings.max_sessions).unwrap_or(u32::MAX);
        let _all = tokio::time::timeout(LEAVE, self.free.acquire_many(places)).await;
    }

    /// Ends sessions that nobody has used for long.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP.min(self.settings.idle)).await;
            let idle = self.settings.idle;
            self.known().retain(|_, session| {
                let unused = session.used().is_none_or(|used| used.elapsed() > idle);
                if unused {
                    session.ended.cancel();
                }
                !unused && !session.ended.is_cancelled()
            });
        }
    }
}
