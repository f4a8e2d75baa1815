//! The record of a call: who, what, what was decided, and how it went.
//!
//! There is one for each request of a client, each of a batch too, one for each notification that was refused, and one
//! for a body that is no message. It is made when the answer has ended, and never holds arguments or results.
//!
//! A request that is one call may have its record in that of the request ([`Facts::call`]), which knows the rest.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use smallvec::SmallVec;
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::access_log::Queue;
use crate::access_log::record::{address, decimal, encode_call, milliseconds, short, text};
use crate::context::{ClientAddr, Facts, Principal, RequestId, hexadecimal};

pub use crate::context::{McpCall, Outcome, Verdict};

/// As much of a session's id as is hashed: one block of SHA-256.
const END_OF_ID: usize = 48;

/// Takes the record of each call.
///
/// It is called on the request's own thread when the answer has ended: it must never block, wait or panic.
pub trait Sink: Send + Sync {
    /// Takes one record.
    fn emit(&self, record: &Record<'_>);
}

/// Any function is a sink.
impl<F: Fn(&Record<'_>) + Send + Sync> Sink for F {
    fn emit(&self, record: &Record<'_>) {
        self(record);
    }
}

impl Sink for Queue {
    fn emit(&self, record: &Record<'_>) {
        self.push(record.time, |out| record.encode(out));
    }
}

/// Everything that is known of a call when its answer has ended.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When it ended, milliseconds since 1970.
    pub time: u64,
    /// Our own id of the request.
    pub id: Option<RequestId>,
    /// Whom we believe to be the client.
    pub client: Option<ClientAddr>,
    /// The host.
    pub host: Option<&'a str>,
    /// Who called.
    pub principal: Option<&'a Principal>,
    /// What was called, what was decided, and how it went.
    pub call: &'a McpCall,
    /// The status of the answer; `None`: the client left before there was one.
    pub status: Option<u16>,
    /// From the arrival of the request until the answer ended.
    pub took: Duration,
}

impl Record<'_> {
    /// Appends the record as one compact JSON object, without a line end. Absent values are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"timestamp\":");
        decimal(out, self.time);
        if let Some(id) = self.id {
            out.extend_from_slice(b",\"trace_id\":\"");
            out.extend_from_slice(&id.digits());
            out.push(b'"');
        }
        if let Some(client) = self.client {
            out.extend_from_slice(b",\"client_ip\":\"");
            address(out, client.ip());
            out.push(b'"');
        }
        text(out, b",\"proxy_hostname\":\"", short(self.host));
        if let Some(principal) = self.principal {
            text(out, b",\"auth_user\":\"", short(Some(&principal.full_name())));
            text(out, b",\"auth_subject\":\"", short(Some(&principal.full_subject())));
            text(out, b",\"auth_client_id\":\"", short(principal.client_id.as_deref()));
        }
        if let Some(status) = self.status {
            out.extend_from_slice(b",\"status_code\":");
            decimal(out, u64::from(status));
        }
        milliseconds(out, b",\"response_time_ms\":", Some(self.took));
        encode_call(out, self.call);
        out.push(b'}');
    }
}

/// What all calls of a request have in common.
pub struct Caller {
    /// Where the records go.
    pub sink: Arc<dyn Sink>,
    /// Where the only call of a request goes, if its record is that of the request.
    pub facts: Option<Arc<Facts>>,
    /// When the request came.
    pub begun: Instant,
    /// See [`Record::id`].
    pub id: Option<RequestId>,
    /// See [`Record::client`].
    pub client: Option<ClientAddr>,
    /// See [`Record::host`].
    pub host: Option<crate::names::HostName>,
    /// See [`Record::principal`].
    pub principal: Option<Arc<Principal>>,
    /// See [`McpCall::session`].
    pub session: Option<SmolStr>,
    /// See [`McpCall::protocol`].
    pub protocol: Option<SmolStr>,
    /// Of the header.
    pub trace: Option<SmolStr>,
}

impl Caller {
    /// A call of a method that was let through, of which nothing else is known.
    pub fn call(&self, method: &str) -> McpCall {
        McpCall {
            session: self.session.clone(),
            protocol: self.protocol.clone(),
            id: None,
            method: SmolStr::new(method),
            name: None,
            verdict: Verdict::Allow,
            rule: None,
            outcome: Outcome::default(),
            trace: self.trace.clone(),
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The calls of a request. Their records are emitted when this is dropped, whatever the reason.
#[derive(Debug)]
pub struct Calls {
    /// Who calls.
    pub caller: Caller,
    /// What is called.
    pub pending: SmallVec<[Box<McpCall>; 1]>,
    /// See [`Record::status`].
    pub status: Option<u16>,
}

impl Calls {
    /// The calls of a request, of which none is known yet.
    pub fn of(caller: Caller) -> Self {
        Self { caller, pending: SmallVec::new(), status: None }
    }

    /// Notes that what was posted is no message that anybody could read.
    #[cold]
    pub fn refuse(&mut self, status: StatusCode, id: Option<&str>, code: i64) {
        self.status = Some(status.as_u16());
        let outcome = Outcome { answered: true, error: Some(code), is_error: false };
        let call =
            McpCall { id: id.map(SmolStr::new), verdict: Verdict::Refused, outcome, ..self.caller.call("") };
        self.pending.push(Box::new(call));
    }

    /// Notes how the only call there is went, if that is known.
    pub(super) fn note_only(&mut self, outcome: Outcome) {
        if outcome.answered
            && let [only] = &mut self.pending[..]
        {
            only.outcome = outcome;
        }
    }

    /// Notes how the call of this id went.
    pub(super) fn note(&mut self, id: &str, outcome: Outcome) {
        if let Some(call) = self.pending.iter_mut().find(|call| call.id.as_deref() == Some(id)) {
            call.outcome = outcome;
        }
    }

    /// Has the records made: now, because the record of the request is made when its answer has ended.
    pub(super) fn end(&mut self) {
        if self.pending.len() == 1
            && let Some(facts) = &self.caller.facts
            && let Some(only) = self.pending.pop()
            && let Err(late) = facts.call.set(Some(only))
        {
            // That record was made before: somebody outside has ended the answer.
            self.pending.extend(late);
        }
        if !self.pending.is_empty() {
            self.emit();
        }
    }

    fn emit(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let Caller { sink, begun, id, client, host, principal, protocol, .. } = &self.caller;
        for mut call in self.pending.drain(..) {
            // One message of a batch may be the only one that says it.
            if call.protocol.is_none() {
                call.protocol.clone_from(protocol);
            }
            sink.emit(&Record {
                time,
                id: *id,
                client: *client,
                host: host.as_ref().map(crate::names::HostName::as_str),
                principal: principal.as_deref(),
                call: &call,
                status: self.status,
                took: begun.elapsed(),
            });
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.end();
    }
}

/// A `traceparent` of the form that the standard has; anything else is not kept.
pub fn traceparent(text: &str) -> Option<SmolStr> {
    let bytes = text.as_bytes();
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let fits = bytes.len() == 55
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => is_hex(byte),
        });
    fits.then(|| text.into())
}

/// What a session is called in records: a digest of the end of its id, which is enough to tell long ones apart.
pub fn session_digest(id: &[u8]) -> SmolStr {
    let end = &id[id.len().saturating_sub(END_OF_ID)..];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, end);
    let first = digest.as_ref().first_chunk().map_or(0, |eight| u64::from_be_bytes(*eight));
    SmolStr::new(str::from_utf8(&hexadecimal(first)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_is_known_and_no_more() {
        let principal = Principal {
            subject: "7".into(),
            username: Some("alice".into()),
            client_id: Some("c\"1".into()),
            ..Principal::default()
        };
        let call = McpCall {
            session: None,
            protocol: Some("2025-11-25".into()),
            id: Some("\"x\"".into()),
            method: "tools/call".into(),
            name: Some("delete\n".into()),
            verdict: Verdict::Allow,
            rule: Some("r".into()),
            outcome: Outcome { answered: true, error: Some(-32602), is_error: true },
            trace: None,
        };
        let record = Record {
            time: 5,
            id: Some(RequestId(1, 2)),
            client: None,
            host: Some("a.example"),
            principal: Some(&principal),
            call: &call,
            status: Some(200),
            took: Duration::from_micros(1_234_567),
        };
        let mut line = Vec::new();
        record.encode(&mut line);
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({
                "timestamp": 5, "trace_id": "00000000000000010000000000000002", "proxy_hostname": "a.example",
                "auth_user": "alice", "auth_subject": "7", "auth_client_id": "c\"1", "mcp_protocol": "2025-11-25",
                "mcp_method": "tools/call", "mcp_name": "delete\n", "mcp_call_id": "\"x\"", "decision": "allow",
                "rule": "r", "status_code": 200, "rpc_error": -32602, "is_error": true, "response_time_ms": 1234.567,
            })
        );
    }

    #[test]
    fn only_what_is_a_traceparent_is_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(traceparent(good).as_deref(), Some(good));
        for bad in ["", "x", &good.to_uppercase(), &good.replace('-', "_"), &format!("{good}0"), &good[1..]] {
            assert_eq!(traceparent(bad), None, "{bad}");
        }
        assert_eq!(session_digest(b"a"), "ca978112ca1bbdca");
        let long =
            |begin: &str, end: &str| session_digest(format!("{begin}{}{end}", "x".repeat(100)).as_bytes());
        assert!(long("a", "b") == long("c", "b") && long("a", "b") != long("a", "c"));
    }
}
