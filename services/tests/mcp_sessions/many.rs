//! A thousand sessions with open streams at one node.

use std::time::Duration;

use portcullis_services::mcp::sessions::Options;
use serde_json::json;

use crate::client::{Client, Who};
use crate::nodes::{Backend, options};

const SESSIONS: usize = 1000;

/// Bytes of memory that this process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_cost_little() {
    let backend = Backend::redis();
    let bound = Options { per_subject: 2 * SESSIONS, ..options() };
    let [a, b] = [backend.node_with(bound.clone()), backend.node_with(bound)];
    let who = Who { subject: "7", client: "c", host: "mcp.example.com" };
    // What the first ones load stays loaded.
    let mut warm = Vec::new();
    for _ in 0..50 {
        let client = Client::begin_as(&a, who.clone(), "2025-11-25").await;
        warm.push((client.get(&a, None).await, client));
    }
    let before = resident();
    let mut open = Vec::new();
    for _ in 0..SESSIONS {
        let client = Client::begin_as(&a, who.clone(), "2025-11-25").await;
        let mut stream = client.get(&a, None).await;
        stream.event().await.expect("an id");
        open.push((stream, client));
    }
    let each = resident().saturating_sub(before) / SESSIONS;
    println!("{SESSIONS} sessions with a stream: {} KiB each", each / 1024);
    assert!(each < 128 * 1024, "{each} bytes");
    // Each hears what is said at another node, through that node's one reader.
    let begun = tokio::time::Instant::now();
    for (number, (_, client)) in open.iter().enumerate().step_by(10) {
        assert_eq!(client.call(&b, number as u64, "shout", json!({})).await.status, 200);
    }
    for (stream, _) in open.iter_mut().step_by(10) {
        assert_eq!(
            stream.message().await.expect("an event").data["method"],
            "notifications/tools/list_changed"
        );
    }
    println!("{} messages by way of another node: {:?}", SESSIONS / 10, begun.elapsed());
    for (stream, _) in open.iter_mut().skip(1).step_by(100) {
        assert!(stream.is_silent(Duration::from_millis(5)).await);
    }
}
