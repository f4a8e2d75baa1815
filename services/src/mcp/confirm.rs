//! Asks the person behind a client before something that is there is changed or taken away, where the client can ask.
//!
//! Older clients are asked in the middle of the call; since 2026-07-28 the call is answered with the question, and made
//! again with the answer. What is asked then is sealed into the request state, so that an answer is good for the same
//! caller, client, tool and arguments only, once, and for a while.

use std::time::Duration;

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

use super::effects::Effect;
use super::tools::Chosen;
use crate::control::{Caller, Control};
use crate::random;
use crate::store::{ItemKey, Store};
use crate::vault::Vault;

/// What the request state is sealed as.
const SEALED_AS: &str = "mcp/request-state";

/// The name of our only question.
const QUESTION: &str = "confirm";

/// The items by which questions are answered once only.
const ASKED: &str = "mcp-asked";

/// How long a person may take to answer; the tests here have nobody who could.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 600 });

/// A longer value of an argument is cut in the question,
const SHOWN: usize = 120;

/// and so are all of them together: a dialog is not longer than people read.
const SHOWN_IN_ALL: usize = 4000;

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
    /// The item that is there until the question is answered.
    once: String,
}

impl Asked {
    fn about(caller: &Caller, tool: &str, input: &JsonObject, until: i64, once: String) -> Self {
        let input = Value::Object(input.clone()).to_string();
        let input = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, input.as_bytes()));
        Self { who: who(caller), tool: tool.to_owned(), input, until, once }
    }

    fn item(&self) -> ItemKey {
        ItemKey { kind: ASKED, id: self.once.clone() }
    }

    /// Whether it has not been answered before; it has been then.
    async fn is_open(&self, store: &dyn Store) -> bool {
        store.take_item(&self.item()).await.is_ok_and(|item| item.is_some())
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
        Caller::Principal(principal) => {
            let client = principal.client_id.as_deref().unwrap_or_default();
            format!("{} {} {client}", principal.issuer, principal.subject)
        }
    }
}

/// Asks before a tool changes what is there, if the client can ask a person.
pub(super) async fn before(
    control: &Control,
    caller: &Caller,
    chosen: Chosen<'_>,
    input: &JsonObject,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Outcome {
    if !chosen.effect().is_asked_about() || !can_ask(context) {
        return Outcome::Go;
    }
    let Some(form) = form(chosen, input) else {
        return Outcome::Stop(stopped("the question whether to go on can't be asked"));
    };
    let is_newer = |version: ProtocolVersion| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str();
    if !context.protocol_version().is_some_and(is_newer) {
        // Whoever does not answer has not agreed, and nor has who takes the call back meanwhile.
        let answer = tokio::select! {
            biased;
            () = context.ct.cancelled() => return Outcome::Stop(stopped("the call was cancelled")),
            answer = context.peer.create_elicitation_with_timeout(form, Some(PATIENCE)) => answer,
        };
        return match answer {
            Ok(answer) => judged(&answer),
            Err(_) => Outcome::Stop(stopped("the question whether to go on was not answered")),
        };
    }
    let now = Timestamp::now().as_second();
    let vault = &control.vault;
    if let Some(asked) = request.request_state.as_deref().and_then(|state| Asked::open(vault, state)) {
        let answer = request.input_responses.as_ref().and_then(|answers| answers.get(QUESTION));
        let answer = answer.and_then(|answer| serde_json::from_value::<ElicitResult>(answer.clone()).ok());
        let same = Asked::about(caller, chosen.name(), input, asked.until, asked.once.clone());
        if let Some(answer) = answer
            && asked.until >= now
            && asked == same
            && asked.is_open(&*control.store).await
        {
            return judged(&answer);
        }
    }
    let until = now.saturating_add_unsigned(PATIENCE.as_secs());
    let asked = Asked::about(caller, chosen.name(), input, until, random::name(""));
    let kept = control.store.put_item(&asked.item(), b"1", PATIENCE).await;
    let Some(state) = kept.ok().and_then(|()| asked.seal(vault)) else {
        return Outcome::Stop(stopped("the question whether to go on can't be kept: try again later"));
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
    let what = match chosen.effect() {
        Effect::TakesAway => "This can't be taken back",
        Effect::Changes | Effect::Adds | Effect::Looks => "This changes what is there",
    };
    Some(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: format!("{}: {}. {what}. Go on?", chosen.title(), shown(input)),
        requested_schema: ElicitationSchema::from_type::<Confirmation>().ok()?,
    })
}

/// The arguments as people read them: each of them, so that none hides behind another one's length.
fn shown(input: &JsonObject) -> String {
    let values = input.iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!("{name} = {}", cut(value, SHOWN))
    });
    cut(values.collect::<Vec<_>>().join(", "), SHOWN_IN_ALL)
}

fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
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
    use portcullis_layers::Principal;
    use serde_json::json;

    use super::*;

    fn input(host: &str) -> JsonObject {
        json!({ "proxy_hostname": host }).as_object().cloned().expect("an object")
    }

    #[test]
    fn an_answer_is_good_for_what_was_asked() {
        let dir = tempfile::tempdir().expect("a folder");
        let vault = Vault::open_or_create(dir.path()).expect("a vault");
        let about = |caller: &Caller, tool: &str, host: &str| {
            Asked::about(caller, tool, &input(host), 7, "once".to_owned())
        };
        let asked = about(&Caller::Local, "delete_proxy", "a.example");
        let state = asked.seal(&vault).expect("sealed");
        assert!(!state.contains("a.example"));
        assert_eq!(Asked::open(&vault, &state).as_ref(), Some(&asked));
        assert_ne!(asked, about(&Caller::Local, "delete_proxy", "b.example"));
        assert_ne!(asked, about(&Caller::Anonymous, "delete_proxy", "a.example"));
        assert_ne!(asked, about(&Caller::Local, "clear_logs", "a.example"));
        let client = |id: &str| {
            let client_id = Some(id.into());
            Caller::Principal(Principal { subject: "1".into(), client_id, ..Principal::default() }.into())
        };
        let theirs = about(&client("one"), "delete_proxy", "a.example");
        assert_ne!(theirs, about(&client("two"), "delete_proxy", "a.example"));
        assert!(Asked::open(&vault, &format!("A{}", &state[1..])).is_none());
        assert!(Asked::open(&vault, "").is_none());
    }

    #[test]
    fn no_argument_hides_behind_another() {
        let long = json!({ "a": "x".repeat(5000), "target_url": "http://evil.example", "z": [1] });
        let shown = shown(long.as_object().expect("an object"));
        assert!(shown.contains("target_url = http://evil.example") && shown.ends_with("z = [1]"), "{shown}");
        let many = (0..200).map(|at| (format!("field{at}"), Value::from("y".repeat(100)))).collect();
        assert_eq!(super::shown(&many).chars().count(), SHOWN_IN_ALL + 1);
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
