//! What clients do with a server besides calling tools, through the gateway: tools that tell how far they are, that
//! log, and that ask; resources; prompts.

use serde_json::{Value, json};

use crate::site::{MONA, MONA_ID, Site};
use crate::support::browser::Browser;

#[tokio::test]
async fn the_python_sdk_is_served_with_a_session() {
    check(&["python_tools.py"], "legacy", "2025-11-25").await;
}

#[tokio::test]
async fn the_python_sdk_is_served_without_a_session() {
    check(&["python_tools.py"], "2026-07-28", "2026-07-28").await;
}

#[tokio::test]
async fn the_python_sdk_finds_out_what_is_spoken() {
    check(&["python_tools.py"], "auto", "2026-07-28").await;
}

#[tokio::test]
async fn the_first_typescript_sdk_is_served_with_a_session() {
    check(&["typescript_tools.mjs", "1"], "legacy", "2025-11-25").await;
}

#[tokio::test]
async fn the_second_typescript_sdk_is_served_with_a_session() {
    check(&["typescript_tools.mjs", "2"], "legacy", "2025-11-25").await;
}

#[tokio::test]
async fn the_second_typescript_sdk_is_served_without_a_session() {
    check(&["typescript_tools.mjs", "2"], "2026-07-28", "2026-07-28").await;
}

#[tokio::test]
async fn the_second_typescript_sdk_finds_out_what_is_spoken() {
    check(&["typescript_tools.mjs", "2"], "auto", "2026-07-28").await;
}

/// Runs a client that is told how to find out what is spoken; what it must have come to.
async fn check(client: &[&str], mode: &str, revision: &str) {
    let site = Site::start().await;
    let (url, _fixture) = site.fixture().await;
    let browser = Browser::start().await;
    let arguments = [&client[1..], &[&url, mode]].concat();
    let result = site.run(client[0], &arguments, &browser, MONA).await;

    let seen = &result["seen"];
    assert_eq!(seen["mcp-protocol-version"], revision, "{result}");
    assert_eq!((&seen["x-auth-user"], &seen["x-auth-user-id"]), (&json!(MONA), &json!(MONA_ID)), "{result}");
    assert_eq!((&seen["authorization"], &seen["cookie"]), (&Value::Null, &Value::Null), "{result}");

    assert!(result["tools"].as_u64().unwrap() > 30, "{result}");
    let uris = ["test://static-text", "test://static-binary", "test://watched-resource"];
    assert_eq!((&result["resources"], &result["prompts"]), (&json!(uris), &json!(5)), "{result}");
    assert_eq!(result["sum"], json!({ "result": 5 }), "{result}");
    assert_eq!((&result["failed"], &result["image"]), (&json!(true), &json!("image/png")), "{result}");
    let progress = result["progress"].as_array().unwrap().iter().map(|told| told[0].as_f64().unwrap());
    assert_eq!(progress.collect::<Vec<_>>(), [0.0, 50.0, 100.0], "{result}");

    let said = |name: &str| result[name].as_str().unwrap_or_else(|| panic!("{name}: {result}")).to_owned();
    assert!(said("elicited").contains(r#""username":"mona""#), "{result}");
    let rounds = said("rounds");
    assert!(rounds.contains(r#""name":"Mona""#) && rounds.contains(r#""color":"teal""#), "{result}");
    assert_eq!(said("sampled"), "LLM response: You said hello");
    assert!(said("resource").contains("Data for ID: 42"), "{result}");
    assert_eq!(said("prompt"), "Prompt with arguments: arg1='one', arg2='two'");
    assert_eq!(result["completed"], json!(["paris", "park", "party"]), "{result}");

    // Since 2026-07-28 who wants to be told says so with each request, which one of the SDKs does.
    let steps = ["Tool execution started", "Tool processing data", "Tool execution completed"];
    let told = if mode == "legacy" || client[0].starts_with("python") { &steps[..] } else { &[] };
    assert_eq!(
        result["logged"],
        json!(told.iter().map(|step| ["info", step]).collect::<Vec<_>>()),
        "{result}"
    );

    assert_eq!(result["no_tool"], -32602, "{result}");
    // The first is of 2025, and some clients translate it.
    assert!([-32002, -32602].map(Value::from).contains(&result["no_resource"]), "{result}");
}
