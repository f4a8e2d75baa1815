//! A server that speaks one era only.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_layers::{Body, HttpService, Request};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CreateMessageRequestParams,
    ElicitRequestParams, InputRequiredResult, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ResourceUpdatedNotificationParam, SamplingMessage, ServerCapabilities, ServerConfig,
    SubscribeRequestParams, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tower_service::Service;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    Old,
    New,
}

/// The server, and how often its tools ran to their end.
#[derive(Clone)]
pub struct Fixture {
    era: Era,
    pub finished: Arc<AtomicUsize>,
}

fn text(text: impl Into<String>) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(text)]).into()
}

fn who() -> ElicitRequestParams {
    let schema =
        json!({ "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] });
    serde_json::from_value(json!({ "mode": "form", "message": "who?", "requestedSchema": schema }))
        .expect("valid")
}

fn poem() -> CreateMessageRequestParams {
    CreateMessageRequestParams::new(vec![SamplingMessage::user_text("a poem")], 10)
}

impl Fixture {
    /// As a server of 2026-07-28 asks: by results that want the request to be made again.
    fn ask_by_result(&self, request: &CallToolRequestParams) -> CallToolResponse {
        let question = |name: &str, method: &str, params: Value| {
            let asked = serde_json::from_value(json!({ "method": method, "params": params })).expect("valid");
            BTreeMap::from([(name.to_owned(), asked)])
        };
        let answer = |name: &str| {
            let answers = request.input_responses.as_ref()?;
            answers.get(name).cloned()
        };
        match request.request_state.as_deref() {
            None => {
                let params = serde_json::to_value(who()).expect("JSON");
                let asked = question("who", "elicitation/create", params);
                InputRequiredResult::new(Some(asked), Some("asked who".into())).into()
            }
            Some("asked who") => {
                let name = answer("who").map(|answer| answer["content"]["name"].to_string());
                let params = serde_json::to_value(poem()).expect("JSON");
                let asked = question("poem", "sampling/createMessage", params);
                InputRequiredResult::new(Some(asked), name).into()
            }
            Some(name) => {
                self.finished.fetch_add(1, Ordering::Relaxed);
                let poem = answer("poem").map(|answer| answer["content"]["text"].to_string());
                text(format!("{name} {}", poem.unwrap_or_default()))
            }
        }
    }

    /// As an old server asks: by requests of its own.
    async fn ask_by_request(
        &self,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let failed = |error: rmcp::ServiceError| ErrorData::internal_error(error.to_string(), None);
        let answer = context.peer.create_elicitation(who()).await.map_err(failed)?;
        let name = answer.content.map(|content| content["name"].to_string()).unwrap_or_default();
        let answer = context.peer.create_message(poem()).await.map_err(failed)?;
        let poem = serde_json::to_value(answer).expect("JSON")["content"]["text"].to_string();
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(text(format!("{name} {poem}")))
    }
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .build();
        ServerConfig::new(capabilities)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        match self.era {
            Era::Old => Cow::Borrowed(ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25)),
            Era::New => Cow::Owned(vec![ProtocolVersion::V_2026_07_28]),
        }
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = |name: &'static str| Tool::new(name, name, Arc::new(rmcp::model::JsonObject::new()));
        Ok(ListToolsResult::with_all_items(["echo", "ask", "progress"].map(tool).into()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match (request.name.as_ref(), self.era) {
            ("echo", _) => {
                self.finished.fetch_add(1, Ordering::Relaxed);
                Ok(text(Value::Object(request.arguments.unwrap_or_default()).to_string()))
            }
            ("ask", Era::New) => Ok(self.ask_by_result(&request)),
            ("ask", Era::Old) => self.ask_by_request(&context).await,
            ("progress", _) => {
                let token = context.meta.get_progress_token();
                let token = token.ok_or_else(|| ErrorData::invalid_params("no progress token", None))?;
                for step in [1.0, 2.0] {
                    let progress = ProgressNotificationParam::new(token.clone(), step);
                    let sent = context.peer.notify_progress(progress).await;
                    sent.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
                }
                Ok(text("done"))
            }
            (name, _) => Err(ErrorData::invalid_params(format!("no tool {name}"), None)),
        }
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let data = Some(json!({ "uri": request.uri }));
        Err(ErrorData::resource_not_found("no such resource", data))
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // Told at once, so that a test need not wait for anything.
        let peer = context.peer.clone();
        tokio::spawn(async move {
            let _gone =
                peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(request.uri)).await;
        });
        Ok(())
    }
}

/// A server of this era that has just begun: it knows no session.
pub fn server(era: Era) -> (HttpService, Fixture) {
    let fixture = Fixture { era, finished: Arc::default() };
    let own = fixture.clone();
    let service = StreamableHttpService::new(
        move || Ok(own.clone()),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default().with_legacy_session_mode(era == Era::Old),
    );
    let service = HttpService::from_fn(move |request: Request| {
        let answer = service.clone().call(request);
        async move {
            let Ok(response) = answer.await;
            Ok(response.map(Body::new))
        }
    });
    (service, fixture)
}
