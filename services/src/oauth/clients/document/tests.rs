use serde_json::{Value, json};

use super::*;
use crate::oauth::clients::testing::{Site, answer, json_answer};
use crate::oauth::clients::{AuthMethod, Client, GrantType};

#[test]
fn client_ids_that_are_urls_are_recognised() {
    for good in [
        "https://claude.ai/oauth/claude-code-client-metadata",
        "https://vscode.dev/oauth/client-metadata.json",
        "https://app.example:8443/c",
        "https://app.example/c?v=1",
        "https://app.example/a..b/.c/...",
        "https://app.example//",
    ] {
        assert!(ClientUrl::is_meant(good));
        assert_eq!(good.parse::<ClientUrl>().expect(good).as_str(), good);
    }
    for bad in [
        "http://app.example/c",
        "https://app.example",
        "https://app.example/",
        "https://app.example?x",
        "https://app.example/?x",
        "https://app.example/c#f",
        "https://user@app.example/c",
        "https://app.example/a/../c",
        "https://app.example/./c",
        "https://app.example/c/..",
        "https://app.example/%2e%2E/c",
        "https://app.example/.%2e/c",
        "HTTPS://app.example/c",
        "app.example/c",
        "dyn_abc",
        "",
    ] {
        assert!(bad.parse::<ClientUrl>().is_err(), "{bad}");
    }
    assert!(!ClientUrl::is_meant("dyn_abc") && !ClientUrl::is_meant("my-client"));
}

/// The document of an editor's command line in use, as of its fields.
fn document(url: &str) -> Value {
    json!({
        "client_id": url,
        "client_name": "Claude Code",
        "client_uri": "https://claude.ai",
        "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code", "client_credentials"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "logo_uri": null,
        "new_member": { "x": 1 },
    })
}

fn changed(url: &str, member: &str, value: Value) -> Value {
    let mut document = document(url);
    document[member] = value;
    document
}

#[test]
fn a_document_has_to_be_as_the_draft_says() {
    let url: HttpsUrl = "https://app.example/c".parse().expect("a URL");
    let text = url.as_str();
    let good = |value: &Value| read(&url, value.to_string().as_bytes());
    let metadata = good(&document(text)).expect("valid");
    assert_eq!(
        metadata.grant_types,
        [GrantType::AuthorizationCode, GrantType::RefreshToken, GrantType::DeviceCode]
    );
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] });
    let mut signing = changed(text, "token_endpoint_auth_method", json!("private_key_jwt"));
    signing["jwks"] = keys;
    assert_eq!(good(&signing).expect("valid").token_endpoint_auth_method, AuthMethod::PrivateKeyJwt);
    assert!(good(&changed(text, "token_endpoint_auth_method", json!(null))).is_ok());

    for (member, value) in [
        ("client_id", json!("https://app.example/c/")),
        ("client_id", json!("https://APP.example/c")),
        ("client_id", json!("https://app.example:443/c")),
        ("client_id", json!(null)),
        ("client_id", json!([text])),
        ("client_name", json!(null)),
        ("client_name", json!(" \u{200b}")),
        ("client_secret", json!("x")),
        ("client_secret", json!(null)),
        ("client_secret_expires_at", json!(0)),
        ("redirect_uris", json!(null)),
        ("redirect_uris", json!([])),
        ("redirect_uris", json!(["http://evil.example/"])),
        ("token_endpoint_auth_method", json!("client_secret_basic")),
        ("token_endpoint_auth_method", json!("client_secret_post")),
        ("token_endpoint_auth_method", json!("client_secret_jwt")),
        ("token_endpoint_auth_method", json!("private_key_jwt")),
    ] {
        let document = changed(text, member, value);
        assert!(good(&document).is_err(), "{document}");
    }
    let mut device = changed(text, "grant_types", json!([GrantType::DeviceCode.as_str()]));
    device["redirect_uris"] = json!([]);
    assert!(good(&device).is_err(), "redirect_uris must be there");
    for text in ["", "[]", "null", "<html>"] {
        assert!(read(&url, text.as_bytes()).is_err());
    }
}

#[tokio::test]
async fn a_client_is_known_by_its_document() {
    let site = Site::start().await;
    let documents = Documents::new(Arc::new(site.guard()));
    let id: ClientUrl = site.url("/client.json").parse().expect("a URL");
    site.says(json_answer(&document(id.as_str())));
    let now = Timestamp::UNIX_EPOCH;
    let metadata = documents.get(&id, now).await.expect("a client");
    let client = Client::of_document(&id, Arc::clone(&metadata));
    assert_eq!((client.id.as_str(), client.is_public(), client.is_local()), (id.as_str(), true, true));
    assert_eq!(client.document_host().as_deref(), Some("localhost"));
    assert!(client.redirect("http://localhost:51234/callback").is_some(), "any port of this machine");
    assert!(client.redirect("http://localhost:51234/other").is_none());
    assert!(Arc::ptr_eq(&metadata, &documents.get(&id, now).await.expect("kept")));
    assert_eq!(site.requests().len(), 1);

    let other: ClientUrl = site.url("/other.json").parse().expect("a URL");
    let error = documents.get(&other, now).await.expect_err("it names another client");
    assert!(!error.is_temporary() && error.to_string().contains("client_id"), "{error}");
    site.says(answer("503 Service Unavailable", "", ""));
    let third: ClientUrl = site.url("/third.json").parse().expect("a URL");
    assert!(documents.get(&third, now).await.expect_err("unavailable").is_temporary());
}

#[tokio::test]
async fn a_document_on_this_machine_is_not_fetched() {
    let site = Site::start().await;
    let documents = Documents::new(Arc::new(
        site.guard_with(crate::oauth::clients::Exceptions { ports: vec![site.port], ..Default::default() }),
    ));
    let id: ClientUrl = site.url("/client.json").parse().expect("a URL");
    let error = documents.get(&id, Timestamp::UNIX_EPOCH).await.expect_err("refused");
    assert_eq!(error.to_string(), "it can't be fetched", "why is for the log");
    let reason = std::error::Error::source(&error).expect("a reason").to_string();
    assert!(reason.contains("not public") && !reason.contains("127.0.0.1"), "{reason}");
    assert_eq!(site.requests(), [""; 0]);
}
