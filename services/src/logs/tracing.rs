//! The daemon's diagnostics: to standard error for whoever runs it, and to a stream of the store for
//! whoever searches.
//!
//! Events become records like those of requests: `timestamp`, `level`, `component`, `target`, `message`,
//! what is known as `error` and `trace_id`, and the rest in `fields`. Spans are not recorded.
//!
//! What the writer of a log does never becomes a record ([`quiet`]): each record would make the next.

use std::cell::Cell;
use std::error::Error;
use std::fmt::{self, Debug, Write as _};
use std::io::IsTerminal;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use portcullis_layers::access_log::escape;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt as stderr};

use super::levels::{Levels, component};
use super::writer::Writer;

/// The longest text of a message or a field, in bytes.
const MAX_TEXT: usize = 4096;

/// The most bytes of all fields of a record.
const MAX_FIELDS: usize = 16 << 10;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// How diagnostics look on standard error: `LOG_FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object on each line.
    #[default]
    Json,
    /// For people; coloured on a terminal.
    Text,
}

/// A format that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log format: expected json or text")]
pub struct FormatError(pub String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text.to_ascii_lowercase().as_str() {
            "json" => Ok(Self::Json),
            "text" | "human" | "plain" => Ok(Self::Text),
            _ => Err(FormatError(text.to_owned())),
        }
    }
}

/// Installs the process's subscriber: standard error, and the store's stream if there is a writer for it.
///
/// # Errors
/// If there is one already.
pub fn install(format: Format, levels: &Levels, diagnostics: Option<Writer>) -> Result<(), TryInitError> {
    let output: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Json => stderr::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        Format::Text => {
            stderr::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed()
        }
    };
    Registry::default().with(levels.clone()).with(output).with(diagnostics.map(Diagnostics::new)).try_init()
}

/// Turns events into records.
#[derive(Debug)]
pub struct Diagnostics {
    writer: Writer,
}

impl Diagnostics {
    /// Writes with `writer`, whose stream is [`Stream::Diagnostics`](crate::store::Stream::Diagnostics).
    pub const fn new(writer: Writer) -> Self {
        Self { writer }
    }
}

impl<S: Subscriber> Layer<S> for Diagnostics {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        if QUIET.get() {
            return;
        }
        // Into a buffer of its own: a field's `Debug` is foreign code, and might speak itself.
        let now = super::now();
        let mut record = Vec::with_capacity(256);
        encode(event, now, &mut record);
        self.writer.push(now, &record);
    }
}

fn encode(event: &Event<'_>, now: u64, out: &mut Vec<u8>) {
    let metadata = event.metadata();
    out.extend_from_slice(
        format!("{{\"timestamp\":{now},\"level\":\"{}\"", level(*metadata.level())).as_bytes(),
    );
    let mut fields = Fields::default();
    event.record(&mut fields);
    text(out, "component", component(metadata.target()));
    text(out, "target", metadata.target());
    for (name, value) in
        [("message", &fields.message), ("error", &fields.error), ("trace_id", &fields.trace_id)]
    {
        if let Some(value) = value {
            text(out, name, value);
        }
    }
    if !fields.rest.is_empty() {
        out.extend_from_slice(b",\"fields\":{");
        out.extend_from_slice(&fields.rest[1..]);
        out.push(b'}');
    }
    out.push(b'}');
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::TRACE => "TRACE",
        Level::DEBUG => "DEBUG",
        Level::INFO => "INFO",
        Level::WARN => "WARNING",
        Level::ERROR => "ERROR",
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    escape(out, name);
    out.extend_from_slice(b"\":\"");
    escape(out, &value[..value.floor_char_boundary(MAX_TEXT)]);
    out.push(b'"');
}

#[derive(Default)]
struct Fields {
    message: Option<String>,
    error: Option<String>,
    trace_id: Option<String>,
    /// The others as `,"name":value`.
    rest: Vec<u8>,
}

impl Fields {
    fn text(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = Some(value),
            "error" => self.error = Some(value),
            "trace_id" => self.trace_id = Some(value),
            name if self.rest.len() < MAX_FIELDS => text(&mut self.rest, name, &value),
            _ => {}
        }
    }

    /// Numbers and truth values, which JSON writes as Rust does.
    fn literal(&mut self, field: &Field, value: impl fmt::Display) {
        if matches!(field.name(), "message" | "error" | "trace_id") {
            self.text(field, value.to_string());
        } else if self.rest.len() < MAX_FIELDS {
            self.rest.extend_from_slice(b",\"");
            escape(&mut self.rest, field.name());
            self.rest.extend_from_slice(format!("\":{value}").as_bytes());
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.literal(field, value);
        } else {
            self.text(field, value.to_string());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.literal(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.literal(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.literal(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    /// With its causes, which `Display` does not repeat.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut chain = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source
            && chain.len() < MAX_TEXT
        {
            let _ = write!(chain, ": {cause}");
            source = cause.source();
        }
        self.text(field, chain);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format!("{value:?}"));
    }
}

/// Runs a future whose events go to standard error only, never to the store.
pub fn quiet<F: Future>(future: F) -> impl Future<Output = F::Output> {
    Quiet { future: Box::pin(future) }
}

struct Quiet<F> {
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Quiet<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _restore = Restore(QUIET.replace(true));
        self.future.as_mut().poll(cx)
    }
}

/// Also when the future panics.
struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        QUIET.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;
    use tracing::level_filters::LevelFilter;
    use tracing::{debug, info, trace, warn};

    use super::*;
    use crate::logs::memory::{KEEP, Memory};
    use crate::store::Stream;

    /// Runs `speak` under a subscriber with these levels, and returns the records that come of it.
    async fn spoken(levels: &Levels, speak: impl FnOnce()) -> Vec<Value> {
        let store = Arc::new(Memory::default());
        let writer = Writer::new(Stream::Diagnostics, 1, 1 << 20);
        let subscriber = Registry::default().with(levels.clone()).with(Diagnostics::new(writer.clone()));
        tracing::subscriber::with_default(subscriber, speak);
        let stop = CancellationToken::new();
        stop.cancel();
        writer.run(store.clone(), KEEP, stop).await;
        let records = store.entries(Stream::Diagnostics);
        records.iter().map(|logged| serde_json::from_slice(&logged.record).expect("valid JSON")).collect()
    }

    #[tokio::test]
    async fn an_event_becomes_a_record() {
        let levels = Levels::new(LevelFilter::INFO);
        let error = crate::store::Error::Unavailable("connection refused".into());
        let records = spoken(&levels, || {
            warn!(
                target: "portcullis_layers::tls::resolver",
                peer = "10.0.0.1", count = 3, share = 0.5, nan = f64::NAN, ok = true, list = ?[1, 2],
                error = &error as &dyn Error, trace_id = "00ab",
                "handshake \"failed\"\nforged",
            );
        })
        .await;
        let [record] = &*records else { panic!("{records:?}") };
        for (field, expected) in [
            ("level", json!("WARNING")),
            ("component", json!("tls")),
            ("target", json!("portcullis_layers::tls::resolver")),
            ("message", json!("handshake \"failed\"\nforged")),
            ("error", json!("the store is not available: connection refused")),
            ("trace_id", json!("00ab")),
            (
                "fields",
                json!({"peer": "10.0.0.1", "count": 3, "share": 0.5, "nan": "NaN", "ok": true, "list": "[1, 2]"}),
            ),
        ] {
            assert_eq!(record[field], expected, "{field}");
        }
        assert!(record["timestamp"].as_u64().unwrap() > 1_600_000_000_000);
    }

    #[tokio::test]
    async fn levels_change_at_run_time() {
        let levels = Levels::new(LevelFilter::INFO);
        let speak = || {
            info!(target: "portcullis_layers::route", "info");
            debug!(target: "portcullis_layers::route", "debug");
            trace!(target: "portcullis_layers::auth", "trace");
        };
        let records = spoken(&levels, || {
            speak();
            levels.set("auth", LevelFilter::TRACE);
            speak();
            levels.set_global(LevelFilter::DEBUG);
            speak();
            levels.reset("auth");
            levels.set_global(LevelFilter::ERROR);
            speak();
        })
        .await;
        let messages: Vec<_> = records.iter().map(|record| record["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["info", "info", "trace", "info", "debug", "trace"]);
    }

    #[tokio::test]
    async fn what_a_writer_says_is_not_recorded() {
        let levels = Levels::new(LevelFilter::TRACE);
        let records = spoken(&levels, || {
            futures_util::FutureExt::now_or_never(quiet(async { warn!("the store is away") }));
            warn!("heard");
        })
        .await;
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(records[0]["message"], "heard");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_log_store_does_not_feed_back() {
        let store = Arc::new(Memory::default());
        let writer = Writer::new(Stream::Diagnostics, 1, 1 << 20);
        let levels = Levels::new(LevelFilter::TRACE);
        let subscriber = Registry::default().with(levels).with(Diagnostics::new(writer.clone()));
        let _guard = tracing::subscriber::set_default(subscriber);
        tokio::spawn(writer.clone().run(store.clone(), KEEP, CancellationToken::new()));
        store.set_down(true);
        warn!("one");
        assert!(!writer.flush(Duration::from_secs(60)).await);
        store.set_down(false);
        assert!(writer.flush(Duration::from_secs(60)).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(store.entries(Stream::Diagnostics).len(), 1);
    }

    #[test]
    fn formats_have_names() {
        assert_eq!("JSON".parse(), Ok(Format::Json));
        assert_eq!("text".parse(), Ok(Format::Text));
        assert!("xml".parse::<Format>().is_err());
    }
}
