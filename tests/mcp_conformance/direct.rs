//! A known-good server itself, served as our own is.

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::expected::{EXTENSIONS, check};
use crate::runs::{JULY_2026, JUNE_2025, MARCH_2025, NOVEMBER_2025, RELEASED};
use crate::support::client::{self, Answer};
use crate::support::examples::Fixture;

const PLACE: &str = "fixture";

#[tokio::test]
async fn the_released_suite_passes() {
    let fixture = Fixture::start(&[]).await;
    check(PLACE, &RELEASED, &fixture.url, &[]).await;
}

#[tokio::test]
async fn the_revision_of_march_2025_is_spoken() {
    let fixture = Fixture::start(&[]).await;
    check(PLACE, &MARCH_2025, &fixture.url, &[]).await;
}

#[tokio::test]
async fn the_revision_of_june_2025_is_spoken() {
    let fixture = Fixture::start(&[]).await;
    check(PLACE, &JUNE_2025, &fixture.url, &[]).await;
}

#[tokio::test]
async fn the_revision_of_november_2025_is_spoken() {
    let fixture = Fixture::start(&[]).await;
    check(PLACE, &NOVEMBER_2025, &fixture.url, &[]).await;
}

#[tokio::test]
async fn the_revision_of_july_2026_is_spoken() {
    let fixture = Fixture::start(&[]).await;
    check(PLACE, &JULY_2026, &fixture.url, EXTENSIONS).await;
}

/// A server of one era only, which the bridge needs to be tested against, is as good within it.
#[tokio::test]
async fn a_server_of_one_era_conforms_within_it() {
    let fixture = Fixture::start(&["--era", "legacy"]).await;
    check("legacy-fixture", &NOVEMBER_2025, &fixture.url, &[]).await;
    let fixture = Fixture::start(&["--era", "stateless"]).await;
    check("stateless-fixture", &JULY_2026, &fixture.url, EXTENSIONS).await;
}

/// What the bridge is for must be there when it is tested.
#[tokio::test]
async fn a_server_of_one_era_refuses_the_other() {
    let fixture = Fixture::start(&["--era", "legacy"]).await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "server/discover")];
    let answer = post(&fixture, "server/discover", &headers, &json!({ "_meta": meta })).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["code"], -32022, "{}", answer.json());
    let supported = answer.json()["error"]["data"]["supported"].clone();
    assert_eq!(supported, json!(["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]));

    let fixture = Fixture::start(&["--era", "stateless"]).await;
    let hello = json!({
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "old", "version": "1" },
    });
    let answer = post(&fixture, "initialize", &[], &hello).await;
    assert_eq!(answer.header("mcp-session-id"), "");
    assert!(String::from_utf8_lossy(&answer.body).contains("-32022"), "{answer:?}");
    let answer = post(&fixture, "tools/list", &[], &json!({})).await;
    assert_eq!(answer.status, 400, "{answer:?}");
}

async fn post(fixture: &Fixture, method: &str, headers: &[(&str, &str)], params: &Value) -> Answer {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
    let mut request = http::Request::post("/mcp").header("host", "localhost");
    request = request.header("content-type", "application/json");
    request = request.header("accept", "application/json, text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let address = fixture.origin().trim_start_matches("http://").parse().unwrap();
    client::plain(address, request.body(Full::new(Bytes::from(message))).unwrap()).await
}
