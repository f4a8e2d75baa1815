//! A node is killed in the middle of a session, and the client goes on at the other one.

use serde_json::json;

use crate::Site;
use crate::support::eventually;
use crate::support::examples::Fixture;
use crate::support::mcp::{Events, Mcp, STATEFUL};

/// Comes back for a stream.
async fn resumed(client: &Mcp, last: &str) -> Events {
    let response = client.listen(Some(last)).await;
    assert_eq!(response.status(), 200);
    Events::of(response)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_has_said_is_there_at_the_other_one() {
    let mut site = Site::start();
    let mut client = site.admin("root").await;
    client.hello().await;
    let exported = client.ok("export_config", json!({})).await;
    let mut params = json!({ "name": "validate_config", "arguments": { "config": exported["config"] } });
    params["_meta"] = json!({ "progressToken": "p" });
    let (id, mut events) = client.begin("tools/call", params).await;
    let mut told = Vec::new();
    loop {
        let (event, message) = events.next().await.expect("an event");
        told.push((event.expect("an id to come back with"), message));
        if told.last().is_some_and(|(_, message)| message["id"] == id) {
            break;
        }
    }
    assert!(told.len() > 1, "{told:?}");
    assert_eq!(told[0].1["method"], "notifications/progress", "{told:?}");
    site.one.signal("KILL");
    assert_eq!(site.one.ended(), None);
    // Whoever has lost the connection behind the first event gets all others, each time it asks.
    client = client.at(site.two.https);
    for _ in 0..2 {
        let mut again = resumed(&client, &told[0].0).await;
        for expected in &told[1..] {
            let (event, message) = again.next().await.expect("an event");
            assert_eq!((event.as_ref(), &message), (Some(&expected.0), &expected.1));
        }
        again.ended().await;
    }
    client.ok("health_check", json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_dies_with_its_node_is_said_to_be_lost_and_can_be_made_again() {
    let mut site = Site::start();
    site.one.host("a.localhost", "http://127.0.0.1:9", json!({})).await;
    let mut client = site.admin("root").await.able_to(json!({ "elicitation": {} }));
    client.hello().await;
    let mut standing = Events::of(client.listen(None).await);
    let primed = standing.id().await.expect("an id to come back with");
    let delete = json!({ "name": "delete_proxy", "arguments": { "proxy_hostname": "a.localhost" } });
    let (lost, mut events) = client.begin("tools/call", delete.clone()).await;
    let (last, question) = events.next().await.expect("a question");
    assert_eq!(question["method"], "elicitation/create", "{question}");
    site.one.signal("KILL");
    assert_eq!(site.one.ended(), None);
    events.ended().await;
    standing.ended().await;
    // The session is at the other node, with its stream; of the call is known that nobody works on it any more.
    client = client.at(site.two.https);
    let mut standing = resumed(&client, &primed).await;
    let answer = resumed(&client, &last.expect("an id to come back with")).await.answer(&lost).await;
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("lost")), "{answer}");
    client.ok("show_proxy", json!({ "proxy_hostname": "a.localhost" })).await;
    assert!(standing.is_open());
    // An answer to what the dead node has asked is nobody's, and the same call works.
    let yes = json!({ "action": "accept", "content": { "confirm": true } });
    let (id, mut events) = client.begin("tools/call", delete).await;
    let (_, question) = events.next().await.expect("a question");
    let told = json!({ "jsonrpc": "2.0", "id": question["id"], "result": yes });
    assert_eq!(client.post(&told).await.status(), 202);
    let result = events.answer(&id).await["result"].clone();
    assert_ne!(result["isError"], true, "{result}");
    assert_eq!(client.send("DELETE", &[], "").await.status(), 202);
    standing.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_at_somebody_elses_server_goes_on_by_way_of_the_other_node() {
    const TOOLS: &str = "tools.example.test";
    let mut site = Site::start();
    let fixture = Fixture::start(&["--host", TOOLS]).await;
    let rules = json!([{ "id": "asking", "tools": ["test_elicitation"], "users": ["service:suite"] }]);
    let fields = json!({
        "auth_enabled": true, "auth_required_users": ["service:suite"],
        "mcp": { "default": "deny", "rules": rules },
    });
    site.one.host(TOOLS, fixture.origin(), fields).await;
    let token = site.one.token("suite", TOOLS).await;
    let client = Mcp::new(site.one.https, TOOLS, Some(&token), STATEFUL);
    let mut client = client.able_to(json!({ "elicitation": {} }));
    client.hello().await;
    let (id, mut events) = client
        .begin("tools/call", json!({ "name": "test_elicitation", "arguments": { "message": "Who?" } }))
        .await;
    let (last, question) = events.next().await.expect("a question");
    assert_eq!(question["params"]["message"], "Who?", "{question}");
    let there = client.at(site.two.https);
    eventually("the second node knows the session", async || {
        let ping = json!({ "jsonrpc": "2.0", "id": "p", "method": "ping" });
        (there.post(&ping).await.status() == 200).then_some(())
    })
    .await;
    site.one.signal("KILL");
    assert_eq!(site.one.ended(), None);
    events.ended().await;
    // The server works on: only the way to it has changed.
    let mut events = resumed(&there, &last.expect("an id to come back with")).await;
    let answer = json!({ "action": "accept", "content": { "username": "u", "email": "e@example.test" } });
    let told = json!({ "jsonrpc": "2.0", "id": question["id"], "result": answer });
    assert_eq!(there.post(&told).await.status(), 202);
    let result = events.answer(&id).await["result"].clone();
    assert!(result["content"][0]["text"].as_str().is_some_and(|text| text.contains("\"u\"")), "{result}");
    // The rules hold at both nodes.
    let refused = there.clone().message("tools/call", json!({ "name": "test_simple_text" }));
    assert_eq!(there.post(&refused).await.status(), 403);
}
