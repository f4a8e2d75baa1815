//! What sessions cost the store, in commands.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_services::mcp::sessions::Options;
use serde_json::json;

use crate::client::Client;
use crate::nodes::{Backend, options};
use crate::redis::RedisServer;

/// Calls of commands since the last look, by name. Redis counts what scripts call like what clients send.
async fn calls(server: &RedisServer) -> HashMap<String, u64> {
    let info: String = server.admin(&["INFO", "commandstats"]).await.expect("told");
    let () = server.admin(&["CONFIG", "RESETSTAT"]).await.expect("reset");
    let calls = |line: &str| {
        let (name, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), stats.split(',').next()?.parse().ok()?))
    };
    let mut calls: HashMap<String, u64> = info.lines().filter_map(calls).collect();
    // Of this look itself.
    calls.retain(|name, _| !matches!(&**name, "auth" | "config|resetstat" | "info"));
    calls
}

/// Scripts that ran: each is one command.
fn scripts(calls: &HashMap<String, u64>) -> u64 {
    calls.get("evalsha").copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_at_once_costs_nothing() {
    let backend = Backend::redis();
    let Backend::Redis(server) = &backend else { unreachable!("made above") };
    // The node's own reading and speaking is not counted with the requests.
    let quiet = Duration::from_secs(3600);
    let a =
        backend.node_with(Options { poll: quiet, alive: quiet, grace: Duration::from_secs(5), ..options() });
    let warm = Client::begin(&a).await;
    drop(warm.get(&a, None).await);
    calls(server).await;

    let client = Client::begin(&a).await;
    let begun = calls(server).await;
    for id in 0..100 {
        client.echo(&a, id, "short").await;
    }
    let short = calls(server).await;
    let mut slow = client.call(&a, 1000, "slow", json!({})).await;
    slow.message().await.expect("a report");
    a.gate.open();
    assert_eq!(slow.result(1000).await, "done");
    let long = calls(server).await;
    let mut stream = client.get(&a, None).await;
    stream.event().await.expect("an id");
    let opened = calls(server).await;
    assert_eq!(short, HashMap::new(), "100 short answers");
    let (begun, long, opened) = (scripts(&begun), scripts(&long), scripts(&opened));
    println!(
        "commands: {begun} for a session, 0 for 100 short answers, {long} for one of three events, {opened} for GET"
    );
    assert_eq!((begun, long, opened), (3, 3, 2));
}
