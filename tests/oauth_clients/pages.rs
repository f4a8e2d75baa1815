//! The pages that people see, on a phone and in a window, light and dark.

use serde_json::Value;

use crate::site::{ISSUER, MONA, Site};
use crate::support::browser::Browser;
use crate::support::programs::Program;

#[tokio::test]
async fn the_pages_of_a_client_s_login_fit_everywhere() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    let mut client = Program::client("typescript_sdk.mjs", &["1", &url], &site.authority_file());
    browser.open(client.tells("open").await.as_str().unwrap()).await;
    browser.look("consent").await;
    let text = browser.text().await;
    for shown in ["TypeScript SDK 1", "127.0.0.1"] {
        assert!(text.contains(shown), "{shown}:\n{text}");
    }
    let end = browser.go_on(MONA).await;
    assert!(end.starts_with("http://127.0.0.1:"), "{end}:\n{}", browser.text().await);

    browser.open(&site.url(ISSUER, "/authorize?client_id=nobody&response_type=code")).await;
    browser.look("error").await;
}

#[tokio::test]
async fn a_device_is_connected_by_its_code() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    let mut device =
        Program::client("device_client.py", &[&site.url(ISSUER, ""), &url], &site.authority_file());
    let shown = device.tells("device").await;
    let at = shown["verification_uri"].as_str().unwrap();
    browser.sign_in(at, MONA).await;
    browser.look("device").await;
    browser.fill("input[name=user_code]", "AAAA-AAAA").await;
    browser.click("form button[type=submit]").await;
    browser.look("device-wrong-code").await;
    browser.fill("input[name=user_code]", shown["user_code"].as_str().unwrap()).await;
    browser.click("form button[type=submit]").await;
    browser.look("device-confirm").await;
    browser.click("button[name=decision][value=approve]").await;
    browser.look("device-done").await;
    let result = device.tells("result").await;
    assert_eq!(result["token_type"], "Bearer", "{result}");
    assert_ne!(result["access_token"], Value::Null);
}
