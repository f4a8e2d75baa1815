//! The logs of a node.

use portcullis_layers::access_log::{Record, Sink};

use super::Writer;

/// What writes the logs of this node.
#[derive(Debug, Clone)]
pub struct Writers {
    /// One record per request that is no call of an MCP server.
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

impl Writers {
    /// What takes the records of requests.
    pub fn of_requests(&self) -> RequestWriter {
        RequestWriter { requests: self.requests.clone(), calls: self.mcp.clone() }
    }
}

/// Appends requests to their log, and those that are calls of an MCP server to the log of these, which other traffic
/// can't push them out of. Whoever reads the log of requests reads both. A clone is two reference counts.
#[derive(Debug, Clone)]
pub struct RequestWriter {
    requests: Writer,
    calls: Writer,
}

impl Sink for RequestWriter {
    fn emit(&self, record: &Record<'_>) {
        let writer = if record.call.is_some() { &self.calls } else { &self.requests };
        writer.emit(record);
    }
}
