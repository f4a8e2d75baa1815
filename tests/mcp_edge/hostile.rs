//! Servers that mean no good, and what must not be done to those that do.

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::support::client;
use super::support::eventually;
use super::{Site, call, code};

const BOUND: usize = 64 << 10;

fn policy() -> Value {
    json!({ "max_answer_bytes": BOUND, "rules": [{ "id": "no-delete", "tools": ["delete"], "effect": "deny" }] })
}

#[tokio::test]
async fn answers_that_break_the_rules_are_clear_errors() {
    let site = Site::start(policy()).await;
    let token = site.token("alice", "mcp:read");
    for tool in ["gzip", "html"] {
        let answer = site.call(&token, tool, json!({})).await;
        assert_eq!(
            (answer.status.as_u16(), code(&answer), &answer.json()["id"]),
            (502, -32603, &json!(1)),
            "{tool}"
        );
    }
    for cursor in ["huge", "broken"] {
        let list =
            json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": { "cursor": cursor } });
        let answer = site.send(&token, &[], &list).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["id"]), (502, &json!(7)), "{cursor}");
    }
    // One event without an end: what was whole came before it, and an error is the last thing.
    let answer = site.call(&token, "endless_event", json!({})).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    assert_eq!((answer.status.as_u16(), events.len(), events[0]), (200, 2, "data: {}"), "{text}");
    assert!(events[1].contains("-32603"), "{text}");
    eventually("the server's stream is closed", async || (site.server.open_streams() == 0).then_some(()))
        .await;
    // Nobody has asked the server for anything twice, nor for an encoding.
    let seen = site.server.seen();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|(headers, _)| !headers.contains_key("accept-encoding")));
}

#[tokio::test]
async fn an_endless_stream_flows_until_the_client_leaves() {
    let site = Site::start(policy()).await;
    let request = Site::request(&site.token("alice", "mcp:read"), &[], call("ticks", json!({})).to_string());
    let stream = TcpStream::connect(site.daemon.http).await.unwrap();
    let mut answer = client::open(stream, request).await;
    let mut bytes = 0;
    // Far more than any bound for one event.
    while bytes < 10 * BOUND {
        bytes += answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert_eq!(site.server.open_streams(), 1);
    drop(answer);
    eventually("the server's stream is closed", async || (site.server.open_streams() == 0).then_some(()))
        .await;
    let record = eventually("a record", async || {
        let page = site.daemon.api(Method::GET, "/logs/mcp?tool=ticks", Value::Null).await;
        page["logs"].as_array()?.first().cloned()
    })
    .await;
    assert_eq!(record["unanswered"], true);
}

#[tokio::test]
async fn what_comes_late_on_a_stream_of_its_own_is_cut_down_too() {
    let site = Site::start(policy()).await;
    let mut request =
        Site::request(&site.token("alice", "mcp:read"), &[("last-event-id", "1")], String::new());
    *request.method_mut() = Method::GET;
    let stream = TcpStream::connect(site.daemon.http).await.unwrap();
    let mut answer = client::open(stream, request).await;
    let event = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let text = String::from_utf8(event.to_vec()).unwrap();
    assert!(text.contains("read") && !text.contains("delete"), "{text}");
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_413() {
    let site = Site::start(json!({ "max_request_bytes": 2048 })).await;
    let answer = site.call(&site.token("alice", "mcp:read"), "read", json!({ "x": "x".repeat(4096) })).await;
    assert_eq!((answer.status.as_u16(), code(&answer)), (413, -32600));
    assert!(site.server.seen().is_empty());
}
