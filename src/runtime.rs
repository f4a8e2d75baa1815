//! What outlives every reload and is handed to the stacks when they are built: pools, verifiers, built-in targets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use portcullis_layers::HttpService;
use portcullis_layers::forward::{Client, Timeouts};
use portcullis_layers::mcp::call::Sink;
use portcullis_layers::mcp::rates::Buckets;
use portcullis_layers::mcp_bridge::{Limits, McpBridge};
use portcullis_layers::sealed::Keys;
use portcullis_services::config::Builtin;
use portcullis_services::config::access::Site;
use portcullis_services::docker::Switchboard;
use portcullis_services::mcp_tools::Notes;
use portcullis_services::mirror::Mirror;
use portcullis_services::oauth::IdentitySigner;
use portcullis_services::oauth::upstream_tokens::HeldTokens;
use portcullis_services::vault::Vault;

use crate::tool_memories::ToolMemories;
use crate::verifiers::Verifiers;

/// Live handles; configuration is never in here.
pub struct Runtime {
    /// Calls upstreams.
    pub client: Client,
    /// Judge tokens.
    pub verifiers: Arc<Verifiers>,
    /// Opens the private keys of certificates, and the credentials for upstreams.
    pub vault: Arc<Vault>,
    /// What this node knows of the store.
    pub mirror: Mirror,
    /// What the deployment says about every host.
    pub site: Site,
    /// How long exchanges may take where a host does not say.
    pub timeouts: Timeouts,
    /// Where the ready containers of services are.
    pub services: Switchboard,
    /// The largest request body where a host does not say, in bytes.
    pub max_body: u64,
    /// The HTTPS port that clients see.
    pub public_https_port: u16,
    /// The authorization server, where there is one.
    pub oauth: Option<HttpService>,
    /// Signs statements of who calls, for upstreams.
    pub identity: Arc<IdentitySigner>,
    /// The number of threads that serve, and one for all others.
    pub workers: usize,
    /// Where the records of MCP calls go.
    pub calls: Arc<dyn Sink>,
    /// Seals what clients of MCP servers keep for us.
    pub sealed: Keys,
    /// Takes note of what lists show of tools.
    pub tools: Notes,
    /// What was seen of tools here.
    pub pins: Arc<ToolMemories>,
    /// GitHub's tokens that upstreams are called with.
    pub github_tokens: HeldTokens,
    /// What all bridges between the eras of MCP share.
    pub bridge: McpBridge,
    /// What the limits of MCP calls count in.
    pub buckets: Arc<Buckets>,
    builtins: HashMap<Builtin, HttpService>,
}

/// What [`Runtime::new`] needs.
pub struct Parts {
    /// See [`Runtime::client`].
    pub client: Client,
    /// See [`Runtime::verifiers`].
    pub verifiers: Arc<Verifiers>,
    /// See [`Runtime::vault`].
    pub vault: Arc<Vault>,
    /// See [`Runtime::mirror`].
    pub mirror: Mirror,
    /// See [`Runtime::site`].
    pub site: Site,
    /// See [`Runtime::timeouts`].
    pub timeouts: Timeouts,
    /// See [`Runtime::services`].
    pub services: Switchboard,
    /// See [`Runtime::max_body`].
    pub max_body: u64,
    /// See [`Runtime::public_https_port`].
    pub public_https_port: u16,
    /// See [`Runtime::oauth`].
    pub oauth: Option<HttpService>,
    /// See [`Runtime::identity`].
    pub identity: Arc<IdentitySigner>,
    /// See [`Runtime::workers`].
    pub workers: usize,
    /// See [`Runtime::calls`].
    pub calls: Arc<dyn Sink>,
    /// See [`Runtime::sealed`].
    pub sealed: Keys,
    /// See [`Runtime::tools`].
    pub tools: Notes,
    /// See [`Runtime::github_tokens`].
    pub github_tokens: HeldTokens,
    /// The built-in targets.
    pub builtins: HashMap<Builtin, HttpService>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("site", &self.site).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Collects the handles.
    pub fn new(parts: Parts) -> Self {
        let Parts { client, verifiers, vault, site, timeouts, max_body, public_https_port, .. } = parts;
        let (oauth, identity, workers, builtins) =
            (parts.oauth, parts.identity, parts.workers, parts.builtins);
        Self {
            client,
            verifiers,
            vault,
            mirror: parts.mirror,
            site,
            timeouts,
            services: parts.services,
            max_body,
            public_https_port,
            oauth,
            identity,
            workers,
            calls: parts.calls,
            bridge: McpBridge::new(parts.sealed.clone(), Limits::default()),
            sealed: parts.sealed,
            tools: parts.tools,
            github_tokens: parts.github_tokens,
            buckets: Arc::default(),
            pins: Arc::default(),
            builtins,
        }
    }

    /// A built-in target.
    pub fn builtin(&self, builtin: Builtin) -> Option<HttpService> {
        self.builtins.get(&builtin).cloned()
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("site", &self.site).finish_non_exhaustive()
    }
}
