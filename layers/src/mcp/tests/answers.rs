//! What servers answer, as the client gets it.

use super::*;

#[tokio::test]
async fn lists_in_streams_are_cut_down_too_and_other_events_pass() {
    const STREAM: &str = ": hi\n\nid: 0\ndata: \n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n\
        id: 1\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\r\ndata: \"result\":{\"tools\":[{\"name\":\"read\"},{\"name\":\"delete\"}]}}\r\n\r\n";
    let expected = ": hi\n\nid: 0\ndata: \n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n\
        id: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\ndata: \"result\":{\"tools\":[{\"name\":\"read\"}]}}\n\n";
    // Here as a whole, and coming in pieces.
    let whole: Script = |_| answer_of("text/event-stream", STREAM);
    let pieces: Script = |_| {
        let (begin, end) = STREAM.split_at(STREAM.len() / 2);
        answer_of("text/event-stream", streamed(vec![Ok(begin), Ok(end)]))
    };
    for script in [whole, pieces] {
        let edge = edge(script, ruled);
        let got = edge.call(Some(alice(&[])), "tools/list", json!({})).await;
        assert_eq!((got.status, got.body.as_str()), (200, expected));
        assert_eq!(edge.records()[0]["unanswered"], Value::Null);
        // Where a client goes on after a lost connection.
        let request =
            http::Request::get("/mcp").header("last-event-id", "0").body(Body::empty()).expect("a request");
        assert_eq!(edge.send(request).await.body, expected);
        assert!(edge.records().is_empty(), "a stream is no call");
        // Servers find the stream for an answer by its id, which a client may use twice.
        let got = edge.call(Some(alice(&[])), "tools/call", json!({ "name": "read" })).await;
        assert_eq!(got.body, expected, "a list that was not asked for");
    }
}

#[tokio::test]
async fn events_of_another_name_pass_unless_they_look_like_messages() {
    let script: Script = |_| {
        let stream = "event: ping\ndata: 12:00\n\nevent: other\ndata: {\"id\":1,\"result\":{\"tools\":[{\"name\":\"delete\"}]}}\n\n\
            data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
        answer_of("text/event-stream", stream)
    };
    let got = edge(script, ruled).call(Some(alice(&[])), "tools/list", json!({})).await;
    let expected = "event: ping\ndata: 12:00\n\nevent: other\ndata: {\"id\":1,\"result\":{\"tools\":[]}}\n\n\
        data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
    assert_eq!(got.body, expected);
}

#[tokio::test]
async fn a_list_is_cut_down_whatever_status_it_has() {
    let script: Script = |message| {
        let mut answer = server(message);
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        answer
    };
    let got = edge(script, ruled).call(Some(alice(&["mcp:read"])), "tools/list", json!({})).await;
    assert_eq!((got.status, got.body.contains("delete")), (400, false), "{}", got.body);
    assert!(got.body.contains("read"));
}

#[tokio::test]
async fn answers_of_hostile_servers_are_errors_that_clients_can_read() {
    // Before the head is out.
    let early: [(&str, Script); 8] = [
        ("tools/call", |_| {
            let mut response = answer_of("application/json", "xx");
            response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
            response
        }),
        ("tools/call", |_| answer_of("application/json", "x".repeat(201))),
        ("tools/call", |_| answer_of("text/html", "<p>")),
        ("tools/call", |_| http::Response::new(Body::from("x"))),
        ("tools/list", |_| answer_of("application/json", "{\"result\":{\"tools\":[")),
        ("tools/list", |_| answer_of("application/json", "{\"result\":{\"tools\":{}}}")),
        ("tools/list", |_| answer_of("application/json", streamed(vec![Ok("{\"result\":"), Ok(LONG)]))),
        ("tools/list", |_| answer_of("application/json", streamed(vec![Ok("{\"result\":"), Err("gone")]))),
    ];
    const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    for (at, (method, script)) in early.into_iter().enumerate() {
        let edge = edge(script, |policy| {
            ruled(policy);
            policy.max_answer = 200;
        });
        let got = edge.call(Some(alice(&[])), method, json!({ "name": "read" })).await;
        assert_eq!(
            (got.status, got.code(), got.json()["id"].clone()),
            (502, error::INTERNAL, json!(1)),
            "{at}"
        );
        assert_eq!(edge.records()[0]["status_code"], 502, "{at}");
    }
    // After it: an error is the last event.
    let late: [(&str, Script); 4] = [
        ("tools/call", |_| {
            answer_of("text/event-stream", streamed(vec![Ok("data: {}\n\ndata: "), Ok(LONG), Ok(LONG)]))
        }),
        ("tools/call", |_| {
            answer_of("text/event-stream", streamed(vec![Ok("data: {}\n\n"), Ok(LONG), Ok(LONG)]))
        }),
        ("tools/list", |_| answer_of("text/event-stream", "data: {}\n\ndata: {\"result\"\n\n")),
        ("tools/list", |_| answer_of("text/event-stream", "data: {}\n\ndata: x\n\ndata: {\"late\":1}\n\n")),
    ];
    for (at, (method, script)) in late.into_iter().enumerate() {
        let edge = edge(script, |policy| {
            ruled(policy);
            policy.max_answer = 200;
        });
        let got = edge.call(Some(alice(&[])), method, json!({ "name": "read" })).await;
        let events: Vec<_> = got.body.split_terminator("\n\n").collect();
        assert_eq!(
            (got.status, events.len(), events[0], got.broken),
            (200, 2, "data: {}", false),
            "{at}: {}",
            got.body
        );
        let last: Value = serde_json::from_str(events[1].trim_start_matches("data: ")).expect("JSON");
        assert_eq!(
            (last["error"]["code"].as_i64(), last["id"].as_i64()),
            (Some(error::INTERNAL), Some(1)),
            "{at}"
        );
    }
    // Neither is possible.
    let broken: [Script; 3] = [
        |_| answer_of("application/json", streamed(vec![Ok("{"), Ok(LONG)])),
        |_| answer_of("application/json", streamed(vec![Ok("{"), Err("gone")])),
        |_| answer_of("text/event-stream", streamed(vec![Ok("data: x\n\n"), Err("gone")])),
    ];
    for script in broken {
        let edge = edge(script, |policy| policy.max_answer = 200);
        let got = edge.call(Some(alice(&[])), "tools/call", json!({ "name": "read" })).await;
        assert!(got.broken);
        assert_eq!(edge.records()[0]["unanswered"], true);
    }
}

#[tokio::test]
async fn refusals_of_the_server_pass_and_how_calls_went_is_noted() {
    let scripts: [(Script, u16, &str, Value); 4] = [
        (
            |message| {
                let error = json!({ "code": -32602, "message": "no" });
                let mut response = json_of(&json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }));
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            },
            400,
            "rpc_error",
            json!(-32602),
        ),
        (
            |message| {
                json_of(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "isError": true } }))
            },
            200,
            "is_error",
            json!(true),
        ),
        (
            |_| answer_of("text/event-stream", "data: {\"id\":1,\"result\":{\"isError\":true}}\n\n"),
            200,
            "is_error",
            json!(true),
        ),
        (
            |_| {
                let mut response = answer_of("text/html", "<p>not here</p>");
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            },
            404,
            "unanswered",
            json!(true),
        ),
    ];
    for (script, status, key, value) in scripts {
        let edge = edge(script, ruled);
        let got = edge.call(Some(alice(&[])), "tools/call", json!({ "name": "read" })).await;
        let record = &edge.records()[0];
        assert_eq!((got.status, &record[key], &record["status_code"]), (status, &value, &json!(status)));
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_servers_stream_with_it() {
    struct Endless(Arc<()>);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            assert!(Arc::strong_count(&self.0) > 0);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: {}\n\n")))))
        }
    }
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let server = crate::body::HttpService::from_fn(move |_| {
        let body = Body::new(Endless(Arc::clone(&held)));
        async move { Ok(answer_of("text/event-stream", body)) }
    });
    let mcp = McpLayer::new(Policy::new("/mcp")).layer(server);
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
    let mut response = mcp.oneshot(post_of(body, None)).await.expect("an answer");
    for _ in 0..100 {
        let frame = response.body_mut().frame().await.expect("endless").expect("whole");
        assert_eq!(frame.into_data().expect("data"), "data: {}\n\n");
    }
    assert_eq!(Arc::strong_count(&alive), 2);
    drop(response);
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// A list of tools in an answer to a call of one.
const SMUGGLED: &str = r#"[{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"delete"}]}},{"jsonrpc":"2.0","id":2,"result":{}}]"#;

#[tokio::test]
async fn no_list_comes_in_what_one_reader_takes_for_another_thing() {
    let whole: Script = |_| answer_of("application/json", SMUGGLED);
    let call = json!({ "name": "read" });
    let got = edge(whole, ruled).call(Some(alice(&[])), "tools/call", call.clone()).await;
    assert_eq!((got.status, got.code()), (502, error::INTERNAL));
    let pieces: Script = |_| answer_of("application/json", streamed(vec![Ok("["), Ok(&SMUGGLED[1..])]));
    let got = edge(pieces, ruled).call(Some(alice(&[])), "tools/call", call.clone()).await;
    assert!(got.broken && !got.body.contains("delete"), "{}", got.body);
    let scripts: [Script; 3] = [
        |_| {
            let event = "data: {\"id\":1,\"result\":{\"tools\":[]}}\n\n";
            answer_of("application/json; x=text/event-stream", event)
        },
        |_| answer_of("text/event-stream; x=application/json", "{\"id\":1,\"result\":{\"tools\":[]}}"),
        |_| {
            let mut answer = answer_of("application/json", "{\"id\":1,\"result\":{}}");
            answer.headers_mut().append(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            answer
        },
    ];
    for (at, script) in scripts.into_iter().enumerate() {
        let got = edge(script, ruled).call(Some(alice(&[])), "tools/call", call.clone()).await;
        assert_eq!((got.status, got.code()), (502, error::INTERNAL), "{at}");
    }
    let typed: Script =
        |_| answer_of("Application/JSON;charset=utf-8", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    assert_eq!(edge(typed, ruled).call(Some(alice(&[])), "tools/call", call).await.status, 200);
}

#[tokio::test]
async fn the_answer_to_a_batch_of_calls_is_looked_through() {
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read"}},
        {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read"}}]"#;
    let whole: Script = |_| answer_of("application/json", SMUGGLED);
    let pieces: Script = |_| answer_of("application/json", streamed(vec![Ok(SMUGGLED)]));
    for script in [whole, pieces] {
        let got = edge(script, ruled).send(post_of(batch, Some(alice(&[])))).await;
        assert_eq!((got.status, got.body.contains("delete")), (200, false), "{}", got.body);
    }
}

#[tokio::test]
async fn a_stream_goes_the_same_way_whole_and_in_pieces() {
    const GONE: &str = "data: Session not found\n\n";
    const LATE: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\ndata: x\n\n";
    let refusals: [Script; 2] = [
        |_| {
            let mut answer = answer_of("text/event-stream", GONE);
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        },
        |_| {
            let mut answer = answer_of("text/event-stream", streamed(vec![Ok(GONE)]));
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        },
    ];
    for script in refusals {
        let got = edge(script, ruled).call(Some(alice(&[])), "tools/call", json!({ "name": "read" })).await;
        assert_eq!((got.status, got.body.contains("error")), (404, true), "{}", got.body);
    }
    let late: [Script; 2] = [
        |_| answer_of("text/event-stream", LATE),
        |_| answer_of("text/event-stream", streamed(vec![Ok(LATE)])),
    ];
    for script in late {
        let edge = edge(script, ruled);
        let got = edge.call(Some(alice(&[])), "tools/call", json!({ "name": "read" })).await;
        assert!(got.status == 200 && got.broken && got.body.ends_with("\"result\":{}}\n\n"), "{}", got.body);
        assert_eq!(edge.records()[0]["unanswered"], Value::Null);
    }
}
