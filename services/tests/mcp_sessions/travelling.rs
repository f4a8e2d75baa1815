//! A session goes from node to node.

use http::StatusCode;
use serde_json::json;

use crate::client::Client;
use crate::fixture::reached;
use crate::nodes::backends;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_goes_on_with_a_session() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        client.echo(&a, 1, "at a").await;
        client.echo(&b, 2, "at b").await;
        client.echo(&a, 3, "at a again").await;
        reached(&b.gate.greeted, 1).await;
        assert_eq!((a.sessions().count(), b.sessions().count()), (1, 1));
        let unknown = Client { session: Some("x".repeat(43)), ..client };
        let mut answer = unknown.call(&b, 4, "echo", json!({})).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(answer.text().await.contains("-32001"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_bring_a_session_back_once() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let calls = (1..=20).map(|id| {
            let (client, b) = (&client, &b);
            async move { client.echo(b, id, &id.to_string()).await }
        });
        futures_util::future::join_all(calls).await;
        assert_eq!(*b.gate.greeted.borrow(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_its_node() {
    for backend in backends() {
        let mut a = backend.node();
        let client = Client::begin(&a).await;
        a.kill();
        let b = backend.node();
        client.echo(&b, 1, "still here").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_answers_at_another_node_reaches_the_one_that_waits() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        // Both handlers have the same number for their request: the client sees two.
        let mut at_a = client.call(&a, 1, "ask", json!({})).await;
        let mut at_b = client.call(&b, 2, "ask", json!({})).await;
        let (to_a, to_b) =
            (at_a.message().await.expect("a question"), at_b.message().await.expect("a question"));
        assert_eq!(to_a.data["method"], "elicitation/create");
        assert_ne!(to_a.data["id"], to_b.data["id"]);
        let answer = |id: &serde_json::Value, action| json!({ "jsonrpc": "2.0", "id": id, "result": { "action": action, "content": {} } });
        let accepted = client.post(&b, &answer(&to_a.data["id"], "accept")).await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED);
        assert_eq!(at_a.result(1).await, "Accept");
        // An error is an answer, too.
        let error =
            json!({ "jsonrpc": "2.0", "id": to_b.data["id"], "error": { "code": -1, "message": "no" } });
        assert_eq!(client.post(&a, &error).await.status, StatusCode::ACCEPTED);
        assert!(at_b.result(2).await.starts_with("failed"));
        // What nobody waits for goes nowhere.
        for id in [json!(0), json!("abcdefghijkl.1.0"), to_a.data["id"].clone()] {
            assert_eq!(client.post(&b, &answer(&id, "accept")).await.status, StatusCode::ACCEPTED);
        }
        client.echo(&a, 3, "fine").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_cancelled_from_another_node() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        for (node, id, count) in [(&a, 1, 1), (&b, 2, 2)] {
            let mut answer = client.call(&a, id, "slow", json!({})).await;
            reached(&a.gate.waiting, count).await;
            let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
            assert_eq!(client.post(node, &cancel).await.status, StatusCode::ACCEPTED);
            reached(&a.gate.cancelled, count).await;
            while let Some(event) = answer.message().await {
                assert_eq!(event.data["method"], "notifications/progress", "no answer comes");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_ends_a_session_at_all_nodes() {
    for backend in backends() {
        let [a, b, c] = [backend.node(), backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let mut stream = client.get(&a, None).await;
        let mut slow = client.call(&b, 1, "slow", json!({})).await;
        reached(&b.gate.waiting, 1).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(client.delete(&c).await, StatusCode::ACCEPTED);
        while stream.event().await.is_some() {}
        while slow.event().await.is_some() {}
        assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
        for node in [&a, &b, &c] {
            assert_eq!(client.get(node, None).await.status, StatusCode::NOT_FOUND);
            assert_eq!(client.delete(node).await, StatusCode::NOT_FOUND);
            assert_eq!(node.sessions().count(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_with_the_stream_of_the_request_that_it_serves() {
    let backend = crate::nodes::Backend::memory();
    let a = backend.node();
    let client = Client::begin(&a).await;
    let mut stream = client.get(&a, None).await;
    let mut one = client.call(&a, 1, "ask", json!({})).await;
    let mut two = client.call(&a, 2, "ask", json!({})).await;
    for (answer, id, action) in [(&mut two, 2, "decline"), (&mut one, 1, "accept")] {
        let question = answer.message().await.expect("a question");
        assert_eq!(question.data["method"], "elicitation/create");
        let reply = json!({ "jsonrpc": "2.0", "id": question.data["id"], "result": { "action": action } });
        assert_eq!(client.post(&a, &reply).await.status, StatusCode::ACCEPTED);
        assert_eq!(answer.result(id).await.to_lowercase(), action);
    }
    assert!(stream.event().await.expect("an id to come back with").data.is_null());
    assert!(stream.is_silent(std::time::Duration::from_millis(50)).await, "none on the other stream");
}
