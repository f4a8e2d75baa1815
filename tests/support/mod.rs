//! Real peers for the tests: the built daemon, a Redis server, upstreams, clients. Each on a free
//! port with its own data, ended when it is dropped.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses its own part of the support"
)]

pub mod acme_front;
pub mod api;
pub mod browser;
pub mod certificate;
pub mod client;
pub mod daemon;
pub mod dns;
pub mod docker;

pub mod examples;
#[path = "../../services/tests/support/github/mod.rs"]
pub mod github;
pub mod handmade;
pub mod issuer;
pub mod mcp;
pub mod mcp_server;
pub mod ocsp;
pub mod pebble;
pub mod programs;
#[path = "../../services/tests/support/redis.rs"]
pub mod redis;
pub mod sockets;
pub mod streams;
pub mod upstream;
pub mod visitor;

use std::time::{Duration, Instant};

/// How long a test waits for what must come; far longer than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
pub async fn eventually<T, F, Fut>(what: &str, ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    eventually_within(PATIENCE, what, ask).await
}

/// The same for what takes longer by its nature.
pub async fn eventually_within<T, F, Fut>(patience: Duration, what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
