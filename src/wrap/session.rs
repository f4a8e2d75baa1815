//! A session: a process, what its client waits for, and the process after it when it dies.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::message::{Id, Message};
use super::process::{Line, Output, Process, Program};

/// How many requests of a client are under way at a time.
const MAX_PENDING: usize = 256;

/// How many messages wait until somebody listens for them, and how much of them.
const MAX_UNHEARD: usize = 256;
const UNHEARD: usize = 1 << 20;

/// How many events wait for a client that does not read.
const EVENTS: usize = 256;

/// How much waits for a client that does not read, and how much for a process that does not, in bytes: the longest
/// message and as much again.
const ROOM: usize = 8 << 20;

/// How many answers are kept for clients that have lost their connection, and how much of them.
const MAX_KEPT: usize = 16;
const KEPT: usize = 4 << 20;

/// How long it takes until a process that died is started again: the first time, and at most.
const RESTART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A process that has lived so long has not died of being started.
const STEADY: Duration = Duration::from_secs(30);

/// How long what a process has said before its end is heard.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The id under which a process is told again who its client is. No client's id looks like that.
const REPLAYED: &str = "portcullis/initialize";

/// What a process may be told at once, and what it answers.
pub(super) struct Session {
    program: Arc<Program>,
    /// The client's own `initialize`, to be said again.
    hello: Value,
    state: Mutex<State>,
    /// Room for what the process has not read, and for what the client has not.
    inward: Arc<Semaphore>,
    outward: Arc<Semaphore>,
    /// Cancelled when the session has ended.
    pub(super) ended: CancellationToken,
}

/// A message on its way to a client, and the room that it takes.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) text: Bytes,
    /// Whether it is the last one of its stream.
    pub(super) last: bool,
    _room: Option<OwnedSemaphorePermit>,
}

/// What comes in answer to a request.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) events: mpsc::Receiver<Event>,
    /// What the stream is called in this session.
    pub(super) stream: u64,
}

#[derive(Default)]
struct State {
    input: Option<mpsc::Sender<Line>>,
    /// What has said that the client is ready, to be said again.
    ready: bool,
    pending: HashMap<Id, Pending>,
    /// The name of the next stream.
    next: u64,
    /// Answers by the names of their streams, the oldest first.
    kept: VecDeque<(u64, Bytes)>,
    standing: Option<mpsc::Sender<Event>>,
    unheard: VecDeque<Bytes>,
    used: Option<Instant>,
}

struct Pending {
    events: mpsc::Sender<Event>,
    /// The token by which the client knows news of it.
    progress: Option<Id>,
    stream: u64,
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
        program: Arc<Program>,
        hello: Value,
        patience: Duration,
        held: OwnedSemaphorePermit,
        ended: CancellationToken,
    ) -> Result<(Arc<Self>, Message), String> {
        let id = Id::of(&hello["id"]).ok_or("it can't be asked without an id")?;
        let (process, output) = program.start().map_err(|error| format!("it can't be started: {error}"))?;
        let session = Arc::new(Self {
            program,
            hello,
            state: Mutex::default(),
            inward: Arc::new(Semaphore::new(ROOM)),
            outward: Arc::new(Semaphore::new(ROOM)),
            ended,
        });
        let unwanted = session.ended.clone().drop_guard();
        session.state().input = process.input();
        let (first, answered) = oneshot::channel();
        session.send_now(session.hello.to_string()).map_err(|error| error.to_string())?;
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
        // Somebody who waits or listens uses it. What nobody waits for any more does not keep it.
        let mut waiting = state.pending.values().map(|one| &one.events).chain(&state.standing);
        if waiting.any(|one| !one.is_closed()) { Some(Instant::now()) } else { state.used }
    }

    /// Takes note that somebody uses it, or did until now.
    pub(super) fn touch(&self) {
        self.state().used = Some(Instant::now());
    }

    /// Sends a request; what comes for it until its answer, and with it, can be read.
    ///
    /// Who stops to read has not cancelled the request (MCP, Transports, "Sending Messages to the Server").
    pub(super) fn ask(&self, message: Message) -> Result<Heard, Refused> {
        let Some(id) = message.id else { return Err(Refused::SameId) };
        let (sender, events) = mpsc::channel(EVENTS);
        let (stream, given_up) = {
            let mut state = self.state();
            if state.pending.contains_key(&id) {
                return Err(Refused::SameId);
            }
            let given_up = if state.pending.len() < MAX_PENDING {
                None
            } else {
                Some(state.oldest_left().ok_or(Refused::TooMany)?)
            };
            let stream = state.next;
            state.next += 1;
            state.pending.insert(id.clone(), Pending { events: sender, progress: message.progress, stream });
            (stream, given_up)
        };
        if let Some(id) = given_up {
            self.give_up(&id);
        }
        self.send_now(message.text).inspect_err(|_| drop(self.state().pending.remove(&id)))?;
        Ok(Heard { events, stream })
    }

    /// Goes on with a stream that was lost: what is still to come, or the answer if that was given meanwhile. None when
    /// nothing is known of it.
    pub(super) fn resume(&self, stream: u64) -> Option<Heard> {
        let mut state = self.state();
        state.used = Some(Instant::now());
        let (sender, events) = mpsc::channel(EVENTS);
        if let Some(pending) = state.pending.values_mut().find(|pending| pending.stream == stream) {
            pending.events = sender;
        } else {
            let (_, text) = state.kept.iter().find(|(kept, _)| *kept == stream)?;
            let _fits = sender.try_send(Event { text: text.clone(), last: true, _room: None });
        }
        Some(Heard { events, stream })
    }

    /// Tells the process that nobody wants an answer.
    fn give_up(&self, id: &Id) {
        let told = json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled",
            "params": { "requestId": id.value(), "reason": "the client has gone" },
        });
        let _gone = self.send_now(told.to_string());
    }

    /// Sends what needs no answer.
    pub(super) fn tell(&self, message: Message) -> Result<(), Refused> {
        if message.method.as_deref() == Some("notifications/initialized") {
            self.state().ready = true;
        }
        let cancels = message.cancels;
        self.send_now(message.text)?;
        if let Some(id) = cancels {
            // There need not be an answer any more.
            drop(self.state().pending.remove(&id));
        }
        Ok(())
    }

    fn send_now(&self, text: String) -> Result<(), Refused> {
        let mut state = self.state();
        state.used = Some(Instant::now());
        let input = state.input.as_ref().ok_or(Refused::Restarting)?;
        let room = Arc::clone(&self.inward).try_acquire_many_owned(room_of(text.len()));
        let line = Line { text, room: Some(room.map_err(|_| Refused::TooMany)?) };
        input.try_send(line).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::TooMany,
            mpsc::error::TrySendError::Closed(_) => Refused::Restarting,
        })
    }

    /// Listens for what belongs to no request; whoever listened before does so no longer.
    pub(super) fn listen(&self) -> mpsc::Receiver<Event> {
        let (events, heard) = mpsc::channel(EVENTS);
        let mut state = self.state();
        state.used = Some(Instant::now());
        for text in std::mem::take(&mut state.unheard) {
            let _full = events.try_send(Event { text, last: false, _room: None });
        }
        // Nobody would end the stream of a session that has ended.
        state.standing = (!self.ended.is_cancelled()).then_some(events);
        heard
    }

    /// Looks after the process until the session ends.
    async fn run(
        self: Arc<Self>,
        process: Process,
        output: Output,
        first: Option<(Id, oneshot::Sender<Message>)>,
    ) {
        let mut running = Some((process, output));
        let mut first = first;
        let mut pause = RESTART.0;
        loop {
            let begun = Instant::now();
            let Some((mut process, mut output)) = running.take() else { break };
            let why = tokio::select! {
                why = self.hear_all(&mut process, &mut output, &mut first) => Some(why),
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
                match self.program.start() {
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
        let line = |text: String| Line { text, room: None };
        let _full = input.try_send(line(hello.to_string()));
        let mut state = self.state();
        if state.ready {
            let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
            let _full = input.try_send(line(initialized.to_string()));
        }
        state.input = Some(input);
    }

    /// Hands on what a process says, until it says no more or has ended: something that it has started may still have its
    /// output then.
    async fn hear_all(
        &self,
        process: &mut Process,
        output: &mut Output,
        first: &mut Option<(Id, oneshot::Sender<Message>)>,
    ) -> String {
        let hearing = self.hear(output, first);
        tokio::pin!(hearing);
        tokio::select! {
            why = &mut hearing => return why,
            () = process.ended() => {}
        }
        let rest = tokio::time::timeout(LAST_WORDS, hearing).await;
        rest.unwrap_or_else(|_| "what it has started still has its output".to_owned())
    }

    async fn hear(&self, output: &mut Output, first: &mut Option<(Id, oneshot::Sender<Message>)>) -> String {
        let replayed = Id::of(&REPLAYED.into());
        loop {
            let message = match output.next().await {
                Ok(message) => message,
                Err(ended) => return ended.to_string(),
            };
            if message.is_answer() {
                if let Some((_, answer)) = first.take_if(|(id, _)| message.id.as_ref() == Some(id)) {
                    let _gone = answer.send(message);
                    continue;
                }
                if message.id == replayed {
                    continue;
                }
            }
            self.deliver(message).await;
        }
    }

    async fn deliver(&self, message: Message) {
        // Whoever does not read holds up the process that says more, not our memory.
        let room = Arc::clone(&self.outward).acquire_many_owned(room_of(message.text.len())).await.ok();
        let last = message.is_answer();
        let (to, text) = {
            let mut state = self.state();
            if last {
                let pending = message.id.and_then(|id| state.pending.remove(&id));
                // Nobody waits for it any more.
                let Some(Pending { events, stream, .. }) = pending else { return };
                let text = Bytes::from(message.text);
                // The connection may be lost while it is under way.
                state.keep(stream, text.clone());
                (events, text)
            } else {
                let to = state.place_of(&message);
                let text = Bytes::from(message.text);
                let Some(to) = to else { return state.leave(text) };
                (to, text)
            }
        };
        let _gone = to.send(Event { text, last, _room: room }).await;
    }

    /// What was asked of a process that is gone is answered by nobody else.
    fn fail_pending(&self) {
        let mut state = self.state();
        for (id, Pending { events, stream, .. }) in std::mem::take(&mut state.pending) {
            let text = "The server has ended before it answered, and is started again.";
            let error =
                json!({ "jsonrpc": "2.0", "id": id.value(), "error": { "code": -32603, "message": text } });
            let text = Bytes::from(error.to_string());
            state.keep(stream, text.clone());
            let _full = events.try_send(Event { text, last: true, _room: None });
        }
    }
}

/// The room that a message takes.
fn room_of(length: usize) -> u32 {
    u32::try_from(length.min(ROOM)).unwrap_or(u32::MAX)
}

impl State {
    /// Where a message goes that is no answer: to the request that it is news of, else to whoever listens, else, for it
    /// may be a question in the middle of a request, to the latest request.
    fn place_of(&self, message: &Message) -> Option<mpsc::Sender<Event>> {
        let here = |one: &&mpsc::Sender<Event>| !one.is_closed();
        if let Some(token) = &message.news_of
            && let Some(pending) = self.pending.values().find(|one| one.progress.as_ref() == Some(token))
        {
            return Some(pending.events.clone());
        }
        let standing = || self.standing.as_ref().filter(here);
        let latest = || {
            let waiting = self.pending.values().filter(|one| !one.events.is_closed());
            waiting.max_by_key(|one| one.stream).map(|one| &one.events)
        };
        let asks = message.id.is_some();
        if asks { latest().or_else(standing) } else { standing().or_else(latest) }.cloned()
    }

    /// Leaves a message for whoever listens next.
    fn leave(&mut self, text: Bytes) {
        let size: usize = self.unheard.iter().map(Bytes::len).sum();
        if self.unheard.len() < MAX_UNHEARD && size + text.len() <= UNHEARD {
            self.unheard.push_back(text);
        }
    }

    /// Keeps an answer in case that its connection is lost, as long as there is room.
    fn keep(&mut self, stream: u64, text: Bytes) {
        self.kept.push_back((stream, text));
        while self.kept.len() > MAX_KEPT || self.kept.iter().map(|(_, text)| text.len()).sum::<usize>() > KEPT
        {
            self.kept.pop_front();
        }
    }

    /// Forgets the oldest request whose client has gone.
    fn oldest_left(&mut self) -> Option<Id> {
        let left = self.pending.iter().filter(|(_, one)| one.events.is_closed());
        let (id, _) = left.min_by_key(|(_, one)| one.stream)?;
        let id = id.clone();
        self.pending.remove(&id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(input: Option<mpsc::Sender<Line>>) -> Session {
        Session {
            program: Arc::new(Program { command: Vec::new(), without: Vec::new() }),
            hello: json!({}),
            state: Mutex::new(State { input, ..State::default() }),
            inward: Arc::new(Semaphore::new(ROOM)),
            outward: Arc::new(Semaphore::new(ROOM)),
            ended: CancellationToken::new(),
        }
    }

    fn message(value: &Value) -> Message {
        Message::of(value).expect("a message")
    }

    fn request(id: u64) -> Message {
        message(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {} }))
    }

    fn answer(id: u64, text: &str) -> Message {
        message(&json!({ "jsonrpc": "2.0", "id": id, "result": text }))
    }

    #[tokio::test]
    async fn what_waits_is_bounded_whoever_does_not_read() {
        let (input, mut lines) = mpsc::channel(64);
        let session = session(Some(input));
        let long = "x".repeat(super::super::MAX_MESSAGE - 100);
        let say = |text: &str| {
            session.tell(message(
                &json!({ "jsonrpc": "2.0", "method": "notifications/x", "params": { "a": text } }),
            ))
        };
        assert_eq!((say(&long), say(&long), say(&long)), (Ok(()), Ok(()), Err(Refused::TooMany)));
        drop(lines.recv().await);
        assert_eq!(say(&long), Ok(()), "there is room again");
        while lines.try_recv().is_ok() {}

        let mut heard = Vec::new();
        for id in [1, 2, 3] {
            heard.push(session.ask(request(id)).expect("asked"));
        }
        session.deliver(answer(1, &long)).await;
        session.deliver(answer(2, &long)).await;
        {
            let more = session.deliver(answer(3, &long));
            tokio::pin!(more);
            assert!(futures_util::poll!(&mut more).is_pending(), "the process is held up");
            drop(heard[0].events.recv().await);
            more.await;
        }
        let kept: usize = session.state().kept.iter().map(|(_, text)| text.len()).sum();
        assert!(kept <= KEPT, "{kept}");
        drop(heard);
        for _ in 0..3 {
            let news = json!({ "jsonrpc": "2.0", "method": "notifications/x", "params": { "a": "x".repeat(UNHEARD / 2) } });
            session.deliver(message(&news)).await;
        }
        assert_eq!(session.state().unheard.len(), 1);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_given_up_when_there_is_too_much_of_it() {
        let (input, mut lines) = mpsc::channel(2 * MAX_PENDING);
        let session = session(Some(input));
        let mut heard: Vec<_> = (0..256).map(|id| session.ask(request(id)).expect("asked")).collect();
        assert_eq!(session.ask(request(256)).err(), Some(Refused::TooMany));
        assert_eq!(session.ask(request(7)).err(), Some(Refused::SameId));
        let used = session.used();
        drop(heard.drain(3..5));
        session.ask(request(256)).expect("the place of one that was left");
        for id in (0..256_u64).chain([3, 256]) {
            let line = lines.recv().await.expect("a line").text;
            assert!(line.contains(&format!(":{id},")) || line.contains(&format!(":{id}}}")), "{line}");
        }
        assert!(used <= session.used());
        drop(heard);
        assert_eq!(session.used(), session.used(), "nobody uses it");
    }

    #[tokio::test]
    async fn an_answer_is_there_for_who_comes_back() {
        let (input, _lines) = mpsc::channel(64);
        let session = session(Some(input));
        let one = session.ask(request(1)).expect("asked");
        let other = session.ask(request(2)).expect("asked");
        drop(one.events);
        session.deliver(answer(1, "done")).await;
        let mut again = session.resume(one.stream).expect("kept");
        let event = again.events.recv().await.expect("the answer");
        assert!(event.last && String::from_utf8_lossy(&event.text).contains("done"));
        assert!(again.events.recv().await.is_none());
        // The other one is still under way.
        drop(other.events);
        let mut again = session.resume(other.stream).expect("under way");
        session.deliver(answer(2, "late")).await;
        assert!(again.events.recv().await.expect("the answer").last);
        assert!(session.resume(7).is_none());
        // What was cancelled has no answer.
        let mut ends = session.ask(request(3)).expect("asked");
        let cancelled =
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 } });
        session.tell(message(&cancelled)).expect("told");
        assert!(ends.events.recv().await.is_none());
    }

    #[tokio::test]
    async fn nobody_listens_to_a_session_that_has_ended() {
        let session = session(None);
        session.ended.cancel();
        assert!(session.listen().recv().await.is_none());
    }
}
