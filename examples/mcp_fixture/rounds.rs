//! Tools and prompts that ask the client before they answer.
//!
//! Since 2026-07-28 a call ends with what is missing, and comes again with that; how far a dialogue has come is sealed
//! into a state that the client brings along. Before, the server asks by requests of its own while the call lasts. One
//! description does for both.
#![expect(deprecated, reason = "sampling and roots, which all revisions have")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use rmcp::model::{
    ClientCapabilities, ErrorData, InputRequest, InputRequests, InputRequiredResult, InputResponses,
    SealOptions, ServerRequest,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::server::{Fixture, is_stateless};

/// How long a person may think.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is asked, round by round.
pub struct Dialogue {
    pub rounds: Vec<InputRequests>,
    /// Whether an answer counts only together with the state that was given with the question.
    pub sealed: bool,
}

/// What a call brings along.
pub struct Brought {
    pub responses: Option<InputResponses>,
    pub state: Option<String>,
}

/// What was answered, by the names of the questions.
pub type Answers = BTreeMap<String, Value>;

pub enum Progress {
    /// Something is to be answered first.
    Asks(InputRequiredResult),
    /// All is answered.
    Answered(Answers),
}

/// How far it has come.
#[derive(Default, Serialize, Deserialize)]
struct State {
    round: usize,
    answers: Answers,
}

impl Dialogue {
    /// A dialogue of one round, whose answers count at any time.
    pub fn once(questions: impl IntoIterator<Item = (&'static str, InputRequest)>) -> Self {
        Self { rounds: vec![round(questions)], sealed: false }
    }

    /// The next step, or all of them. `name` is what was called: a state counts for nothing else.
    pub async fn hold(
        self,
        fixture: &Fixture,
        name: &str,
        brought: Brought,
        context: &RequestContext<RoleServer>,
    ) -> Result<Progress, ErrorData> {
        for request in self.rounds.iter().flat_map(BTreeMap::values) {
            permitted(request, &context.client_capabilities().unwrap_or_default())?;
        }
        if is_stateless(context) { self.step(fixture, name, brought) } else { self.ask(context).await }
    }

    fn step(mut self, fixture: &Fixture, name: &str, brought: Brought) -> Result<Progress, ErrorData> {
        let seal = &fixture.shared.seal;
        let mut state = match brought.state.as_deref().filter(|_| self.sealed) {
            Some(sealed) => seal
                .open_json_with(sealed, name.as_bytes())
                .map_err(|_| ErrorData::invalid_params("the request state is not what it was", None))?,
            None => State::default(),
        };
        let given = brought.responses.filter(|_| brought.state.is_some() || !self.sealed).unwrap_or_default();
        let Some(asked) = self.rounds.get(state.round) else {
            return Err(ErrorData::invalid_params("the request state is of no round", None));
        };
        let answers: Answers =
            given.into_iter().filter(|(name, value)| asked.contains_key(name) && value.is_object()).collect();
        if answers.len() == asked.len() {
            state.answers.extend(answers);
            state.round += 1;
        }
        if state.round == self.rounds.len() {
            return Ok(Progress::Answered(state.answers));
        }
        let missing = self.rounds.swap_remove(state.round);
        if !self.sealed {
            return Ok(Progress::Asks(InputRequiredResult::from_input_requests(missing)));
        }
        let options = SealOptions::new().associated_data(name.as_bytes()).ttl(PATIENCE);
        let sealed = seal.seal_json_with(&state, &options);
        let sealed = sealed.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        Ok(Progress::Asks(InputRequiredResult::new(Some(missing), Some(sealed))))
    }

    async fn ask(self, context: &RequestContext<RoleServer>) -> Result<Progress, ErrorData> {
        let mut answers = Answers::new();
        for round in self.rounds {
            // At once, as they are since 2026-07-28.
            let asked = round.into_iter().map(|(name, request)| ask_one(name, request, context));
            answers.extend(try_join_all(asked).await?);
        }
        Ok(Progress::Answered(answers))
    }
}

async fn ask_one(
    name: String,
    request: InputRequest,
    context: &RequestContext<RoleServer>,
) -> Result<(String, Value), ErrorData> {
    let request = match request {
        InputRequest::CreateMessage(request) => ServerRequest::CreateMessageRequest(request),
        InputRequest::Elicitation(request) => ServerRequest::ElicitRequest(request),
        InputRequest::ListRoots(request) => ServerRequest::ListRootsRequest(request),
        _ => return Err(ErrorData::internal_error("there is no such question", None)),
    };
    let answer = context.peer.send_request(request).await;
    let answer = answer.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    let answer = serde_json::to_value(answer);
    Ok((name, answer.map_err(|error| ErrorData::internal_error(error.to_string(), None))?))
}

/// The questions of one round.
pub fn round(questions: impl IntoIterator<Item = (&'static str, InputRequest)>) -> InputRequests {
    questions.into_iter().map(|(name, request)| (name.to_owned(), request)).collect()
}

/// Refuses to ask what the client has not said that it answers.
pub fn permitted(request: &InputRequest, capabilities: &ClientCapabilities) -> Result<(), ErrorData> {
    let wanted = ClientCapabilities::builder();
    let missing = match request {
        InputRequest::CreateMessage(_) if capabilities.sampling.is_none() => wanted.enable_sampling().build(),
        InputRequest::Elicitation(_) if capabilities.elicitation.is_none() => {
            wanted.enable_elicitation().build()
        }
        InputRequest::ListRoots(_) if capabilities.roots.is_none() => wanted.enable_roots().build(),
        _ => return Ok(()),
    };
    Err(ErrorData::missing_required_client_capability(missing))
}
