//! What a host says of its bridge, and what all bridges of a process may hold together.

use std::time::Duration;

use smol_str::SmolStr;

/// The bridge of one host.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The path of the MCP endpoint. Requests to other paths pass.
    pub endpoint: String,
    /// What the upstream is called: its era is remembered by this name, and what is sealed for it opens for no other.
    pub upstream: SmolStr,
    /// The largest message in a body or in an event, in bytes.
    pub max_message: usize,
    /// How long the era of the upstream counts.
    pub era_age: Duration,
    /// How long the upstream may take to say which era it speaks.
    pub probe_time: Duration,
    /// How long a session that was made for an old client lasts; after that it begins anew.
    pub session_age: Duration,
    /// How long a client may take to answer what a server asks in the middle of a request: often a person has to.
    pub input_time: Duration,
    /// How often a server may ask in the middle of one request.
    pub rounds: u32,
    /// How long one request may take altogether.
    pub request_time: Duration,
    /// After this much silence an event stream gets a comment, so that nobody between takes it for dead.
    pub keep_alive: Duration,
    /// How long a session with an old server is kept for the next request.
    pub idle: Duration,
}

impl Settings {
    /// The bridge at this path, to the upstream of this name.
    pub fn new(endpoint: impl Into<String>, upstream: impl Into<SmolStr>) -> Self {
        Self {
            endpoint: endpoint.into(),
            upstream: upstream.into(),
            // As our own server and most others have it.
            max_message: 4 * 1024 * 1024,
            era_age: Duration::from_secs(10 * 60),
            probe_time: Duration::from_secs(10),
            session_age: Duration::from_secs(24 * 60 * 60),
            input_time: Duration::from_secs(10 * 60),
            rounds: 10,
            request_time: Duration::from_secs(60 * 60),
            keep_alive: Duration::from_secs(15),
            idle: Duration::from_secs(60),
        }
    }
}

/// How much the bridges of a process hold at once, for one subject and for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests and streams under way, those included that wait for a client's input.
    pub exchanges: usize,
    /// Of these, those of one subject.
    pub exchanges_per_subject: usize,
    /// Sessions with old servers, and what is remembered of sessions of old clients.
    pub sessions: usize,
    /// Of these, those of one subject.
    pub sessions_per_subject: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { exchanges: 8192, exchanges_per_subject: 64, sessions: 4096, sessions_per_subject: 64 }
    }
}
