//! Our own MCP server: the operations of [`control`](crate::control) as tools.
//!
//! It is one more reader of the one list, beside REST and the command line. Who calls is known from the request, as
//! for REST: a layer in front has verified the token. What a caller may not do is not listed, and refused when it is
//! called all the same.
//!
//! - [`tools`]: an operation as a tool; `command` and `echo` are two of our own.
//! - [`server`]: what the protocol asks for; `confirm` asks people, `progress` tells how far work is.
//! - `resources` and `prompts`: what can be read, and what can be begun.
//! - [`sessions`]: who talks to us, at whichever node.

mod command;
mod confirm;
mod echo;
mod effects;
mod progress;
mod prompts;
mod resources;
mod schema;
pub mod server;
pub mod sessions;
pub mod tools;

use std::sync::Arc;

use portcullis_layers::RequestContext;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

pub use self::server::Server;
pub use self::sessions::guard::has_sessions;
use self::sessions::{Guard, Sessions};
use crate::control::{Caller, Control};
use crate::store::Store;

/// Larger requests are refused: the largest input of an operation, and what the protocol adds.
const MAX_BODY: usize = (1 << 20) + 64 * 1024;

/// A server of whatever kind over Streamable HTTP, each revision of it.
pub type Service<H = Server> = Guard<StreamableHttpService<H, Sessions>>;

/// What differs from one server to the other.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether there are sessions. Without them only the revisions from 2026-07-28 on are spoken.
    pub sessions: bool,
    /// Names by which clients may call the server, where nothing in front of it checks them; none: something does.
    pub hosts: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { sessions: true, hosts: Vec::new() }
    }
}

/// Who makes a request: what a layer in front has noted, never what headers say. Who brings a token has what that
/// allows, and no more because of the machine that the request comes from.
fn caller(extensions: &http::Extensions) -> Caller {
    let known = RequestContext::get(extensions).and_then(|known| known.principal.clone());
    match (extensions.get::<Caller>(), known) {
        (None | Some(Caller::Local), Some(principal)) => Caller::Principal(principal),
        (Some(caller), _) => caller.clone(),
        (None, None) => Caller::Anonymous,
    }
}

/// The service of a control, at `/mcp`. Which host and origin a request is for is checked in front of it. The
/// [`run`](Sessions::run) of its [`sessions`](Guard::sessions) must run beside it.
pub fn service(control: Arc<Control>) -> Service {
    let (store, key) = (Arc::clone(&control.store), *control.vault.blob_key());
    let server = Server::new(control);
    serve(store, &key, move || server.clone(), Options::default())
}

/// The service of any server, with its sessions in a store, where the key seals what they leave. Each session has a handler of its own at each node. The
/// [`run`](Sessions::run) of its [`sessions`](Guard::sessions) must run beside it.
pub fn serve<H: ServerHandler>(
    store: Arc<dyn Store>,
    key: &[u8; 32],
    server: impl Fn() -> H + Send + Sync + 'static,
    options: Options,
) -> Service<H> {
    let mut config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(options.hosts)
        .with_legacy_session_mode(options.sessions)
        .with_stateless_protocol_metadata_required(!options.sessions);
    config.max_request_body_bytes = MAX_BODY;
    Sessions::new(store, key, sessions::Options::default()).serve(move || Ok(server()), config)
}
