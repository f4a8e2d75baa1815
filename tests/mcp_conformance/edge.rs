//! A known-good server behind a host that asks for a token: the gateway must lose nothing, whether or not it reads
//! what passes.

use serde_json::{Value, json};

use crate::expected::{EXTENSIONS, Exception, check};
use crate::forwarder::Target;
use crate::runs::{JULY_2026, JUNE_2025, MARCH_2025, NOVEMBER_2025, RELEASED, Run};
use crate::support::daemon::Daemon;
use crate::support::examples::Fixture;

const HOST: &str = "tools.example.test";

/// What the host knows of the protocol.
#[derive(Debug, Clone, Copy)]
enum Knows {
    /// Nothing.
    Nothing,
    /// Each call is read, and every answer passes unread.
    Calls,
    /// Every list is looked through, because there is something that nobody may use; and what is allowed, is by a rule.
    Answers,
}

impl Knows {
    const fn place(self) -> &'static str {
        match self {
            Self::Nothing => "edge",
            Self::Calls => "edge-open",
            Self::Answers => "edge-reviewed",
        }
    }

    fn policy(self) -> Option<Value> {
        match self {
            Self::Nothing => None,
            Self::Calls => Some(json!({})),
            Self::Answers => Some(json!({
                "default": "deny",
                "rules": [
                    { "id": "never", "effect": "deny", "tools": ["delete_*"] },
                    { "id": "tools", "tools": ["*"], "users": ["service:suite"] },
                    { "id": "prompts", "prompts": ["*"] },
                    { "id": "resources", "resources": ["*"] },
                    { "id": "rest", "methods": ["*"] },
                ],
                "limits": [{ "tools": ["*"], "calls": 1_000_000, "seconds": 60 }],
            })),
        }
    }
}

async fn edge(knows: Knows, run: &Run, exceptions: &[Exception]) {
    let fixture = Fixture::start(&["--host", HOST]).await;
    let daemon = Daemon::start();
    let mut fields = json!({ "auth_enabled": true, "auth_required_users": ["service:suite"] });
    if let Some(policy) = knows.policy() {
        fields["mcp"] = policy;
    }
    daemon.host(HOST, fixture.origin(), fields).await;
    let token = daemon.token("suite", HOST).await;
    let target = Target { address: daemon.https, host: HOST.into(), token };
    check(knows.place(), run, &target.forwarded().await, exceptions).await;
}

#[tokio::test]
async fn the_released_suite_passes_through_a_protected_host() {
    edge(Knows::Nothing, &RELEASED, &[]).await;
}

#[tokio::test]
async fn the_revision_of_march_2025_comes_through_a_protected_host() {
    edge(Knows::Nothing, &MARCH_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_june_2025_comes_through_a_protected_host() {
    edge(Knows::Nothing, &JUNE_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_november_2025_comes_through_a_protected_host() {
    edge(Knows::Nothing, &NOVEMBER_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_july_2026_comes_through_a_protected_host() {
    edge(Knows::Nothing, &JULY_2026, EXTENSIONS).await;
}

#[tokio::test]
async fn the_released_suite_passes_through_a_host_that_reads_calls() {
    edge(Knows::Calls, &RELEASED, &[]).await;
}

#[tokio::test]
async fn the_revision_of_march_2025_comes_through_a_host_that_reads_calls() {
    edge(Knows::Calls, &MARCH_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_june_2025_comes_through_a_host_that_reads_calls() {
    edge(Knows::Calls, &JUNE_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_november_2025_comes_through_a_host_that_reads_calls() {
    edge(Knows::Calls, &NOVEMBER_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_july_2026_comes_through_a_host_that_reads_calls() {
    edge(Knows::Calls, &JULY_2026, EXTENSIONS).await;
}

#[tokio::test]
async fn the_released_suite_passes_through_a_host_that_reads_answers() {
    edge(Knows::Answers, &RELEASED, &[]).await;
}

#[tokio::test]
async fn the_revision_of_march_2025_comes_through_a_host_that_reads_answers() {
    edge(Knows::Answers, &MARCH_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_june_2025_comes_through_a_host_that_reads_answers() {
    edge(Knows::Answers, &JUNE_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_november_2025_comes_through_a_host_that_reads_answers() {
    edge(Knows::Answers, &NOVEMBER_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_july_2026_comes_through_a_host_that_reads_answers() {
    edge(Knows::Answers, &JULY_2026, EXTENSIONS).await;
}
