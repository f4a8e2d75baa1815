//! What tools and prompts ask, and what they say in the end.
#![expect(deprecated, reason = "sampling and roots, which all revisions have")]

use rmcp::model::{
    ClientCapabilities, CreateMessageRequest, CreateMessageRequestParams, ElicitRequest, ElicitRequestParams,
    ElicitationSchema, ErrorData, InputRequest, JsonObject, ListRootsRequest, SamplingMessage,
};
use serde_json::{Value, json};

use crate::rounds::{Answers, Dialogue, round};
use crate::tools::argument;

/// What a tool asks; none when there is no such tool.
pub fn of_tool(
    name: &str,
    arguments: &JsonObject,
    capabilities: &ClientCapabilities,
) -> Result<Option<Dialogue>, ErrorData> {
    let confirm = || form("Please confirm.", json!({ "ok": { "type": "boolean" } }));
    Ok(Some(match name {
        "test_sampling" => Dialogue::once([("sample", sample(&argument(arguments, "prompt")?, 100))]),
        "test_elicitation" => {
            let fields = json!({
                "username": { "type": "string", "description": "User's response" },
                "email": { "type": "string", "description": "User's email address" },
            });
            Dialogue::once([("user", form(&argument(arguments, "message")?, fields)?)])
        }
        "test_elicitation_sep1034_defaults" => {
            Dialogue::once([("values", form("These values are proposed.", filled_in())?)])
        }
        "test_elicitation_sep1330_enums" => Dialogue::once([("choices", form("Please choose.", choices())?)]),
        "test_streaming_elicitation" => Dialogue::once([("value", ask_for("value", "Which value?")?)]),
        "test_input_required_result_elicitation" => {
            Dialogue::once([("user_name", ask_for("name", "What is your name?")?)])
        }
        "test_input_required_result_sampling" => {
            Dialogue::once([("capital_question", sample("What is the capital of France?", 100))])
        }
        "test_input_required_result_list_roots" => Dialogue::once([("client_roots", roots())]),
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            Dialogue { rounds: vec![round([("confirm", confirm()?)])], sealed: true }
        }
        "test_input_required_result_multiple_inputs" => {
            let questions = [
                ("user_name", ask_for("name", "What is your name?")?),
                ("greeting", sample("Generate a greeting", 50)),
                ("client_roots", roots()),
            ];
            Dialogue { rounds: vec![round(questions)], sealed: true }
        }
        "test_input_required_result_multi_round" => {
            let first = ask_for("name", "Step 1: What is your name?")?;
            let second = ask_for("color", "Step 2: What is your favorite color?")?;
            Dialogue { rounds: vec![round([("step1", first)]), round([("step2", second)])], sealed: true }
        }
        "test_input_required_result_capabilities" => {
            let mut questions = Vec::new();
            if capabilities.elicitation.is_some() {
                questions.push(("user_name", ask_for("name", "What is your name?")?));
            }
            if capabilities.sampling.is_some() {
                questions.push(("greeting", sample("Generate a greeting", 50)));
            }
            if capabilities.roots.is_some() {
                questions.push(("client_roots", roots()));
            }
            Dialogue::once(questions)
        }
        _ => return Ok(None),
    }))
}

/// What the prompt asks that needs to know more.
pub fn of_prompt() -> Result<Dialogue, ErrorData> {
    let question = ask_for("context", "What context should the prompt use?")?;
    Ok(Dialogue::once([("user_context", question)]))
}

/// What a tool says in the end.
pub fn conclusion(name: &str, answers: &Answers) -> String {
    let field = |question: &str, pointer: &str| {
        let answer = answers.get(question).and_then(|answer| answer.pointer(pointer)?.as_str());
        answer.unwrap_or("nothing").to_owned()
    };
    match name {
        "test_sampling" => format!("LLM response: {}", field("sample", "/content/text")),
        "test_input_required_result_elicitation" => {
            format!("Hello, {}!", field("user_name", "/content/name"))
        }
        "test_input_required_result_sampling" => field("capital_question", "/content/text"),
        "test_input_required_result_list_roots" => field("client_roots", "/roots/0/uri"),
        _ => format!("User response: {}", Value::from_iter(answers.clone())),
    }
}

/// A form; each field is required unless it is filled in.
fn form(message: &str, fields: Value) -> Result<InputRequest, ErrorData> {
    let needed = |field: &Value| field.get("default").is_none();
    let required: Vec<_> = match &fields {
        Value::Object(fields) => {
            fields.iter().filter(|(_, field)| needed(field)).map(|(name, _)| name.clone()).collect()
        }
        _ => Vec::new(),
    };
    let mut schema = json!({ "type": "object", "required": required });
    schema["properties"] = fields;
    let schema: Result<ElicitationSchema, _> = serde_json::from_value(schema);
    let requested_schema = schema.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    let message = message.to_owned();
    Ok(InputRequest::Elicitation(ElicitRequest::new(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message,
        requested_schema,
    })))
}

/// A form with one field for a text.
fn ask_for(field: &str, message: &str) -> Result<InputRequest, ErrorData> {
    form(message, json!({ field: { "type": "string" } }))
}

pub fn sample(prompt: &str, most: u32) -> InputRequest {
    let messages = vec![SamplingMessage::user_text(prompt)];
    InputRequest::CreateMessage(CreateMessageRequest::new(CreateMessageRequestParams::new(messages, most)))
}

fn roots() -> InputRequest {
    InputRequest::ListRoots(ListRootsRequest::default())
}

fn filled_in() -> Value {
    json!({
        "name": { "type": "string", "default": "John Doe" },
        "age": { "type": "integer", "default": 30 },
        "score": { "type": "number", "default": 95.5 },
        "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
        "verified": { "type": "boolean", "default": true },
    })
}

/// Each way in which a form can offer a choice.
fn choices() -> Value {
    let plain = ["option1", "option2", "option3"];
    let titled = |what: &str| {
        let titles = [("value1", "First"), ("value2", "Second"), ("value3", "Third")];
        titles.map(|(value, title)| json!({ "const": value, "title": format!("{title} {what}") }))
    };
    let names = ["Option One", "Option Two", "Option Three"];
    json!({
        "untitledSingle": { "type": "string", "enum": plain },
        "titledSingle": { "type": "string", "oneOf": titled("Option") },
        "legacyEnum": { "type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": names },
        "untitledMulti": { "type": "array", "items": { "type": "string", "enum": plain } },
        "titledMulti": { "type": "array", "items": { "anyOf": titled("Choice") } },
    })
}
