//! The store goes away, and comes back.

use http::StatusCode;
use serde_json::json;

use crate::client::{Client, PATIENCE};
use crate::fixture::reached;
use crate::nodes::Backend;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_in_memory_go_on_without_their_store() {
    let mut backend = Backend::redis();
    let [a, b] = [backend.node(), backend.node()];
    let client = Client::begin(&a).await;
    let elsewhere = Client::begin(&b).await;
    let mut stream = client.get(&a, None).await;
    stream.event().await.expect("an id");
    let mut slow = client.call(&a, 1, "slow", json!({})).await;
    let report = slow.message().await.expect("a report");
    reached(&a.gate.waiting, 1).await;
    let Backend::Redis(server) = &mut backend else { unreachable!("made above") };
    server.kill();

    // What is here goes on, without ids that could not be kept.
    client.echo(&a, 2, "here").await;
    a.gate.open();
    let second = slow.message().await.expect("a report");
    assert_eq!((second.data["params"]["progress"].as_f64(), second.id), (Some(2.0), None));
    assert_eq!(slow.result(1).await, "done");
    assert_eq!(client.call(&a, 3, "shout", json!({})).await.result(3).await, "true");
    assert_eq!(stream.message().await.expect("an event").id, None);
    // What needs the store is refused for now, and so is what only it can know.
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let stranger = Client { session: None, ..client.clone() };
    assert_eq!(stranger.initialize(&a).await.status, unavailable);
    assert_eq!(elsewhere.call(&a, 1, "echo", json!({})).await.status, unavailable);
    assert_eq!(elsewhere.delete(&b).await, unavailable);
    let mut resumed = client.get(&a, report.id.as_deref()).await;
    assert!(resumed.event().await.is_none(), "it ends, and the client tries again");

    let Backend::Redis(server) = &mut backend else { unreachable!("made above") };
    server.restart();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // Each node finds its way back by itself.
    for node in [&a, &b] {
        while stranger.initialize(node).await.status != StatusCode::OK {
            assert!(tokio::time::Instant::now() < deadline, "it never comes back");
        }
    }
    client.echo(&b, 4, "everywhere").await;
    // An answer that was not kept is told to be lost.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut resumed = client.get(&b, report.id.as_deref()).await;
        if let Some(last) = resumed.message().await {
            assert!(last.data["error"].is_object(), "{last:?}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no end");
    }
    let mut again = client.call(&b, 5, "ask", json!({})).await;
    let question = again.message().await.expect("a question");
    let reply = json!({ "jsonrpc": "2.0", "id": question.data["id"], "result": { "action": "accept" } });
    assert_eq!(client.post(&a, &reply).await.status, StatusCode::ACCEPTED, "nodes hear each other again");
    assert_eq!(again.result(5).await, "Accept");
}
