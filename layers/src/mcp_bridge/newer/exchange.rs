//! One request of a new client in a session with an old server, which may be answered in several parts: each question
//! of the server ends the client's request, and the repetition goes on where it stood.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::memory::Key;
use super::session::Session;
use super::source::{Came, Source};
use super::translate::{self, About};
use crate::mcp_bridge::Caller;
use crate::mcp_bridge::protocol::{code, may_ask, meta};
use crate::mcp_bridge::rpc::{Failure, Message, Notification, Object, Outcome, Request, error};
use crate::mcp_bridge::slots::Slot;
use crate::mcp_bridge::upstream::{Piece, Stop, unusable};

/// Questions that a server may ask at once.
const QUESTIONS: usize = 16;

/// After a question, how long further ones are waited for that the server asks at the same time.
const MORE: Duration = Duration::from_millis(30);

/// How long a server may let a client wait before it goes on with a stream.
const MAX_RETRY: Duration = Duration::from_secs(30);
const DEFAULT_RETRY: Duration = Duration::from_secs(1);

/// How often one answer may be gone on with.
const RESUMED: u32 = 1000;

pub(super) struct Exchange {
    session: Session,
    key: Option<Key>,
    /// As the client made it.
    request: Request,
    /// By which the client knows its progress; a repetition may have another.
    progress_token: Option<Value>,
    about: About,
    /// The id in the session.
    id: Value,
    answer: Source,
    last_event: Option<String>,
    retry: Duration,
    resumed: u32,
    /// The server's questions by the names that the client has for them, with the ids that the server has.
    asked: BTreeMap<String, (Value, Value)>,
    more_until: Instant,
    names: u32,
    /// How often the server has asked.
    pub(super) round: u32,
    /// The server cannot have run it yet, and it was not repeated before.
    repeatable: bool,
    _slot: Slot,
}

/// What happens next.
#[derive(Debug)]
pub(super) enum Step {
    /// The client is to be told this.
    Note(Value),
    /// The server wants to know something first.
    Asked,
    Done(Outcome),
}

impl Exchange {
    pub(super) async fn begin(
        caller: &Caller,
        request: Request,
        about: About,
        slot: Slot,
    ) -> Result<Self, Stop> {
        let (session, key) = caller.shared.newer.lease(caller, &about).await?;
        let mut exchange = Self {
            session,
            key,
            progress_token: token_of(&request),
            request,
            about,
            id: Value::Null,
            answer: Source::Nothing,
            last_event: None,
            retry: DEFAULT_RETRY,
            resumed: 0,
            asked: BTreeMap::new(),
            more_until: Instant::now(),
            names: 0,
            round: 0,
            repeatable: true,
            _slot: slot,
        };
        exchange.send().await;
        Ok(exchange)
    }

    async fn send(&mut self) {
        // Questions and log messages may come there, and do with some servers.
        if self.about.can_be_asked() || self.about.level.is_some() {
            self.session.stand().await;
        }
        (self.id, self.answer) = self.session.send(&self.request);
    }

    pub(super) async fn next(&mut self, caller: &Caller) -> Result<Step, Stop> {
        loop {
            let asked = !self.asked.is_empty();
            let more_until = self.more_until;
            let more = async {
                if asked {
                    sleep_until(more_until).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let message = tokio::select! {
                biased;
                // First, because what is said there belongs before the answer.
                came = self.session.standing.next() => match came {
                    Ok(Came::Piece(Piece { message: Some(message), .. })) => Some(message),
                    Ok(Came::Piece(_)) => None,
                    // There is none, or it is over: what remains is the answer.
                    Ok(Came::Message(_) | Came::Refused(_)) => {
                        self.session.is_silent();
                        None
                    }
                    Ok(Came::End) | Err(_) => {
                        self.session.standing = Source::Nothing;
                        None
                    }
                },
                came = self.answer.next() => self.came(caller, came?).await?,
                () = more => return Ok(Step::Asked),
            };
            if let Some(message) = message
                && let Some(step) = self.step(message).await?
            {
                return Ok(step);
            }
        }
    }

    async fn came(&mut self, caller: &Caller, came: Came) -> Result<Option<Message>, Stop> {
        match came {
            Came::Message(message) => Ok(Some(message)),
            Came::Piece(piece) => {
                self.repeatable = false;
                if piece.id.is_some() {
                    self.last_event = piece.id;
                }
                if let Some(retry) = piece.retry {
                    self.retry = Duration::from_millis(retry).min(MAX_RETRY);
                }
                Ok(piece.message)
            }
            // Nothing was run in a session that the server does not know.
            Came::Refused(reply) if self.repeatable && self.session.is_gone(reply.status) => {
                let slot = caller.shared.newer.slot(caller)?;
                self.session = Session::begin(caller, &self.about, slot).await?;
                self.repeatable = false;
                self.send().await;
                Ok(None)
            }
            Came::Refused(reply) => Err(reply.stop()),
            // Servers may end a stream and let the client come again for the rest (2025-11-25, transports).
            Came::End => {
                self.repeatable = false;
                let last = self.last_event.take().filter(|_| self.resumed < RESUMED);
                let rest = last.as_deref().and_then(|last| self.session.resume(last));
                self.answer =
                    rest.ok_or_else(|| unusable("the server ended its stream without an answer"))?;
                self.last_event = last;
                self.resumed += 1;
                sleep(self.retry).await;
                Ok(None)
            }
        }
    }

    async fn step(&mut self, message: Message) -> Result<Option<Step>, Stop> {
        match message {
            Message::Answer(answer) if answer.id == self.id => {
                self.session.answered();
                Ok(Some(Step::Done(answer.outcome)))
            }
            Message::Answer(answer) if answer.id.is_null() => match answer.outcome {
                // Not about the request but about what it came in, which is of no use for another one.
                Err(error) => {
                    self.key = None;
                    Ok(Some(Step::Done(Err(error))))
                }
                Ok(_) => Ok(None),
            },
            Message::Answer(_) => Ok(None),
            Message::Notification(note) => Ok(self.note(note).map(Step::Note)),
            Message::Request(asked) => {
                self.take(asked).await?;
                Ok(None)
            }
        }
    }

    fn note(&self, mut note: Notification) -> Option<Value> {
        if note.method == "notifications/progress" {
            let ours = token_of(&self.request);
            // What comes on the standing stream may be of another request.
            ours.filter(|ours| note.params.get("progressToken") == Some(ours))?;
            note.params.insert("progressToken".into(), self.progress_token.clone()?);
        }
        translate::notification(&note, self.about.level.as_deref())
    }

    /// Takes note of a question, or answers it where the client can't.
    async fn take(&mut self, asked: Request) -> Result<(), Stop> {
        if asked.method == "ping" || !may_ask(&self.request.method) || self.asked.len() >= QUESTIONS {
            return self.session.answer_here(&asked).await;
        }
        match translate::question(&asked, &self.about) {
            Ok(question) => {
                self.names += 1;
                self.asked.insert(self.names.to_string(), (asked.id, question));
                self.more_until = Instant::now() + MORE;
                Ok(())
            }
            Err(error) => self.session.answer(asked.id, Err(error)).await,
        }
    }

    /// The questions that have no answer, for the client.
    pub(super) fn questions(&self) -> Object {
        self.asked.iter().map(|(name, (_, question))| (name.clone(), question.clone())).collect()
    }

    /// Whether the answers to what was asked have the form of answers.
    pub(super) fn check(&self, responses: &Object) -> Result<(), Failure> {
        let wrong = self.asked.keys().find(|name| responses.get(*name).is_some_and(|one| !one.is_object()));
        wrong.map_or(Ok(()), |name| {
            Err(Failure::new(
                StatusCode::OK,
                "mcp_bad_input",
                code::INVALID_PARAMS,
                format!("the response to {name} is no object"),
            ))
        })
    }

    /// The client has answered, perhaps not all of it: what is left is asked again. Answers to what was not asked mean
    /// nothing.
    pub(super) async fn answered(
        &mut self,
        caller: &Caller,
        repetition: &Request,
        mut responses: Object,
    ) -> Result<(), Failure> {
        self.session.lend(caller);
        self.progress_token = token_of(repetition);
        let names: Vec<_> = self.asked.keys().filter(|name| responses.contains_key(*name)).cloned().collect();
        for name in names {
            if let (Some((id, _)), Some(Value::Object(result))) =
                (self.asked.remove(&name), responses.remove(&name))
            {
                self.session.answer(id, Ok(result)).await.map_err(Stop::failure)?;
            }
        }
        Ok(())
    }

    /// The server has asked once more.
    pub(super) fn next_round(&mut self, caller: &Caller) -> Result<u32, Failure> {
        self.repeatable = false;
        self.round += 1;
        if self.round > caller.settings.rounds {
            return Err(Failure::new(
                StatusCode::BAD_GATEWAY,
                "mcp_too_many_rounds",
                code::INTERNAL,
                "the server has asked more often than the gateway carries",
            ));
        }
        Ok(self.round)
    }

    /// The answer to the client, after which the session is free for another request.
    pub(super) fn finish(self, caller: &Caller, outcome: Outcome) -> Finished {
        let Self { session, key, request, about, .. } = self;
        let finished = match outcome {
            Ok(result) => {
                if request.method == "tools/list" {
                    caller.shared.tools.learn(&caller.settings.upstream, &result);
                }
                let server = session.initialized.get("serverInfo");
                Finished::Answer(StatusCode::OK, Ok(translate::complete(&request.method, result, server)))
            }
            Err(error) => match translate::links(&error, &about) {
                Some(links) if may_ask(&request.method) => Finished::Links(links),
                _ => {
                    let (status, error) = translate::failed(error);
                    Finished::Answer(status, Err(error))
                }
            },
        };
        caller.shared.newer.give_back(key, session, caller.settings.idle);
        finished
    }
}

fn token_of(request: &Request) -> Option<Value> {
    request.meta().and_then(|about| about.get(meta::PROGRESS_TOKEN)).cloned()
}

/// How an exchange ends.
#[derive(Debug)]
pub(super) enum Finished {
    Answer(StatusCode, Outcome),
    /// These have to be opened, and then the request is made anew: the server has not run it.
    Links(Vec<Value>),
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("round", &self.round).finish_non_exhaustive()
    }
}

/// The exchange that a client wants to go on with is not here.
pub(super) fn gone() -> Failure {
    Failure {
        status: StatusCode::OK,
        word: "mcp_exchange_gone",
        error: error(
            code::INVALID_PARAMS,
            "what this requestState goes on with has ended, was answered before or belongs to another request; \
             make the request anew without requestState and inputResponses",
        ),
    }
}
