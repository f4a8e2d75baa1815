//! Records of requests that tell of their calls.

use super::*;

/// The records of requests, each as JSON.
type Requests = Arc<Mutex<Vec<Value>>>;

type Answer = BoxFuture<Result<http::Response<Body>, BoxError>>;

/// An edge whose requests are logged outside of it, with their calls.
fn logged(script: Script) -> (Edge, impl Fn(Request) -> Answer, Requests) {
    let edge = edge(script, |policy| {
        ruled(policy);
        policy.with_requests = true;
    });
    let requests = Requests::default();
    let kept = Arc::clone(&requests);
    let log = AccessLogLayer::new(move |record: &crate::access_log::Record<'_>| {
        let mut line = Vec::new();
        record.encode(&mut line);
        kept.lock().expect("kept").push(serde_json::from_slice(&line).expect("JSON"));
    });
    let service = log.layer(edge.service.clone());
    let send = move |request| -> Answer {
        let answer = service.clone().oneshot(request);
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    };
    (edge, send, requests)
}

fn told(requests: &Requests) -> Value {
    let all = std::mem::take(&mut *requests.lock().expect("kept"));
    let [one] = <[Value; 1]>::try_from(all).expect("one record for each request");
    one
}

#[tokio::test]
async fn the_record_of_a_request_tells_of_its_call_where_that_is_asked_for() {
    let call = |tool: &str| {
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool } }).to_string()
    };
    const DONE: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"isError\":true}}\n\n";
    let scripts: [(Script, Value); 5] = [
        (server, json!([200, "allow", null, null])),
        (
            |_| answer_of("application/json", streamed(vec![Ok("{\"result\":"), Ok("{}}")])),
            json!([200, "allow", null, null]),
        ),
        (|_| answer_of("text/event-stream", streamed(vec![Ok(DONE)])), json!([200, "allow", true, null])),
        (
            |_| answer_of("text/event-stream", streamed(vec![Ok("data: {}\n\n"), Err("reset")])),
            json!([200, "allow", null, true]),
        ),
        (
            |_| answer_of("text/event-stream", streamed(vec![Ok("data: x\n\n")])),
            json!([200, "allow", null, true]),
        ),
    ];
    for (script, expected) in scripts {
        let (edge, send, requests) = logged(script);
        let response = send(post_of(&call("read"), Some(alice(&[])))).await.expect("an answer");
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        let record = told(&requests);
        assert_eq!(
            json!([record["status_code"], record["decision"], record["is_error"], record["unanswered"]]),
            expected,
            "{record}"
        );
        for (name, value) in [("request_method", "POST"), ("mcp_name", "read"), ("rule", "reading")] {
            assert_eq!(record[name], value, "{record}");
        }
        assert_eq!(edge.records(), Vec::<Value>::new());
    }

    // Who leaves in the middle, and who is refused.
    let (edge, send, requests) =
        logged(|_| answer_of("text/event-stream", streamed(vec![Ok("data: {}\n\n"), Ok("data: {}\n\n")])));
    let mut left = send(post_of(&call("read"), Some(alice(&[])))).await.expect("an answer");
    left.body_mut().frame().await.expect("an event").expect("whole");
    drop(left);
    let record = told(&requests);
    assert_eq!((&record["client_gone"], &record["decision"]), (&json!(true), &json!("allow")), "{record}");
    send(post_of(&call("delete"), Some(alice(&[])))).await.expect_err("denied");
    let record = told(&requests);
    assert_eq!((&record["mcp_name"], &record["decision"]), (&json!("delete"), &json!("deny")), "{record}");
    assert_eq!(edge.records(), Vec::<Value>::new());

    // A batch is several calls, and one request.
    let (edge, send, requests) = logged(|_| answer_of("application/json", "[{\"id\":1,\"result\":{}}]"));
    let batch = format!("[{},{}]", call("read"), call("read").replace(":1,", ":2,"));
    let response = send(post_of(&batch, Some(alice(&[])))).await.expect("an answer");
    response.into_body().collect().await.expect("whole");
    assert!(told(&requests)["decision"].is_null());
    let answered: Vec<_> = edge.records().iter().map(|record| record["unanswered"].is_null()).collect();
    assert_eq!(answered, [true, false]);

    // Where somebody outside ends an answer, its record is made before the call is known to have ended.
    let (edge, send, requests) =
        logged(|_| answer_of("text/event-stream", streamed(vec![Ok("data: {}\n\n")])));
    let facts = Arc::new(Facts { call: None.into(), ..Facts::default() });
    let mut request = post_of(&call("read"), Some(alice(&[])));
    RequestContext::of(request.extensions_mut()).facts = Some(facts);
    send(request).await.expect("an answer").into_body().collect().await.expect("whole");
    assert!(told(&requests)["decision"].is_null());
    assert_eq!(edge.records()[0]["mcp_name"], "read");
}
