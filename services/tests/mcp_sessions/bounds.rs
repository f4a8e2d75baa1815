//! Sessions and events are bounded, and end.

use std::time::Duration;

use http::StatusCode;
use portcullis_services::mcp::sessions::Options;
use portcullis_services::store::RecordKind;
use rmcp::model::ProtocolVersion;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::client::{ALICE, Client, PATIENCE, Who};
use crate::fixture::reached;
use crate::nodes::{Backend, Node, backends, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_too_many_ends_the_one_that_was_not_used_longest() {
    for backend in backends() {
        let bound = Options { per_subject: 3, renew: Duration::ZERO, ..options() };
        let [a, b] = [backend.node_with(bound.clone()), backend.node_with(bound)];
        let other = Client::begin_as(&a, Who { subject: "2", ..ALICE }, "2025-11-25").await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(Client::begin(&a).await);
            // Times of use are kept in seconds.
            next_second().await;
        }
        // The first is used, which the store gets to know by and by.
        clients[0].echo(&b, 1, "used").await;
        let deadline = Instant::now() + PATIENCE;
        while seen(&backend, 0).await <= seen(&backend, 1).await {
            assert!(Instant::now() < deadline, "never told");
            clients[0].echo(&b, 1, "used").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Registering clients is no way round the bound.
        clients.push(Client::begin_as(&b, Who { client: "c2", ..ALICE }, "2025-11-25").await);
        let mut alive = Vec::new();
        for client in &clients {
            alive.push(client.call(&b, 9, "echo", json!({})).await.status == StatusCode::OK);
        }
        assert_eq!(alive, [true, false, true, true]);
        other.echo(&b, 1, "not concerned").await;
    }
}

/// When a session of Alice's was used, by the order in which they were made.
async fn seen(backend: &Backend, place: usize) -> u64 {
    let page = backend.store().list_records(RecordKind::McpSession, None, None, 10).await.expect("listed");
    let mut kept = page.records.iter().rev().map(|record| record.read::<serde_json::Value>().expect("JSON"));
    // The other one's is the first.
    kept.nth(place + 1).expect("a session")["seen"].as_u64().expect("a time")
}

async fn next_second() {
    let now = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let begun = now();
    while now() == begun {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_sessions_are_refused() {
    for backend in backends() {
        let a = backend.node_with(Options { total: 2, ..options() });
        let client = Client::begin(&a).await;
        Client::begin(&a).await;
        let refused = Client { session: None, ..client.clone() }.initialize(&a).await;
        assert_eq!((refused.status, refused.session()), (StatusCode::SERVICE_UNAVAILABLE, None));
        assert_eq!(client.delete(&a).await, StatusCode::ACCEPTED);
        Client::begin(&a).await;
        assert_eq!(a.sessions().count(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_too_much_gets_no_session() {
    let backend = Backend::memory();
    let a = backend.node();
    let about = json!({ "name": "x".repeat(20_000), "version": "1" });
    let params =
        json!({ "protocolVersion": ProtocolVersion::V_2025_11_25, "capabilities": {}, "clientInfo": about });
    let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let client = Client { who: ALICE, version: "2025-11-25", session: None };
    let mut answer = client.post(&a, &hello).await;
    assert_eq!(answer.session(), None);
    assert_eq!(answer.message().await.expect("an answer").data["error"]["code"], -32602);
    let store = backend.store();
    assert_eq!(store.count_records(RecordKind::McpSession, None).await.expect("counted"), 0);
    assert_eq!(a.sessions().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_few_sessions_in_memory_and_all_at_hand() {
    for backend in backends() {
        let a = backend.node_with(Options { open: 4, ..options() });
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(Client::begin(&a).await);
        }
        for round in 0..2 {
            for client in &clients {
                client.echo(&a, round, "here").await;
                assert!(a.sessions().count() <= 4);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_used_leaves_memory_and_then_ends() {
    let backend = Backend::memory();
    // At a pace that a day does not take long.
    let minute = Duration::from_secs(60);
    let options = Options { poll: minute, alive: minute, ..Options::default() };
    let a = Node::start_on(Handle::current(), backend.store(), options.clone());
    let client = Client::begin(&a).await;
    let held = Client::begin(&a).await;
    let mut stream = held.get(&a, None).await;
    pass(options.resident / 2).await;
    assert_eq!(a.sessions().count(), 2);
    client.echo(&a, 1, "used").await;
    pass(options.resident / 2).await;
    assert_eq!(a.sessions().count(), 2);
    pass(options.resident).await;
    assert_eq!(a.sessions().count(), 1, "an open stream keeps a session");
    client.echo(&a, 2, "back").await;
    assert_eq!(a.sessions().count(), 2);
    // However long a stream stays open, the session ends.
    pass(options.life - options.resident * 3).await;
    assert_eq!(a.sessions().count(), 1);
    pass(options.resident * 3).await;
    assert_eq!(a.sessions().count(), 0);
    while stream.event().await.is_some() {}
    assert_eq!(held.get(&a, None).await.status, StatusCode::NOT_FOUND);
}

/// Lets virtual time pass.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_in_the_store_by_itself() {
    for backend in backends() {
        let short = Options { idle: Duration::from_millis(300), ..options() };
        let [a, b] = [backend.node_with(short.clone()), backend.node_with(short)];
        let client = Client::begin(&a).await;
        client.echo(&b, 1, "used").await;
        let store = backend.store();
        let deadline = Instant::now() + PATIENCE;
        while store.count_records(RecordKind::McpSession, None).await.expect("counted") > 0 {
            assert!(Instant::now() < deadline, "never ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let deadline = Instant::now() + PATIENCE;
        for node in [&a, &b] {
            while client.call(node, 2, "echo", json!({})).await.status != StatusCode::NOT_FOUND {
                assert!(Instant::now() < deadline, "never ended");
                // Each try is a use: the node may have it for as long again.
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_kept_in_bounds() {
    for backend in backends() {
        let a = backend.node_with(Options { events: 5, event_bytes: 10_000, ..options() });
        let client = Client::begin(&a).await;
        for id in 0..10 {
            let mut answer = client.call(&a, id, "slow", json!({})).await;
            answer.message().await.expect("a report");
            a.gate.open();
            assert_eq!(answer.result(id).await, "done");
        }
        let store = backend.store();
        assert_eq!(store.count_records(RecordKind::McpEvent, None).await.expect("counted"), 5);
        // What is too large to be kept comes whole, and later as an error that says so.
        let mut answer = client.call(&a, 20, "slow", json!({ "bytes": 20_000 })).await;
        let report = answer.message().await.expect("a report");
        a.gate.open();
        assert_eq!(answer.result(20).await.len(), 20_004);
        let mut again = client.get(&a, report.id.as_deref()).await;
        again.message().await.expect("the second report");
        let last = again.message().await.expect("an end");
        assert!(last.data["error"]["message"].as_str().expect("an error").contains("too large"), "{last:?}");
        // Nothing stays when the session ends.
        assert_eq!(client.delete(&a).await, StatusCode::ACCEPTED);
        assert_eq!(store.count_records(RecordKind::McpEvent, None).await.expect("counted"), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_are_bounded_and_have_ids_of_their_own() {
    let backend = Backend::memory();
    let a = backend.node_with(Options { requests: 3, ..options() });
    let client = Client::begin(&a).await;
    let mut running = Vec::new();
    for id in 1..=3 {
        running.push((id, client.call(&a, id, "slow", json!({})).await));
    }
    reached(&a.gate.waiting, 3).await;
    for id in [3, 4] {
        let refused = client.call(&a, id, "echo", json!({})).await.event().await.expect("an answer");
        assert_eq!(refused.data["error"]["code"], -32600, "{id}");
    }
    for _ in &running {
        a.gate.open();
    }
    for (id, mut answer) in running {
        assert_eq!(answer.result(id).await, "done");
    }
    client.echo(&a, 5, "room again").await;
}
