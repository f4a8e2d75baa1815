//! All sessions of a wrapped server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::Settings;
use super::session::Session;

/// How often it is looked for sessions that nobody uses.
const SWEEP: Duration = Duration::from_secs(15);

/// The sessions by id.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) settings: Settings,
    known: Mutex<HashMap<String, Arc<Session>>>,
    /// Processes that are being started count, too.
    free: Arc<Semaphore>,
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
    #[error("the server does not work: {0}")]
    Broken(String),
}

impl Sessions {
    pub(super) fn new(settings: Settings) -> Self {
        let free = Arc::new(Semaphore::new(settings.max_sessions));
        Self { settings, known: Mutex::default(), free }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one: its id, and the server's answer.
    pub(super) async fn begin(&self, hello: Value) -> Result<(String, Value), NoSession> {
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| NoSession::Full)?;
        let Settings { command, start, .. } = &self.settings;
        let (session, answer) =
            Session::begin(command.clone(), hello, *start, permit).await.map_err(NoSession::Broken)?;
        // A server that refuses its client has no session with it.
        if answer.get("error").is_some() {
            session.ended.cancel();
            return Ok((String::new(), answer));
        }
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| NoSession::Broken("there is no randomness".to_owned()))?;
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

    /// Ends all, and waits until their processes are gone, for a while.
    pub(super) async fn end_all(&self) {
        let all: Vec<_> = self.known().drain().map(|(_, session)| session).collect();
        for session in &all {
            session.ended.cancel();
        }
        // Whoever has a permit has a process; `run` holds the session as long as it looks after one.
        let end = tokio::time::Instant::now() + Duration::from_secs(8);
        while all.iter().any(|session| Arc::strong_count(session) > 1) && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
