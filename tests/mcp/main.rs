//! Our own MCP server: the gateway run through its tools. Driven through the built daemon.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod answers;
mod cancelling;
mod conversations;
mod reading;
mod tools;

use support::api::Api;
use support::daemon::Daemon;
use support::mcp::Mcp;

/// The host of the API, which has the server from the beginning.
const HOST: &str = "localhost";

/// A daemon, and the ways to its server.
struct Site {
    daemon: Daemon,
}

impl Site {
    fn start() -> Self {
        Self { daemon: Daemon::start() }
    }

    /// Somebody with a new token of these scopes.
    fn client(&self, name: &str, scopes: &str, version: &str) -> Mcp {
        let name = format!("{name}-{version}");
        let Api::Remote(_, token) = Api::remote(&self.daemon, &name, scopes) else { unreachable!() };
        Mcp::new(self.daemon.https, HOST, token.as_deref(), version)
    }

    /// An admin who has said hello.
    async fn admin(&self, version: &str) -> Mcp {
        let mut client = self.client("root", "mcp,admin", version);
        client.hello().await;
        client
    }
}
