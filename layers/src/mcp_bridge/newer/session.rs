//! A session with an old server, for one request at a time.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::source::Source;
use super::translate::{self, About};
use crate::mcp_bridge::Caller;
use crate::mcp_bridge::protocol::{code, header};
use crate::mcp_bridge::rpc::{Answer, Message, Object, Outcome, Request, error};
use crate::mcp_bridge::slots::Slot;
use crate::mcp_bridge::upstream::{Content, Reply, Stop, Upstream, next_piece, unusable};

/// How long a server gets to open its standing stream before requests are sent without waiting for it: what it says
/// there is part of their answers, but some servers send no head before they have something to say.
const STANDING: Duration = Duration::from_secs(1);

/// How long the end of a session may take.
const ENDING: Duration = Duration::from_secs(5);

pub(super) struct Session {
    upstream: Upstream,
    /// None where the server gives none.
    id: Option<HeaderValue>,
    pub(super) version: &'static str,
    /// What the server has said of itself.
    pub(super) initialized: Object,
    /// What the server says that belongs to no request.
    pub(super) standing: Source,
    /// It has no such stream, and need not be asked again.
    silent: bool,
    next_id: u64,
    /// The request that has no answer yet.
    under_way: Option<u64>,
    slot: Slot,
}

impl Session {
    pub(super) async fn begin(caller: &Caller, about: &About, slot: Slot) -> Result<Self, Stop> {
        let upstream = caller.upstream.clone();
        let initialize = translate::initialize(about);
        let reply = upstream.post(&initialize.to_value(), version_header(None)).await?;
        let id = reply.headers.get(header::SESSION).cloned();
        // From here on there is something to end, whatever comes of it.
        let mut session = Self {
            upstream,
            id,
            version: "",
            initialized: Object::new(),
            standing: Source::Nothing,
            silent: false,
            next_id: 1,
            under_way: None,
            slot,
        };
        match outcome(reply).await {
            Ok(Ok(initialized)) => session.initialized = initialized,
            Ok(Err(error)) => {
                caller.shared.eras.doubt(&caller.settings);
                let refused = unusable("the server does not begin a session");
                return Err(refused.with_data(json!({ "error": error })).into());
            }
            Err(stop) => {
                caller.shared.eras.doubt(&caller.settings);
                return Err(stop);
            }
        }
        session.version = translate::chosen(&session.initialized)
            .ok_or_else(|| unusable("the server speaks a revision that the gateway does not know"))?;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        session.accepted(&initialized).await?;
        if let Some(level) = &about.level
            && session.is_able("logging")
        {
            let params = [("level".to_owned(), Value::from(level.as_str()))].into_iter().collect();
            // A server that does not know the level says what it likes, and the bridge leaves out what is too much.
            let _unknown = session.ask("logging/setLevel", params).await?;
        }
        Ok(session)
    }

    /// Whether the server has said that it has this.
    pub(super) fn is_able(&self, what: &str) -> bool {
        self.initialized.get("capabilities").is_some_and(|able| able.get(what).is_some())
    }

    /// Whether it counts as one of these.
    pub(super) fn is_of(&self, bucket: &str) -> bool {
        self.slot.by() == bucket
    }

    /// Whom the next requests are made for; a token may have been renewed.
    pub(super) fn lend(&mut self, caller: &Caller) {
        self.upstream = caller.upstream.clone();
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = version_header(Some(self.version).filter(|version| !version.is_empty()));
        headers.extend(self.id.clone().map(|id| (header::SESSION, id)));
        headers
    }

    /// Opens the standing stream where there is none.
    pub(super) async fn stand(&mut self) {
        if !self.silent && matches!(self.standing, Source::Nothing) {
            let (upstream, headers) = (self.upstream.clone(), self.headers());
            self.standing = Source::opening(async move { upstream.get(headers).await });
            let _later = timeout(STANDING, self.standing.opened()).await;
        }
    }

    /// The server has no standing stream.
    pub(super) fn is_silent(&mut self) {
        self.silent = true;
        self.standing = Source::Nothing;
    }

    /// Sends a request, and notes that it is under way.
    pub(super) fn send(&mut self, modern: &Request) -> (Value, Source) {
        let id = self.next_id;
        self.next_id += 1;
        self.under_way = Some(id);
        let message = translate::request(modern, id).to_value();
        let (upstream, headers) = (self.upstream.clone(), self.headers());
        (id.into(), Source::opening(async move { upstream.post(&message, headers).await }))
    }

    /// The rest of a stream that has ended after this event.
    pub(super) fn resume(&self, last: &str) -> Option<Source> {
        let (upstream, mut headers) = (self.upstream.clone(), self.headers());
        headers.insert(header::LAST_EVENT_ID, HeaderValue::from_str(last).ok()?);
        Some(Source::opening(async move { upstream.get(headers).await }))
    }

    /// The request is answered.
    pub(super) fn answered(&mut self) {
        self.under_way = None;
    }

    /// A request of the bridge itself.
    pub(super) async fn ask(&mut self, method: &str, params: Object) -> Result<Outcome, Stop> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Request { id: id.into(), method: method.to_owned(), params };
        outcome(self.upstream.post(&request.to_value(), self.headers()).await?).await
    }

    /// Answers a question of the server.
    pub(super) async fn answer(&mut self, id: Value, outcome: Outcome) -> Result<(), Stop> {
        self.accepted(&Answer { id, outcome }.to_value()).await
    }

    /// Answers a question that is not carried to the client.
    pub(super) async fn answer_here(&mut self, asked: &Request) -> Result<(), Stop> {
        let outcome = match asked.method.as_str() {
            "ping" => Ok(Object::new()),
            method => {
                Err(error(code::METHOD_NOT_FOUND, format!("the client can't be asked for {method} now")))
            }
        };
        self.answer(asked.id.clone(), outcome).await
    }

    async fn accepted(&mut self, message: &Value) -> Result<(), Stop> {
        let reply = self.upstream.post(message, self.headers()).await?;
        if reply.status.is_success() { Ok(()) } else { Err(reply.stop()) }
    }

    /// The server does not know the session any more: there is nothing to end.
    pub(super) fn is_gone(&mut self, status: StatusCode) -> bool {
        let gone = status == StatusCode::NOT_FOUND && self.id.is_some();
        if gone {
            self.id = None;
            self.under_way = None;
        }
        gone
    }
}

fn version_header(version: Option<&str>) -> HeaderMap {
    let value = version.and_then(|version| HeaderValue::from_str(version).ok());
    value.map(|value| (header::VERSION, value)).into_iter().collect()
}

/// The answer in a reply.
async fn outcome(reply: Reply) -> Result<Outcome, Stop> {
    match reply.content {
        Content::Message(Message::Answer(answer)) => Ok(answer.outcome),
        Content::Events(mut events) => {
            while let Some(piece) = next_piece(&mut events).await? {
                if let Some(Message::Answer(answer)) = piece.message {
                    return Ok(answer.outcome);
                }
            }
            Err(unusable("the server ended its stream without an answer").into())
        }
        Content::Message(_) | Content::Other(_) => Err(reply.stop()),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.id.is_none() && self.under_way.is_none() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (upstream, headers, id) = (self.upstream.clone(), self.headers(), self.id.is_some());
        let under_way = self.under_way;
        // One task for each session, which were counted, and for a short time.
        runtime.spawn(timeout(ENDING, async move {
            if let Some(request) = under_way {
                let cancelled = json!({
                    "jsonrpc": "2.0", "method": "notifications/cancelled",
                    "params": { "requestId": request, "reason": "the client has gone" },
                });
                let _told = upstream.post(&cancelled, headers.clone()).await;
            }
            if id {
                let _ended = upstream.delete(headers).await;
            }
        }));
    }
}

impl fmt::Debug for Session {
    // The id is what a login is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("version", &self.version).finish_non_exhaustive()
    }
}
