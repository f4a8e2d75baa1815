//! A real client behind a balancer that sends each request to another node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http_body_util::{BodyExt, Full};
use portcullis_layers::{Principal, RequestContext};
use portcullis_services::store::RecordKind;
use rmcp::handler::client::ClientHandler;
use rmcp::model::{
    CallToolRequestParams, ElicitRequestParams, ElicitResult, ElicitationAction, ErrorData, JsonObject,
};
use rmcp::service::{NotificationContext, RequestContext as Asked, RoleClient};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, UnixSocketHttpClient};
use rmcp::{ServiceError, ServiceExt};
use tokio::net::UnixListener;
use tokio::sync::RwLock;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::PATIENCE;
use crate::fixture::reached;
use crate::nodes::{Node, backends};

/// Nodes that take turns.
#[derive(Clone)]
struct Balancer {
    nodes: Arc<[RwLock<Node>]>,
    turn: Arc<AtomicUsize>,
}

impl Balancer {
    async fn answer(State(this): State<Self>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let mut request = http::Request::from_parts(parts, Full::new(body));
        let context = RequestContext::of(request.extensions_mut());
        context.principal = Some(Arc::new(Principal { subject: "1".into(), ..Principal::default() }));
        loop {
            let turn = this.turn.fetch_add(1, Ordering::Relaxed);
            let node = this.nodes[turn % this.nodes.len()].read().await;
            if node.is_alive() {
                return node.answer(request).await.map(Body::new);
            }
        }
    }
}

/// Somebody who agrees to everything.
#[derive(Debug, Clone)]
struct Agreeable {
    changes: Arc<watch::Sender<usize>>,
}

impl ClientHandler for Agreeable {
    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: Asked<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Ok(ElicitResult::new(ElicitationAction::Accept))
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changes.send_modify(|count| *count += 1);
    }
}

fn call(tool: &'static str, text: &str) -> CallToolRequestParams {
    let mut arguments = JsonObject::new();
    arguments.insert("text".into(), text.into());
    CallToolRequestParams::new(tool).with_arguments(arguments)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_client_needs_no_node_of_its_own() {
    for backend in backends() {
        let nodes: Arc<[RwLock<Node>]> = (0..3).map(|_| RwLock::new(backend.node())).collect();
        let balancer = Balancer { nodes: Arc::clone(&nodes), turn: Arc::default() };
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("mcp");
        let listener = UnixListener::bind(&socket).expect("bound");
        let app = Router::new().fallback(Balancer::answer).with_state(balancer);
        tokio::spawn(async move { axum::serve(listener, app).await });

        let uri = "http://mcp.example.com/mcp";
        let http = UnixSocketHttpClient::new(socket.to_str().expect("text"), uri);
        let config = StreamableHttpClientTransportConfig::with_uri(uri);
        let agreeable = Agreeable { changes: Arc::default() };
        let transport = StreamableHttpClientTransport::with_client(http, config);
        let client = agreeable.clone().serve(transport).await.expect("initialized");
        let result = async |tool, text: &str| {
            let result =
                timeout(PATIENCE, client.call_tool(call(tool, text))).await.expect("an answer in time");
            result.map(|result| result.content[0].as_text().expect("text").text.clone())
        };
        for number in 0..9 {
            let text = number.to_string();
            assert_eq!(result("echo", &text).await.expect("a result"), text);
        }
        for _ in 0..4 {
            assert_eq!(result("ask", "").await.expect("a result"), "Accept");
        }
        for count in 1..=4 {
            assert_eq!(result("shout", "").await.expect("a result"), "true");
            reached(&agreeable.changes, count).await;
        }
        // The node that works on a request is killed: the client is told, and goes on.
        let slow = result("slow", "");
        let kill = async {
            let mut waits = Vec::new();
            for node in &*nodes {
                let gate = Arc::clone(&node.read().await.gate);
                waits.push(Box::pin(async move { reached(&gate.waiting, 1).await }));
            }
            let (_, place, _) = futures_util::future::select_all(waits).await;
            nodes[place].write().await.kill();
        };
        let (lost, ()) = tokio::join!(slow, kill);
        let Err(ServiceError::McpError(error)) = lost else { panic!("{lost:?}") };
        assert!(error.message.contains("lost"), "{error:?}");
        assert_eq!(result("echo", "on").await.expect("a result"), "on");
        client.cancel().await.expect("ended");
        let left = backend.store().count_records(RecordKind::McpSession, None).await.expect("counted");
        assert_eq!(left, 0, "the client has ended its session");
    }
}
