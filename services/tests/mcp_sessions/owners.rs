//! A session is its owner's.

use http::{Method, StatusCode};
use serde_json::json;

use crate::client::{ALICE, Client, Who};
use crate::nodes::{Node, backends};

/// What somebody gets for a session, whichever way they try.
async fn tries(client: &Client, node: &Node, last: &str) -> Vec<(StatusCode, String)> {
    let mut tries = Vec::new();
    let cancel =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } });
    for mut answer in [
        client.call(node, 7, "echo", json!({})).await,
        client.post(node, &cancel).await,
        client.initialize(node).await,
        client.get(node, None).await,
        client.get(node, Some(last)).await,
        client.send(node, client.request(Method::DELETE, None, None)).await,
    ] {
        tries.push((answer.status, answer.text().await));
    }
    tries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_others_a_session_does_not_exist() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let owner = Client::begin(&a).await;
        let mut slow = owner.call(&a, 1, "slow", json!({})).await;
        let id = slow.message().await.expect("a report").id.expect("an id");
        for who in [
            Who { subject: "2", ..ALICE },
            Who { client: "c2", ..ALICE },
            Who { host: "other.example.com", ..ALICE },
        ] {
            let thief = Client { who, ..owner.clone() };
            let nowhere = Client { session: Some("x".repeat(43)), ..thief.clone() };
            for node in [&a, &b] {
                let (stolen, unknown) = (tries(&thief, node, &id).await, tries(&nowhere, node, &id).await);
                assert_eq!(stolen, unknown);
                assert!(stolen.iter().all(|(status, _)| *status == StatusCode::NOT_FOUND), "{stolen:?}");
            }
        }
        owner.echo(&b, 2, "mine").await;
        a.gate.open();
        assert_eq!(slow.result(1).await, "done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_found_in_their_own_session_only() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let owner = Client::begin(&a).await;
        let thief = Client::begin_as(&a, Who { subject: "2", ..ALICE }, "2025-11-25").await;
        let mut slow = owner.call(&a, 1, "slow", json!({})).await;
        let id = slow.message().await.expect("a report").id.expect("an id");
        for node in [&a, &b] {
            let mut stream = thief.get(node, Some(&id)).await;
            let event = stream.message().await.expect("an end");
            assert!(event.data["error"].is_object(), "{event:?}");
            assert!(stream.event().await.is_none());
        }
        a.gate.open();
        assert_eq!(slow.result(1).await, "done");
        let mut stream = thief.get(&b, Some(&id)).await;
        assert!(stream.message().await.expect("an end").data["error"].is_object());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_without_sessions_is_no_way_to_one() {
    let backend = crate::nodes::Backend::memory();
    let a = backend.node();
    let owner = Client::begin(&a).await;
    let thief = Client { who: Who { subject: "2", ..ALICE }, ..owner.clone() };
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "echo" } });
    for version in ["2026-07-28", "9999-01-01", "x"] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let mut request = thief.request(method, Some(&call), None);
            request.headers_mut().insert("mcp-protocol-version", version.parse().expect("a value"));
            let answer = thief.send(&a, request).await;
            assert!(answer.status.is_client_error(), "{version}: {}", answer.status);
        }
    }
    let mut twice = thief.request(Method::POST, Some(&call), None);
    twice.headers_mut().append("mcp-session-id", "y".parse().expect("a value"));
    assert_eq!(thief.send(&a, twice).await.status, StatusCode::BAD_REQUEST);
    owner.echo(&a, 1, "still mine").await;
}
