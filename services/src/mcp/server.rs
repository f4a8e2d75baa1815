//! What the protocol asks of a server.

use std::sync::Arc;

use portcullis_layers::RequestContext as Known;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    CompletionInfo, ContentBlock, ErrorCode, ErrorData, GetPromptRequestParams, GetPromptResponse,
    GetPromptResult, Implementation, JsonObject, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams,
    ReadResourceResponse, ReadResourceResult, ResourceContents, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};

use super::confirm::{self, Outcome};
use super::progress::Reports;
use super::prompts;
use super::resources::{JSON, Resources};
use super::schema;
use super::tools::{Chosen, Tools};
use crate::control::proxies::ListProxies;
use crate::control::{Access, Caller, Context, Control, Error};

/// What a client's model is told about us.
const INSTRUCTIONS: &str = "Runs a portcullis gateway: hosts, routes, certificates, logins, logs. List before you change; \
                            changes take effect at once, without a restart. Names of hosts are fields `proxy_hostname`. \
                            The first page of tools has what is needed most; `run_command` takes any operation.";

/// The largest result, or resource, that anybody's model could read, in bytes.
const MAX_RESULT: usize = 1 << 20;

/// The server. A clone is a few reference counts.
#[derive(Debug, Clone)]
pub struct Server {
    control: Arc<Control>,
    tools: Arc<Tools>,
    resources: Arc<Resources>,
}

impl Server {
    /// The server of a control.
    pub fn new(control: Arc<Control>) -> Self {
        let tools = Arc::new(Tools::new());
        Self { control, resources: Arc::new(Resources::new(Arc::clone(&tools))), tools }
    }

    /// Runs a tool. What changes something is finished also when its client has gone, so that nothing is left half done.
    async fn run(
        &self,
        chosen: Chosen<'_>,
        mut ctx: Context,
        input: JsonObject,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResult {
        let reports = context.meta.get_progress_token().map(Reports::new).map(|(progress, reports)| {
            ctx.progress = progress;
            reports.send(context.peer.clone())
        });
        let cancelled = ctx.cancel.clone();
        let writes = chosen.writes();
        let work = tokio::spawn(chosen.run(Arc::clone(&self.control), ctx, input));
        let abort = work.abort_handle();
        let work = async {
            tokio::select! {
                done = work => done.map_err(Error::internal).flatten(),
                () = async { cancelled.cancelled().await }, if !writes => {
                    abort.abort();
                    Err(Error::Cancelled)
                }
            }
        };
        let outcome = match reports {
            // All of them are sent before the result is.
            Some(reports) => tokio::join!(work, reports).0,
            None => work.await,
        };
        match outcome {
            Ok(output) => told(output, writes),
            Err(error) => failed(&error),
        }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_prompts()
            .enable_completions()
            .build();
        let implementation =
            Implementation::new("portcullis", env!("CARGO_PKG_VERSION")).with_title("portcullis");
        ServerConfig::new(capabilities).with_server_info(implementation).with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let cursor = request.and_then(|request| request.cursor);
        let page = self.tools.page(&circumstances(&context).caller, cursor.as_deref());
        let (tools, next) = page.map_err(|detail| ErrorData::invalid_params(detail, None))?;
        let mut result = ListToolsResult::with_all_items(tools);
        result.next_cursor = next;
        Ok(result)
    }

    async fn call_tool(
        &self,
        mut request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let ctx = circumstances(&context);
        let input = request.arguments.take().unwrap_or_default();
        let Some(chosen) = self.tools.choose(&request.name, &ctx.caller, input) else {
            return Err(ErrorData::invalid_params(format!("there is no tool {:?}", request.name), None));
        };
        let (chosen, input) = match chosen {
            Ok(chosen) => chosen,
            Err(error) => return Ok(failed(&error).into()),
        };
        // Nobody is asked about what is refused in any case.
        if ctx.caller.may(chosen.access()) {
            match confirm::before(&self.control, &ctx.caller, chosen, &input, &request, &context).await {
                Outcome::Go => {}
                Outcome::Stop(result) => return Ok(result.into()),
                Outcome::Ask(question) => return Ok(question.into()),
            }
        }
        if ctx.cancel.is_cancelled() {
            return Ok(failed(&Error::Cancelled).into());
        }
        Ok(self.run(chosen, ctx, input, &context).await.into())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.get(name).cloned()
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(self.resources.list(&circumstances(&context).caller)))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let templates = self.resources.templates(&circumstances(&context).caller);
        Ok(ListResourceTemplatesResult::with_all_items(templates))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let read = self.resources.read(&request.uri, &self.control, circumstances(&context)).await;
        match read {
            Some(Ok(text)) => Ok(contents(text, request.uri)?.into()),
            None | Some(Err(Error::NotFound { .. })) => Err(ErrorData::resource_not_found(
                "there is no such resource",
                Some(json!({ "uri": request.uri })),
            )),
            Some(Err(error @ Error::Internal(_))) => Err(ErrorData::internal_error(error.to_string(), None)),
            Some(Err(error)) => Err(ErrorData::new(ErrorCode::INVALID_REQUEST, error.to_string(), None)),
        }
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::list()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let ctx = circumstances(&context);
        match prompts::get(&request.name, &arguments, &self.tools, &self.control, &ctx).await {
            Some(Ok((about, messages))) => Ok(GetPromptResult::new(messages).with_description(about).into()),
            Some(Err(detail)) => Err(ErrorData::invalid_params(detail, None)),
            None => Err(ErrorData::invalid_params(format!("there is no prompt {:?}", request.name), None)),
        }
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let ctx = circumstances(&context);
        if request.argument.name != prompts::HOST || !ctx.caller.may(Access::User) {
            return Ok(CompleteResult::default());
        }
        let list = self.control.call(ListProxies {}, &ctx).await;
        let list = list.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        let names = list.iter().map(|proxy| proxy.proxy_hostname.to_string());
        let mut fitting: Vec<_> = names.filter(|name| name.starts_with(&request.argument.value)).collect();
        let (total, more) = (fitting.len(), fitting.len() > CompletionInfo::MAX_VALUES);
        fitting.truncate(CompletionInfo::MAX_VALUES);
        let info = CompletionInfo::with_pagination(fitting, u32::try_from(total).ok(), more);
        Ok(CompleteResult::new(info.map_err(|detail| ErrorData::internal_error(detail, None))?))
    }
}

/// Who calls, and from where: what a layer in front has noted, never what headers say.
fn circumstances(context: &RequestContext<RoleServer>) -> Context {
    let parts = context.extensions.get::<http::request::Parts>();
    let known = parts.and_then(|parts| parts.extensions.get::<Known>());
    let caller = parts.map_or(Caller::Anonymous, |parts| super::caller(&parts.extensions));
    Context {
        client: known.and_then(Known::client_addr).map(|client| client.ip()),
        request_id: known.and_then(|known| known.id).map(|id| id.to_string()),
        cancel: context.ct.clone(),
        ..Context::of(caller)
    }
}

/// A result for programs and, as text, for those that read only that.
fn told(output: Value, done: bool) -> CallToolResult {
    let output = schema::wrapped(output);
    if output.to_string().len() > MAX_RESULT {
        let error = too_large(done);
        return refused(&json!({ "code": "too_large", "error": error }));
    }
    CallToolResult::structured(output)
}

/// A resource as it is read.
fn contents(text: String, uri: String) -> Result<ReadResourceResult, ErrorData> {
    if text.len() > MAX_RESULT {
        return Err(ErrorData::invalid_request(too_large(false), None));
    }
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(JSON)]))
}

/// What whoever reads too much is told.
fn too_large(done: bool) -> String {
    let what = if done {
        "it is done, and only the answer is too large: look at what you need of it"
    } else {
        "the answer is too large: ask for less, by a filter or one by one"
    };
    format!("{what} (the bound is {MAX_RESULT} bytes)")
}

/// What went wrong and what to do, for the model to read. Nothing of what is inside.
fn failed(error: &Error) -> CallToolResult {
    let mut told = json!({ "code": error.code(), "error": error.to_string() });
    if let Error::Invalid(fields) = error {
        told["fields"] = json!(fields);
    }
    refused(&told)
}

/// An error is text only: what is structured has to be what the tool's schema promises, and clients check that.
fn refused(told: &Value) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(told.to_string())])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::*;
    use crate::control::testing::control;
    use crate::mcp::{Service, service};

    /// Posts a message as an admin; the session of the answer, and all of it as text.
    async fn post(service: &Service, session: Option<&str>, message: &Value) -> (String, String) {
        let mut request = Request::post("/mcp")
            .header("host", "localhost")
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        if let Some(session) = session {
            request = request.header("mcp-session-id", session);
        }
        let body = Full::new(Bytes::from(message.to_string()));
        let request = request.extension(Caller::Local).body(body).expect("a request");
        let answer = service.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let id = answer.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let id = id.to_owned();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (id, String::from_utf8(body.to_vec()).expect("text"))
    }

    // Pauses of event streams go by the machine's clock, so it can't be paused.
    #[tokio::test]
    async fn a_question_that_nobody_answers_ends() {
        let service = service(control().0);
        tokio::spawn(Arc::clone(service.sessions()).run(CancellationToken::new()));
        let about = json!({
            "protocolVersion": "2025-06-18", "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "silent", "version": "1" },
        });
        let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about });
        let (session, _) = post(&service, None, &hello).await;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        post(&service, Some(&session), &initialized).await;
        let wanted = json!({ "name": "delete_proxy", "arguments": { "proxy_hostname": "a.example.com" } });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": wanted });
        let (_, told) = post(&service, Some(&session), &call).await;
        assert!(told.contains("elicitation/create") && told.contains("was not answered"), "{told}");
    }

    #[test]
    fn what_is_too_large_is_not_told_and_what_was_done_is() {
        let large = || Value::from("x".repeat(MAX_RESULT));
        for (done, says) in [(true, "it is done"), (false, "ask for less")] {
            let result = told(large(), done);
            let text = serde_json::to_string(&result.content).expect("JSON");
            assert!(result.is_error == Some(true) && text.contains(says), "{text}");
        }
        assert_eq!(told(json!({}), true).is_error, Some(false));
        assert!(contents("x".repeat(MAX_RESULT + 1), "portcullis://config".to_owned()).is_err());
        assert!(contents("{}".to_owned(), "portcullis://config".to_owned()).is_ok());
    }
}
