//! The prompts, and what can be said in their arguments and in templates.

use rmcp::model::{
    CompleteRequestParams, CompleteResult, CompletionInfo, ContentBlock, ErrorData, GetPromptRequestParams,
    GetPromptResponse, GetPromptResult, Prompt, PromptArgument, PromptMessage, Reference, ResourceContents,
    Role,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::Value;

use crate::content::IMAGE;
use crate::questions;
use crate::rounds::{Brought, Progress};
use crate::server::Fixture;
use crate::tools::argument;

/// What is proposed for each argument.
const PROPOSALS: [&str; 5] = ["123", "paris", "park", "party", "test"];

pub fn list() -> Vec<Prompt> {
    let prompt = |name: &str, description: &str, arguments: &[&str]| {
        let arguments = arguments.iter().map(|name| PromptArgument::new(*name).with_required(true));
        Prompt::new(name, Some(description), Some(arguments.collect()))
    };
    vec![
        prompt("test_simple_prompt", "A prompt.", &[]),
        prompt("test_prompt_with_arguments", "A prompt that says what it is told.", &["arg1", "arg2"]),
        prompt("test_prompt_with_embedded_resource", "A prompt with a resource.", &["resourceUri"]),
        prompt("test_prompt_with_image", "A prompt with an image.", &[]),
        prompt("test_input_required_result_prompt", "A prompt that asks first.", &[]),
    ]
}

pub async fn get(
    fixture: &Fixture,
    request: GetPromptRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<GetPromptResponse, ErrorData> {
    let arguments = request.arguments.unwrap_or_default();
    let text = |name: &str| argument(&arguments, name);
    let says = |text: &str| PromptMessage::new_text(Role::User, text);
    let messages = match request.name.as_str() {
        "test_simple_prompt" => vec![says("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            let (first, second) = (text("arg1")?, text("arg2")?);
            vec![says(&format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
        }
        "test_prompt_with_embedded_resource" => {
            let resource =
                ResourceContents::text("Embedded resource content for testing.", text("resourceUri")?);
            let resource = ContentBlock::resource(resource.with_mime_type("text/plain"));
            vec![
                PromptMessage::new(Role::User, resource),
                says("Please process the embedded resource above."),
            ]
        }
        "test_prompt_with_image" => {
            let image = ContentBlock::image(IMAGE, "image/png");
            vec![PromptMessage::new(Role::User, image), says("Please analyze the image above.")]
        }
        name @ "test_input_required_result_prompt" => {
            let brought = Brought { responses: request.input_responses, state: request.request_state };
            match questions::of_prompt()?.hold(fixture, name, brought, context).await? {
                Progress::Asks(asked) => return Ok(asked.into()),
                Progress::Answered(answers) => {
                    let told =
                        answers.get("user_context").and_then(|answer| answer.pointer("/content/context"));
                    vec![says(told.and_then(Value::as_str).unwrap_or("No context was given."))]
                }
            }
        }
        name => return Err(ErrorData::invalid_params(format!("there is no prompt {name:?}"), None)),
    };
    Ok(GetPromptResult::new(messages).into())
}

pub fn complete(request: &CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
    let known = match &request.r#ref {
        Reference::Prompt(reference) => list().iter().any(|prompt| prompt.name == reference.name),
        _ => true,
    };
    if !known {
        return Err(ErrorData::invalid_params("there is no such prompt", None));
    }
    let begun = &request.argument.value;
    let values = PROPOSALS.into_iter().filter(|value| value.starts_with(begun.as_str()));
    let values = CompletionInfo::with_all_values(values.map(str::to_owned).collect());
    Ok(CompleteResult::new(values.map_err(|error| ErrorData::internal_error(error, None))?))
}
