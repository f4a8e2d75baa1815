//! `portcullis mcp wrap`: a server that speaks over standard input and output, called over HTTP.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use http::Method;
use support::daemon::{BINARY, Daemon};
use support::eventually;
use support::mcp::{Events, Mcp, OLDER, STATEFUL, STATELESS};

const TOKEN: &str = "a-token-for-the-tests-of-wrapping";

/// A wrapped server.
struct Wrapped {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Wrapped {
    fn start(more: &[&str]) -> Self {
        Self::start_beside(more, None)
    }

    /// One that finds a gateway by its data folder.
    fn start_beside(more: &[&str], daemon: Option<&Daemon>) -> Self {
        Self::start_as(Command::new(BINARY), more, daemon)
    }

    fn start_as(mut command: Command, more: &[&str], daemon: Option<&Daemon>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env"), "FROM_FILE=hush\nCHANGED=hush\n").unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, TOKEN).unwrap();
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp_wrap/server.py");
        if let Some(daemon) = daemon {
            command.env("PORTCULLIS_DATA", daemon.dir.path().join("data"));
        }
        let mut child = command
            .args(["mcp", "wrap", "--token-file"])
            .arg(&file)
            .args(more)
            .args(["--", "python3"])
            .arg(server)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let address = line.strip_prefix("serving http://").and_then(|rest| rest.strip_suffix("/mcp"));
        let address = address.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        if daemon.is_some() {
            let line = lines.next().unwrap().unwrap();
            assert!(line.ends_with("leads here"), "{line}");
        }
        Self { child, address, dir }
    }

    fn client(&self, version: &str) -> Mcp {
        Mcp::plain(self.address, Some(TOKEN), version)
    }

    async fn session(&self) -> Mcp {
        let mut client = self.client(STATEFUL);
        client.hello().await;
        client
    }
}

impl Wrapped {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended by itself.
    async fn ended(&mut self) -> ExitStatus {
        eventually("the wrapper ends", || std::future::ready(self.child.try_wait().unwrap())).await
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

async fn who(client: &mut Mcp) -> Value {
    let result = client.tool("who", json!({})).await;
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}

fn is_alive(pid: &Value) -> bool {
    Path::new(&format!("/proc/{pid}/cmdline")).exists_with_content()
}

trait WithContent {
    fn exists_with_content(&self) -> bool;
}

impl WithContent for Path {
    /// A process that has ended and was not waited for has none.
    fn exists_with_content(&self) -> bool {
        std::fs::read(self).is_ok_and(|content| !content.is_empty())
    }
}

#[tokio::test]
async fn each_session_has_a_process_of_its_own() {
    let wrapped = Wrapped::start(&[]);
    let mut one = wrapped.session().await;
    let mut other = wrapped.session().await;
    let (first, second) = (who(&mut one).await, who(&mut other).await);
    assert_ne!(first["pid"], second["pid"]);
    assert_eq!((&first["client"], &first["ready"]), (&json!("by-hand"), &json!(true)));
    assert_eq!(one.send("DELETE", &[], "").await.status(), 204);
    eventually("its process ends", async || (!is_alive(&first["pid"])).then_some(())).await;
    let message = one.message("tools/list", json!({}));
    assert_eq!(one.post(&message).await.status(), 404);
    assert_eq!(who(&mut other).await["pid"], second["pid"]);
}

#[tokio::test]
async fn who_has_no_token_is_refused() {
    let wrapped = Wrapped::start(&[]);
    let session = wrapped.session().await.session;
    for token in [None, Some("another-token-of-some-length")] {
        let mut client = Mcp::plain(wrapped.address, token, STATEFUL);
        client.session.clone_from(&session);
        let message = client.message("tools/list", json!({}));
        assert_eq!(client.post(&message).await.status(), 401);
        assert_eq!(client.listen(None).await.status(), 401);
        assert_eq!(client.send("DELETE", &[], "").await.status(), 401);
    }
}

#[tokio::test]
async fn every_revision_with_sessions_is_spoken_and_others_are_told_so() {
    let wrapped = Wrapped::start(&[]);
    for version in OLDER.into_iter().skip(1).chain([STATEFUL]) {
        let mut client = wrapped.client(version);
        assert_eq!(client.hello().await["protocolVersion"], version);
        assert_eq!(client.tools().await[0]["name"], "who");
    }
    let mut newer = wrapped.client(STATELESS);
    let message = newer.message("server/discover", json!({}));
    let answer = newer.asked(&message).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (400, &json!(-32022)));
}

#[tokio::test]
async fn what_comes_meanwhile_comes_with_the_request() {
    let wrapped = Wrapped::start(&[]);
    let mut client = wrapped.session().await;
    let params = json!({ "name": "steps", "arguments": {}, "_meta": { "progressToken": "t" } });
    let (id, mut events) = client.begin("tools/call", params).await;
    for step in [1, 2] {
        let (_, news) = events.next().await.unwrap();
        assert_eq!(
            (&news["method"], &news["params"]["progress"]),
            (&json!("notifications/progress"), &json!(step))
        );
    }
    assert_eq!(events.answer(&id).await["result"]["content"][0]["text"], "done");

    let (id, mut events) = client.begin("tools/call", json!({ "name": "ask", "arguments": {} })).await;
    let (_, question) = events.next().await.unwrap();
    assert_eq!(question["method"], "elicitation/create");
    let told = json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "decline" } });
    assert_eq!(client.post(&told).await.status(), 202);
    assert_eq!(events.answer(&id).await["result"]["content"][0]["text"], "decline");
}

fn waiting() -> Value {
    json!({ "name": "wait", "arguments": {}, "_meta": { "progressToken": "t" } })
}

#[tokio::test]
async fn a_connection_that_is_lost_cancels_nothing_and_its_answer_is_there_later() {
    let wrapped = Wrapped::start(&[]);
    for version in ["2025-06-18", STATEFUL] {
        let mut client = wrapped.client(version);
        client.hello().await;
        let (id, mut events) = client.begin("tools/call", waiting()).await;
        let (place, news) = events.next().await.unwrap();
        assert_eq!(news["method"], "notifications/progress");
        drop(events);
        // While it is under way, and when it is done.
        let mut again = Events::of(client.listen(place.as_deref()).await);
        let released = client.tool("release", json!({})).await;
        assert_eq!(released["content"][0]["text"], "[]", "nothing was cancelled");
        assert_eq!(again.answer(&id).await["result"]["content"][0]["text"], "late");
        let mut again = Events::of(client.listen(place.as_deref()).await);
        assert_eq!(again.answer(&id).await["result"]["content"][0]["text"], "late");
        assert!(again.next().await.is_none(), "the stream ends with its answer");
        assert_eq!(client.listen(Some("77-0")).await.status(), 400);
    }
}

#[tokio::test]
async fn streams_of_clients_that_can_come_back_begin_with_a_place() {
    let wrapped = Wrapped::start(&[]);
    for (version, primed) in [("2025-06-18", false), (STATEFUL, true)] {
        let mut client = wrapped.client(version);
        client.hello().await;
        let message = client.message("tools/list", json!({}));
        let answer = client.asked(&message).await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert_eq!(text.starts_with("id: 0-0\nretry: 1000\ndata:\n\n"), primed, "{version}: {text}");
    }
}

#[tokio::test]
async fn a_request_that_is_cancelled_ends_without_an_answer() {
    let wrapped = Wrapped::start(&[]);
    let mut client = wrapped.session().await;
    let (id, mut events) = client.begin("tools/call", waiting()).await;
    assert!(events.next().await.is_some());
    let cancel =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
    assert_eq!(client.post(&cancel).await.status(), 202);
    assert!(events.next().await.is_none());
    let released = client.tool("release", json!({})).await;
    assert_eq!(released["content"][0]["text"], json!([id]).to_string());
}

#[tokio::test]
async fn the_program_gets_nothing_that_is_ours() {
    let mut command = Command::new(BINARY);
    command
        .env("OAUTH_ACCESS_TOKEN", "hush")
        .env("PORTCULLIS_SECRET_KEY", "hush")
        .env("REDIS_PASSWORD", "hush");
    command.env("PORTCULLIS_OF_SOME_VERSION", "hush").env("CHANGED", "on purpose").env("OTHER", "its own");
    let wrapped = Wrapped::start_as(command, &[], None);
    let mut client = wrapped.session().await;
    let result = client.tool("environment", json!({})).await;
    let environment: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(!environment.to_string().contains("hush"), "{environment}");
    assert_eq!((&environment["OTHER"], &environment["CHANGED"]), (&json!("its own"), &json!("on purpose")));
    assert!(environment["PATH"].is_string());
}

#[tokio::test]
async fn a_process_that_dies_is_started_again_and_its_session_goes_on() {
    let wrapped = Wrapped::start(&[]);
    for way in ["die", "flood", "orphan"] {
        let mut client = wrapped.session().await;
        let before = who(&mut client).await;
        let failed = client.request("tools/call", json!({ "name": way, "arguments": {} })).await;
        assert_eq!(failed["error"]["code"], -32603, "{failed}");
        let after = eventually("a new process", async || {
            let mut client = client.clone();
            let message = client.message("tools/call", json!({ "name": "who", "arguments": {} }));
            let response = client.post(&message).await;
            if response.status() != 200 {
                return None;
            }
            let answer = Events::of(response).answer(&message["id"]).await;
            serde_json::from_str::<Value>(answer["result"]["content"][0]["text"].as_str()?).ok()
        })
        .await;
        assert_ne!(after["pid"], before["pid"], "{way}");
        assert_eq!(
            (&after["client"], &after["ready"]),
            (&json!("by-hand"), &json!(true)),
            "it was told all again"
        );
    }
}

#[tokio::test]
async fn there_are_as_many_sessions_as_was_said() {
    let wrapped = Wrapped::start(&["--sessions", "1"]);
    let first = wrapped.session().await;
    let mut client = wrapped.client(STATEFUL);
    let hello = json!({ "protocolVersion": STATEFUL, "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } });
    let message = client.message("initialize", hello);
    assert_eq!(client.post(&message).await.status(), 503);
    assert_eq!(first.send("DELETE", &[], "").await.status(), 204);
    eventually("room for another", async || (client.post(&message).await.status() == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn a_place_is_free_when_its_process_has_ended() {
    let wrapped = Wrapped::start(&["--sessions", "1"]);
    let mut client = wrapped.client(STATEFUL);
    let hello = |client: &mut Mcp, name: &str| {
        let who = json!({ "name": name, "version": "1" });
        client.message(
            "initialize",
            json!({ "protocolVersion": STATEFUL, "capabilities": {}, "clientInfo": who }),
        )
    };
    let message = hello(&mut client, "stubborn");
    let response = client.post(&message).await;
    client.session = Some(response.headers()["mcp-session-id"].to_str().unwrap().to_owned());
    // It ends neither with its input nor by SIGTERM.
    let pid = who(&mut client).await["pid"].clone();
    assert_eq!(client.send("DELETE", &[], "").await.status(), 204);
    client.session = None;
    let message = hello(&mut client, "x");
    eventually("room for another", async || {
        let was_there = is_alive(&pid);
        let status = client.post(&message).await.status();
        assert!(status == 503 || status == 200, "{status}");
        assert!(!was_there || status == 503 || !is_alive(&pid), "two processes, where there is room for one");
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_greeting_whose_client_goes_leaves_nothing_behind() {
    let wrapped = Wrapped::start(&["--sessions", "1"]);
    let mut client = wrapped.client(STATEFUL);
    // The server takes its time over this one.
    let hello = json!({ "protocolVersion": STATEFUL, "capabilities": {}, "clientInfo": { "name": "slow", "version": "1" } });
    let message = client.message("initialize", hello);
    let gone = tokio::time::timeout(Duration::from_millis(300), client.post(&message)).await;
    assert!(gone.is_err(), "it has not answered so soon");
    eventually("room for another", async || {
        let mut client = wrapped.client(STATEFUL);
        let hello = json!({ "protocolVersion": STATEFUL, "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } });
        let message = client.message("initialize", hello);
        (client.post(&message).await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn processes_end_with_the_wrapper_whatever_clients_do() {
    for signal in ["-TERM", "-HUP"] {
        let mut wrapped = Wrapped::start(&[]);
        let mut client = wrapped.session().await;
        let pid = who(&mut client).await["pid"].clone();
        let mut standing = Events::of(client.listen(None).await);
        let (_, mut events) = client.begin("tools/call", waiting()).await;
        assert!(events.next().await.is_some());
        // A greeting that is never answered, and a request that is never whole.
        let mut other = wrapped.client(STATEFUL);
        let hello = json!({ "protocolVersion": STATEFUL, "capabilities": {}, "clientInfo": { "name": "slow", "version": "1" } });
        let message = other.message("initialize", hello);
        let greeting = tokio::spawn(async move { other.post(&message).await.status() });
        let mut half = std::net::TcpStream::connect(wrapped.address).unwrap();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
             content-length: 10\r\n\r\n{{",
            wrapped.address
        );
        half.write_all(head.as_bytes()).unwrap();
        eventually("two processes", async || (children(wrapped.child.id()) == 2).then_some(())).await;
        wrapped.signal(signal);
        let status = wrapped.ended().await;
        assert!(status.success(), "{signal}: {status}");
        assert!(!is_alive(&pid), "{signal}");
        assert!(standing.next().await.is_none());
        assert_eq!(greeting.await.unwrap(), 502);
        assert!(wrapped.dir.path().exists());
    }
}

/// How many processes a process has started.
fn children(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().count()).sum()
}

#[tokio::test]
async fn who_is_not_to_hear_of_the_end_of_the_terminal_does_not() {
    let mut command = Command::new("nohup");
    command.arg(BINARY);
    let mut wrapped = Wrapped::start_as(command, &[], None);
    wrapped.signal("-HUP");
    for _ in 0..3 {
        let mut client = wrapped.session().await;
        assert_eq!(who(&mut client).await["client"], "by-hand");
    }
    wrapped.signal("-TERM");
    assert!(wrapped.ended().await.success());
}

#[tokio::test]
async fn a_host_without_login_or_with_another_path_is_not_led_here() {
    const HOST: &str = "there.localhost";
    let daemon = Daemon::start();
    daemon.host(HOST, "http://127.0.0.1:9", json!({ "auth_enabled": false })).await;
    let refused = async |said: &str| {
        let out = Command::new(BINARY)
            .env("PORTCULLIS_DATA", daemon.dir.path().join("data"))
            .args(["mcp", "wrap", "--host", HOST, "--", "cat"])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains(said), "{said}: {error}");
        let found = daemon.api(Method::GET, &format!("/proxy/targets/{HOST}"), Value::Null).await;
        assert_eq!((&found["target_url"], &found["mcp"]), (&json!("http://127.0.0.1:9"), &Value::Null));
    };
    refused("`auth_enabled`").await;
    daemon.change(HOST, json!({ "auth_enabled": true, "resource_endpoint": "/tools" })).await;
    refused("its MCP server is at /tools").await;
    daemon.change(HOST, json!({ "auth_mode": "passthrough", "resource_endpoint": "/mcp" })).await;
    refused("`passthrough`").await;
}

#[tokio::test]
async fn a_host_of_the_gateway_leads_to_it_with_login() {
    const HOST: &str = "files.localhost";
    let daemon = Daemon::start();
    let wrapped = Wrapped::start_beside(&["--host", HOST], Some(&daemon));
    let wanted = json!({ "name": "t", "audience": [HOST], "scopes": ["mcp"] });
    let made = daemon.api(Method::POST, "/tokens/", wanted).await;
    let token = made["token"].as_str().unwrap();
    let mut nobody = Mcp::new(daemon.https, HOST, None, STATEFUL);
    let message = nobody.message("initialize", json!({}));
    assert_eq!(nobody.post(&message).await.status(), 401);
    let mut client = Mcp::new(daemon.https, HOST, Some(token), STATEFUL);
    assert_eq!(client.post(&message).await.status(), 403, "nobody is on its lists so far");
    daemon.change(HOST, json!({ "oauth_mcp_users": ["service:t"] })).await;
    client.hello().await;
    assert_eq!(who(&mut client).await["client"], "by-hand");
    // The token of the client is not the upstream's, and nobody reads that.
    let document = daemon.api(Method::GET, &format!("/proxy/targets/{HOST}"), Value::Null).await;
    assert!(!document.to_string().contains(TOKEN), "{document}");
    // Another process at another port, and the same host.
    drop(wrapped);
    let rules = json!([{ "id": "no", "effect": "deny", "tools": ["ask"] }]);
    let mut mcp = document["mcp"].clone();
    mcp["rules"] = rules;
    daemon.change(HOST, json!({ "mcp": mcp })).await;
    let _again = Wrapped::start_beside(&["--host", HOST], Some(&daemon));
    client.session = None;
    client.hello().await;
    assert_eq!(who(&mut client).await["client"], "by-hand");
    let message = client.message("tools/call", json!({ "name": "ask", "arguments": {} }));
    assert_eq!(client.post(&message).await.status(), 403, "rules of the host stay");
}

#[test]
fn a_program_that_is_none_is_told() {
    let out = Command::new(BINARY).args(["mcp", "wrap"]).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("COMMAND"));
}
