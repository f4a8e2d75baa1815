//! The tools: what they are called, and who answers.

use std::sync::Arc;

use http::request::Parts;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, JsonObject, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Map, Value, json};

use crate::rounds::{Brought, Progress, permitted};
use crate::server::Fixture;
use crate::{changes, content, during, questions};

/// Those that take nothing.
const WITHOUT_INPUT: [(&str, &str); 26] = [
    ("whoami", "Tells who calls, by what the server sees of a request."),
    ("test_simple_text", "Answers with a text."),
    ("test_image_content", "Answers with an image."),
    ("test_audio_content", "Answers with a sound."),
    ("test_embedded_resource", "Answers with a resource."),
    ("test_multiple_content_types", "Answers with a text, an image and a resource."),
    ("test_error_handling", "Always fails."),
    ("test_tool_with_logging", "Logs three times while it runs."),
    ("test_logging_tool", "Logs where the request asks for it."),
    ("test_tool_with_progress", "Tells three times how far it is."),
    ("test_reconnection", "Takes a moment, in which a stream may break."),
    ("test_missing_capability", "Is for clients that sample."),
    ("test_streaming_elicitation", "Asks for a value."),
    ("test_trigger_tool_change", "Tells everybody that the tools have changed."),
    ("test_trigger_prompt_change", "Tells everybody that the prompts have changed."),
    ("test_elicitation_sep1034_defaults", "Asks with a form that is filled in."),
    ("test_elicitation_sep1330_enums", "Asks with a form of choices."),
    ("test_input_required_result_elicitation", "Asks for a name."),
    ("test_input_required_result_sampling", "Asks a model for a capital."),
    ("test_input_required_result_list_roots", "Asks for the client's roots."),
    ("test_input_required_result_request_state", "Asks to confirm, with sealed state."),
    ("test_input_required_result_tampered_state", "Asks to confirm, and wants its state back unharmed."),
    ("test_input_required_result_multiple_inputs", "Asks for three things at once."),
    ("test_input_required_result_multi_round", "Asks twice, one after the other."),
    ("test_input_required_result_capabilities", "Asks for what the client says that it can do."),
    ("test_hang", "Never answers; ends when it is cancelled."),
];

pub fn list() -> Vec<Tool> {
    let nothing = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    let mut tools: Vec<_> =
        WITHOUT_INPUT.into_iter().map(|(name, description)| tool(name, description, &nothing)).collect();
    let (number, text) = (json!({ "type": "integer" }), json!({ "type": "string" }));
    let output = json!({ "type": "object", "properties": { "result": number }, "required": ["result"] });
    tools.extend([
        tool("add", "Adds two numbers.", &takes(json!({ "a": number, "b": number })))
            .with_raw_output_schema(Arc::new(object(&output))),
        tool("test_sampling", "Asks a model.", &takes(json!({ "prompt": text }))),
        tool("test_elicitation", "Asks who is there.", &takes(json!({ "message": text }))),
        tool("test_trigger_resource_change", "Tells who watches a resource.", &takes(json!({ "uri": text }))),
        tool(
            "test_custom_header",
            "Says what it is told, also by a header.",
            &takes(json!({ "value": { "type": "string", "x-mcp-header": "Value" } })),
        ),
        tool("json_schema_2020_12_tool", "Has a schema of many words.", &content::wordy_schema()),
    ]);
    tools
}

fn tool(name: &'static str, description: &'static str, schema: &Value) -> Tool {
    Tool::new(name, description, object(schema))
}

/// The schema of an object with these properties, all required.
fn takes(properties: Value) -> Value {
    let required: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    let mut schema = json!({ "type": "object", "required": required });
    schema["properties"] = properties;
    schema
}

fn object(value: &Value) -> JsonObject {
    value.as_object().cloned().unwrap_or_default()
}

pub async fn call(
    fixture: &Fixture,
    request: CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let arguments = request.arguments.unwrap_or_default();
    let text = |name: &str| argument(&arguments, name);
    let name = request.name.as_ref();
    if let Some(result) = content::result(name) {
        return Ok(result.into());
    }
    let changes = &fixture.shared.changes;
    let told = match name {
        "add" => {
            let result = number(&arguments, "a")?.checked_add(number(&arguments, "b")?);
            let result = result.ok_or_else(|| ErrorData::invalid_params("the sum is too large", None))?;
            return Ok(CallToolResult::structured(json!({ "result": result })).into());
        }
        "whoami" => return Ok(CallToolResult::structured(seen(context)).into()),
        "test_custom_header" => text("value")?,
        "json_schema_2020_12_tool" => "Hello.".into(),
        "test_tool_with_logging" => during::log_thrice(fixture, context).await,
        "test_logging_tool" => during::log_once(fixture, context).await,
        "test_tool_with_progress" => during::progress(context).await,
        "test_reconnection" => during::a_moment().await,
        "test_hang" => during::until_cancelled(context).await,
        "test_trigger_tool_change" => changes.tell(&changes::Change::Tools).await,
        "test_trigger_prompt_change" => changes.tell(&changes::Change::Prompts).await,
        "test_trigger_resource_change" => changes.tell(&changes::Change::Resource(text("uri")?)).await,
        "test_missing_capability" => {
            let capabilities = context.client_capabilities().unwrap_or_default();
            permitted(&questions::sample("Hello.", 1), &capabilities)?;
            "The client samples.".into()
        }
        _ => {
            let capabilities = context.client_capabilities().unwrap_or_default();
            let Some(dialogue) = questions::of_tool(name, &arguments, &capabilities)? else {
                return Err(ErrorData::invalid_params(format!("there is no tool {name:?}"), None));
            };
            let brought = Brought { responses: request.input_responses, state: request.request_state };
            return Ok(match dialogue.hold(fixture, name, brought, context).await? {
                Progress::Asks(asked) => asked.into(),
                Progress::Answered(answers) => {
                    CallToolResult::success(vec![ContentBlock::text(questions::conclusion(name, &answers))])
                        .into()
                }
            });
        }
    };
    Ok(CallToolResult::success(vec![ContentBlock::text(told)]).into())
}

/// A text that a tool needs.
pub fn argument(arguments: &JsonObject, name: &str) -> Result<String, ErrorData> {
    let text = arguments.get(name).and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| ErrorData::invalid_params(format!("{name} must be a text"), None))
}

fn number(arguments: &JsonObject, name: &str) -> Result<i64, ErrorData> {
    let number = arguments.get(name).and_then(Value::as_i64);
    number.ok_or_else(|| ErrorData::invalid_params(format!("{name} must be an integer"), None))
}

/// What a proxy in front tells of the caller, what it must not pass on, and which revision is spoken.
fn seen(context: &RequestContext<RoleServer>) -> Value {
    let Some(parts) = context.extensions.get::<Parts>() else { return json!({}) };
    let named = ["authorization", "cookie", "mcp-protocol-version"];
    let told = |name: &str| name.starts_with("x-auth-") || named.contains(&name);
    let headers = parts.headers.iter().filter(|(name, _)| told(name.as_str()));
    headers
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect()
}
