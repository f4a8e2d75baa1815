//! The logs of a node.

use super::Writer;

/// What writes the logs of this node.
#[derive(Debug, Clone)]
pub struct Writers {
    /// One record per request.
    pub requests: Writer,
    /// The daemon's own diagnostics.
    pub diagnostics: Writer,
    /// One record per call of an operation that changes something.
    pub audit: Writer,
    /// What happened at the authorization server.
    pub oauth: Writer,
    /// One record per call of an MCP server behind a host.
    pub mcp: Writer,
}
