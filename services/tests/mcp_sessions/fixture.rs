//! A server with tools that wait for the test.

use std::sync::Arc;
use std::time::Duration;

use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ElicitRequestParams,
    ElicitationSchema, ErrorData, InitializeRequestParams, InitializeResult, ProgressNotificationParam,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer};
use tokio::sync::{Semaphore, watch};

/// What a test holds of a server.
#[derive(Debug)]
pub(crate) struct Gate {
    /// How many tools have begun to wait.
    pub(crate) waiting: watch::Sender<usize>,
    /// How many were cancelled.
    pub(crate) cancelled: watch::Sender<usize>,
    /// How many clients have initialized, or were brought back.
    pub(crate) greeted: watch::Sender<usize>,
    /// How many requests have come to the node.
    pub(crate) asked: watch::Sender<usize>,
    /// How many handlers have been told who comes.
    pub(crate) arrived: watch::Sender<usize>,
    /// Whether handlers wait before they greet.
    pub(crate) hold: watch::Sender<bool>,
    /// What lets them go on.
    go: Semaphore,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: watch::Sender::new(0),
            cancelled: watch::Sender::new(0),
            greeted: watch::Sender::new(0),
            asked: watch::Sender::new(0),
            arrived: watch::Sender::new(0),
            hold: watch::Sender::new(false),
            go: Semaphore::new(0),
        })
    }

    /// Lets one tool go on.
    pub(crate) fn open(&self) {
        self.go.add_permits(1);
    }
}

/// Waits until a count is reached.
pub(crate) async fn reached(counter: &watch::Sender<usize>, count: usize) {
    let mut seen = counter.subscribe();
    let reached = tokio::time::timeout(Duration::from_secs(20), seen.wait_for(|seen| *seen >= count)).await;
    assert!(reached.is_ok(), "{} of {count}", *counter.borrow());
}

#[derive(Debug, Clone)]
pub(crate) struct Fixture(pub(crate) Arc<Gate>);

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.0.arrived.send_modify(|count| *count += 1);
        self.0.hold.subscribe().wait_for(|held| !held).await.expect("the gate is there");
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn on_initialized(&self, _context: rmcp::service::NotificationContext<RoleServer>) {
        self.0.greeted.send_modify(|count| *count += 1);
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        let text = match &*request.name {
            "echo" => arguments.get("text").and_then(|text| text.as_str()).unwrap_or_default().to_owned(),
            // Reports, waits for the test, and reports again.
            "slow" => {
                report(&context, 1.0).await;
                self.0.waiting.send_modify(|count| *count += 1);
                tokio::select! {
                    go = self.0.go.acquire() => go.expect("never closed").forget(),
                    () = context.ct.cancelled() => {
                        self.0.cancelled.send_modify(|count| *count += 1);
                        return Err(ErrorData::internal_error("cancelled", None));
                    }
                }
                report(&context, 2.0).await;
                let bytes = arguments.get("bytes").and_then(serde_json::Value::as_u64).unwrap_or(0);
                format!("done{}", "x".repeat(usize::try_from(bytes).expect("a length")))
            }
            // Asks the client, and tells what it said.
            "ask" => {
                let params = ElicitRequestParams::FormElicitationParams {
                    meta: None,
                    message: "really?".into(),
                    requested_schema: ElicitationSchema::builder().build().expect("a schema"),
                };
                let answer = context.peer.create_elicitation(params).await;
                answer
                    .map_or_else(|error| format!("failed: {error}"), |answer| format!("{:?}", answer.action))
            }
            // Says something that belongs to no request.
            "shout" => {
                let told = context.peer.notify_tool_list_changed().await;
                format!("{}", told.is_ok())
            }
            name => return Err(ErrorData::invalid_params(format!("no tool {name}"), None)),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

async fn report(context: &RequestContext<RoleServer>, progress: f64) {
    if let Some(token) = context.meta.get_progress_token() {
        let told = context.peer.notify_progress(ProgressNotificationParam::new(token, progress)).await;
        told.expect("told");
    }
}
