//! The bridge in front of a server, on a socket, and clients of either era.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use portcullis_layers::mcp_bridge::{Keys, Limits, McpBridge, McpBridgeLayer, Settings};
use portcullis_layers::{Body, HttpService, Principal, Request, RequestContext, Response};
use rmcp::model::{
    ClientCapabilities, ClientConfig, CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams,
    ElicitResult, ElicitationAction, Implementation, ProgressNotificationParam, ProtocolVersion,
    SamplingMessage,
};
use rmcp::service::{NotificationContext, RequestContext as Context, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tower_layer::Layer;

use crate::servers::Era;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A bridge that listens on a socket.
pub struct Bridge {
    path: String,
    upstream: Arc<RwLock<HttpService>>,
    task: JoinHandle<()>,
    _folder: TempDir,
}

impl Bridge {
    pub fn to(upstream: HttpService) -> Self {
        Self::with(upstream, Settings::new("/mcp", "fixture"))
    }

    pub fn with(upstream: HttpService, settings: Settings) -> Self {
        let upstream = Arc::new(RwLock::new(upstream));
        let current = Arc::clone(&upstream);
        let inner = HttpService::from_fn(move |request: Request| {
            current.read().expect("a lock").clone().call(request)
        });
        let bridge = McpBridge::new(Keys::new([&[5; 32]]).expect("a key"), Limits::default());
        let service = HttpService::new(McpBridgeLayer::new(bridge, settings).layer(inner));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s").to_str().expect("text").to_owned();
        let listener = UnixListener::bind(&path).expect("a socket");
        let task = tokio::spawn(async move {
            loop {
                let (io, _) = listener.accept().await.expect("a connection");
                let service = service.clone();
                let serve = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                    answer(service.clone(), request)
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(io), serve));
            }
        });
        Self { path, upstream, task, _folder: folder }
    }

    /// Another server in the place of the one that was there.
    pub fn restart(&self, upstream: HttpService) {
        *self.upstream.write().expect("a lock") = upstream;
    }

    /// A client of this era.
    pub async fn client(&self, era: Era, user: User) -> RunningService<RoleClient, User> {
        let transport = StreamableHttpClientTransport::from_unix_socket(&self.path, "http://localhost/mcp");
        let lifecycle = match era {
            Era::Old => ClientLifecycleMode::Initialize,
            Era::New => {
                ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
            }
        };
        let client = user.serve_with_lifecycle(transport, lifecycle);
        tokio::time::timeout(DEADLINE, client).await.expect("in time").expect("a client")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(service: HttpService, request: http::Request<Incoming>) -> Result<Response, Infallible> {
    let mut request = request.map(Body::from);
    let principal = Principal { subject: "ann".into(), ..Principal::default() };
    RequestContext::of(request.extensions_mut()).principal = Some(Arc::new(principal));
    Ok(service.call(request).await.unwrap_or_else(|error| {
        let mut response = Response::new(Body::from(error.to_string()));
        *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        response
    }))
}

/// Who sits in front of a client.
#[derive(Clone, Default)]
pub struct User {
    /// Whether the client can be asked anything.
    pub able: bool,
    pub progress: Arc<Mutex<Vec<f64>>>,
}

impl User {
    pub fn able() -> Self {
        Self { able: true, ..Self::default() }
    }
}

impl ClientHandler for User {
    fn get_info(&self) -> ClientConfig {
        let capabilities = if self.able {
            serde_json::from_value(json!({ "elicitation": {}, "sampling": {} })).expect("valid")
        } else {
            ClientCapabilities::default()
        };
        ClientConfig::new(capabilities, Implementation::new("user", "1"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: Context<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        assert_eq!(serde_json::to_value(request).expect("JSON")["message"], "who?");
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "name": "ann" })))
    }

    async fn create_message(
        &self,
        _: CreateMessageRequestParams,
        _: Context<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        Ok(CreateMessageResult::new(SamplingMessage::assistant_text("roses"), "model".into()))
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.progress.lock().expect("a lock").push(params.progress);
    }
}

/// Waits until this holds.
pub async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("in time");
}
