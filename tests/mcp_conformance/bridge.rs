//! Clients of one era at a server that speaks only the other, with the bridge between them: what is carried over, and
//! what can't be.

use serde_json::json;

use crate::expected::{EXTENSIONS, Exception, check};
use crate::forwarder::Target;
use crate::runs::{JULY_2026, JUNE_2025, MARCH_2025, NOVEMBER_2025, RELEASED, Run};
use crate::suite::Verdict;
use crate::support::daemon::Daemon;
use crate::support::examples::Fixture;

const HOST: &str = "tools.example.test";

/// What sessions have and the other era has nothing like.
const RESUMING: Exception = Exception {
    scenarios: &["server-sse-polling"],
    verdict: Verdict::Warned,
    says: "Server did not send",
    why: "a server without sessions keeps nothing that a client could come back for",
};

/// What an old server can't say to a new client.
const NAMES: &[Exception] = &[
    Exception::failing(
        &["input-required-result-basic-elicitation"],
        "missing expected key",
        "questions of an old server have no names of its own choice",
    ),
    Exception {
        scenarios: &["input-required-result-ignore-extra-params"],
        verdict: Verdict::Warned,
        says: "did not return complete result",
        why: "nothing can be answered before an old server has asked it",
    },
];

/// The suite at a server of this era.
async fn bridge(era: &str, run: &Run, exceptions: &[Exception]) {
    let fixture = Fixture::start(&["--host", HOST, "--era", era]).await;
    let daemon = Daemon::start();
    let fields = json!({
        "auth_enabled": true, "auth_required_users": ["service:suite"], "mcp": { "bridge": true },
    });
    daemon.host(HOST, fixture.origin(), fields).await;
    let token = daemon.token("suite", HOST).await;
    let target = Target { address: daemon.https, host: HOST.into(), token };
    check("bridge", run, &target.forwarded().await, exceptions).await;
}

#[tokio::test]
async fn the_released_suite_comes_to_a_server_without_sessions() {
    bridge("stateless", &RELEASED, &[]).await;
}

#[tokio::test]
async fn the_revision_of_march_2025_comes_to_a_server_without_sessions() {
    bridge("stateless", &MARCH_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_june_2025_comes_to_a_server_without_sessions() {
    bridge("stateless", &JUNE_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_november_2025_comes_to_a_server_without_sessions() {
    bridge("stateless", &NOVEMBER_2025, &[RESUMING]).await;
}

#[tokio::test]
async fn the_revision_of_july_2026_comes_to_a_server_with_sessions() {
    bridge("legacy", &JULY_2026, &[EXTENSIONS, NAMES].concat()).await;
}
