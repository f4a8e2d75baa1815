//! The logs of the built daemon: requests are found by every field, summed up, and followed; the daemon's
//! own diagnostics stand beside them, and their levels change while it runs.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use support::api::Api;
use support::client::{Answer, plain};
use support::daemon::{Daemon, command};
use support::eventually;
use support::upstream::Upstream;

/// A daemon that believes what its clients say of their address, with an upstream behind `app.localhost`.
async fn gateway() -> (Daemon, Api, Upstream) {
    let daemon = Daemon::start_with(|command| {
        command.env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1");
    });
    let (api, upstream) = (Api::local(&daemon), Upstream::start("up").await);
    let proxy =
        json!({ "proxy_hostname": "app.localhost", "target_url": upstream.url(), "https_redirect": "off" });
    assert_eq!(api.call("POST", "/proxy/targets/", proxy).await.status, 201);
    let port = upstream.address.port();
    let route =
        json!({ "route_id": "side", "path_pattern": "/side", "target_type": "port", "target_value": port });
    let made = api.call("POST", "/routes/", route).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    (daemon, api, upstream)
}

async fn ask(daemon: &Daemon, method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    plain(daemon.http, request.body(Full::<Bytes>::default()).unwrap()).await
}

/// The answer to a search.
async fn search(api: &Api, query: &str) -> Value {
    let found = api.get(&format!("/logs/search?{query}")).await;
    assert_eq!(found.status, 200, "{query}: {}", String::from_utf8_lossy(&found.body));
    found.json()
}

/// Waits until so many requests are in the log.
async fn written(api: &Api, query: &str, count: u64) {
    eventually("the requests are in the log", || async {
        (search(api, query).await["total"].as_u64() == Some(count)).then_some(())
    })
    .await;
}

fn paths(page: &Value) -> BTreeSet<String> {
    page["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|log| log["request_path"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn requests_are_found_by_every_field() {
    let (daemon, api, _upstream) = gateway().await;
    let token = daemon.run(&["token", "create", "reader", "--scopes", "user", "--audience", "localhost"]);
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let (home, away) = (("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "2001:db8::7"));
    let first =
        ask(&daemon, "GET", "app.localhost", "/first?word=needle", &[home, ("user-agent", "Probe/7")]).await;
    let trace = first.header("x-correlation-id").to_owned();
    ask(&daemon, "POST", "app.localhost", "/second", &[away, ("x-request-id", "theirs-42")]).await;
    ask(&daemon, "GET", "app.localhost", "/status/500", &[home]).await;
    ask(&daemon, "GET", "app.localhost", "/status/404", &[home]).await;
    ask(&daemon, "GET", "app.localhost", "/slow?300", &[away]).await;
    ask(&daemon, "GET", "app.localhost", "/side/door", &[away]).await;
    ask(&daemon, "GET", "none.localhost", "/nowhere", &[home]).await;
    ask(&daemon, "GET", "localhost", "/tokens/info", &[home, ("authorization", &bearer)]).await;
    written(&api, "", 8).await;

    let client = search(&api, "user=service:reader").await["logs"][0]["auth_client_id"].clone();
    let client = client.as_str().map_or_else(|| "none".to_owned(), str::to_owned);
    let time = |page: &Value| page["logs"][0]["timestamp"].as_u64().unwrap();
    let second = time(&search(&api, "path=/second").await);
    let cases: &[(&str, &[&str])] = &[
        ("ip=192.0.2.1", &["/first", "/status/500", "/status/404", "/nowhere", "/tokens/info"]),
        ("ip=2001:db8::/32", &["/second", "/slow", "/side/door"]),
        ("hostname=none.localhost", &["/nowhere"]),
        ("hostname=none*", &["/nowhere"]),
        ("user=service:reader", &["/tokens/info"]),
        ("status=404", &["/status/404", "/nowhere"]),
        ("status=5xx", &["/status/500"]),
        ("status=400-499,500", &["/status/404", "/status/500", "/nowhere"]),
        ("method=post", &["/second"]),
        ("path=/status", &["/status/500", "/status/404"]),
        ("path=*/door", &["/side/door"]),
        ("path=ow", &["/slow", "/nowhere"]),
        ("route=side", &["/side/door"]),
        (&format!("trace_id={trace}"), &["/first"]),
        ("trace_id=theirs-42", &["/second"]),
        ("slow=250", &["/slow"]),
        ("errors=true", &["/status/500"]),
        ("errors=true&include_warnings=true", &["/status/500", "/status/404", "/nowhere"]),
        ("level=WARNING", &["/status/500", "/status/404", "/nowhere"]),
        ("q=needle", &["/first"]),
        ("q=probe/7", &["/first"]),
        ("q=method:GET+status:404", &["/status/404", "/nowhere"]),
        ("q=error:no_such_host", &["/nowhere"]),
        ("method=GET&ip=192.0.2.1&status=200", &["/first", "/tokens/info"]),
        (&format!("until={second}&path=/second"), &["/second"]),
        (&format!("since={}", second + 3_600_000), &[]),
        ("hours=1&path=/second", &["/second"]),
        ("client_id=nobody", &[]),
        ("user=nobody", &[]),
    ];
    for (query, expected) in cases {
        let page = search(&api, query).await;
        let expected: BTreeSet<String> = expected.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(paths(&page), expected, "{query}: {page}");
        assert_eq!(page["total"].as_u64(), Some(expected.len() as u64), "{query}");
    }
    if client != "none" {
        assert_eq!(paths(&search(&api, &format!("client_id={client}")).await).len(), 1, "{client}");
    }
    let record = &search(&api, "path=/first").await["logs"][0];
    assert!(record["timestamp_iso"].as_str().unwrap().ends_with('Z'), "{record}");
    assert_eq!(
        (&record["request_query"], &record["user_agent"]),
        (&json!("word=needle"), &json!("Probe/7")),
        "{record}"
    );
    for (path, expected) in [
        ("/logs/ip/192.0.2.1", 5),
        ("/logs/host/192.0.2.1", 5),
        ("/logs/proxy/none.localhost", 1),
        ("/logs/client/nobody", 0),
        ("/logs/errors", 1),
        ("/logs/errors?include_warnings=true", 3),
    ] {
        assert_eq!(api.get(path).await.json()["total"], expected, "{path}");
    }
    for wrong in [
        "status=many",
        "hours=721",
        "since=yesterday",
        "limit=0",
        "ip=here",
        "level=LOUD",
        "slow=-1",
        "cursor=x",
    ] {
        let field = wrong.split('=').next().unwrap();
        let refused = api.get(&format!("/logs/search?{wrong}")).await;
        assert_eq!(refused.status, 422, "{wrong}");
        assert_eq!(refused.json()["errors"][0]["field"], field, "{wrong}");
    }
}

#[tokio::test]
async fn filters_come_before_paging_and_totals_are_right() {
    let (daemon, api, _upstream) = gateway().await;
    for turn in 0..30 {
        let path = if turn % 3 == 0 { format!("/wanted/{turn}") } else { format!("/other/{turn}") };
        ask(&daemon, "GET", "app.localhost", &path, &[]).await;
    }
    written(&api, "", 30).await;
    let mut by_offset = Vec::new();
    for offset in [0, 4, 8] {
        let page = search(&api, &format!("q=wanted&limit=4&offset={offset}")).await;
        assert_eq!(page["total"], 10, "filters come before paging: {page}");
        by_offset.extend(page["logs"].as_array().unwrap().clone());
    }
    let mut by_cursor = Vec::new();
    let mut page = search(&api, "q=wanted&limit=4").await;
    loop {
        by_cursor.extend(page["logs"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        page = search(&api, &format!("q=wanted&limit=4&cursor={next}")).await;
    }
    let ids =
        |logs: &[Value]| logs.iter().map(|log| log["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&by_offset), ids(&by_cursor));
    assert_eq!(by_cursor.len(), 10);
    assert!(
        by_cursor.windows(2).all(|two| two[0]["timestamp"].as_u64() >= two[1]["timestamp"].as_u64()),
        "newest first"
    );
}

#[tokio::test]
async fn a_window_is_summed_up_with_percentiles() {
    let (daemon, api, _upstream) = gateway().await;
    for turn in 0..18 {
        let client = if turn % 2 == 0 { "192.0.2.1" } else { "192.0.2.2" };
        ask(&daemon, "GET", "app.localhost", "/fast", &[("x-forwarded-for", client)]).await;
    }
    ask(&daemon, "GET", "app.localhost", "/slow?700", &[]).await;
    ask(&daemon, "GET", "app.localhost", "/status/503", &[]).await;
    ask(&daemon, "GET", "none.localhost", "/", &[]).await;
    written(&api, "", 21).await;
    let stats = api.get("/logs/stats?hostname=app.localhost").await.json();
    let number = |name: &str| stats[name].as_f64().unwrap_or_else(|| panic!("{name}: {stats}"));
    assert_eq!(stats["total_requests"], 20, "{stats}");
    assert_eq!(stats["status_codes"], json!({ "200": 19, "503": 1 }), "{stats}");
    assert_eq!((stats["errors"].as_u64(), number("error_rate")), (Some(1), 0.05), "{stats}");
    assert_eq!(stats["unique_visitors"], 3, "{stats}");
    assert_eq!(stats["top_paths"][0], json!({ "path": "/fast", "count": 18 }), "{stats}");
    assert_eq!(stats["hosts"]["app.localhost"]["requests"], 20, "{stats}");
    assert!(number("p50") <= number("p95") && number("p95") <= number("p99"), "{stats}");
    assert!(number("p99") >= 700.0 && number("p50") < 700.0, "{stats}");
    assert!(number("average_response_time") > 0.0 && number("bytes_sent") > 0.0, "{stats}");
    assert_eq!(
        stats["requests_by_hour"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(),
        20
    );
    assert_eq!(daemon.run(&["log", "stats"])["total_requests"], 21);
}

/// The revisions that the daemon said it serves, from its diagnostics.
async fn told(api: &Api) -> Vec<u64> {
    let page = search(api, "log=diagnostics&component=reconcile&q=force&limit=1000").await;
    page["logs"].as_array().unwrap().iter().filter_map(|log| log["fields"]["revision"].as_u64()).collect()
}

/// Changes something; the revision that is served then.
async fn change(api: &Api, turn: u64) -> u64 {
    let patch = json!({ "max_body_bytes": turn });
    assert_eq!(api.call("PATCH", "/proxy/targets/app.localhost", patch).await.status, 200);
    api.get("/ready").await.json()["revision"].as_u64().unwrap()
}

#[tokio::test]
async fn levels_change_while_it_runs_globally_and_by_component() {
    let (daemon, api, _upstream) = gateway().await;
    let set = |level: &'static str, component: Option<&'static str>| {
        let api = &api;
        async move {
            let set =
                api.call("POST", "/logs/level", json!({ "level": level, "component": component })).await;
            assert_eq!(set.status, 200, "{}", String::from_utf8_lossy(&set.body));
        }
    };
    let loud = change(&api, 1).await;
    set("ERROR", None).await;
    let quiet = change(&api, 2).await;
    set("INFO", Some("reconcile")).await;
    let again = change(&api, 3).await;
    set("OFF", Some("reconcile")).await;
    let off = change(&api, 4).await;
    assert_eq!(api.call("DELETE", "/logs/level/reconcile", Value::Null).await.status, 200);
    let follows = change(&api, 5).await;
    daemon.run(&["log", "level", "set", "DEBUG"]);
    let last = change(&api, 6).await;
    let heard = eventually("the last change is told", || async {
        let heard = told(&api).await;
        heard.contains(&last).then_some(heard)
    })
    .await;
    for (revision, expected, why) in [
        (loud, true, "INFO is the default"),
        (quiet, false, "all is at ERROR"),
        (again, true, "the component is at INFO"),
        (off, false, "the component is off"),
        (follows, false, "the component follows the rest again"),
    ] {
        assert_eq!(heard.contains(&revision), expected, "{why}");
        let line = format!("\"configuration in force\",\"revision\":{revision},");
        assert_eq!(daemon.logged().contains(&line), expected, "on standard error, too: {why}");
    }
    assert_eq!(api.get("/logs/level").await.json(), json!({ "global": "DEBUG", "components": {} }));
    assert_eq!(daemon.cli(&["log", "level", "set", "LOUD"]).status.code(), Some(1));
}

#[tokio::test]
async fn diagnostics_and_audit_stand_beside_the_requests_for_admins_only() {
    let (daemon, api, _upstream) = gateway().await;
    let page = eventually("diagnostics are written", || async {
        let page = search(&api, "log=diagnostics&q=listening").await;
        (page["total"] == 1).then_some(page)
    })
    .await;
    let record = &page["logs"][0];
    assert_eq!((&record["level"], &record["component"]), (&json!("INFO"), &json!("daemon")), "{record}");
    assert_eq!(record["fields"]["store"], "embedded", "{record}");
    assert_eq!(search(&api, "log=diagnostics&level=ERROR").await["total"], 0);
    assert_eq!(search(&api, "q=listening").await["total"], 0, "requests are another log");

    let audit = eventually("the audit log is written", || async {
        let page = search(&api, "log=audit&q=create_proxy").await;
        (page["total"] == 1).then_some(page)
    })
    .await;
    let record = &audit["logs"][0];
    let who = (&record["auth_user"], &record["subject"], &record["status_code"]);
    assert_eq!(who, (&json!("local"), &json!("app.localhost"), &json!(200)), "{record}");
    let user = Api::remote(&daemon, "reader", "user");
    assert_eq!(user.get("/logs/search").await.status, 200);
    for log in ["diagnostics", "audit"] {
        assert_eq!(user.get(&format!("/logs/search?log={log}")).await.status, 403, "{log}");
        assert_eq!(user.get(&format!("/logs/follow?log={log}")).await.status, 403, "{log}");
    }
    assert_eq!(
        daemon.cli(&["log", "clear", "--log", "audit"]).status.code(),
        Some(1),
        "nobody hides what was done"
    );
    daemon.run(&["log", "clear"]);
    assert_eq!(search(&api, "hostname=app.localhost").await["total"], 0);
}

#[tokio::test]
async fn the_command_line_follows_the_log_until_it_is_interrupted() {
    let (daemon, _api, _upstream) = gateway().await;
    let mut follow = command(daemon.dir.path())
        .args(["log", "follow", "--hostname", "app.localhost", "--status", "4xx", "--format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (tell, lines) = std::sync::mpsc::channel();
    let out = BufReader::new(follow.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let (daemon, lines) = (&daemon, &lines);
    let line = eventually("a line is told", || async move {
        ask(daemon, "GET", "app.localhost", "/fine", &[]).await;
        ask(daemon, "GET", "app.localhost", "/status/404", &[]).await;
        lines.try_recv().ok()
    })
    .await;
    let record: Value = serde_json::from_str(&line).expect("one object a line");
    assert_eq!(
        (&record["request_path"], &record["status_code"]),
        (&json!("/status/404"), &json!(404)),
        "{record}"
    );
    let interrupted = std::process::Command::new("kill").args(["-INT", &follow.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let status = tokio::task::spawn_blocking(move || follow.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
}
