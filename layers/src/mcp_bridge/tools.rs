//! Which parameters of tools are repeated in headers, as far as answers have said so.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use smol_str::SmolStr;

use super::Caller;
use super::headers::{self, Param, params_of};
use super::protocol::meta;
use super::rpc::{Message, Object, Request};
use super::upstream::{Content, Stop, next_piece};
use crate::mcp::message::MAX_NAME;

/// Tools with such parameters that are remembered; what is forgotten is asked for again when the server misses it.
const TOOLS: usize = 8192;

/// The most that is remembered of one tool, in bytes.
const MAX_PARAMS_SIZE: usize = 4 * 1024;

/// Pages of a list that are looked through for one tool.
const PAGES: usize = 64;

/// The tools of all upstreams whose parameters are repeated in headers.
#[derive(Default)]
pub(super) struct Tools(Mutex<HashMap<(SmolStr, String), Vec<Param>>>);

impl Tools {
    /// The parameters of the tool that a request calls.
    pub(super) fn params(&self, upstream: &SmolStr, request: &Request) -> Vec<Param> {
        if request.method != "tools/call" {
            return Vec::new();
        }
        let Some(name) = request.name() else { return Vec::new() };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(upstream.clone(), name.to_owned())).cloned().unwrap_or_default()
    }

    /// Takes note of what a list of tools says.
    pub(super) fn learn(&self, upstream: &SmolStr, list: &Object) {
        let tools = list.get("tools").and_then(Value::as_array).into_iter().flatten();
        for tool in tools {
            let (Some(name), Some(schema)) =
                (tool.get("name").and_then(Value::as_str), tool.get("inputSchema"))
            else {
                continue;
            };
            // No call has a longer one: rules refuse it.
            if name.len() > MAX_NAME {
                continue;
            }
            let mut params = params_of(schema);
            if params.iter().map(Param::size).sum::<usize>() > MAX_PARAMS_SIZE {
                params.clear();
            }
            let key = (upstream.clone(), name.to_owned());
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if params.is_empty() {
                known.remove(&key);
                continue;
            }
            if known.len() >= TOOLS && !known.contains_key(&key) {
                known.clear();
            }
            known.insert(key, params);
        }
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tools")
    }
}

/// Asks the server what it wants in the headers of a call.
pub(super) async fn params_of_tool(caller: &Caller, call: &Request) -> Result<Vec<Param>, Stop> {
    let upstream = &caller.settings.upstream;
    let mut cursor = None;
    for _ in 0..PAGES {
        let mut params = Object::new();
        if let Some(mut about) = call.meta().cloned() {
            about.remove(meta::PROGRESS_TOKEN);
            params.insert("_meta".into(), Value::Object(about));
        }
        if let Some(cursor) = cursor {
            params.insert("cursor".into(), cursor);
        }
        let list = Request { id: 1.into(), method: "tools/list".into(), params };
        let reply = caller.upstream.post(&list.to_value(), headers::of_request(&list, &[])).await?;
        let answer = match reply.content {
            Content::Message(Message::Answer(answer)) => Some(answer),
            Content::Events(mut events) => loop {
                match next_piece(&mut events).await? {
                    Some(piece) => {
                        if let Some(Message::Answer(answer)) = piece.message {
                            break Some(answer);
                        }
                    }
                    None => break None,
                }
            },
            Content::Message(_) | Content::Other(_) => None,
        };
        let Some(Ok(mut result)) = answer.map(|answer| answer.outcome) else { break };
        caller.shared.tools.learn(upstream, &result);
        let params = caller.shared.tools.params(upstream, call);
        cursor = result.remove("nextCursor").filter(Value::is_string);
        if !params.is_empty() || cursor.is_none() {
            return Ok(params);
        }
    }
    Ok(Vec::new())
}
