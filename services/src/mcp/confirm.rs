//! Asks the person behind a client before something is taken away, where the client can ask.
//!
//! Older clients are asked in the middle of the call; since 2026-07-28 the call is answered with the question, and made
//! again with the answer. What is asked then is sealed into the request state, so that an answer is good for the same
//! caller, tool and arguments only, and for a while.

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ContentBlock, ElicitRequest, ElicitRequestParams, ElicitResult,
    ElicitationAction, ElicitationSchema, InputRequest, InputRequests, InputRequiredResult, JsonObject,
    ProtocolVersion,
};
use rmcp::service::{RequestContext, RoleServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tools::Chosen;
use crate::control::Caller;
use crate::vault::Vault;

/// What the request state is sealed as.
const SEALED_AS: &str = "mcp/request-state";

/// The name of our only question.
const QUESTION: &str = "confirm";

/// How long a person may take to answer, in seconds.
const PATIENCE: u64 = 600;

/// Longer arguments are cut in the question.
const SHOWN: usize = 400;

/// What a person answers.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Confirmation {
    /// Whether to go on.
    confirm: bool,
}

/// What follows from asking.
pub(super) enum Outcome {
    /// Go on.
    Go,
    /// The person does not want it.
    Stop(CallToolResult),
    /// The client has to ask, and to call again.
    Ask(InputRequiredResult),
}

/// What a question was about.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Asked {
    who: String,
    tool: String,
    input: String,
    until: i64,
}

impl Asked {
    fn about(caller: &Caller, tool: &str, input: &JsonObject, until: i64) -> Self {
        let input = Value::Object(input.clone()).to_string();
        let input = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, input.as_bytes()));
        Self { who: who(caller), tool: tool.to_owned(), input, until }
    }

    fn seal(&self, vault: &Vault) -> Option<String> {
        let sealed = vault.seal_file(SEALED_AS, &serde_json::to_vec(self).ok()?).ok()?;
        Some(BASE64_URL_SAFE_NO_PAD.encode(sealed))
    }

    fn open(vault: &Vault, state: &str) -> Option<Self> {
        let opened = vault.open_file(SEALED_AS, &BASE64_URL_SAFE_NO_PAD.decode(state).ok()?).ok()?;
        serde_json::from_slice(&opened).ok()
    }
}

/// Whom an answer is good for.
fn who(caller: &Caller) -> String {
    match caller {
        Caller::Anonymous => String::new(),
        Caller::Local => "local".to_owned(),
        Caller::Principal(principal) => format!("{} {}", principal.issuer, principal.subject),
    }
}

/// Asks before a destructive tool runs, if the client can ask a person.
pub(super) async fn before(
    vault: &Vault,
    caller: &Caller,
    chosen: Chosen<'_>,
    input: &JsonObject,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Outcome {
    if !chosen.is_destructive() || !can_ask(context) {
        return Outcome::Go;
    }
    let Some(form) = form(chosen, input) else { return Outcome::Go };
    let is_newer = |version: ProtocolVersion| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str();
    if !context.protocol_version().is_some_and(is_newer) {
        // Whoever does not answer has not agreed.
        return match context.peer.create_elicitation(form).await {
            Ok(answer) => judged(&answer),
            Err(_) => Outcome::Stop(stopped("the question whether to go on was not answered")),
        };
    }
    let now = Timestamp::now().as_second();
    let until = now.saturating_add_unsigned(PATIENCE);
    if let Some(asked) = request.request_state.as_deref().and_then(|state| Asked::open(vault, state)) {
        let answer = request.input_responses.as_ref().and_then(|answers| answers.get(QUESTION));
        let answer = answer.and_then(|answer| serde_json::from_value::<ElicitResult>(answer.clone()).ok());
        if let Some(answer) = answer
            && asked.until >= now
            && asked == Asked::about(caller, chosen.name(), input, asked.until)
        {
            return judged(&answer);
        }
    }
    let Some(state) = Asked::about(caller, chosen.name(), input, until).seal(vault) else {
        return Outcome::Stop(stopped("the question whether to go on can't be sealed"));
    };
    let question = InputRequest::Elicitation(ElicitRequest::new(form));
    Outcome::Ask(InputRequiredResult::new(
        Some(InputRequests::from([(QUESTION.to_owned(), question)])),
        Some(state),
    ))
}

/// Whether the client has a form to show.
fn can_ask(context: &RequestContext<RoleServer>) -> bool {
    let capability = context.client_capabilities().and_then(|capabilities| capabilities.elicitation);
    capability.is_some_and(|capability| capability.form.is_some() || capability.url.is_none())
}

fn form(chosen: Chosen<'_>, input: &JsonObject) -> Option<ElicitRequestParams> {
    let mut arguments = Value::Object(input.clone()).to_string();
    if let Some((end, _)) = arguments.char_indices().nth(SHOWN) {
        arguments.truncate(end);
        arguments.push('…');
    }
    Some(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: format!("{}: {arguments}. This can't be taken back. Go on?", chosen.title()),
        requested_schema: ElicitationSchema::from_type::<Confirmation>().ok()?,
    })
}

fn judged(answer: &ElicitResult) -> Outcome {
    let content = answer.content.as_ref();
    let confirmed = content.and_then(|content| content.get("confirm")) == Some(&Value::Bool(true));
    match answer.action {
        ElicitationAction::Accept if confirmed => Outcome::Go,
        _ => Outcome::Stop(stopped("the user did not agree")),
    }
}

fn stopped(why: &str) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(format!("Nothing was done: {why}."))])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn input(host: &str) -> JsonObject {
        json!({ "proxy_hostname": host }).as_object().cloned().expect("an object")
    }

    #[test]
    fn an_answer_is_good_for_what_was_asked() {
        let dir = tempfile::tempdir().expect("a folder");
        let vault = Vault::open_or_create(dir.path()).expect("a vault");
        let asked = Asked::about(&Caller::Local, "delete_proxy", &input("a.example"), 7);
        let state = asked.seal(&vault).expect("sealed");
        assert!(!state.contains("a.example"));
        assert_eq!(Asked::open(&vault, &state).as_ref(), Some(&asked));
        assert_ne!(asked, Asked::about(&Caller::Local, "delete_proxy", &input("b.example"), 7));
        assert_ne!(asked, Asked::about(&Caller::Anonymous, "delete_proxy", &input("a.example"), 7));
        assert_ne!(asked, Asked::about(&Caller::Local, "clear_logs", &input("a.example"), 7));
        assert!(Asked::open(&vault, &format!("A{}", &state[1..])).is_none());
        assert!(Asked::open(&vault, "").is_none());
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, goes) in [
            (json!({ "action": "accept", "content": { "confirm": true } }), true),
            (json!({ "action": "accept", "content": { "confirm": false } }), false),
            (json!({ "action": "accept", "content": { "confirm": "true" } }), false),
            (json!({ "action": "accept" }), false),
            (json!({ "action": "decline", "content": { "confirm": true } }), false),
            (json!({ "action": "cancel" }), false),
        ] {
            let result = serde_json::from_value(answer.clone()).expect("an answer");
            assert_eq!(matches!(judged(&result), Outcome::Go), goes, "{answer}");
        }
    }
}
