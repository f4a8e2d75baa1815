//! Several real nodes on one real Redis: clients go on at another node than the one that they have begun with, also when
//! that one was killed in the middle of a call; and a thousand of them listen at once.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod killed;

use support::api::Api;
use support::daemon::Daemon;
use support::eventually;
use support::mcp::{Mcp, STATEFUL};
use support::redis::RedisServer;

/// The host of the API, which has the gateway's own server from the beginning.
const HOST: &str = "localhost";

/// Two nodes of one deployment.
struct Site {
    one: Daemon,
    two: Daemon,
    _redis: RedisServer,
}

impl Site {
    fn start() -> Self {
        let redis = RedisServer::start();
        let node = || {
            Daemon::start_with(|command| {
                command.env("REDIS_URL", redis.url());
                command.env("PORTCULLIS_SECRET_KEY", "0123456789abcdef0123456789abcdef");
                // One public port means one issuer.
                command.env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
            })
        };
        let (one, two) = (node(), node());
        Self { one, two, _redis: redis }
    }

    /// An admin at the first node, whom the second one knows, too. Nothing is said so far.
    async fn admin(&self, name: &str) -> Mcp {
        let Api::Remote(_, token) = Api::remote(&self.one, name, "mcp,admin") else { unreachable!() };
        let client = Mcp::new(self.one.https, HOST, token.as_deref(), STATEFUL);
        eventually("the token is good at the second node", async || {
            let ping = serde_json::json!({ "jsonrpc": "2.0", "id": 0, "method": "ping" });
            (client.at(self.two.https).post(&ping).await.status() != 401).then_some(())
        })
        .await;
        client
    }
}
