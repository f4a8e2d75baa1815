//! One request of an old client: sent as often as the server has something to ask, which is asked of the client
//! on the stream that answers it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::memory::{Memory, Underway};
use super::session::Session;
use super::translate::{self, Outcome};
use crate::body::{BoxError, Response};
use crate::mcp_bridge::fresh::random_id;
use crate::mcp_bridge::headers::{self, Param};
use crate::mcp_bridge::protocol::code;
use crate::mcp_bridge::rpc::{Answer, Failure, Message, Object, Request, code_of, error, json_response};
use crate::mcp_bridge::slots::Slot;
use crate::mcp_bridge::stream::{Out, stream};
use crate::mcp_bridge::tools::params_of_tool;
use crate::mcp_bridge::upstream::{Content, Reply, Stop, next_piece, unusable};
use crate::mcp_bridge::{Caller, protocol, too_long};

/// Questions that a server may ask at once.
const QUESTIONS: usize = 16;

/// A server that only wants to be asked again is asked after this, longer each time.
const PAUSE: Duration = Duration::from_millis(200);

/// A request under way.
pub(super) struct Exchange {
    pub(super) caller: Caller,
    pub(super) session: Arc<Session>,
    pub(super) memory: Arc<Memory>,
    /// The client's own id.
    pub(super) id: Value,
    /// The request as it goes to the server.
    pub(super) request: Request,
    pub(super) underway: Underway,
    pub(super) _slot: Slot,
}

/// What an answer of the server comes to.
enum Turn {
    /// The client's answer.
    Done(Value),
    /// The server wants this first.
    Asked { asked: Object, state: Option<Value> },
}

impl Exchange {
    /// The response to the client: a message where the server has answered with one, else a stream.
    pub(super) async fn response(self) -> Result<Response, BoxError> {
        let cancelled = Arc::clone(&self.underway.cancelled);
        let limit = self.caller.settings.request_time;
        let first = tokio::select! {
            first = timeout(limit, self.first()) => first.unwrap_or_else(|_| Err(too_long().into())),
            () = cancelled.notified() => Err(Stop::Failure(given_up())),
        };
        let reply = match first {
            Ok(reply) => reply,
            Err(stop) => return stop.response(&self.id),
        };
        let turn = match reply.content {
            Content::Message(message) => match self.turn(message) {
                Some(Turn::Done(answer)) => return Ok(json_response(StatusCode::OK, &answer)),
                Some(turn) => Err(turn),
                None => return Ok(not_an_answer().response(&self.id)),
            },
            Content::Events(_) => Ok(reply),
            Content::Other(_) => return reply.stop().response(&self.id),
        };
        let keep_alive = self.caller.settings.keep_alive;
        Ok(stream(keep_alive, |out| async move {
            let answer = tokio::select! {
                answer = timeout(limit, self.go_on(turn, &out)) => answer.unwrap_or_else(|_| Err(too_long())),
                // The client has said that it does not want one.
                () = cancelled.notified() => return,
            };
            let answer = answer.unwrap_or_else(|failure| failure.answer(&self.id));
            out.send(&answer).await;
        }))
    }

    /// The first reply. A server that says that headers are missing has not run anything: it is asked what it wants
    /// in them, and then once more.
    async fn first(&self) -> Result<Reply, Stop> {
        let params = self.caller.shared.tools.params(&self.caller.settings.upstream, &self.request);
        let reply = self.send(&self.request, &params).await?;
        let Content::Message(Message::Answer(Answer { outcome: Err(error), .. })) = &reply.content else {
            return Ok(reply);
        };
        match code_of(error) {
            Some(code::HEADER_MISMATCH) if self.request.method == "tools/call" => {
                let params = params_of_tool(&self.caller, &self.request).await?;
                self.send(&self.request, &params).await
            }
            Some(code::INVALID_PARAMS | code::HEADER_MISMATCH | code::MISSING_CAPABILITY) => Ok(reply),
            _ => {
                // A server of this era has no other reason to refuse a request as such.
                if reply.status == StatusCode::BAD_REQUEST {
                    self.caller.shared.eras.doubt(&self.caller.settings);
                }
                Ok(reply)
            }
        }
    }

    async fn send(&self, request: &Request, params: &[Param]) -> Result<Reply, Stop> {
        let headers = headers::of_request(request, params);
        let reply = self.caller.upstream.post(&request.to_value(), headers).await?;
        if matches!(reply.content, Content::Other(_)) {
            if matches!(reply.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
                self.caller.shared.eras.doubt(&self.caller.settings);
            }
            return Err(reply.stop());
        }
        Ok(reply)
    }

    /// The rounds until there is an answer.
    async fn go_on(&self, first: Result<Reply, Turn>, out: &Out) -> Result<Value, Failure> {
        let mut turn = match first {
            Ok(reply) => self.listen(reply, out).await?,
            Err(turn) => turn,
        };
        for round in 1..=self.caller.settings.rounds {
            let (asked, state) = match turn {
                Turn::Done(answer) => return Ok(answer),
                Turn::Asked { asked, state } => (asked, state),
            };
            let responses = if asked.is_empty() {
                sleep(PAUSE * round).await;
                Object::new()
            } else {
                match self.ask(&asked, out).await? {
                    Ok(responses) => responses,
                    Err(error) => return Ok(self.failed(error)),
                }
            };
            let request = translate::retry(&self.request, round, responses, state.as_ref());
            let params = self.caller.shared.tools.params(&self.caller.settings.upstream, &request);
            let reply = self.send(&request, &params).await.map_err(Stop::failure)?;
            turn = self.listen(reply, out).await?;
        }
        match turn {
            Turn::Done(answer) => Ok(answer),
            Turn::Asked { .. } => Err(Failure::new(
                StatusCode::BAD_GATEWAY,
                "mcp_too_many_rounds",
                code::INTERNAL,
                "the server has asked more often than the gateway carries",
            )),
        }
    }

    /// Passes on what comes until the server has answered.
    async fn listen(&self, reply: Reply, out: &Out) -> Result<Turn, Failure> {
        let mut events = match reply.content {
            Content::Message(message) => return self.turn(message).ok_or_else(not_an_answer),
            Content::Events(events) => events,
            Content::Other(_) => return Err(reply.stop().failure()),
        };
        while let Some(piece) = next_piece(&mut events).await.map_err(Stop::failure)? {
            match piece.message {
                Some(Message::Notification(note)) => {
                    if let Some(note) = translate::notification(&note) {
                        out.send(&note).await;
                    }
                }
                Some(answer @ Message::Answer(_)) => {
                    return self.turn(answer).ok_or_else(not_an_answer);
                }
                // Requests are none of this revision.
                Some(Message::Request(_)) | None => {}
            }
        }
        Err(unusable("the server ended its stream without an answer"))
    }

    fn turn(&self, message: Message) -> Option<Turn> {
        let Message::Answer(answer) = message else { return None };
        Some(match answer.outcome {
            Err(error) => Turn::Done(self.failed(translate::failed(&self.request.method, error))),
            Ok(result) => {
                if self.request.method == "tools/list" {
                    self.caller.shared.tools.learn(&self.caller.settings.upstream, &result);
                }
                match translate::result(&self.request.method, result) {
                    Outcome::Complete(result) => {
                        Turn::Done(Answer { id: self.id.clone(), outcome: Ok(result) }.to_value())
                    }
                    Outcome::InputRequired { asked, state } if protocol::may_ask(&self.request.method) => {
                        Turn::Asked { asked, state }
                    }
                    Outcome::InputRequired { .. } | Outcome::Unknown => Turn::Done(
                        unusable("the server's answer has a form that this client can't read")
                            .answer(&self.id),
                    ),
                }
            }
        })
    }

    fn failed(&self, error: Object) -> Value {
        Answer { id: self.id.clone(), outcome: Err(error) }.to_value()
    }

    /// Asks the client what the server wants to know. The error is for the client: it can't answer, or does not want to.
    async fn ask(&self, asked: &Object, out: &Out) -> Result<Result<Object, Object>, Failure> {
        if asked.len() > QUESTIONS {
            return Err(unusable("the server asks more at once than the gateway carries"));
        }
        let mut questions = Vec::with_capacity(asked.len());
        for (key, asked) in asked {
            let id = random_id();
            match translate::question(&id, asked, &self.session) {
                Ok(message) => questions.push((key, id, message)),
                Err(error) => return Ok(Err(error)),
            }
        }
        // All are noted before the first is asked: a client may answer before the last is written.
        let mut waiting = Vec::with_capacity(questions.len());
        for (key, id, message) in questions {
            waiting.push((key, self.memory.ask(&self.session.nonce, &id), message));
        }
        for (_, _, message) in &waiting {
            out.send(message).await;
        }
        let answers = try_join_all(waiting.into_iter().map(|(key, mut question, _)| async move {
            match (&mut question.answer).await {
                Ok(Ok(result)) => Ok((key.clone(), Value::Object(result))),
                Ok(Err(error)) => Err(refused(&error)),
                Err(_) => Err(error(code::INTERNAL, "the question was withdrawn")),
            }
        }));
        match timeout(self.caller.settings.input_time, answers).await {
            Ok(Ok(answers)) => Ok(Ok(answers.into_iter().collect())),
            Ok(Err(error)) => Ok(Err(error)),
            Err(_) => Err(Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                "mcp_input_timeout",
                code::INTERNAL,
                "the client did not answer the server's question in time",
            )),
        }
    }
}

/// The client's error in place of an answer. A server of the new revision can't be told of one: the request ends.
fn refused(of_client: &Object) -> Object {
    let mut error = error(
        code_of(of_client).unwrap_or(code::INTERNAL),
        "the client answered the server's question with an error, which the server can't be told",
    );
    error.insert("data".into(), json!({ "error": of_client }));
    error
}

fn not_an_answer() -> Failure {
    unusable("the server's answer is no answer to this request")
}

fn given_up() -> Failure {
    Failure::new(StatusCode::OK, "mcp_cancelled", code::INTERNAL, "the client has cancelled this request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_error_ends_the_request_and_is_shown() {
        let error = refused(&error(-1, "user said no"));
        assert_eq!(error["code"], -1);
        assert_eq!(error["data"]["error"]["message"], "user said no");
    }
}
