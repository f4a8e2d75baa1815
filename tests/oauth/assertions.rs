//! The grants of enterprises, behind their flag: what the settings of the daemon open.

use std::process::Stdio;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{World, claims};
use crate::support::daemon::command;

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ASSERTION: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ISSUERS: &str = r#"[{"issuer": "https://idp.example", "jwks_uri": "https://idp.example/keys"}]"#;

async fn grants(world: &World) -> Value {
    let url = world.at_issuer("/.well-known/oauth-authorization-server");
    let answer = world.visitor().send(Method::GET, &url, &[], String::new()).await;
    answer.json()["grant_types_supported"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flag_opens_the_grants_of_enterprises() {
    let world = World::with(|command| {
        let file = command.get_current_dir().expect("a folder").join("issuers.json");
        std::fs::write(&file, ISSUERS).expect("written");
        command.env("PORTCULLIS_OAUTH_ASSERTION_GRANTS", "true");
        command.env("PORTCULLIS_OAUTH_ASSERTION_ISSUERS", file);
    })
    .await;
    let served = grants(&world).await;
    for grant in [EXCHANGE, ASSERTION] {
        assert!(served.as_array().unwrap().contains(&json!(grant)), "{served}");
    }
    // A client for itself, and then a token that can do less.
    let client = json!({
        "client_id": "agent",
        "grant_types": ["client_credentials", EXCHANGE],
        "token_endpoint_auth_method": "client_secret_post",
    });
    let made = world.daemon.api(Method::POST, "/oauth/clients", client).await;
    let secret = made["client_secret"].as_str().expect("a secret").to_owned();
    world.protect("agents.localhost", json!({ "auth_required_users": ["service:client/agent"] })).await;
    let resource = world.resource("agents.localhost");
    let post = async |more: &[(&str, &str)]| {
        let mut fields = vec![("client_id", "agent"), ("client_secret", secret.as_str())];
        fields.extend(more);
        world.post("/token", &fields).await
    };
    let own = post(&[("grant_type", "client_credentials"), ("resource", &resource)]).await;
    assert_eq!(own.status, StatusCode::OK, "{}", String::from_utf8_lossy(&own.body));
    let first = own.json()["access_token"].as_str().expect("a token").to_owned();
    let exchange = [
        ("grant_type", EXCHANGE),
        ("subject_token", first.as_str()),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("scope", "mcp:read"),
    ];
    let less = post(&exchange).await;
    assert_eq!(less.status, StatusCode::OK, "{}", String::from_utf8_lossy(&less.body));
    let less = less.json()["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(
        (&claims(&less)["scope"], &claims(&less)["aud"]),
        (&json!("mcp:read"), &claims(&first)["aud"])
    );
    assert_eq!(world.get_as("agents.localhost", "/mcp", &less).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_flag_they_are_closed_and_a_file_of_issuers_is_a_mistake() {
    let world = World::new().await;
    let served = grants(&world).await;
    for grant in [EXCHANGE, ASSERTION] {
        assert!(!served.as_array().unwrap().contains(&json!(grant)), "{served}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("issuers.json");
    for (flag, content, said) in [
        ("false", ISSUERS, "PORTCULLIS_OAUTH_ASSERTION_GRANTS"),
        ("true", "[{}]", "PORTCULLIS_OAUTH_ASSERTION_ISSUERS"),
    ] {
        std::fs::write(&file, content).unwrap();
        let mut command = command(dir.path());
        command.arg("serve").stdin(Stdio::null()).env("PORTCULLIS_PUBLIC_HTTPS_PORT", "443");
        command.env("PORTCULLIS_OAUTH_ASSERTION_GRANTS", flag);
        command.env("PORTCULLIS_OAUTH_ASSERTION_ISSUERS", &file);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(said), "{flag} {content}: {told}");
    }
}
