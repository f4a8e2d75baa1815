//! Names and numbers of the protocol, of both eras.

/// The first revision without sessions: each request says itself who asks and what it can do.
pub(super) const MODERN: &str = "2026-07-28";

/// The revisions before it, which begin with `initialize`; the newest last.
pub(super) const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// What is asked for where the other side speaks several of the old revisions.
pub(super) const LATEST_LEGACY: &str = LEGACY[LEGACY.len() - 1];

/// Headers of requests and answers, in lower case.
pub(super) mod header {
    use http::HeaderName;

    pub(in super::super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
    pub(in super::super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
    pub(in super::super) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
    pub(in super::super) const NAME: HeaderName = HeaderName::from_static("mcp-name");
    pub(in super::super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
    pub(in super::super) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
    pub(in super::super) const PARAM_PREFIX: &str = "mcp-param-";
}

/// Members of `_meta`.
pub(super) mod meta {
    pub(in super::super) const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    pub(in super::super) const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    pub(in super::super) const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    pub(in super::super) const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    pub(in super::super) const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
    pub(in super::super) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    pub(in super::super) const PROGRESS_TOKEN: &str = "progressToken";
}

/// Codes of JSON-RPC errors.
pub(super) mod code {
    pub(in super::super) const PARSE: i64 = -32700;
    pub(in super::super) const INVALID_REQUEST: i64 = -32600;
    pub(in super::super) const METHOD_NOT_FOUND: i64 = -32601;
    pub(in super::super) const INVALID_PARAMS: i64 = -32602;
    pub(in super::super) const INTERNAL: i64 = -32603;
    /// `resources/read` of what is not there, until 2025-11-25.
    pub(in super::super) const LEGACY_RESOURCE_NOT_FOUND: i64 = -32002;
    /// A link that the user has to follow first; 2025-11-25 only.
    pub(in super::super) const LEGACY_URL_ELICITATION_REQUIRED: i64 = -32042;
    pub(in super::super) const HEADER_MISMATCH: i64 = -32020;
    pub(in super::super) const MISSING_CAPABILITY: i64 = -32021;
    pub(in super::super) const UNSUPPORTED_VERSION: i64 = -32022;
}

/// Levels of log messages, the least important first.
pub(super) const LOG_LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Whether a version belongs to the revisions without sessions. Versions are dates, so text compares as time does.
pub(super) fn is_modern(version: &str) -> bool {
    version >= MODERN
}

/// Whether a server may answer a request of this method that it needs more from the client first.
pub(super) fn may_ask(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

/// Whether a complete result of this method says how long it may be kept.
pub(super) fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_the_dates_that_they_are() {
        assert!(LEGACY.is_sorted());
        assert!(LEGACY.iter().all(|version| !is_modern(version)));
        for version in [MODERN, "2027-01-01", "DRAFT-2027-v1"] {
            assert!(is_modern(version), "{version}");
        }
    }
}
