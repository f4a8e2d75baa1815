//! A call of an MCP server, as records tell of it: never with its arguments or its result.

use smol_str::SmolStr;

/// What a client has called, what was decided, and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct McpCall {
    /// What the session is called in records: a digest, because its id may be all that somebody needs to use it.
    pub session: Option<SmolStr>,
    /// The revision of the protocol.
    pub protocol: Option<SmolStr>,
    /// The id of the call, as JSON. `None`: a notification, or nothing that anybody could read.
    pub id: Option<SmolStr>,
    /// The method; empty where none could be read.
    pub method: SmolStr,
    /// The tool, prompt, resource or task.
    pub name: Option<SmolStr>,
    /// What was decided.
    pub verdict: Verdict,
    /// The rule that decided; `None`: the default, or no rule was asked.
    pub rule: Option<SmolStr>,
    /// How it went.
    pub outcome: Outcome,
    /// `traceparent`, of the header or of `_meta` (W3C Trace Context).
    pub trace: Option<SmolStr>,
}

/// What was decided about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It went on to the server.
    Allow,
    /// The rules forbid it.
    Deny,
    /// It needs scopes that the caller may get.
    StepUp,
    /// There were too many.
    RateLimited,
    /// It was no valid message, or part of a batch that was refused.
    Refused,
}

impl Verdict {
    /// As it stands in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::StepUp => "step_up",
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
        }
    }
}

/// How a call went at the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether there was an answer at all.
    pub answered: bool,
    /// The code of its JSON-RPC error.
    pub error: Option<i64>,
    /// Whether it is a result that says `isError`.
    pub is_error: bool,
}
