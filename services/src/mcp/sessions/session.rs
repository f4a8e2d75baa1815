//! A session in a node's memory: a handler, the requests that are under way with it, and the client's streams.
//!
//! A session can be at several nodes at once, each with a handler of its own. What one of them sends finds the client,
//! and what the client says finds the one that waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CancelledNotification, CancelledNotificationParam, ClientJsonRpcMessage, ClientNotification,
    ClientRequest, ErrorData, GetExtensions, GetMeta, InitializeRequestParams, JsonRpcNotification,
    JsonRpcRequest, NumberOrString, ProgressToken, RequestId, ServerJsonRpcMessage, ServerNotification,
    ServerRequest, ServerResult,
};
use rmcp::service::OriginatingRequestId;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::answer::{Answer, Follower};
use super::events::Events;
use super::id::{AnswerName, AskedId, EventId, NodeName, SessionKey, short};
use super::journal::{Found, STANDING, Written};
use super::line::{Inbox, Line};
use super::message::{lost, refusal};
use super::notice::What;
use super::owner::Owner;
use super::shared::Shared;
use super::shelf::{self, Kept};
use super::standing::Standing;
use super::{Error, MAX_ABOUT};
use crate::random;
use crate::store;

/// The first revision in which a stream begins with an id to come back with. Earlier clients stumble over an event
/// without a message.
const PRIMED_SINCE: &str = "2025-11-25";

/// How long a handler may take for the greeting.
const GREETING: Duration = Duration::from_secs(60);

/// Messages of a client that wait for its handler.
const WAITING: usize = 32;

/// A message that is larger is not passed on to another node.
const MAX_PASSED_ON: usize = 512 * 1024;

/// How long a message waits for the node that it is passed on to.
const PASSING: Duration = Duration::from_secs(60);

/// A session at this node.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    pub(super) owner: Owner,
    /// Which of the session's lives at this node it is.
    life: u64,
    shared: Arc<Shared>,
    /// What the client and the handler have agreed on, for a new session.
    greeted: OnceLock<(InitializeRequestParams, String)>,
    /// What stands in the store.
    kept: OnceLock<Kept>,
    /// Whether it was made here, in this life.
    new: bool,
    inbox: Mutex<Option<Inbox>>,
    routes: Mutex<Routes>,
    standing: Standing,
    written: Written,
    ready: AtomicBool,
    /// Is the handler gone?
    orphaned: AtomicBool,
    /// By [`Shared::clock`].
    seen: AtomicU64,
    renewed: AtomicU64,
    ends: Instant,
}

/// Where messages belong.
#[derive(Debug, Default)]
struct Routes {
    greeting: Option<oneshot::Sender<ServerJsonRpcMessage>>,
    answers: HashMap<RequestId, Arc<Answer>>,
    /// The requests of the handler that go with a client's request, by the handler's number.
    asked: HashMap<i64, Arc<Answer>>,
    /// Streams of other nodes.
    followers: HashMap<String, Arc<Follower>>,
}

impl Session {
    /// A session and its handler's end of the line; `kept` is what stands in the store of one that comes back.
    pub(super) fn open(
        id: &SessionId,
        owner: Owner,
        kept: Option<Kept>,
        shared: Arc<Shared>,
    ) -> (Arc<Self>, Line) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let age = kept.as_ref().map_or(0, |kept| shelf::now().saturating_sub(kept.created));
        let life = shared.options.life.saturating_sub(Duration::from_secs(age));
        let now = shared.clock();
        // What the store knows of its last use may be old: then it is told of this one.
        let unused = kept.as_ref().map_or(0, |kept| shelf::now().saturating_sub(kept.seen));
        let session = Self {
            key: SessionKey::of(id),
            owner,
            life: shared.number(),
            new: kept.is_none(),
            greeted: OnceLock::new(),
            kept: kept.map_or_else(OnceLock::new, Into::into),
            inbox: Mutex::new(Some(sender)),
            routes: Mutex::default(),
            standing: Standing::default(),
            written: Written::default(),
            ready: AtomicBool::new(false),
            orphaned: AtomicBool::new(false),
            seen: AtomicU64::new(now),
            renewed: AtomicU64::new(now.saturating_sub(unused.saturating_mul(1000))),
            ends: Instant::now() + life,
            shared,
        };
        let session = Arc::new(session);
        (Arc::clone(&session), Line::new(session, receiver))
    }

    /// Tells the handler who comes, and waits for its answer.
    pub(super) async fn greet(&self, message: ClientJsonRpcMessage) -> Result<ServerJsonRpcMessage, Error> {
        let ClientJsonRpcMessage::Request(JsonRpcRequest {
            request: ClientRequest::InitializeRequest(hello),
            id,
            ..
        }) = &message
        else {
            return Err(Error::Unready);
        };
        let params = hello.params.clone();
        if serde_json::to_vec(&params).map_or(usize::MAX, |params| params.len()) > MAX_ABOUT {
            let error = ErrorData::invalid_params("what the client says of itself is too long", None);
            return Ok(ServerJsonRpcMessage::error(error, Some(id.clone())));
        }
        let (sender, answer) = oneshot::channel();
        self.routes().greeting = Some(sender);
        self.push(message).await?;
        let answer =
            timeout(GREETING, answer).await.map_err(|_| Error::Unready)?.map_err(|_| Error::Ended)?;
        if let ServerJsonRpcMessage::Response(response) = &answer
            && let ServerResult::InitializeResult(result) = &response.result
        {
            let _ = self.greeted.set((params, result.protocol_version.as_str().to_owned()));
        }
        Ok(answer)
    }

    /// What there is to keep of a new session; nothing when its handler did not take the client.
    pub(super) fn to_keep(&self) -> Option<Kept> {
        let (params, version) = self.greeted.get()?.clone();
        let now = shelf::now();
        Some(Kept { owner: self.owner.clone(), version, params, created: now, seen: now })
    }

    /// It stands in the store.
    pub(super) fn is_kept(&self, kept: Kept) {
        let _ = self.kept.set(kept);
        self.ready.store(true, Ordering::Release);
    }

    /// It goes on from what stands in the store.
    pub(super) fn is_back(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Whether requests may come.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.orphaned.load(Ordering::Acquire)
    }

    /// Whether it is as old as a session gets.
    pub(super) fn is_old(&self) -> bool {
        Instant::now() >= self.ends
    }

    /// Whether its time is over.
    pub(super) fn is_over(&self) -> bool {
        self.is_old() || !self.is_busy() && self.unused_for() >= self.shared.options.idle
    }

    /// Takes note that it is used.
    pub(super) fn touch(&self) {
        self.seen.store(self.shared.clock(), Ordering::Relaxed);
    }

    /// How long ago it was used.
    pub(super) fn unused_for(&self) -> Duration {
        self.shared.since(self.seen.load(Ordering::Relaxed))
    }

    /// Whether anything goes on here.
    pub(super) fn is_busy(&self) -> bool {
        let routes = self.routes();
        let busy = !routes.answers.is_empty() || !routes.followers.is_empty() || routes.greeting.is_some();
        drop(routes);
        busy || self.standing.is_open()
    }

    /// What to tell the store, if it is time to: that it is used, or still has a stream open.
    pub(super) fn renewal(&self) -> Option<Kept> {
        let kept = self.kept.get()?;
        let (seen, renewed) = (self.seen.load(Ordering::Relaxed), self.renewed.load(Ordering::Relaxed));
        let (used, since) = (seen > renewed, self.shared.since(renewed));
        let options = &self.shared.options;
        let due = used && since >= options.renew || since >= options.idle / 4 && self.is_busy();
        if !due {
            return None;
        }
        self.renewed.store(self.shared.clock(), Ordering::Relaxed);
        let unused = if self.is_busy() { Duration::ZERO } else { self.unused_for() };
        Some(Kept { seen: shelf::now().saturating_sub(unused.as_secs()), ..kept.clone() })
    }

    /// Its handler is gone.
    pub(super) fn orphan(&self) {
        self.orphaned.store(true, Ordering::Release);
        self.close();
    }

    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Acquire)
    }

    /// Ends all that goes on at this node.
    pub(super) fn close(&self) {
        self.ready.store(false, Ordering::Release);
        drop(self.inbox().take());
        let Routes { greeting, answers, asked, followers } = std::mem::take(&mut *self.routes());
        for answer in answers.into_values() {
            answer.close();
        }
        drop((greeting, asked, followers));
        self.standing.close();
    }

    /// Forgets the events that this node has kept.
    pub(super) async fn forget(&self) -> store::Result<()> {
        self.shared.journal.forget(&self.written).await
    }

    // === what a client sends

    /// A request of the client, and the stream that will answer it.
    pub(super) async fn ask(&self, message: ClientJsonRpcMessage) -> Result<Events, Error> {
        let ClientJsonRpcMessage::Request(request) = &message else { return Err(Error::Unready) };
        let (ask, token) = (request.id.clone(), request.request.get_meta().get_progress_token());
        let name = AnswerName { node: self.node().clone(), number: self.number(), ask: short(&ask) };
        let (open, events) = Events::open([]);
        let answer = Arc::new(Answer::new(name, ask.clone(), token, open));
        let refused = {
            let mut routes = self.routes();
            if routes.answers.contains_key(&ask) {
                Some("a request with this id is under way")
            } else if routes.answers.len() >= self.shared.options.requests {
                Some("too many requests of this session are under way: wait for one of them")
            } else {
                routes.answers.insert(ask.clone(), Arc::clone(&answer));
                None
            }
        };
        if let Some(told) = refused {
            return Ok(Events::only([refusal(Some(ask), ErrorData::invalid_request(told, None))]));
        }
        if let Err(error) = self.push(message).await {
            self.routes().answers.remove(&ask);
            return Err(error);
        }
        let options = &self.shared.options;
        Ok(if self.primes() { events.primed_after(options.grace, answer, options.retry) } else { events })
    }

    /// Anything else that the client says. What another node waits for is passed on to it.
    pub(super) async fn hear(&self, message: ClientJsonRpcMessage) -> Result<(), Error> {
        let to = match &message {
            ClientJsonRpcMessage::Response(response) => self.waits(&response.id),
            ClientJsonRpcMessage::Error(error) => {
                error.id.as_ref().map_or(Waits::Nobody, |id| self.waits(id))
            }
            ClientJsonRpcMessage::Notification(JsonRpcNotification { notification, .. }) => {
                match notification {
                    ClientNotification::CancelledNotification(cancelled) => {
                        match &cancelled.params.request_id {
                            Some(id) if self.routes().answers.contains_key(id) => Waits::Here,
                            // Nothing longer is passed on: it would cost others more than whoever makes it up.
                            Some(id) if short(id).is_some() => Waits::Somebody(id.clone()),
                            Some(_) | None => Waits::Nobody,
                        }
                    }
                    ClientNotification::ProgressNotification(progress) => {
                        self.waits(&progress.params.progress_token.0)
                    }
                    _ => Waits::Here,
                }
            }
            ClientJsonRpcMessage::Request(_) => Waits::Nobody,
        };
        match to {
            Waits::Here => self.take(message).await,
            Waits::There(node) if self.shared.is_alive(&node).await? => {
                self.pass_on(Some(node), &message).await
            }
            Waits::Somebody(id) => {
                let about = CancelledNotificationParam::new(Some(id), None);
                let short = ClientNotification::CancelledNotification(CancelledNotification::new(about));
                self.pass_on(None, &ClientJsonRpcMessage::notification(short)).await
            }
            Waits::There(_) | Waits::Nobody => {
                debug!("a client's message that nobody waits for");
                Ok(())
            }
        }
    }

    /// Gives the handler what is for it.
    async fn take(&self, mut message: ClientJsonRpcMessage) -> Result<(), Error> {
        match &mut message {
            ClientJsonRpcMessage::Response(response) => self.answered(&mut response.id),
            ClientJsonRpcMessage::Error(error) => {
                if let Some(id) = &mut error.id {
                    self.answered(id);
                }
            }
            ClientJsonRpcMessage::Notification(JsonRpcNotification { notification, .. }) => {
                match notification {
                    ClientNotification::CancelledNotification(cancelled) => {
                        let id = cancelled.params.request_id.as_ref();
                        // The handler drops its answer, and the client wants none.
                        if let Some(answer) = id.and_then(|id| self.finish(id)) {
                            answer.close();
                        }
                    }
                    ClientNotification::ProgressNotification(progress) => {
                        let token = &mut progress.params.progress_token.0;
                        if let Some(asked) = AskedId::parse(token) {
                            *token = NumberOrString::Number(asked.number);
                        }
                    }
                    _ => {}
                }
            }
            ClientJsonRpcMessage::Request(_) => {}
        }
        self.push(message).await
    }

    /// What another node has passed on.
    pub(super) async fn passed_on(&self, message: ClientJsonRpcMessage) {
        let for_us = match &message {
            ClientJsonRpcMessage::Response(response) => matches!(self.waits(&response.id), Waits::Here),
            ClientJsonRpcMessage::Error(error) => {
                error.id.as_ref().is_some_and(|id| matches!(self.waits(id), Waits::Here))
            }
            ClientJsonRpcMessage::Notification(JsonRpcNotification { notification, .. }) => {
                match notification {
                    ClientNotification::CancelledNotification(cancelled) => {
                        let id = cancelled.params.request_id.as_ref();
                        id.is_some_and(|id| self.routes().answers.contains_key(id))
                    }
                    ClientNotification::ProgressNotification(progress) => {
                        matches!(self.waits(&progress.params.progress_token.0), Waits::Here)
                    }
                    _ => false,
                }
            }
            ClientJsonRpcMessage::Request(_) => false,
        };
        if for_us && self.take(message).await.is_err() {
            debug!("a message that was passed on came too late");
        }
    }

    /// Which node waits for the answer to a request of the server.
    fn waits(&self, id: &RequestId) -> Waits {
        match AskedId::parse(id) {
            Some(asked) if asked.node != *self.node() => Waits::There(asked.node),
            Some(asked) if asked.life == self.life => Waits::Here,
            Some(_) | None => Waits::Nobody,
        }
    }

    /// The id as the handler knows it, whose request is answered.
    fn answered(&self, id: &mut RequestId) {
        if let Some(asked) = AskedId::parse(id) {
            self.routes().asked.remove(&asked.number);
            *id = NumberOrString::Number(asked.number);
        }
    }

    async fn pass_on(&self, to: Option<NodeName>, message: &ClientJsonRpcMessage) -> Result<(), Error> {
        let json = serde_json::to_vec(message).map_err(|_| Error::Unready)?;
        if json.len() > MAX_PASSED_ON {
            return Err(Error::TooLarge);
        }
        let name = random::name("passed.");
        self.shared.journal.leave(&self.written, &name, json, PASSING).await?;
        let to = to.map(|node| node.as_str().to_owned());
        Ok(self.shared.board.tell(&self.key, What::Message { to, name }).await?)
    }

    async fn push(&self, message: ClientJsonRpcMessage) -> Result<(), Error> {
        let inbox = self.inbox().clone().ok_or(Error::Ended)?;
        inbox.send(Box::new(message)).await.map_err(|_| Error::Ended)
    }

    // === what the handler sends

    /// A message of the handler, on the stream where it belongs.
    pub(super) async fn send(&self, mut message: ServerJsonRpcMessage) {
        if self.inbox().is_none() {
            // It has ended, and what stands in the store of it was removed.
            return;
        }
        let answer = match &mut message {
            ServerJsonRpcMessage::Response(response) => {
                return self.reply(response.id.clone(), message).await;
            }
            ServerJsonRpcMessage::Error(error) => {
                let Some(id) = error.id.clone() else { return };
                return self.reply(id, message).await;
            }
            ServerJsonRpcMessage::Request(request) => self.asks(request),
            ServerJsonRpcMessage::Notification(JsonRpcNotification { notification, .. }) => {
                self.tells(notification)
            }
        };
        match answer {
            Some(answer) => answer.send(self, message, false).await,
            None => self.standing.send(self, message).await,
        }
    }

    async fn reply(&self, id: RequestId, message: ServerJsonRpcMessage) {
        let greeting = self.routes().greeting.take();
        if let Some(greeting) = greeting {
            let _ = greeting.send(message);
            return;
        }
        let answer = self.routes().answers.get(&id).cloned();
        let Some(answer) = answer else {
            debug!("an answer to a request that nobody waits for");
            return;
        };
        // It stays to be found until its last event stands in the store, so that who comes back meanwhile finds one of both.
        answer.send(self, message, true).await;
        self.finish(&id);
    }

    /// A request of the handler: it goes on the stream of the client's request that it serves (SEP-2260).
    fn asks(&self, request: &mut JsonRpcRequest<ServerRequest>) -> Option<Arc<Answer>> {
        let mut routes = self.routes();
        let origin = request.request.extensions().get::<OriginatingRequestId>();
        let answer = origin.and_then(|origin| routes.answers.get(&origin.0)).cloned();
        if let NumberOrString::Number(number) = request.id {
            if let Some(answer) = &answer {
                routes.asked.insert(number, Arc::clone(answer));
            }
            request.id = self.asked(number).to_request_id();
        }
        let token = request.request.get_meta().get_progress_token();
        if let Some(ProgressToken(NumberOrString::Number(number))) = token {
            let token = ProgressToken(self.asked(number).to_request_id());
            request.request.get_meta_mut().set_progress_token(token);
        }
        answer
    }

    /// A notification of the handler: progress goes with its request, and so does what is about a request of the server.
    fn tells(&self, notification: &mut ServerNotification) -> Option<Arc<Answer>> {
        let mut routes = self.routes();
        match notification {
            ServerNotification::ProgressNotification(progress) => {
                let token = &progress.params.progress_token;
                routes.answers.values().find(|answer| answer.token.as_ref() == Some(token)).cloned()
            }
            ServerNotification::CancelledNotification(cancelled) => {
                let Some(id @ NumberOrString::Number(_)) = &mut cancelled.params.request_id else {
                    return None;
                };
                let NumberOrString::Number(number) = *id else { return None };
                *id = self.asked(number).to_request_id();
                routes.asked.remove(&number)
            }
            _ => None,
        }
    }

    fn asked(&self, number: i64) -> AskedId {
        AskedId { node: self.node().clone(), life: self.life, number }
    }

    /// Takes a request off those that are under way.
    fn finish(&self, id: &RequestId) -> Option<Arc<Answer>> {
        let mut routes = self.routes();
        let answer = routes.answers.remove(id)?;
        routes.asked.retain(|_, of| !Arc::ptr_eq(of, &answer));
        Some(answer)
    }

    // === streams

    /// The stream that belongs to no request.
    pub(super) async fn listen(&self) -> Result<Events, Error> {
        Ok(self.standing.listen(self, None).await?)
    }

    /// Goes on with a stream behind an event.
    pub(super) async fn resume(&self, last: &str) -> Result<Events, Error> {
        match last.parse().map_err(|_| Error::UnknownEvent)? {
            last @ EventId::Standing { .. } => Ok(self.standing.listen(self, Some(&last)).await?),
            EventId::Answer(name, seen) => self.go_on(name, seen).await,
        }
    }

    async fn go_on(&self, name: AnswerName, seen: u64) -> Result<Events, Error> {
        let here = name.node == *self.node();
        if here {
            let running =
                self.routes().answers.values().find(|answer| answer.name.number == name.number).cloned();
            if let Some(answer) = running {
                return Ok(answer.resume(self, seen).await?);
            }
        }
        let stream = name.stream();
        let alive = !here && self.shared.is_alive(&name.node).await?;
        let (found, last) = self.repeated_with_numbers(&stream, seen).await?;
        let seen = found.last().map_or(seen, |(number, _)| *number);
        let found = found.into_iter().map(|(_, event)| event);
        if last || !alive {
            let missing = (!last).then(|| name.ask.clone().map(lost)).flatten();
            return Ok(Events::only(found.chain(missing)));
        }
        // The node that answers the request is told, and says at once that there is more: so nothing is missed that it
        // writes between the look above and then.
        let (open, events) = Events::open(found);
        let follow = What::Follow { to: name.node.as_str().to_owned(), stream: name.number };
        {
            let mut routes = self.routes();
            if routes.followers.len() >= self.shared.options.requests {
                return Err(Error::UnknownEvent);
            }
            routes.followers.insert(stream, Follower::new(name, open, seen));
        }
        self.shared.board.tell(&self.key, follow).await?;
        Ok(events)
    }

    /// A client has come back at another node for a stream of this one.
    pub(super) async fn followed(&self, number: u64) {
        let running = self.routes().answers.values().find(|answer| answer.name.number == number).cloned();
        let stream = AnswerName { node: self.node().clone(), number, ask: None }.stream();
        if let Some(answer) = running {
            answer.follow();
            self.tell(What::More { stream }).await;
        } else {
            self.tell(What::Over { stream }).await;
        }
    }

    /// There may be more in a stream of another node; nothing after that when it is `over`.
    pub(super) async fn look(&self, stream: &str, over: bool) {
        if stream == STANDING {
            self.shared.told(self.standing.look(self).await);
            return;
        }
        let follower = self.routes().followers.get(stream).cloned();
        if let Some(follower) = follower
            && self.shared.told(follower.look(self, over).await) == Some(true)
        {
            let mut routes = self.routes();
            if routes.followers.get(stream).is_some_and(|held| Arc::ptr_eq(held, &follower)) {
                routes.followers.remove(stream);
            }
        }
    }

    /// Looks for more everywhere: hints may have been missed.
    pub(super) async fn look_everywhere(&self) {
        let streams: Vec<String> = self.routes().followers.keys().cloned().collect();
        for stream in streams.iter().map(String::as_str).chain([STANDING]) {
            self.look(stream, false).await;
        }
    }

    /// The streams that this node follows, and the nodes that they are at.
    pub(super) fn follows(&self) -> Vec<(String, NodeName)> {
        let routes = self.routes();
        routes
            .followers
            .iter()
            .map(|(stream, follower)| (stream.clone(), follower.name.node.clone()))
            .collect()
    }

    /// A node says that it has the client's latest stream.
    pub(super) fn moved(&self, here: bool, turn: u64) {
        self.standing.moved(here, turn);
    }

    // === what streams need

    pub(super) fn node(&self) -> &NodeName {
        &self.shared.name
    }

    pub(super) fn number(&self) -> u64 {
        self.shared.number()
    }

    pub(super) fn retry(&self) -> Duration {
        self.shared.options.retry
    }

    /// Whether it was made here, and not brought back.
    pub(super) const fn is_new(&self) -> bool {
        self.new
    }

    /// Whether streams begin with an id to come back with.
    pub(super) fn primes(&self) -> bool {
        let version = self.kept.get().map(|kept| kept.version.as_str());
        version.is_some_and(|version| version >= PRIMED_SINCE)
    }

    pub(super) fn told<T>(&self, result: store::Result<T>) -> Option<T> {
        self.shared.told(result)
    }

    pub(super) async fn tell(&self, what: What) {
        self.shared.tell(&self.key, what).await;
    }

    /// Writes an event into the store. Its id, if the event can be asked for by it.
    pub(super) async fn keep(
        &self,
        stream: &str,
        id: String,
        number: u64,
        last: bool,
        message: &ServerJsonRpcMessage,
    ) -> Option<String> {
        let (stored, whole) = self.shared.stored(id, number, last, message)?;
        let written = self.shared.journal.write(&self.key, stream, &self.written, &stored).await;
        self.shared.told(written).filter(|()| whole).map(|()| stored.id)
    }

    /// The events of a stream behind one of them, and whether the last one is there.
    pub(super) async fn repeated(
        &self,
        stream: &str,
        seen: u64,
    ) -> store::Result<(Vec<ServerSseMessage>, bool)> {
        let (found, last) = self.repeated_with_numbers(stream, seen).await?;
        Ok((found.into_iter().map(|(_, event)| event).collect(), last))
    }

    /// The same, each with its number.
    pub(super) async fn repeated_with_numbers(
        &self,
        stream: &str,
        seen: u64,
    ) -> store::Result<(Vec<(u64, ServerSseMessage)>, bool)> {
        let found = self.shared.journal.read(&self.key, stream, None).await?;
        let last = found.iter().any(|found| found.event.last);
        let new = found.into_iter().filter(|found| found.event.number > seen);
        Ok((new.filter_map(|found| Some((found.event.number, found.event.event()?))).collect(), last))
    }

    /// The events that belong to no request.
    pub(super) async fn standing(&self, after: Option<store::RecordCursor>) -> store::Result<Vec<Found>> {
        self.shared.journal.read(&self.key, STANDING, after).await
    }

    /// The last of them, if there is one; `None` where the store can't be asked.
    pub(super) async fn last_standing(&self) -> Option<Option<Found>> {
        self.shared.told(self.shared.journal.last(&self.key, STANDING).await)
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Option<Inbox>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which node waits for a message.
enum Waits {
    Here,
    There(NodeName),
    /// Whichever node has this request.
    Somebody(RequestId),
    Nobody,
}
