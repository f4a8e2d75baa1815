//! What goes back and forth in a call: progress, and the question before something is taken away.

use serde_json::{Value, json};

use crate::Site;
use crate::support::mcp::{Mcp, STATEFUL, STATELESS};

async fn exists(admin: &mut Mcp, host: &str) -> bool {
    admin.tool("show_proxy", json!({ "proxy_hostname": host })).await["isError"] != true
}

async fn site_with(host: &str) -> Site {
    let site = Site::start();
    site.daemon.host(host, "http://127.0.0.1:9", json!({})).await;
    site
}

#[tokio::test]
async fn an_older_client_is_asked_in_the_middle_of_a_call() {
    let site = site_with("a.localhost").await;
    let mut admin = site.client("root", "mcp,admin", STATEFUL).able_to(json!({ "elicitation": {} }));
    admin.hello().await;
    for (answer, goes) in [
        (json!({ "action": "decline" }), false),
        (json!({ "action": "accept", "content": { "confirm": false } }), false),
        (json!({ "action": "accept", "content": { "confirm": true } }), true),
    ] {
        let arguments = json!({ "name": "delete_proxy", "arguments": { "proxy_hostname": "a.localhost" } });
        let (id, mut events) = admin.begin("tools/call", arguments).await;
        let (_, question) = events.next().await.expect("a question");
        assert_eq!(question["method"], "elicitation/create", "{question}");
        assert!(question["params"]["message"].as_str().unwrap().contains("a.localhost"), "{question}");
        let told = json!({ "jsonrpc": "2.0", "id": question["id"], "result": answer });
        assert_eq!(admin.post(&told).await.status(), 202);
        let result = events.answer(&id).await["result"].clone();
        assert_eq!(result["isError"] != true, goes, "{result}");
        assert_eq!(exists(&mut admin, "a.localhost").await, !goes);
    }
}

#[tokio::test]
async fn who_takes_a_call_back_has_not_agreed() {
    let site = site_with("e.localhost").await;
    site.daemon.host("f.localhost", "http://127.0.0.1:9", json!({})).await;
    let mut admin = site.client("root", "mcp,admin", STATEFUL).able_to(json!({ "elicitation": {} }));
    admin.hello().await;
    let wanted = |host: &str| json!({ "name": "delete_proxy", "arguments": { "proxy_hostname": host } });
    let (id, mut events) = admin.begin("tools/call", wanted("e.localhost")).await;
    let (_, late) = events.next().await.expect("a question");
    let cancel =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
    assert_eq!(admin.post(&cancel).await.status(), 202);
    let yes = json!({ "action": "accept", "content": { "confirm": true } });
    let agreed = |question: &Value| json!({ "jsonrpc": "2.0", "id": question["id"], "result": yes });
    assert_eq!(admin.post(&agreed(&late)).await.status(), 202);
    // What was asked later is done by now, and so would be what was asked before.
    let (id, mut events) = admin.begin("tools/call", wanted("f.localhost")).await;
    let (_, question) = events.next().await.expect("a question");
    assert_eq!(admin.post(&agreed(&question)).await.status(), 202);
    assert_ne!(events.answer(&id).await["result"]["isError"], true);
    assert!(!exists(&mut admin, "f.localhost").await);
    assert!(exists(&mut admin, "e.localhost").await, "its call was taken back");
}

#[tokio::test]
async fn people_are_asked_before_what_is_there_is_changed() {
    let site = site_with("g.localhost").await;
    let mut admin = site.client("root", "mcp,admin", STATELESS).able_to(json!({ "elicitation": {} }));
    let host = |more: Value| {
        let mut fields = json!({ "proxy_hostname": "g.localhost" });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    for (name, arguments) in [
        ("update_proxy", host(json!({ "auth_enabled": false }))),
        ("disable_proxy", host(json!({}))),
        ("set_mcp_policy", host(json!({ "default": "allow" }))),
        ("rotate_signing_keys", json!({})),
        ("approve_mcp_tools", host(json!({}))),
        // What is meant counts, not how it is called.
        ("run_command", json!({ "command": "proxy delete g.localhost" })),
        ("run_command", json!({ "command": "proxy update g.localhost --enabled=false" })),
    ] {
        let asked = admin.tool(name, arguments).await;
        assert_eq!(asked["resultType"], "input_required", "{name}: {asked}");
    }
    for (name, arguments) in [
        ("create_proxy", json!({ "proxy_hostname": "h.localhost", "target_url": "http://127.0.0.1:9" })),
        ("run_command", json!({ "command": "proxy show g.localhost" })),
        ("set_log_level", json!({ "level": "INFO" })),
    ] {
        admin.ok(name, arguments).await;
    }
}

#[tokio::test]
async fn a_newer_client_calls_again_with_the_answer() {
    let site = site_with("b.localhost").await;
    site.daemon.host("c.localhost", "http://127.0.0.1:9", json!({})).await;
    let mut admin = site.client("root", "mcp,admin", STATELESS).able_to(json!({ "elicitation": {} }));
    let call = |host: &str, more: Value| {
        let mut params = json!({ "name": "delete_proxy", "arguments": { "proxy_hostname": host } });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let asked = admin.request("tools/call", call("b.localhost", json!({}))).await["result"].clone();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    assert_eq!(asked["inputRequests"]["confirm"]["method"], "elicitation/create", "{asked}");
    let yes = json!({ "confirm": { "action": "accept", "content": { "confirm": true } } });
    let again = json!({ "inputResponses": yes, "requestState": asked["requestState"] });
    // The answer is good for what was asked, and for nobody else.
    let other = admin.request("tools/call", call("c.localhost", again.clone())).await["result"].clone();
    assert_eq!(other["resultType"], "input_required", "{other}");
    let mut stranger = site.client("stranger", "mcp,admin", STATELESS).able_to(json!({ "elicitation": {} }));
    let theirs = stranger.request("tools/call", call("b.localhost", again.clone())).await["result"].clone();
    assert_eq!(theirs["resultType"], "input_required", "{theirs}");
    let forged = json!({ "inputResponses": yes, "requestState": "x" });
    let forged = admin.request("tools/call", call("b.localhost", forged)).await["result"].clone();
    assert_eq!(forged["resultType"], "input_required", "{forged}");
    assert!(exists(&mut admin, "b.localhost").await && exists(&mut admin, "c.localhost").await);
    let done = admin.request("tools/call", call("b.localhost", again.clone())).await["result"].clone();
    assert_eq!(done["resultType"], "complete", "{done}");
    assert!(!exists(&mut admin, "b.localhost").await);
    // And once only.
    site.daemon.host("b.localhost", "http://127.0.0.1:9", json!({})).await;
    let twice = admin.request("tools/call", call("b.localhost", again)).await["result"].clone();
    assert_eq!(twice["resultType"], "input_required", "{twice}");
    assert!(exists(&mut admin, "b.localhost").await);
}

#[tokio::test]
async fn who_can_ask_nobody_is_not_held_up() {
    let site = site_with("d.localhost").await;
    let mut admin = site.admin(STATEFUL).await;
    admin.ok("delete_proxy", json!({ "proxy_hostname": "d.localhost" })).await;
    assert!(!exists(&mut admin, "d.localhost").await);
}

#[tokio::test]
async fn long_work_tells_how_far_it_is() {
    let site = Site::start();
    for version in [STATEFUL, STATELESS] {
        let mut admin = site.admin(version).await;
        let exported = admin.ok("export_config", json!({})).await;
        let mut params = json!({ "name": "validate_config", "arguments": { "config": exported["config"] } });
        params["_meta"] = json!({ "progressToken": "p1" });
        let (id, mut events) = admin.begin("tools/call", params).await;
        let (_, first) = events.next().await.expect("an event");
        assert_eq!(first["method"], "notifications/progress", "{first}");
        assert_eq!(
            (&first["params"]["progressToken"], &first["params"]["progress"]),
            (&json!("p1"), &json!(1.0))
        );
        assert!(first["params"]["message"].as_str().unwrap().contains("documents"), "{first}");
        let result = events.answer(&id).await;
        assert_ne!(result["result"]["isError"], true, "{result}");
    }
}
