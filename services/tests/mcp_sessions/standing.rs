//! The stream that belongs to no request.

use std::time::Duration;

use serde_json::json;

use crate::client::{Answer, Client};
use crate::nodes::{Node, backends};

async fn shout(client: &Client, node: &Node, id: u64) {
    assert_eq!(client.call(node, id, "shout", json!({})).await.result(id).await, "true");
}

async fn hears(stream: &mut Answer) -> String {
    let event = stream.message().await.expect("an event");
    assert_eq!(event.data["method"], "notifications/tools/list_changed");
    event.id.expect("an id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_node_says_comes_once_in_order() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let mut stream = client.get(&a, None).await;
        let primed = stream.event().await.expect("an event");
        assert!(primed.data.is_null() && primed.id.is_some() && primed.retry == Some(100));
        let mut ids = Vec::new();
        for (node, id) in [(&a, 1), (&b, 2), (&a, 3), (&b, 4)] {
            shout(&client, node, id).await;
            ids.push(hears(&mut stream).await);
        }
        assert!(stream.is_silent(Duration::from_millis(60)).await);
        // At another node, behind each of them, and behind the beginning.
        for (place, id) in std::iter::once(&primed.id.expect("an id")).chain(&ids).enumerate() {
            let mut again = client.get(&b, Some(id)).await;
            for expected in &ids[place..] {
                assert_eq!(hears(&mut again).await, *expected);
            }
            assert!(again.is_silent(Duration::from_millis(60)).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_to_the_latest_stream_only() {
    for backend in backends() {
        let [a, b] = [backend.node(), backend.node()];
        let client = Client::begin(&a).await;
        let mut first = client.get(&a, None).await;
        first.event().await.expect("an id");
        let mut second = client.get(&a, None).await;
        second.event().await.expect("an id");
        shout(&client, &a, 1).await;
        hears(&mut second).await;
        let mut third = client.get(&b, None).await;
        third.event().await.expect("an id");
        assert!(second.is_silent(Duration::from_millis(100)).await, "its node hears of the third");
        shout(&client, &a, 2).await;
        hears(&mut third).await;
        shout(&client, &b, 3).await;
        hears(&mut third).await;
        for stream in [&mut first, &mut second] {
            assert!(stream.is_silent(Duration::from_millis(60)).await, "open, and without messages");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_before_the_first_stream_is_not_lost() {
    for backend in backends() {
        let a = backend.node();
        let client = Client::begin(&a).await;
        shout(&client, &a, 1).await;
        let mut stream = client.get(&a, None).await;
        hears(&mut stream).await;
        drop(stream);
        let mut stream = client.get(&a, None).await;
        assert!(stream.event().await.expect("an id").data.is_null());
        assert!(stream.is_silent(Duration::from_millis(60)).await, "it was heard");
    }
}
