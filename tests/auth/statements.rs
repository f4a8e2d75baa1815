//! What upstreams are told of who calls, with proof.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::support::client::{self, get, get_as};
use super::support::issuer::at;
use super::{HOST, Site};

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn an_upstream_can_prove_who_calls() {
    let site = Site::own().await;
    let fields = |more: &Value| {
        let mut all = json!({
            "auth_enabled": true, "auth_mode": "passthrough", "auth_required_users": ["*"], "auth_identity_jwt": true,
            "oauth_user_users": ["alice"], "auth_allowed_audiences": ["https://app.test"],
        });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let url = site.upstream.url();
    site.daemon.proxy(HOST, &url, &fields(&json!({})));
    site.daemon.proxy("acme.test", &url, &fields(&json!({ "auth_header_prefix": "X-Acme-" })));
    site.daemon.proxy("off.test", &url, &fields(&json!({ "auth_identity_jwt": false })));
    let token = site.own_token(&[("scope", json!("user admin"))]);
    let seen = async |host: &str, name: &str, token: Option<&str>| {
        let mut request = token.map_or_else(|| get(host, "/"), |token| get_as(host, "/", token));
        request.headers_mut().append("x-auth-identity", "forged".parse().unwrap());
        request.headers_mut().append("x-acme-identity", "forged".parse().unwrap());
        client::plain(site.daemon.http, request).await.seen(name)
    };
    for (host, name) in [(HOST, "x-auth-identity"), ("acme.test", "x-acme-identity")] {
        assert_eq!(seen(host, name, None).await, Vec::<String>::new(), "nobody is known: {host}");
        let stated = seen(host, name, Some(&token)).await;
        assert_eq!(stated.len(), 1, "{host}");
        let (signed, signature) = stated[0].rsplit_once('.').unwrap();
        assert!(site.rsa.verifies(signed, signature), "{host}");
        let header = part(&stated[0], 0);
        assert_eq!((&header["typ"], &header["alg"]), (&json!("identity+jwt"), &json!("RS256")));
        let claims = part(&stated[0], 1);
        for (claim, value) in [
            ("iss", json!("https://auth.localhost")),
            ("aud", json!(format!("https://{host}"))),
            ("sub", json!("7")),
            ("username", json!("Alice")),
            ("email", json!("Alice@Example.com")),
            ("groups", json!(["staff", "ops"])),
            ("scope", json!("user")),
        ] {
            assert_eq!(claims[claim], value, "{claim} at {host}");
        }
        let (issued, expires) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!(expires - issued == 60 && issued <= at(0) && expires > at(0), "{claims}");
        // It is no access token: neither here nor on the host itself.
        assert_eq!(seen(host, "x-auth-user", Some(&stated[0])).await, Vec::<String>::new());
    }
    assert_eq!(seen("off.test", "x-auth-identity", Some(&token)).await, Vec::<String>::new());
}
