//! A thousand sessions at one node, each with an open stream.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::client::http2;
use crate::support::mcp::{Events, Mcp};
use crate::{HOST, Site};

const USERS: usize = 20;
/// Of each user, who may have 64.
const SESSIONS: usize = 50;

/// Every so many sessions are ended.
const ENDED: usize = 10;

/// Bytes of memory that a process has.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

/// A session of a new client, and its stream.
async fn begin(user: &Mcp) -> (Mcp, Events) {
    let mut client = user.clone();
    client.hello().await;
    let response = client.listen(None).await;
    assert_eq!(response.status(), 200);
    let mut stream = Events::of(response);
    stream.id().await.expect("an id to come back with");
    (client, stream)
}

/// Streams of one user go over one connection.
async fn sessions(user: &Mcp, count: usize) -> Vec<(Mcp, Events)> {
    let (sender, _connection) = http2(user.address(), HOST).await;
    let user = user.clone().over(sender);
    let mut open = Vec::new();
    for _ in 0..count {
        open.push(begin(&user).await);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_have_their_streams_and_answers() {
    let site = Site::start();
    let mut users = Vec::new();
    for number in 0..USERS {
        users.push(site.admin(&format!("user{number}")).await);
    }
    // What the first ones load stays loaded.
    let warm = sessions(&users[0], 10).await;
    let before = resident(site.one.pid());
    let open = join_all(users.iter().map(|user| sessions(user, SESSIONS))).await;
    let mut open: Vec<_> = open.into_iter().flatten().collect();
    let grown = resident(site.one.pid()).saturating_sub(before);
    let each = grown / open.len();
    println!("{} sessions, each with an open stream: {} KiB of memory each", open.len(), each / 1024);
    assert!(each < 256 * 1024, "{each} bytes");

    // Calls are answered while all of them listen, at either node.
    let answers = join_all(open.chunks(SESSIONS).enumerate().map(async |(number, of_user)| {
        for (client, _) in of_user {
            let mut client = if number % 2 == 0 { client.clone() } else { client.at(site.two.https) };
            let told = client.tool("echo", json!({ "message": "hello" })).await;
            assert_ne!(told["isError"], true, "{told}");
        }
        of_user.len()
    }));
    assert_eq!(answers.await.iter().sum::<usize>(), USERS * SESSIONS);

    // The end of a session at the other node ends its stream here, and no other one.
    for (client, _) in open.iter().step_by(ENDED) {
        assert_eq!(client.at(site.two.https).send("DELETE", &[], "").await.status(), 202);
    }
    for (number, (_, stream)) in open.iter_mut().enumerate() {
        if number % ENDED == 0 {
            stream.ended().await;
        } else {
            assert!(stream.is_open(), "{number}");
        }
    }
    println!("at the end: {} KiB more than before", resident(site.one.pid()).saturating_sub(before) / 1024);
    drop(warm);
}
