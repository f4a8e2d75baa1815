//! `portcullis mcp wrap`: a server that speaks over standard input and output, called over HTTP.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, TOKEN).unwrap();
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp_wrap/server.py");
        let mut command = Command::new(BINARY);
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

#[tokio::test]
async fn a_request_whose_client_goes_is_cancelled() {
    let wrapped = Wrapped::start(&[]);
    let mut client = wrapped.session().await;
    let mut standing = Events::of(client.listen(None).await);
    let (id, events) = client.begin("tools/call", json!({ "name": "wait", "arguments": {} })).await;
    let (_, waiting) = standing.next().await.unwrap();
    assert_eq!(waiting["params"]["data"], "waiting");
    drop(events);
    let (_, told) = standing.next().await.unwrap();
    assert_eq!(told["params"]["data"]["cancelled"], id, "{told}");
}

#[tokio::test]
async fn a_process_that_dies_is_started_again_and_its_session_goes_on() {
    let wrapped = Wrapped::start(&[]);
    for way in ["die", "flood"] {
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
async fn processes_end_with_the_wrapper() {
    let mut wrapped = Wrapped::start(&[]);
    let mut client = wrapped.session().await;
    let pid = who(&mut client).await["pid"].clone();
    let killed = Command::new("kill").args(["-TERM", &wrapped.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let status = wrapped.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!is_alive(&pid));
    assert!(wrapped.dir.path().exists());
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
