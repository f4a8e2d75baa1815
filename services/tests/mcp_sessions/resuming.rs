//! A client comes back for a stream that it has lost.

use serde_json::{Value, json};

use crate::client::{Answer, Client, Event};
use crate::fixture::reached;
use crate::nodes::{Backend, Node, backends};

/// Calls the slow tool; its stream, and the first report on it.
async fn begin(client: &Client, node: &Node, id: u64) -> (Answer, Event) {
    let before = *node.gate.waiting.borrow();
    let mut answer = client.call(node, id, "slow", json!({})).await;
    reached(&node.gate.waiting, before + 1).await;
    let report = answer.message().await.expect("a report");
    assert_eq!(report.data["params"]["progress"], 1.0);
    (answer, report)
}

fn is_lost(event: &Event, id: u64) -> bool {
    let error = &event.data["error"];
    event.data["id"] == id && error["message"].as_str().is_some_and(|told| told.contains("lost"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_missed_is_there_at_any_node() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let (stream, report) = begin(&client, &a, 1).await;
        drop(stream);
        a.gate.open();
        // While it runs or after that: the answer comes, at each node and each time.
        for node in [&a, &b, &b, &a] {
            let mut stream = client.get(node, report.id.as_deref()).await;
            let second = stream.message().await.expect("what was missed");
            assert_eq!(second.data["params"]["progress"], 2.0);
            assert_ne!(second.id, report.id);
            let last = stream.message().await.expect("the answer");
            assert_eq!(last.data["result"]["content"][0]["text"], "done");
            assert!(stream.event().await.is_none());
            // Behind the answer there is nothing, and that is said.
            let mut behind = client.get(node, last.id.as_deref()).await;
            assert!(behind.event().await.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_begins_with_an_id_to_come_back_with() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let params = json!({ "name": "slow", "arguments": {} });
        let call = json!({ "jsonrpc": "2.0", "id": "word", "method": "tools/call", "params": params });
        let mut stream = client.post(&a, &call).await;
        let primed = stream.event().await.expect("an event");
        assert_eq!((primed.data, primed.retry), (Value::Null, Some(100)));
        drop(stream);
        let mut again = client.get(&b, primed.id.as_deref()).await;
        reached(&a.gate.waiting, 1).await;
        a.gate.open();
        let last = again.message().await.expect("the answer");
        assert_eq!(
            (&last.data["id"], &last.data["result"]["content"][0]["text"]),
            (&json!("word"), &json!("done"))
        );
        assert!(again.event().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_older_revisions_get_no_empty_events() {
    let backend = Backend::memory();
    let a = backend.node();
    for version in ["2024-11-05", "2025-03-26", "2025-06-18"] {
        let client = Client::begin_as(&a, crate::client::ALICE, version).await;
        let (mut stream, report) = begin(&client, &a, 1).await;
        assert!(report.id.is_some());
        a.gate.open();
        while let Some(event) = stream.event().await {
            assert!(!event.data.is_null(), "{version}");
        }
        let mut stream = client.get(&a, None).await;
        assert!(stream.is_silent(std::time::Duration::from_millis(50)).await, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_live_at_another_node() {
    for backend in backends() {
        let [a, b, c] = [backend.node(), backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let (mut first, report) = begin(&client, &a, 1).await;
        let mut second = client.get(&b, report.id.as_deref()).await;
        // The stream that the client had before ends without the answer.
        assert!(first.event().await.is_none());
        let mut third = client.get(&c, report.id.as_deref()).await;
        assert!(third.is_silent(std::time::Duration::from_millis(50)).await);
        a.gate.open();
        for stream in [&mut second, &mut third] {
            assert_eq!(stream.message().await.expect("a report").data["params"]["progress"], 2.0);
            assert_eq!(stream.result(1).await, "done");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_live_at_its_own_node() {
    for backend in backends() {
        let a = backend.node();
        let client = Client::begin(&a).await;
        let (mut first, report) = begin(&client, &a, 1).await;
        let mut second = client.get(&a, report.id.as_deref()).await;
        assert!(first.event().await.is_none());
        a.gate.open();
        assert_eq!(second.message().await.expect("a report").data["params"]["progress"], 2.0);
        assert_eq!(second.result(1).await, "done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_ends_its_streams_and_others_say_what_is_known() {
    for backend in backends() {
        let (mut a, b, c) = (backend.node(), backend.node(), backend.node());
        let client = Client::begin(&a).await;
        let (mut first, report) = begin(&client, &a, 1).await;
        // One comes back before the node dies, one right after that, one when that is known.
        let mut before = client.get(&b, report.id.as_deref()).await;
        assert!(first.event().await.is_none());
        a.kill();
        let mut after = client.get(&c, report.id.as_deref()).await;
        for stream in [&mut before, &mut after] {
            let last = stream.message().await.expect("a clear end");
            assert!(is_lost(&last, 1), "{last:?}");
            assert!(stream.event().await.is_none());
        }
        let mut late = client.get(&c, report.id.as_deref()).await;
        assert!(is_lost(&late.message().await.expect("a clear end"), 1));
        client.echo(&b, 2, "the session goes on").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_says_so() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let (mut first, report) = begin(&client, &a, 1).await;
        a.stop();
        while first.event().await.is_some() {}
        let mut again = client.get(&b, report.id.as_deref()).await;
        assert!(is_lost(&again.message().await.expect("a clear end"), 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_none_end_a_stream_at_once() {
    let backend = Backend::memory();
    let a = backend.node();
    let client = Client::begin(&a).await;
    for bad in ["0", "x", "abcdefghijkl.a1.-.0", "abcdefghijkl.a1.n1"] {
        let mut stream = client.get(&a, Some(bad)).await;
        assert_eq!(stream.status, 200);
        assert!(stream.event().await.is_none(), "{bad}");
    }
}
