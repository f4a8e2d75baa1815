//! A client library that knows OAuth, and nothing of MCP.

use serde_json::{Value, json};

use crate::site::{MONA, MONA_ID, Site};
use crate::support::browser::Browser;

#[tokio::test]
async fn authlib_registers_signs_in_introspects_refreshes_and_revokes() {
    let site = Site::start().await;
    let (url, _server) = site.tools().await;
    let browser = Browser::start().await;
    let result = site.run("authlib_client.py", &[&url], &browser, MONA).await;

    assert_eq!(result["header"]["typ"], "at+jwt");
    let claims = &result["claims"];
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!(MONA_ID), &json!([url])), "{claims}");
    let identity = &result["identity"];
    assert_eq!(identity["sub"], MONA_ID, "{identity}");
    assert_eq!(result["called"], 200);

    let introspected = &result["introspected"];
    assert_eq!(introspected["active"], true);
    for claim in ["sub", "client_id", "jti", "exp", "iss"] {
        assert_eq!(introspected[claim], claims[claim], "{claim}");
        assert_ne!(introspected[claim], Value::Null, "{claim}");
    }
    assert_eq!(result["refreshed"], true);

    assert_eq!(result["revoked"], 200);
    assert_eq!(result["introspected_after"], json!({ "active": false }));
    let [status, challenge] = &result["called_after"].as_array().unwrap()[..] else { panic!("{result}") };
    assert_eq!(status, 401);
    assert!(challenge.as_str().unwrap().contains("error=\"invalid_token\""), "{challenge}");
    assert_eq!(result["refresh_after"], "invalid_grant");
}
