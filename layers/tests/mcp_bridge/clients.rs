//! What clients of one era get from servers of the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_layers::mcp_bridge::Settings;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ReadResourceRequestParams, ServerNotification,
    SubscribeRequestParams, SubscriptionFilter,
};
use rmcp::service::RunningService;
use rmcp::{RoleClient, ServiceError};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::servers::{Era, server};
use crate::support::{Bridge, DEADLINE, User, until};

const ACROSS: [(Era, Era); 2] = [(Era::Old, Era::New), (Era::New, Era::Old)];

async fn call(
    client: &RunningService<RoleClient, User>,
    name: &'static str,
    arguments: Value,
) -> Result<CallToolResult, ServiceError> {
    let Value::Object(arguments) = arguments else { panic!("an object") };
    let params = CallToolRequestParams::new(name).with_arguments(arguments);
    timeout(DEADLINE, client.call_tool(params)).await.expect("in time")
}

fn text(result: CallToolResult) -> String {
    let result = serde_json::to_value(result).expect("JSON");
    result["content"][0]["text"].as_str().expect("text").to_owned()
}

fn code(error: &ServiceError) -> i32 {
    match error {
        ServiceError::McpError(error) => error.code.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tools_are_listed_and_called_across() {
    for (of_client, of_server) in ACROSS {
        let (upstream, fixture) = server(of_server);
        let bridge = Bridge::to(upstream);
        let client = bridge.client(of_client, User::default()).await;
        let tools = client.list_all_tools().await.expect("tools");
        assert_eq!(tools.len(), 3, "{of_client:?}");
        let echoed = call(&client, "echo", json!({ "a": "é" })).await.expect("a result");
        assert_eq!(text(echoed), r#"{"a":"é"}"#, "{of_client:?}");
        assert_eq!(code(&call(&client, "none", json!({})).await.expect_err("no such tool")), -32602);
        assert_eq!(fixture.finished.load(Ordering::Relaxed), 1);
        client.cancel().await.expect("closed");
    }
}

#[tokio::test]
async fn elicitation_and_sampling_are_carried_over() {
    for (of_client, of_server) in ACROSS {
        let (upstream, fixture) = server(of_server);
        let bridge = Bridge::to(upstream);
        let client = bridge.client(of_client, User::able()).await;
        for round in 1..=2 {
            let result = call(&client, "ask", json!({})).await.expect("a result");
            assert_eq!(text(result), r#""ann" "roses""#, "{of_client:?}");
            assert_eq!(fixture.finished.load(Ordering::Relaxed), round, "the tool ran once");
        }
    }
}

#[tokio::test]
async fn a_client_that_can_not_be_asked_gets_an_error_that_says_so() {
    for (of_client, of_server) in ACROSS {
        let (upstream, fixture) = server(of_server);
        let bridge = Bridge::to(upstream);
        let client = bridge.client(of_client, User::default()).await;
        let error = call(&client, "ask", json!({})).await.expect_err("can't be asked");
        let _any = code(&error);
        assert_eq!(fixture.finished.load(Ordering::Relaxed), 0);
        let echoed = call(&client, "echo", json!({})).await.expect("the client goes on");
        assert_eq!(text(echoed), "{}");
    }
}

#[tokio::test]
async fn many_requests_of_one_client_are_asked_for_at_once() {
    for (of_client, of_server) in ACROSS {
        let (upstream, fixture) = server(of_server);
        let bridge = Bridge::to(upstream);
        let client = Arc::new(bridge.client(of_client, User::able()).await);
        let calls = (0..8).map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { text(call(&client, "ask", json!({})).await.expect("a result")) })
        });
        for answer in calls.collect::<Vec<_>>() {
            assert_eq!(answer.await.expect("no panic"), r#""ann" "roses""#, "{of_client:?}");
        }
        assert_eq!(fixture.finished.load(Ordering::Relaxed), 8);
    }
}

#[tokio::test]
async fn progress_is_carried_over() {
    for (of_client, of_server) in ACROSS {
        let (upstream, _) = server(of_server);
        let bridge = Bridge::to(upstream);
        let user = User::default();
        let progress = Arc::clone(&user.progress);
        let client = bridge.client(of_client, user).await;
        let result = call(&client, "progress", json!({})).await.expect("a result");
        assert_eq!(text(result), "done");
        until(|| progress.lock().expect("a lock").len() == 2).await;
        assert_eq!(*progress.lock().expect("a lock"), [1.0, 2.0], "{of_client:?}");
    }
}

#[tokio::test]
async fn a_missing_resource_has_the_code_of_the_clients_era() {
    for ((of_client, of_server), expected) in ACROSS.into_iter().zip([-32002, -32602]) {
        let (upstream, _) = server(of_server);
        let bridge = Bridge::to(upstream);
        let client = bridge.client(of_client, User::default()).await;
        let read = client.read_resource(ReadResourceRequestParams::new("file:///none"));
        let error = timeout(DEADLINE, read).await.expect("in time").expect_err("none");
        assert_eq!(code(&error), expected, "{of_client:?}");
    }
}

#[tokio::test]
async fn an_old_client_goes_on_when_a_new_server_restarts() {
    let (upstream, _) = server(Era::New);
    let bridge = Bridge::to(upstream);
    let client = bridge.client(Era::Old, User::able()).await;
    let (upstream, fixture) = server(Era::New);
    bridge.restart(upstream);
    assert_eq!(text(call(&client, "ask", json!({})).await.expect("a result")), r#""ann" "roses""#);
    assert_eq!(fixture.finished.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_new_client_goes_on_when_an_old_server_restarts() {
    let (upstream, _) = server(Era::Old);
    let bridge = Bridge::to(upstream);
    let client = bridge.client(Era::New, User::able()).await;
    assert_eq!(text(call(&client, "echo", json!({})).await.expect("a result")), "{}");
    let (upstream, fixture) = server(Era::Old);
    bridge.restart(upstream);
    assert_eq!(text(call(&client, "ask", json!({})).await.expect("a result")), r#""ann" "roses""#);
    assert_eq!(fixture.finished.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_exchange_that_was_waited_for_too_long_is_gone() {
    let (upstream, fixture) = server(Era::Old);
    let settings = Settings { input_time: Duration::ZERO, ..Settings::new("/mcp", "fixture") };
    let bridge = Bridge::with(upstream, settings);
    let client = bridge.client(Era::New, User::able()).await;
    let first = timeout(DEADLINE, client.call_tool_once(CallToolRequestParams::new("ask"))).await;
    let CallToolResponse::InputRequired(asked) = first.expect("in time").expect("a result") else {
        panic!("the server asks first");
    };
    let mut again = CallToolRequestParams::new("ask");
    again.request_state = asked.request_state;
    let gone = timeout(DEADLINE, client.call_tool_once(again)).await.expect("in time");
    assert_eq!(code(&gone.expect_err("nobody waits for it")), -32602);
    assert_eq!(fixture.finished.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_new_client_is_told_of_resources_of_an_old_server() {
    let (upstream, _) = server(Era::Old);
    let bridge = Bridge::to(upstream);
    let client = bridge.client(Era::New, User::default()).await;
    let filter: SubscriptionFilter =
        serde_json::from_value(json!({ "resourceSubscriptions": ["file:///a"] })).expect("valid");
    let mut subscription =
        timeout(DEADLINE, client.listen(filter.clone())).await.expect("in time").expect("a subscription");
    assert_eq!(subscription.acknowledged(), &filter);
    let told = timeout(DEADLINE, subscription.next()).await.expect("in time").expect("open");
    match told {
        Some(ServerNotification::ResourceUpdatedNotification(note)) => {
            assert_eq!(note.params.uri, "file:///a");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_old_client_subscribes_to_resources_of_a_new_server() {
    let (upstream, _) = server(Era::New);
    let bridge = Bridge::to(upstream);
    let client = bridge.client(Era::Old, User::default()).await;
    let subscribe = client.subscribe(SubscribeRequestParams::new("file:///a"));
    timeout(DEADLINE, subscribe).await.expect("in time").expect("subscribed");
    let result = call(&client, "echo", json!({})).await.expect("the session goes on");
    assert_eq!(text(result), "{}");
}
