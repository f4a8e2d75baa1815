//! What administrators see of people who signed in for real: figures, by REST and by the command line.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{HOST, World};
use crate::support::eventually;

async fn ask(world: &World, path: &str) -> Value {
    world.daemon.api(Method::GET, path, json!(null)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_tokens_and_says_how_many() {
    let world = World::new().await;
    let client = world.register(json!({})).await;
    let first = world.tokens_of(&client, "alice", &[]).await;
    let refreshed = world.refresh(&client, &first.refresh).await.json();
    let second = refreshed["refresh_token"].as_str().unwrap();
    assert_eq!(world.refresh(&client, second).await.status, StatusCode::OK);

    let page = ask(&world, "/oauth/tokens?token_type=refresh").await;
    let [token] = &page["tokens"].as_array().unwrap()[..] else { panic!("{page:#}") };
    assert_eq!((&token["usage_count"], &token["username"]), (&json!(2), &json!("alice")), "{page:#}");
    assert!(token["last_used"].is_string(), "{page:#}");
    let summary = json!({
        "total_tokens": 4, "active_tokens": 4, "expired_tokens": 0, "access_tokens": 3, "refresh_tokens": 1,
    });
    assert_eq!(page["summary"], summary);
    let shown = world.daemon.run(&["oauth", "client", "show", &client.id]);
    assert_eq!((&shown["usage_count"], &shown["token_count"]), (&json!(3), &json!(3)), "{shown:#}");
    let hosts = &shown["proxy_associations"];
    assert_eq!((&hosts[0]["proxy_hostname"], &hosts[0]["active_sessions"]), (&json!(HOST), &json!(1)));
    let page = ask(&world, "/oauth/clients").await;
    assert_eq!(
        (&page["summary"]["expired_clients"], &page["summary"]["unused_clients"]),
        (&json!(0), &json!(0))
    );
    // The log of events is written behind the answers.
    let metrics = eventually("the events are in the log", async || {
        let metrics = ask(&world, "/oauth/metrics").await;
        (metrics["auth_flows"]["token_requests"]["last_hour"] == 3).then_some(metrics)
    })
    .await;
    let access = json!({ "total": 3, "active": 3, "issued_last_hour": 3, "expired_last_hour": 0 });
    assert_eq!(metrics["tokens"]["access_tokens"], access);
    let refresh = json!({ "total": 1, "active": 1, "used_last_hour": 2 });
    assert_eq!(metrics["tokens"]["refresh_tokens"], refresh);
    assert_eq!(metrics["auth_flows"]["token_requests"]["success_rate"], 1.0);
    assert_eq!(metrics["errors"]["invalid_grant"], 0);

    let page = ask(&world, "/oauth/sessions").await;
    let [session] = &page["sessions"].as_array().unwrap()[..] else { panic!("{page:#}") };
    assert_eq!((&session["active_tokens"], &session["accessed_proxies"]), (&json!(3), &json!([HOST])));
    assert_eq!(
        (&page["summary"]["total_sessions"], &page["summary"]["unique_users"]),
        (&json!(1), &json!(1))
    );
    let id = session["session_id"].as_str().unwrap();
    let ended = world.daemon.run(&["oauth", "session", "revoke", id]);
    let expected = json!({ "status": "revoked", "session_id": id, "tokens_revoked": 4, "grants_revoked": 1 });
    assert_eq!(ended, expected);
    eventually("the tokens are refused", async || {
        let answer = world.get_as(HOST, "/mcp", &first.access).await;
        (answer.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert_eq!(world.refresh(&client, second).await.json()["error"], "invalid_grant");
    assert_eq!(ask(&world, "/oauth/tokens").await["summary"]["total_tokens"], 0);
    let again = world.daemon.ask(Method::DELETE, &format!("/oauth/sessions/{id}"), &json!(null)).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    eventually("the refusal is counted", async || {
        (ask(&world, "/oauth/metrics").await["errors"]["invalid_grant"] == 1).then_some(())
    })
    .await;
}
