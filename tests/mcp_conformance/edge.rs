//! A known-good server behind a host that asks for a token: the gateway must lose nothing.

use serde_json::json;

use crate::expected::{EXTENSIONS, Exception, check};
use crate::forwarder::Target;
use crate::runs::{JULY_2026, JUNE_2025, MARCH_2025, NOVEMBER_2025, RELEASED, Run};
use crate::support::daemon::Daemon;
use crate::support::examples::Fixture;

const PLACE: &str = "edge";
const HOST: &str = "tools.example.test";

async fn edge(run: &Run, exceptions: &[Exception]) {
    let fixture = Fixture::start(&["--host", HOST]).await;
    let daemon = Daemon::start();
    let fields = json!({ "auth_enabled": true, "auth_required_users": ["service:suite"] });
    daemon.host(HOST, fixture.origin(), fields).await;
    let token = daemon.token("suite", HOST).await;
    let target = Target { address: daemon.https, host: HOST.into(), token };
    check(PLACE, run, &target.forwarded().await, exceptions).await;
}

#[tokio::test]
async fn the_released_suite_passes_through_a_protected_host() {
    edge(&RELEASED, &[]).await;
}

#[tokio::test]
async fn the_revision_of_march_2025_comes_through_a_protected_host() {
    edge(&MARCH_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_june_2025_comes_through_a_protected_host() {
    edge(&JUNE_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_november_2025_comes_through_a_protected_host() {
    edge(&NOVEMBER_2025, &[]).await;
}

#[tokio::test]
async fn the_revision_of_july_2026_comes_through_a_protected_host() {
    edge(&JULY_2026, EXTENSIONS).await;
}
