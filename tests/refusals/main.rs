//! What the built daemon refuses, over raw sockets: requests that could be read in two ways, and
//! clients that want to cost more than others.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod floods;
mod heads;
mod slow;

use std::process::Command;

use serde_json::{Value, json};
use support::client::{get, plain};
use support::daemon::Daemon;
use support::upstream::Upstream;

/// A public host.
const HOST: &str = "open.test";
/// A request that nothing is wrong with.
const GOOD: &str = "GET /good HTTP/1.1\r\nHost: open.test\r\n\r\n";

async fn start(change: impl FnOnce(&mut Command), fields: Value) -> (Daemon, Upstream) {
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_METRICS_ADDR", "127.0.0.1:0");
        change(command);
    });
    let upstream = Upstream::start("app").await;
    daemon.proxy(HOST, &upstream.url(), &fields);
    (daemon, upstream)
}

async fn start_open() -> (Daemon, Upstream) {
    start(|_| (), json!({})).await
}

/// The value of a metric, with a label if it has any.
async fn metric(daemon: &Daemon, name: &str, label: &str) -> u64 {
    let text = plain(daemon.metrics(), get("localhost", "/metrics")).await.body;
    let text = String::from_utf8_lossy(&text).into_owned();
    let labels = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
    let start = format!("portcullis_{name}{labels} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value.unwrap_or_else(|| panic!("no {start} in {text}")).parse().unwrap()
}

/// The status of every answer on a connection, in order.
fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ")
        .map(|(at, start)| text[at + start.len()..][..3].parse().unwrap())
        .collect()
}
