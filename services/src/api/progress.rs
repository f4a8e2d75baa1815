//! Long work that tells how far it is: whoever accepts `text/event-stream` gets the steps as they come, and the answer
//! as the last event.

use std::convert::Infallible;
use std::pin::Pin;

use axum::extract::Request;
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::{Stream, stream};
use http::header::ACCEPT;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::control::Progress;

/// The largest answer that is put into an event.
const MAX_ANSWER: usize = 16 << 20;

/// Whether the steps are wanted.
pub(super) fn is_wanted(request: &Request) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with("text/event-stream")))
}

/// Answers with steps: `work` gets the request, and finds in it where to tell them.
pub(super) fn answer<F>(mut request: Request, work: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response> + Send + 'static,
{
    let (progress, steps) = Progress::channel();
    request.extensions_mut().insert(progress);
    let told = Told { steps, work: Some(Box::pin(work(request))), answer: None };
    super::events::answer(events(told))
}

struct Told {
    steps: mpsc::Receiver<String>,
    /// None when it has ended.
    work: Option<Pin<Box<dyn Future<Output = Response> + Send>>>,
    answer: Option<Response>,
}

fn events(told: Told) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(told, |mut told| async move {
        loop {
            let Some(work) = &mut told.work else {
                // What was told last comes before the answer.
                if let Ok(step) = told.steps.try_recv() {
                    return Some((Ok(step_event(&step)), told));
                }
                let answer = told.answer.take()?;
                return Some((Ok(answer_event(answer).await), told));
            };
            tokio::select! {
                biased;
                Some(step) = told.steps.recv() => return Some((Ok(step_event(&step)), told)),
                answer = work => {
                    told.work = None;
                    told.answer = Some(answer);
                }
            }
        }
    })
}

fn step_event(step: &str) -> Event {
    // A carriage return would end the field, and then the event.
    Event::default().event("progress").data(step.replace('\r', ""))
}

async fn answer_event(answer: Response) -> Event {
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, MAX_ANSWER).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    Event::default()
        .event("answer")
        .data(json!({ "status": parts.status.as_u16(), "body": body }).to_string())
}
