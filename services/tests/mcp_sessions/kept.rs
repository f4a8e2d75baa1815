//! What stands in the store of sessions, and how much of it there can be.

use http::StatusCode;
use portcullis_services::mcp::sessions::Options;
use portcullis_services::store::{Expect, Record, RecordKind, RecordWrite};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{ALICE, Client, PATIENCE, Who};
use crate::fixture::reached;
use crate::nodes::{Backend, backends, options};

async fn records(backend: &Backend, kind: RecordKind) -> Vec<Record> {
    backend.store().list_records(kind, None, None, 100).await.expect("listed").records
}

/// Writes other content into the record of the only session.
async fn rewrite(backend: &Backend, change: impl FnOnce(Value) -> Value) {
    let record = records(backend, RecordKind::McpSession).await.pop().expect("a session");
    let changed = change(record.read().expect("JSON"));
    let ttl = Some(Options::default().idle);
    let write = RecordWrite::put(record.key, &changed, ttl, Expect::Present, Vec::new()).expect("JSON");
    backend.store().commit_records(vec![write]).await.expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_in_a_session_stands_there_sealed() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let mut slow = client.call(&a, 1, "slow", json!({})).await;
        let report = slow.message().await.expect("a report");
        let question = client.call(&a, 2, "ask", json!({})).await.message().await.expect("a question");
        // An answer that has to find its way to the other node.
        let reply = json!({ "jsonrpc": "2.0", "id": question.data["id"], "result": { "action": "accept", "content": {} } });
        assert_eq!(client.post(&b, &reply).await.status, StatusCode::ACCEPTED);
        a.gate.open();
        assert_eq!(slow.result(1).await, "done");
        let kept = records(&backend, RecordKind::McpEvent).await;
        assert!(kept.len() >= 4, "{kept:?}");
        for record in kept {
            let text = String::from_utf8_lossy(&record.value);
            for word in ["jsonrpc", "done", "progress", "really", "accept"] {
                assert!(!text.contains(word), "{word} in {}", record.key);
            }
        }
        let mut again = client.get(&b, report.id.as_deref()).await;
        assert_eq!(again.result(1).await, "done", "it is there for who may read it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_comes_back_is_told_to_be_used() {
    for backend in backends() {
        let [a, b] =
            [backend.node(), backend.node_with(Options { renew: std::time::Duration::ZERO, ..options() })];
        let client = Client::begin(&a).await;
        let mut seen = 0;
        rewrite(&backend, |mut kept| {
            seen = kept["seen"].as_u64().expect("a time");
            kept["seen"] = json!(seen - 3600);
            kept
        })
        .await;
        // The only request there: what comes later would renew it in any case.
        client.echo(&b, 1, "back").await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let record = records(&backend, RecordKind::McpSession).await.pop().expect("a session");
            if record.read::<Value>().expect("JSON")["seen"].as_u64() >= Some(seen) {
                break;
            }
            assert!(Instant::now() < deadline, "the store is never told");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_another_version_is_none() {
    let backend = Backend::memory();
    let [a, b] = [backend.node(), backend.node()];
    let client = Client::begin(&a).await;
    rewrite(&backend, |_| json!({ "version": 9 })).await;
    assert_eq!(client.call(&b, 1, "echo", json!({})).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_many_sessions_leaves_no_events_behind() {
    for backend in backends() {
        let a = backend.node_with(Options { per_subject: 1, ..options() });
        for _ in 0..3 {
            let client = Client::begin(&a).await;
            client.call(&a, 1, "slow", json!({})).await.message().await.expect("a report");
            let store = backend.store();
            assert_eq!(store.count_records(RecordKind::McpEvent, None).await.expect("counted"), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_asked_for_is_not_kept_for_anybody() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let elsewhere = Client::begin_as(&b, Who { subject: "2", ..ALICE }, "2025-11-25").await;
        let long = "x".repeat(100_000);
        let made_up = json!({ "jsonrpc": "2.0", "id": "AAAAAAAAAAAA.1.0", "result": { "action": "accept", "content": { "x": long } } });
        assert_eq!(client.post(&a, &made_up).await.status, StatusCode::ACCEPTED);
        assert_eq!(records(&backend, RecordKind::McpEvent).await.len(), 0);
        let cancel = |id: &str| {
            let params = json!({ "requestId": id, "reason": long });
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params })
        };
        assert_eq!(client.post(&a, &cancel(&long)).await.status, StatusCode::ACCEPTED);
        assert_eq!(records(&backend, RecordKind::McpEvent).await.len(), 0);
        assert_eq!(client.post(&a, &cancel("elsewhere?")).await.status, StatusCode::ACCEPTED);
        let kept = records(&backend, RecordKind::McpEvent).await;
        assert!(kept.len() == 1 && kept[0].value.len() < 1000, "only what is needed: {kept:?}");
        elsewhere.echo(&b, 1, "not concerned").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_a_session_comes_back_ends_it_for_nobody() {
    let backend = Backend::memory();
    let [a, b] = [backend.node(), backend.node()];
    let client = Client::begin(&a).await;
    b.gate.hold.send_replace(true);
    let first = b.open(client.request(http::Method::GET, None, None));
    reached(&b.gate.arrived, 1).await;
    let waiting = (1..=8).map(|id| {
        let (client, b) = (&client, &b);
        async move { client.call(b, id, "echo", json!({})).await.status }
    });
    let waiting = futures_util::future::join_all(waiting);
    let leave = async {
        // The others are there, behind the first.
        reached(&b.gate.asked, 9).await;
        first.abort();
        b.gate.hold.send_replace(false);
    };
    let (statuses, ()) = tokio::join!(waiting, leave);
    assert!(statuses.iter().all(|status| *status != StatusCode::NOT_FOUND), "{statuses:?}");
    client.echo(&b, 9, "still there").await;
}
