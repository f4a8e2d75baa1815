//! A session: a process, what its client waits for, and the process after it when it dies.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::process::{Output, Process};

/// How many requests of a client are under way at a time.
const MAX_PENDING: usize = 256;

/// How many messages wait until somebody listens for them.
const MAX_UNHEARD: usize = 256;

/// How many events wait for a client that does not read.
const EVENTS: usize = 256;

/// How long it takes until a process that died is started again: the first time, and at most.
const RESTART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A process that has lived so long has not died of being started.
const STEADY: Duration = Duration::from_secs(30);

/// The id under which a process is told again who its client is. No client's id looks like that.
const REPLAYED: &str = "portcullis/initialize";

/// What a process may be told at once, and what it answers.
pub(super) struct Session {
    command: Vec<OsString>,
    /// The client's own `initialize`, to be said again.
    hello: Value,
    state: Mutex<State>,
    /// Cancelled when the session has ended.
    pub(super) ended: CancellationToken,
}

#[derive(Default)]
struct State {
    input: Option<mpsc::Sender<String>>,
    /// What has said that the client is ready, to be said again.
    ready: bool,
    /// By the id as JSON text.
    pending: HashMap<String, Pending>,
    standing: Option<mpsc::Sender<Value>>,
    unheard: Vec<Value>,
    used: Option<Instant>,
}

struct Pending {
    events: mpsc::Sender<Value>,
    /// The token by which the client knows news of it.
    progress: Option<Value>,
    order: u64,
}

/// Why a message is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the server is being started again: try again in a moment")]
    Restarting,
    #[error("a request with this id is under way")]
    SameId,
    #[error("too many requests are under way")]
    TooMany,
}

impl Session {
    /// Starts a process and says hello; the answer is for the client.
    ///
    /// The session ends when this future is dropped before it is done. What is held for it is held as long as its process
    /// runs.
    pub(super) async fn begin(
        command: Vec<OsString>,
        hello: Value,
        patience: Duration,
        held: OwnedSemaphorePermit,
    ) -> Result<(Arc<Self>, Value), String> {
        let (process, output) =
            Process::start(&command).map_err(|error| format!("it can't be started: {error}"))?;
        let session =
            Arc::new(Self { command, hello, state: Mutex::default(), ended: CancellationToken::new() });
        let unwanted = session.ended.clone().drop_guard();
        session.state().input = process.input();
        session.state().used = Some(Instant::now());
        let (first, answered) = oneshot::channel();
        let id = session.hello["id"].clone();
        session.send_now(&session.hello).map_err(|error| error.to_string())?;
        let running = Arc::clone(&session).run(process, output, Some((id, first)));
        tokio::spawn(async move {
            let _held = held;
            running.await;
        });
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(answer)) => {
                drop(unwanted.disarm());
                Ok((session, answer))
            }
            Ok(Err(_)) => Err("it has ended before it answered".to_owned()),
            Err(_) => Err(format!("it has not answered within {} s", patience.as_secs())),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When somebody last used it.
    pub(super) fn used(&self) -> Option<Instant> {
        let state = self.state();
        // Somebody who waits or listens uses it.
        let waits = !state.pending.is_empty() || state.standing.as_ref().is_some_and(|one| !one.is_closed());
        if waits { Some(Instant::now()) } else { state.used }
    }

    /// Sends a request; what comes for it until its answer, and with it, can be read.
    pub(super) fn ask(&self, message: &Value) -> Result<mpsc::Receiver<Value>, Refused> {
        let (events, heard) = mpsc::channel(EVENTS);
        let key = message["id"].to_string();
        {
            let mut state = self.state();
            if state.pending.contains_key(&key) {
                return Err(Refused::SameId);
            }
            if state.pending.len() >= MAX_PENDING {
                return Err(Refused::TooMany);
            }
            let progress = message.pointer("/params/_meta/progressToken").cloned();
            let order = state.pending.values().map(|one| one.order).max().map_or(0, |last| last + 1);
            state.pending.insert(key.clone(), Pending { events, progress, order });
        }
        self.send_now(message).inspect_err(|_| drop(self.state().pending.remove(&key)))?;
        Ok(heard)
    }

    /// The client no longer waits for an answer.
    pub(super) fn give_up(&self, id: &Value) {
        if self.state().pending.remove(&id.to_string()).is_some() {
            let told = json!({
                "jsonrpc": "2.0", "method": "notifications/cancelled",
                "params": { "requestId": id, "reason": "the client has gone" },
            });
            let _gone = self.send_now(&told);
        }
    }

    /// Sends what needs no answer.
    pub(super) fn tell(&self, message: &Value) -> Result<(), Refused> {
        if message["method"] == "notifications/initialized" {
            self.state().ready = true;
        }
        self.send_now(message)
    }

    fn send_now(&self, message: &Value) -> Result<(), Refused> {
        let mut state = self.state();
        state.used = Some(Instant::now());
        let input = state.input.as_ref().ok_or(Refused::Restarting)?;
        input.try_send(message.to_string()).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::TooMany,
            mpsc::error::TrySendError::Closed(_) => Refused::Restarting,
        })
    }

    /// Listens for what belongs to no request; whoever listened before does so no longer.
    pub(super) fn listen(&self) -> mpsc::Receiver<Value> {
        let (events, heard) = mpsc::channel(EVENTS);
        let mut state = self.state();
        for message in std::mem::take(&mut state.unheard) {
            let _full = events.try_send(message);
        }
        state.standing = Some(events);
        heard
    }

    /// Looks after the process until the session ends.
    async fn run(
        self: Arc<Self>,
        process: Process,
        output: Output,
        first: Option<(Value, oneshot::Sender<Value>)>,
    ) {
        let mut running = Some((process, output));
        let mut first = first;
        let mut pause = RESTART.0;
        loop {
            let begun = Instant::now();
            let Some((process, mut output)) = running.take() else { break };
            let why = tokio::select! {
                why = self.hear(&mut output, &mut first) => Some(why),
                () = self.ended.cancelled() => None,
            };
            self.state().input = None;
            let status = process.end().await;
            let Some(why) = why else { break };
            if first.take().is_some() {
                // It never said hello: there is no session.
                break;
            }
            let status = status.map_or_else(String::new, |status| format!(" ({status})"));
            eprintln!("portcullis: the server has ended: {why}{status}; it is started again");
            self.fail_pending();
            if begun.elapsed() > STEADY {
                pause = RESTART.0;
            }
            running = loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.ended.cancelled() => break None,
                }
                pause = (pause * 2).min(RESTART.1);
                match Process::start(&self.command) {
                    Ok(again) => break Some(again),
                    Err(error) => eprintln!("portcullis: the server can't be started: {error}"),
                }
            };
            if let Some((process, _)) = &running {
                self.introduce(process);
            }
        }
        self.ended.cancel();
        self.fail_pending();
        self.state().standing = None;
    }

    /// Tells a new process who its client is, before anything else.
    fn introduce(&self, process: &Process) {
        let Some(input) = process.input() else { return };
        let mut hello = self.hello.clone();
        hello["id"] = REPLAYED.into();
        let _full = input.try_send(hello.to_string());
        let mut state = self.state();
        if state.ready {
            let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
            let _full = input.try_send(initialized.to_string());
        }
        state.input = Some(input);
    }

    /// Hands on what a process says, until it says no more.
    async fn hear(&self, output: &mut Output, first: &mut Option<(Value, oneshot::Sender<Value>)>) -> String {
        loop {
            let message = match output.next().await {
                Ok(message) => message,
                Err(ended) => return ended.to_string(),
            };
            let is_answer = message.get("method").is_none();
            if is_answer && let Some((id, answer)) = first.take_if(|(id, _)| *id == message["id"]) {
                drop(id);
                let _gone = answer.send(message);
                continue;
            }
            if is_answer && message["id"] == REPLAYED {
                continue;
            }
            self.deliver(message, is_answer).await;
        }
    }

    async fn deliver(&self, message: Value, is_answer: bool) {
        let to = {
            let mut state = self.state();
            if is_answer {
                // Nobody waits for it any more.
                let Some(pending) = state.pending.remove(&message["id"].to_string()) else { return };
                pending.events
            } else {
                match state.place_of(&message) {
                    Some(events) => events,
                    None => {
                        if state.unheard.len() < MAX_UNHEARD {
                            state.unheard.push(message);
                        }
                        return;
                    }
                }
            }
        };
        // Whoever does not read holds up the process that says more, not our memory.
        let _gone = to.send(message).await;
    }

    /// What was asked of a process that is gone is answered by nobody else.
    fn fail_pending(&self) {
        let pending = std::mem::take(&mut self.state().pending);
        for (id, pending) in pending {
            let id: Value = serde_json::from_str(&id).unwrap_or(Value::Null);
            let text = "The server has ended before it answered, and is started again.";
            let error = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32603, "message": text } });
            let _full = pending.events.try_send(error);
        }
    }
}

impl State {
    /// Where a message goes that is no answer: to the request that it is news of, else to whoever listens, else, for it
    /// may be a question in the middle of a request, to the latest request.
    fn place_of(&self, message: &Value) -> Option<mpsc::Sender<Value>> {
        let token = message
            .pointer("/params/progressToken")
            .filter(|_| message["method"] == "notifications/progress");
        let named =
            token.and_then(|token| self.pending.values().find(|one| one.progress.as_ref() == Some(token)));
        let standing = || self.standing.clone().filter(|one| !one.is_closed());
        let latest = || self.pending.values().max_by_key(|one| one.order).map(|one| one.events.clone());
        let asks = message.get("id").is_some();
        match named {
            Some(pending) => Some(pending.events.clone()),
            None if asks => latest().or_else(standing),
            None => standing().or_else(latest),
        }
    }
}
