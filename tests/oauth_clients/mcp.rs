//! The SDKs that most MCP clients are made of.

use serde_json::{Value, json};

use crate::document::Document;
use crate::site::{HUBOT, MONA, MONA_ID, Site, TOOLS};
use crate::support::browser::Browser;
use crate::support::certificate::Authority;
use crate::support::programs::Program;

/// What every SDK must have come to.
fn check(result: &Value) {
    assert_eq!(result["tools"], json!(["add", "whoami"]));
    assert_eq!(result["sum"], json!({ "result": 5 }));
    assert_eq!(result["scope"], "mcp");
    assert_eq!(result["refreshed"], true, "{result}");
    let seen = &result["user"];
    assert_eq!(seen["x-auth-user"], MONA, "{result}");
    assert_eq!(seen["x-auth-user-id"], MONA_ID, "{result}");
    for secret in ["authorization", "cookie"] {
        assert_eq!(seen[secret], Value::Null, "the client's credentials are not for the upstream: {result}");
    }
}

#[tokio::test]
async fn the_python_sdk_registers_signs_in_and_refreshes_as_the_same_and_as_a_later_process() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    let result = site.run("python_sdk.py", &[&url], &browser, MONA).await;
    check(&result);
    assert_eq!(result["refreshed_later"], true, "by /token on the host of the MCP server: {result}");
}

#[tokio::test]
async fn a_server_of_the_python_sdk_is_seen_to_be_one() {
    let site = Site::start().await;
    let (_, _server) = site.tools().await;
    let shown = site.daemon.run(&["proxy", "mcp", "show", TOOLS]);
    assert_eq!(shown["auto_detected"], true, "{shown:#}");
    assert_eq!(shown["backend_implements"], false, "it leaves tokens to the gateway: {shown:#}");
}

#[tokio::test]
async fn a_client_with_a_metadata_document_needs_no_registration() {
    let authority = Authority::new();
    let document = Document::serve(&authority).await;
    let site = Site::start_with(&authority, |command| {
        command.env("PORTCULLIS_OAUTH_FETCH_ALLOW", format!("localhost:{}", document.port));
    })
    .await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    let result = site.run("python_sdk.py", &[&url, &document.url], &browser, MONA).await;
    check(&result);
    assert_eq!(result["client_id"], document.url);
    assert_eq!(result["refreshed_later"], true, "{result}");
    assert_eq!(document.asked(), 1, "once, and then from the cache");
}

#[tokio::test]
async fn the_first_typescript_sdk_registers_signs_in_and_refreshes() {
    typescript("1").await;
}

#[tokio::test]
async fn the_second_typescript_sdk_registers_signs_in_and_refreshes() {
    typescript("2").await;
}

async fn typescript(generation: &str) {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    check(&site.run("typescript_sdk.mjs", &[generation, &url], &browser, MONA).await);
}

#[tokio::test]
async fn who_is_on_no_list_is_sent_back_with_access_denied() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    let mut client = Program::client("python_sdk.py", &[&url], &site.authority_file());
    let open = client.tells("open").await;
    let end = browser.sign_in(open.as_str().unwrap(), HUBOT).await;
    assert!(end.contains("error=access_denied"), "{end}");
    assert_eq!(client.tells("failure").await, "PermissionError: access_denied");
}

#[tokio::test]
async fn who_denies_a_client_has_never_been_at_github() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    let mut client = Program::client("typescript_sdk.mjs", &["2", &url], &site.authority_file());
    browser.open(client.tells("open").await.as_str().unwrap()).await;
    browser.click("button[name=decision][value=deny]").await;
    assert!(browser.url().await.contains("error=access_denied"), "{}", browser.url().await);
    assert_eq!(client.tells("failure").await, "Error: access_denied");
    assert_eq!(site.github.requests().len(), 0, "consent stands before GitHub");
}
