//! Operations that take long: what they tell on the way goes to standard error, line by line.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;

use super::Failure;
use super::call::Call;
use super::client::{Answer, Client, ClientError};

/// What is asked for: the steps, where the gateway can tell them.
const ACCEPT: &str = "text/event-stream, application/json;q=0.9";

/// Whether a command works on containers and images.
pub(crate) fn are_told(words: &[&str], call: &Call) -> bool {
    words.first() == Some(&"service") && words.get(1) != Some(&"external") && call.method != Method::GET
}

/// Sends a request, and shows the steps until the answer comes. How long that takes is for the gateway to say.
pub(crate) async fn send(client: &Client, call: &Call) -> Result<Answer, Failure> {
    let response = client.open(call.method.clone(), &call.path, call.body.as_ref(), ACCEPT).await?;
    let (status, kind) = (response.status(), response.headers().get(CONTENT_TYPE).cloned());
    let mut body = response.into_body();
    if kind.is_none_or(|kind| !kind.as_bytes().starts_with(b"text/event-stream")) {
        let body = body.collect().await.map_err(broken)?.to_bytes();
        return judged(Answer { status, body });
    }
    let (mut pending, mut event) = (Vec::new(), String::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            // WHATWG HTML, section 9.2.6.
            match line.trim_end_matches('\n').split_once(':') {
                Some(("event", name)) => name.trim().clone_into(&mut event),
                Some(("data", data)) if event == "answer" => return judged(read(data)),
                Some(("data", data)) => show(data.strip_prefix(' ').unwrap_or(data)),
                _ => {}
            }
        }
    }
    Err(ClientError::Broken("the gateway has ended before it answered".into()).into())
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.into())
}

fn read(data: &str) -> Answer {
    let answer: Value = serde_json::from_str(data).unwrap_or_default();
    let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    Answer {
        status: status.unwrap_or(StatusCode::BAD_GATEWAY),
        body: Bytes::from(answer["body"].to_string()),
    }
}

fn judged(answer: Answer) -> Result<Answer, Failure> {
    if answer.status.is_success() { Ok(answer) } else { Err(Failure::Refused(answer)) }
}

/// Nothing that a build says steers the terminal.
fn show(step: &str) {
    let step: String = step.chars().filter(|one| !one.is_control() || *one == '\t').collect();
    eprintln!("{step}");
}
