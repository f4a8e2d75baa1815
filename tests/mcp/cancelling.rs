//! A call that is taken back ends, in each revision by its own way.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Site;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::mcp::{Events, Mcp, STATEFUL, STATELESS};

/// More than may wait for a certificate at a time (64): what comes on top is answered at once, a probe's place included.
const CALLS: usize = 80;

const CERTIFICATE: &str = "endless";

/// An authority that takes connections and never says anything.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            open.push(connection);
        }
    });
    address
}

/// A site where a certificate is being issued for as long as the test takes.
async fn site() -> Site {
    let address = silent().await;
    let directory = |name: usize| format!("https://{address}/{name}");
    // Each is given half a minute, one after the other.
    let fallbacks = (1..20).map(directory).collect::<Vec<_>>().join(",");
    let daemon = Daemon::start_with(|command| {
        command.env("ACME_DIRECTORY_URL", directory(0)).env("PORTCULLIS_ACME_FALLBACKS", fallbacks);
    });
    let site = Site { daemon };
    let mut admin = site.admin(STATELESS).await;
    let wanted = json!({ "cert_name": CERTIFICATE, "domain": "app.example.com" });
    admin.ok("create_certificate", wanted).await;
    eventually("an attempt has begun", async || {
        let mut admin = admin.clone();
        let status = admin.ok("certificate_status", json!({ "cert_name": CERTIFICATE })).await;
        let begun = status["in_progress"] == true
            && status["steps"].as_array().is_some_and(|steps| !steps.is_empty());
        begun.then_some(())
    })
    .await;
    site
}

fn wait(more: &Value) -> Value {
    let mut params =
        json!({ "name": "certificate_status", "arguments": { "cert_name": CERTIFICATE, "wait": true } });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

/// Whether there is room to wait: who waits is told of steps before the answer.
async fn is_room(client: &mut Mcp) -> bool {
    let (_, mut events) =
        client.begin("tools/call", wait(&json!({ "_meta": { "progressToken": "probe" } }))).await;
    let (_, first) = events.next().await.expect("an event");
    if first["method"] == "notifications/progress" {
        return true;
    }
    assert_ne!(first["result"]["isError"], true, "{first}");
    false
}

#[tokio::test]
async fn who_goes_takes_a_call_back_where_there_are_no_sessions() {
    let site = site().await;
    let mut probe = site.client("probe", "mcp,user", STATELESS);
    assert!(is_room(&mut probe).await);
    let client = site.client("caller", "mcp,user", STATELESS);
    let mut waiting = Vec::new();
    for _ in 0..CALLS {
        let mut client = client.clone();
        let message = client.message("tools/call", wait(&json!({})));
        // No byte of the answer comes before its end.
        waiting.push(tokio::spawn(async move { client.post(&message).await.status() }));
    }
    eventually("all places are taken", async || (!is_room(&mut probe.clone()).await).then_some(())).await;
    for call in &waiting {
        call.abort();
    }
    eventually("the places are free again", async || is_room(&mut probe.clone()).await.then_some(())).await;
}

#[tokio::test]
async fn a_call_is_taken_back_by_a_notification_where_there_are_sessions() {
    let site = site().await;
    let mut probe = site.client("probe", "mcp,user", STATELESS);
    assert!(is_room(&mut probe).await);
    // A session has 64 requests at a time.
    let mut clients = [site.client("one", "mcp,user", STATEFUL), site.client("two", "mcp,user", STATEFUL)];
    let mut waiting: Vec<(usize, (Value, Events))> = Vec::new();
    for (at, client) in clients.iter_mut().enumerate() {
        client.hello().await;
        for _ in 0..CALLS / 2 {
            waiting.push((at, client.begin("tools/call", wait(&json!({}))).await));
        }
    }
    eventually("all places are taken", async || (!is_room(&mut probe.clone()).await).then_some(())).await;
    // To lose the connection is not to cancel here.
    let ids: Vec<_> = waiting.into_iter().map(|(at, (id, _))| (at, id)).collect();
    assert!(!is_room(&mut probe).await);
    for (at, id) in ids {
        let params = json!({ "requestId": id });
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        assert_eq!(clients[at].post(&cancel).await.status(), 202);
    }
    eventually("the places are free again", async || is_room(&mut probe.clone()).await.then_some(())).await;
}
