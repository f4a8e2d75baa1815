//! Servers that hide a list from the review, in answers that clients read in more ways than one.

use super::*;

/// What some readers take for lines and fields is not: lists could be hidden there.
#[tokio::test]
async fn events_that_not_everybody_reads_in_one_way_are_refused() {
    const LIST: &str = r#"data: {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"secret"}]}}"#;
    let deep =
        |inner: &str| format!(r#"{{"id":1,"result":{{"a":{}{inner}{}}}}}"#, "[".repeat(200), "]".repeat(200));
    for (stream, passes) in [
        (format!("\u{feff}\u{feff}{LIST}\n\n"), false),
        (format!("\u{ef}\u{bb}\u{bf}{LIST}\n\n"), false),
        (format!(" {LIST}\n\n"), false),
        (format!("D{}\n\n", &LIST[1..]), false),
        (format!(": x\u{2028}{LIST}\u{2028}\u{2028}\n\n"), false),
        (format!("id: 1\u{85}\u{85}{LIST}\u{85}\n\n"), false),
        (format!("retry: 1\u{b}\u{b}{LIST}\u{b}\n\n"), false),
        (format!("event: e\u{1c}\u{1c}{LIST}\u{1c}\ndata: x\n\n"), false),
        (format!("event: ping\ndata: x\ndata: \u{c}\u{c}{LIST}\u{c}\n\n"), false),
        (format!("data: {}\n\n", deep(&format!("\u{b}\u{b}{LIST}\u{b}"))), false),
        // Some know of LF only; to some the last line of the data, or the last of those without another between, is all.
        (format!(": \rdata: {{\"method\":\"x\",\"params\":\n{LIST}\n: \rdata: }}\n\n"), false),
        (format!("event: ping\ndata: x\n{LIST}\n\n"), false),
        (format!("event:\ndata: x\n:\n{LIST}\n\n"), false),
        (format!("event: message\t\ndata: x\n:\n{LIST}\n\n"), false),
        (format!("event: e\ndata: \u{a0}{}\n\n", &LIST[6..]), false),
        (format!("event: e\ndata: \u{feff}{}\n\n", &LIST[6..]), false),
        (r#"data: {"id":1,"result":{"__proto__":{"tools":[{"name":"secret"}]}}}"#.to_owned() + "\n\n", false),
        (r#"data: {"id":1,"__proto__":{"result":{"tools":[{"name":"secret"}]}}}"#.to_owned() + "\n\n", false),
        (
            r#"data: {"id":1,"result":{"__pr\u006fto__":{"tools":[{"name":"secret"}]}}}"#.to_owned() + "\n\n",
            false,
        ),
        ("event: ping\ndata: 2026-11-23\ndata: x\n\n".to_owned(), true),
        (": ping - 2025-01-01 00:00:00+00:00\r\n\r\nid: 1\ndata:\n\n".to_owned(), true),
        (format!("data: {}\n\n", deep("1")), true),
        ("\u{feff}data: {}\n\n".to_owned(), true),
        (": gr\u{fc}\u{df}e\tan alle\n\ndata: {}\n\n".to_owned(), true),
        ("event: ping\nid: \u{e9}\ndata: gr\u{fc}\u{df}e\n\n".to_owned(), true),
        ("retry: 10\r\nid\r\ndata: {}\r\n\r\n".to_owned(), true),
    ] {
        for pieces in [false, true] {
            let sent = stream.clone();
            let script = move |_: &Value| {
                let body =
                    if pieces { streamed(vec![Ok(sent.clone().leak())]) } else { Body::from(sent.clone()) };
                answer_of("text/event-stream", body)
            };
            let got =
                edge(script, ruled).call(Some(alice(&[])), "tools/call", json!({ "name": "read" })).await;
            assert!(!got.body.contains("secret"), "{stream:?}: {}", got.body);
            assert_eq!(got.body.contains("\"error\""), !passes, "{stream:?}: {}", got.body);
            assert!(!passes || got.body == stream.trim_start_matches('\u{feff}'), "{stream:?}: {}", got.body);
            assert!(got.status == 200 || got.status == 502 && !passes, "{stream:?}: {}", got.status);
        }
    }
}

/// Clients differ in what they take for an answer, and for its text.
#[tokio::test]
async fn no_answer_hides_a_list_from_the_review() {
    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"secret"}]}}"#;
    const PROTOTYPE: &str =
        r#"{"jsonrpc":"2.0","id":1,"result":{"__proto__":{"tools":[{"name":"secret"}]}}}"#;
    // ": ping ", and an event in UTF-7.
    const UTF_7: &str = ": ping +AAoACgBkAGEAdABhADo-\n\n";
    for (status, media_type, body, expected) in [
        (200, "text/event-stream; charset=utf-7", UTF_7, 502),
        (200, "text/event-stream; charset*=utf-8''utf-7", UTF_7, 502),
        (200, "text/event-stream; Charset=\"UTF-8\"", ": ping\n\n", 200),
        (200, "application/json; charset=shift_jis", "{}", 502),
        (200, "application/json", PROTOTYPE, 502),
        (400, "text/plain", LIST, 502),
        (400, "application/jsonx", LIST, 502),
        (500, "text/html; charset=iso-8859-1", "<p>{}</p>", 500),
        (400, "text/plain", "no", 400),
    ] {
        for (method, pieces) in [("tools/call", false), ("tools/call", true), ("tools/list", false)] {
            let script = move |_: &Value| {
                let sent = if pieces { streamed(vec![Ok(body)]) } else { Body::from(body) };
                let mut answer = answer_of(media_type, sent);
                *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
                answer
            };
            let got = edge(script, ruled).call(Some(alice(&[])), method, json!({ "name": "read" })).await;
            let about =
                format!("{status} {media_type} {body} {method} {pieces}: {} {}", got.status, got.body);
            assert!(!got.body.contains("secret"), "{about}");
            assert!(got.status == expected || pieces && got.broken, "{about}");
        }
    }
}

#[tokio::test]
async fn nobody_is_sent_where_nobody_looks() {
    for (to, passes) in [
        ("/mcp/", true),
        ("https://a.example/mcp/", true),
        ("https://A.example:8443/mcp", true),
        ("https://b.example/mcp", false),
        ("//b.example/mcp", false),
        ("/\\b.example/mcp", false),
        ("/\t/b.example/mcp", false),
        ("https://a.example@b.example/mcp", false),
        ("mcp/", false),
    ] {
        let script = move |_: &Value| {
            let mut answer = http::Response::new(Body::empty());
            *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            answer.headers_mut().insert("location", HeaderValue::from_str(to).expect("a value"));
            answer
        };
        let got = edge(script, ruled).call(Some(alice(&[])), "tools/call", json!({ "name": "read" })).await;
        assert_eq!(got.status, if passes { 307 } else { 502 }, "{to}");
    }
}
