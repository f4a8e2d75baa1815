//! What this process remembers of the sessions of old clients: requests under way, questions that wait for an answer,
//! and what a client has set for its session.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use smol_str::SmolStr;
use tokio::sync::{Notify, oneshot, watch};

use super::session::Session;
use crate::mcp_bridge::rpc::Outcome;

/// Resources that one session may be told of.
const SUBSCRIPTIONS: usize = 256;

/// The bytes of their URIs altogether.
const BYTES: usize = 64 * 1024;

/// One owner has at most this part of the places: who makes many sessions loses the own ones first.
const SHARE: usize = 16;

/// A session and the id of a message in it, as JSON.
type Place = (String, String);

pub(in super::super) struct Memory {
    limit: usize,
    sessions: Mutex<HashMap<String, Owned<Arc<Remembered>>>>,
    /// Sessions that their clients have ended, until they would be over anyway.
    ended: Mutex<HashMap<String, Owned<()>>>,
    questions: Mutex<HashMap<Place, oneshot::Sender<Outcome>>>,
    underway: Mutex<HashMap<Place, Arc<Notify>>>,
}

/// What is kept of a session, and whose it is.
struct Owned<T> {
    owner: SmolStr,
    expires: u64,
    what: T,
}

/// What a client has set for its session.
#[derive(Debug)]
pub(super) struct Remembered {
    set: Mutex<Set>,
    /// Counts changes of the subscriptions.
    changed: watch::Sender<u64>,
    /// Counts standing streams: the newest is the one.
    standing: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Set {
    level: Option<String>,
    resources: BTreeSet<String>,
}

impl Remembered {
    fn new() -> Self {
        Self { set: Mutex::default(), changed: watch::Sender::new(0), standing: watch::Sender::new(0) }
    }

    pub(super) fn level(&self) -> Option<String> {
        locked(&self.set).level.clone()
    }

    pub(super) fn set_level(&self, level: &str) {
        locked(&self.set).level = Some(level.to_owned());
    }

    pub(super) fn resources(&self) -> Vec<String> {
        locked(&self.set).resources.iter().cloned().collect()
    }

    /// Whether there was room for it.
    pub(super) fn subscribe(&self, uri: &str) -> bool {
        let mut set = locked(&self.set);
        if set.resources.contains(uri) {
            return true;
        }
        let bytes: usize = set.resources.iter().map(String::len).sum();
        if set.resources.len() >= SUBSCRIPTIONS || bytes + uri.len() > BYTES {
            return false;
        }
        set.resources.insert(uri.to_owned());
        self.changed.send_modify(|count| *count += 1);
        true
    }

    pub(super) fn unsubscribe(&self, uri: &str) {
        if locked(&self.set).resources.remove(uri) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A new standing stream; the receiver changes when another takes its place.
    pub(super) fn stand(&self) -> watch::Receiver<u64> {
        self.standing.send_modify(|count| *count += 1);
        self.standing.subscribe()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request under way; forgotten when this is dropped.
pub(super) struct Underway {
    memory: Arc<Memory>,
    place: Place,
    pub(super) cancelled: Arc<Notify>,
}

/// A question to a client; forgotten when this is dropped.
pub(super) struct Question {
    memory: Arc<Memory>,
    place: Place,
    pub(super) answer: oneshot::Receiver<Outcome>,
}

impl Memory {
    pub(in super::super) fn new(limit: usize) -> Self {
        Self {
            limit,
            sessions: Mutex::default(),
            ended: Mutex::default(),
            questions: Mutex::default(),
            underway: Mutex::default(),
        }
    }

    /// What is remembered of a session; a default where that is nothing.
    pub(super) fn recall(&self, nonce: &str) -> Option<Arc<Remembered>> {
        locked(&self.sessions).get(nonce).map(|kept| Arc::clone(&kept.what))
    }

    /// A place to remember things of a session. Where there is no room, that of sessions goes which are over, then that
    /// of the owner's others, then any.
    pub(super) fn remember(&self, session: &Session, owner: &SmolStr, now: u64) -> Arc<Remembered> {
        let mut sessions = locked(&self.sessions);
        if let Some(kept) = sessions.get(&session.nonce) {
            return Arc::clone(&kept.what);
        }
        make_room(&mut sessions, self.limit, owner, now);
        let what = Arc::new(Remembered::new());
        let kept = Owned { owner: owner.clone(), expires: session.expires, what: Arc::clone(&what) };
        sessions.insert(session.nonce.clone(), kept);
        what
    }

    /// Ends a session: its streams and requests with it.
    pub(super) fn end(&self, session: &Session, owner: &SmolStr, now: u64) {
        let Session { nonce, expires, .. } = session;
        if let Some(kept) = locked(&self.sessions).remove(nonce) {
            kept.what.standing.send_modify(|count| *count += 1);
        }
        locked(&self.underway)
            .iter()
            .filter(|((of, _), _)| of == nonce)
            .for_each(|(_, request)| request.notify_one());
        let mut ended = locked(&self.ended);
        make_room(&mut ended, self.limit, owner, now);
        ended.insert(nonce.clone(), Owned { owner: owner.clone(), expires: *expires, what: () });
    }

    pub(super) fn has_ended(&self, nonce: &str) -> bool {
        locked(&self.ended).contains_key(nonce)
    }

    /// Notes a request. None where one with this id is under way already.
    pub(super) fn begin(self: &Arc<Self>, nonce: &str, id: &Value) -> Option<Underway> {
        let place = (nonce.to_owned(), id.to_string());
        let cancelled = Arc::new(Notify::new());
        let mut underway = locked(&self.underway);
        if underway.contains_key(&place) {
            return None;
        }
        underway.insert(place.clone(), Arc::clone(&cancelled));
        Some(Underway { memory: Arc::clone(self), place, cancelled })
    }

    /// The client does not want an answer any more.
    pub(super) fn cancel(&self, nonce: &str, id: &Value) {
        if let Some(request) = locked(&self.underway).get(&(nonce.to_owned(), id.to_string())) {
            request.notify_one();
        }
    }

    /// Notes a question of this id to the client of a session.
    pub(super) fn ask(self: &Arc<Self>, nonce: &str, id: &str) -> Question {
        let place = (nonce.to_owned(), Value::from(id).to_string());
        let (sender, answer) = oneshot::channel();
        locked(&self.questions).insert(place.clone(), sender);
        Question { memory: Arc::clone(self), place, answer }
    }

    /// Whether anybody waited for this answer.
    pub(super) fn answer(&self, nonce: &str, id: &Value, outcome: Outcome) -> bool {
        let sender = locked(&self.questions).remove(&(nonce.to_owned(), id.to_string()));
        sender.is_some_and(|sender| sender.send(outcome).is_ok())
    }
}

fn make_room<T>(map: &mut HashMap<String, Owned<T>>, limit: usize, owner: &SmolStr, now: u64) {
    let own = || map.iter().filter(|(_, kept)| kept.owner == *owner);
    if own().count() >= (limit / SHARE).max(1)
        && let Some((oldest, _)) = own().min_by_key(|(_, kept)| kept.expires)
    {
        let oldest = oldest.clone();
        map.remove(&oldest);
    }
    if map.len() < limit {
        return;
    }
    map.retain(|_, kept| now < kept.expires);
    if map.len() >= limit {
        // An eighth at once, so that not every new session looks at all of them.
        let mut left = map.len() / 8 + 1;
        map.retain(|_, _| {
            let keep = left == 0;
            left = left.saturating_sub(1);
            keep
        });
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        locked(&self.memory.underway).remove(&self.place);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        locked(&self.memory.questions).remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use smol_str::format_smolstr;

    use super::*;
    use crate::mcp_bridge::rpc::Object;

    #[test]
    fn an_answer_finds_the_question_of_its_session() {
        let memory = Arc::new(Memory::new(8));
        let mut question = memory.ask("s", "1");
        assert!(!memory.answer("t", &json!("1"), Ok(Object::new())), "another session");
        assert!(!memory.answer("s", &json!(1), Ok(Object::new())), "another id");
        assert!(memory.answer("s", &json!("1"), Ok(Object::new())));
        assert!(question.answer.try_recv().is_ok());
        assert!(!memory.answer("s", &json!("1"), Ok(Object::new())), "once");
        drop(memory.ask("s", "2"));
        assert!(!memory.answer("s", &json!("2"), Ok(Object::new())), "nobody waits");
    }

    #[tokio::test]
    async fn a_request_is_cancelled_by_its_own_session() {
        let memory = Arc::new(Memory::new(8));
        let request = memory.begin("s", &json!(1)).expect("new");
        assert!(memory.begin("s", &json!(1)).is_none(), "ids are used once at a time");
        let _other = memory.begin("t", &json!(1)).expect("another session");
        memory.cancel("s", &json!("1"));
        memory.cancel("s", &json!(1));
        request.cancelled.notified().await;
        drop(request);
        assert!(memory.begin("s", &json!(1)).is_some());
    }

    fn session(nonce: &str) -> Session {
        Session { nonce: nonce.to_owned(), ..Session::new("2025-11-25", Object::new(), None, "alice", 100) }
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let memory = Memory::new(16);
        for number in 0..1000 {
            let owner = format_smolstr!("{number}");
            memory.remember(&session(&number.to_string()), &owner, 0).set_level("error");
            memory.end(&session(&format!("e{number}")), &owner, 0);
        }
        assert!(locked(&memory.sessions).len() <= 16);
        assert!(locked(&memory.ended).len() <= 16);
        assert!(memory.recall("999").is_some(), "the newest is there");
        assert!(memory.has_ended("e999"));

        let one = memory.remember(&session("one"), &"alice".into(), 0);
        for number in 0..SUBSCRIPTIONS {
            assert!(one.subscribe(&number.to_string()));
        }
        assert!(!one.subscribe("more"));
        assert!(one.subscribe("1"), "it is there already");
        one.unsubscribe("1");
        assert!(one.subscribe("more"));

        let long = memory.remember(&session("long"), &"bob".into(), 0);
        assert!(long.subscribe(&"x".repeat(BYTES)));
        assert!(!long.subscribe("y"));
    }

    #[test]
    fn who_makes_many_sessions_takes_nobody_elses_place() {
        let memory = Memory::new(64);
        let (alice, bob) = (SmolStr::new("alice"), SmolStr::new("bob"));
        memory.remember(&session("alice's"), &alice, 0).set_level("error");
        memory.end(&session("hers, before"), &alice, 0);
        for number in 0..1000 {
            memory.remember(&session(&number.to_string()), &bob, 0);
            memory.end(&session(&format!("e{number}")), &bob, 0);
        }
        assert_eq!(memory.recall("alice's").and_then(|kept| kept.level()).as_deref(), Some("error"));
        assert!(memory.has_ended("hers, before"));
    }

    #[test]
    fn a_newer_standing_stream_takes_the_place_of_an_older_one() {
        let memory = Memory::new(16);
        let remembered = memory.remember(&session("s"), &"alice".into(), 0);
        let first = remembered.stand();
        let second = remembered.stand();
        assert!(first.has_changed().expect("open"));
        assert!(!second.has_changed().expect("open"));
        memory.end(&session("s"), &"alice".into(), 0);
        assert!(second.has_changed().expect("open"));
    }
}
