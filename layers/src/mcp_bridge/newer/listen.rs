//! `subscriptions/listen`, fed by the standing stream of a session with an old server.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::session::Session;
use super::source::{Came, Source};
use super::translate::About;
use crate::body::Response;
use crate::mcp_bridge::Caller;
use crate::mcp_bridge::protocol::{code, meta};
use crate::mcp_bridge::rpc::{Failure, Message, Notification, Object, Request};
use crate::mcp_bridge::slots::Slot;
use crate::mcp_bridge::stream::{Out, stream};
use crate::mcp_bridge::upstream::{Piece, Stop};

/// Resources that one subscription may name.
const RESOURCES: usize = 256;

/// How often a stream that ends without having said anything is asked for again, and after which time.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// What a client wants to be told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Filter {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: BTreeSet<String>,
}

impl Filter {
    fn of(params: &Object) -> Option<Self> {
        let wanted = params.get("notifications")?.as_object()?;
        let flag = |name: &str| wanted.get(name).and_then(Value::as_bool).unwrap_or(false);
        let uris = match wanted.get("resourceSubscriptions") {
            None => BTreeSet::new(),
            Some(uris) => {
                uris.as_array()?.iter().map(|uri| uri.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
        };
        (uris.len() <= RESOURCES).then(|| Self {
            tools: flag("toolsListChanged"),
            prompts: flag("promptsListChanged"),
            resources: flag("resourcesListChanged"),
            uris,
        })
    }

    /// What of it a server with these capabilities can tell.
    fn honoured(mut self, capabilities: Option<&Value>) -> Self {
        let able = |what: &str, how: &str| {
            capabilities.and_then(|all| all.get(what)?.get(how)?.as_bool()).unwrap_or(false)
        };
        self.tools &= able("tools", "listChanged");
        self.prompts &= able("prompts", "listChanged");
        self.resources &= able("resources", "listChanged");
        if !able("resources", "subscribe") {
            self.uris.clear();
        }
        self
    }

    fn to_value(&self) -> Value {
        let mut filter = Object::new();
        for (name, wanted) in [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ] {
            if wanted {
                filter.insert(name.into(), true.into());
            }
        }
        if !self.uris.is_empty() {
            filter.insert("resourceSubscriptions".into(), json!(self.uris));
        }
        Value::Object(filter)
    }

    fn wants(&self, note: &Notification) -> bool {
        match note.method.as_str() {
            "notifications/tools/list_changed" => self.tools,
            "notifications/prompts/list_changed" => self.prompts,
            "notifications/resources/list_changed" => self.resources,
            "notifications/resources/updated" => {
                let uri = note.params.get("uri").and_then(Value::as_str);
                // A server may tell of a part of what was subscribed to (2025-11-25, resources, "Subscriptions").
                uri.is_some_and(|uri| self.uris.iter().any(|wanted| uri.starts_with(wanted.as_str())))
            }
            _ => false,
        }
    }
}

/// A notification of a subscription.
fn of_subscription(mut note: Notification, id: &Value) -> Value {
    let about = note.params.entry("_meta").or_insert_with(|| json!({}));
    if !about.is_object() {
        *about = json!({});
    }
    about[meta::SUBSCRIPTION] = id.clone();
    note.to_value()
}

pub(super) async fn listen(
    caller: &Caller,
    request: &Request,
    about: &About,
    slot: Slot,
) -> Result<Response, Stop> {
    let Some(filter) = Filter::of(&request.params) else {
        return Err(Stop::Failure(Failure::new(
            StatusCode::OK,
            "mcp_bad_filter",
            code::INVALID_PARAMS,
            format!("notifications is no filter, or names more than {RESOURCES} resources"),
        )));
    };
    // A session of its own: what comes on its standing stream is for this subscription.
    let place = caller.shared.newer.slot(caller)?;
    let mut session = Session::begin(caller, about, place).await?;
    let mut filter = filter.honoured(session.initialized.get("capabilities"));
    if filter != Filter::default() {
        session.stand().await;
    }
    for uri in filter.uris.clone() {
        let params = [("uri".to_owned(), Value::from(uri.as_str()))].into_iter().collect();
        if session.ask("resources/subscribe", params).await?.is_err() {
            filter.uris.remove(&uri);
        }
    }
    let id = request.id.clone();
    Ok(stream(caller.settings.keep_alive, |out| async move {
        let _slot = slot;
        let mut params = Object::new();
        params.insert("notifications".into(), filter.to_value());
        let acknowledged = Notification { method: "notifications/subscriptions/acknowledged".into(), params };
        out.send(&of_subscription(acknowledged, &id)).await;
        tell(session, &filter, &id, &out).await;
    }))
}

async fn tell(mut session: Session, filter: &Filter, id: &Value, out: &Out) {
    let mut silent = 0;
    loop {
        let message = match session.standing.next().await {
            Ok(Came::Piece(Piece { message, .. })) => {
                silent = 0;
                message
            }
            // Servers end such streams from time to time, and old clients ask for them again.
            Ok(Came::End) if silent < ATTEMPTS => {
                silent += 1;
                sleep(PAUSE * silent).await;
                session.standing = Source::Nothing;
                session.stand().await;
                None
            }
            // The client sees a stream that ends without an answer and may ask again.
            Ok(_) | Err(_) => return,
        };
        let told = match message {
            Some(Message::Notification(note)) if filter.wants(&note) => {
                out.send(&of_subscription(note, id)).await;
                Ok(())
            }
            Some(Message::Request(asked)) => session.answer_here(&asked).await,
            _ => Ok(()),
        };
        if told.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(wanted: Value) -> Option<Filter> {
        let params = [("notifications".to_owned(), wanted)].into_iter().collect();
        Filter::of(&params)
    }

    fn note(method: &str, params: Value) -> Notification {
        let Value::Object(params) = params else { panic!("an object") };
        Notification { method: method.into(), params }
    }

    #[test]
    fn a_filter_keeps_what_the_server_can_tell() {
        let wanted = json!({ "toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": ["b", "a"] });
        let filter = filter(wanted).expect("a filter");
        let all =
            json!({ "tools": { "listChanged": true }, "prompts": {}, "resources": { "subscribe": true } });
        assert_eq!(
            filter.clone().honoured(Some(&all)).to_value(),
            json!({ "toolsListChanged": true, "resourceSubscriptions": ["a", "b"] })
        );
        assert_eq!(filter.honoured(None).to_value(), json!({}));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for wanted in [
            json!(1),
            json!({ "resourceSubscriptions": 1 }),
            json!({ "resourceSubscriptions": [1] }),
            json!({ "resourceSubscriptions": (0..300).map(|n| n.to_string()).collect::<Vec<_>>() }),
        ] {
            assert_eq!(filter(wanted.clone()), None, "{wanted}");
        }
        assert_eq!(Filter::of(&Object::new()), None);
    }

    #[test]
    fn a_client_is_told_what_it_wants_and_of_which_subscription() {
        let filter = filter(json!({ "toolsListChanged": true, "resourceSubscriptions": ["file:///a"] }))
            .expect("a filter");
        for (method, params, wanted) in [
            ("notifications/tools/list_changed", json!({}), true),
            ("notifications/prompts/list_changed", json!({}), false),
            ("notifications/resources/updated", json!({ "uri": "file:///a" }), true),
            ("notifications/resources/updated", json!({ "uri": "file:///b" }), false),
            ("notifications/message", json!({}), false),
        ] {
            assert_eq!(filter.wants(&note(method, params)), wanted, "{method}");
        }
        let told = of_subscription(note("notifications/tools/list_changed", json!({})), &json!(7));
        assert_eq!(told["params"]["_meta"][meta::SUBSCRIPTION], 7);
    }
}
