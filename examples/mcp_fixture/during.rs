//! What tools tell while they run.
#![expect(deprecated, reason = "logging, which revisions before 2026-07-28 have")]

use std::time::Duration;

use rmcp::model::{LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::json;

use crate::server::{Fixture, is_stateless};

/// Between two messages, so that they are seen to come one by one.
const PAUSE: Duration = Duration::from_millis(50);

/// How many there are of each, if the client wants them; else the tool takes as long.
const STEPS: [(f64, &str); 3] =
    [(0.0, "Tool execution started"), (50.0, "Tool processing data"), (100.0, "Tool execution completed")];

pub async fn progress(context: &RequestContext<RoleServer>) -> String {
    let token = context.meta.get_progress_token();
    for (progress, message) in STEPS {
        if let Some(token) = token.clone() {
            let told =
                ProgressNotificationParam::new(token, progress).with_total(100.0).with_message(message);
            // A client that has gone needs none.
            let _gone = context.peer.notify_progress(told).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    "Progress was reported.".into()
}

pub async fn log_thrice(fixture: &Fixture, context: &RequestContext<RoleServer>) -> String {
    for (_, message) in STEPS {
        log(fixture, context, LoggingLevel::Info, message).await;
        tokio::time::sleep(PAUSE).await;
    }
    "Messages were logged.".into()
}

pub async fn log_once(fixture: &Fixture, context: &RequestContext<RoleServer>) -> String {
    log(fixture, context, LoggingLevel::Error, "Tool executed").await;
    "A message may have been logged.".into()
}

/// Since 2026-07-28 a request says what it wants to be told at least; before, the session does.
async fn log(fixture: &Fixture, context: &RequestContext<RoleServer>, level: LoggingLevel, message: &str) {
    let wanted = if is_stateless(context) { context.meta.log_level() } else { Some(fixture.level()) };
    if wanted.is_some_and(|wanted| level as u8 >= wanted as u8) {
        let told = LoggingMessageNotificationParam::new(level, json!(message)).with_logger("fixture");
        // A client that has gone needs none.
        let _gone = context.peer.notify_logging_message(told).await;
    }
}

pub async fn a_moment() -> String {
    tokio::time::sleep(PAUSE * 2).await;
    "A moment has passed.".into()
}

pub async fn until_cancelled(context: &RequestContext<RoleServer>) -> String {
    context.ct.cancelled().await;
    "It was cancelled.".into()
}
