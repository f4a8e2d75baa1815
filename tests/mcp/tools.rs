//! What the tools do, over each revision.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Site;
use crate::support::client::{get, plain};
use crate::support::eventually;
use crate::support::mcp::{OLDER, STATEFUL, STATELESS};
use crate::support::upstream::Upstream;

/// The names that the project was founded with.
const FOUNDING: [&str; 9] = [
    "echo",
    "health_check",
    "list_proxies",
    "create_proxy",
    "delete_proxy",
    "list_certificates",
    "list_services",
    "get_logs",
    "run_command",
];

#[tokio::test]
async fn a_gateway_is_run_through_tools_alone() {
    let site = Site::start();
    let upstream = Upstream::start("app").await;
    for version in [STATELESS, STATEFUL] {
        let mut admin = site.admin(version).await;
        let host = if version == STATELESS { "new.localhost" } else { "old.localhost" };
        let made = admin
            .ok(
                "create_proxy",
                json!({ "proxy_hostname": host, "target_url": upstream.url(), "https_redirect": "off" }),
            )
            .await;
        assert_eq!(made["proxy_target"]["proxy_hostname"], host, "{made}");
        // What a tool has answered is in force.
        assert_eq!(plain(site.daemon.http, get(host, "/hello")).await.status, 200);
        admin.ok("enable_proxy_auth", json!({ "proxy_hostname": host, "mode": "forward" })).await;
        assert_eq!(plain(site.daemon.http, get(host, "/hello")).await.status, 401);
        let logged = eventually("both requests are logged", async || {
            let mut admin = admin.clone();
            let page = admin.ok("get_logs", json!({ "hostname": host, "path": "/hello" })).await;
            let statuses: Vec<_> =
                page["logs"].as_array()?.iter().filter_map(|record| record["status_code"].as_u64()).collect();
            (statuses.len() == 2).then_some(statuses)
        })
        .await;
        assert_eq!(logged, [401, 200], "the newest first");
        admin.ok("delete_proxy", json!({ "proxy_hostname": host })).await;
        assert_eq!(plain(site.daemon.http, get(host, "/hello")).await.status, 404);
        let left = admin.ok("list_proxies", json!({})).await;
        let names = left["result"].as_array().unwrap().iter().map(|proxy| &proxy["proxy_hostname"]);
        assert!(names.clone().all(|name| name != host), "{left}");
    }
}

#[tokio::test]
async fn every_revision_is_negotiated() {
    let site = Site::start();
    for version in OLDER.into_iter().chain([STATEFUL]) {
        let mut client = site.client("root", "mcp,admin", version);
        let hello = client.hello().await;
        assert_eq!(hello["protocolVersion"], version);
        assert_eq!(hello["serverInfo"]["name"], "portcullis");
        assert!(client.session.is_some(), "{version} has sessions");
        assert_eq!(client.ok("echo", json!({ "message": "hi" })).await, json!({ "message": "hi" }));
    }
    let mut client = site.client("root", "mcp,admin", STATELESS);
    let hello = client.hello().await;
    let versions = hello["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!(STATELESS)), "{hello}");
    assert_eq!(client.ok("echo", json!({ "message": "hi" })).await, json!({ "message": "hi" }));
    assert!(client.session.is_none());
}

#[tokio::test]
async fn tools_are_those_of_the_callers_scopes_and_their_list_is_small() {
    let site = Site::start();
    let mut admin = site.admin(STATEFUL).await;
    let started = Instant::now();
    let first = admin.request("tools/list", json!({})).await;
    eprintln!("the first page: {} bytes in {:?}", first.to_string().len(), started.elapsed());
    assert!(first.to_string().len() < 48 * 1024, "clients give it little time");
    let first: Vec<_> =
        first["result"]["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    for name in FOUNDING {
        assert!(first.contains(&&json!(name)), "{name} is on the first page: {first:?}");
    }
    let all = admin.tools().await;
    let mut names: Vec<_> = all.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "each once");

    let mut reader = site.client("reader", "mcp,user", STATEFUL);
    reader.hello().await;
    let read: Vec<Value> = reader.tools().await;
    let has = |name: &str| read.iter().any(|tool| tool["name"] == name);
    assert!(has("list_proxies") && !has("create_proxy") && !has("run_command"));
    let wanted = json!({ "proxy_hostname": "x.localhost", "target_url": "http://127.0.0.1:1" });
    // What is not listed is refused, too.
    assert_eq!(reader.fails("create_proxy", wanted).await["code"], "insufficient_scope");
    let command = json!({ "command": "proxy list" });
    assert_eq!(reader.fails("run_command", command).await["code"], "insufficient_scope");
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_told_to_the_model() {
    let site = Site::start();
    let mut admin = site.admin(STATELESS).await;
    let wrong = admin
        .fails("create_proxy", json!({ "proxy_hostname": "x.localhost", "target_url": "ftp://x" }))
        .await;
    assert_eq!(wrong["fields"][0]["field"], "target_url", "{wrong}");
    let unknown = admin.fails("delete_proxy", json!({ "proxy_hostname": "nobody.localhost" })).await;
    assert_eq!(unknown["code"], "not_found", "{unknown}");
    let unknown = admin.request("tools/call", json!({ "name": "make_coffee", "arguments": {} })).await;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
}

#[tokio::test]
async fn a_command_is_one_of_our_operations() {
    let site = Site::start();
    let mut admin = site.admin(STATEFUL).await;
    let command = |words: &str| json!({ "command": words });
    admin.ok("run_command", command("proxy create cmd.localhost http://127.0.0.1:9")).await;
    let listed = admin.ok("run_command", command("portcullis proxy show cmd.localhost")).await;
    assert_eq!(listed["proxy_hostname"], "cmd.localhost", "{listed}");
    admin
        .ok(
            "run_command",
            command("proxy update cmd.localhost --cors '{\"origins\":[\"https://a.example\"]}'"),
        )
        .await;
    let shown = admin.ok("show_proxy", json!({ "proxy_hostname": "cmd.localhost" })).await;
    assert!(shown["cors"].is_object(), "{shown}");
    admin.ok("run_command", command("proxy update cmd.localhost --cors null")).await;
    let shown = admin.ok("show_proxy", json!({ "proxy_hostname": "cmd.localhost" })).await;
    assert!(shown["cors"].is_null(), "null brings back the default: {shown}");
    let silent = admin.fails("set_log_level", json!({ "level": "TRACE", "component": "rmcp" })).await;
    assert_eq!(silent["fields"][0]["field"], "component", "{silent}");
    for (words, expected) in
        [("sh -c id", "unrecognized"), ("serve", "unrecognized"), ("proxy delete", "required")]
    {
        let refused = admin.tool("run_command", command(words)).await;
        assert_eq!(refused["isError"], true, "{words}");
        assert!(refused.to_string().contains(expected), "{words}: {refused}");
    }
}
