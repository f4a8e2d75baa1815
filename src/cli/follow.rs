//! `log follow`: entries as they come, over server-sent events.

use clap::{Arg, ArgMatches, Command};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::{Answer, Client, ClientError};
use super::output::Format;
use super::{Failure, print_text};

/// Filters of `GET /logs/follow`, as flags.
const FILTERS: [(&str, &str); 8] = [
    ("hostname", "Only requests to this host"),
    ("status", "Only answers with this status, e.g. 404 or 5xx"),
    ("method", "Only requests with this method"),
    ("path", "Only requests to this path"),
    ("ip", "Only requests from this address"),
    ("user", "Only requests of this user"),
    ("client-id", "Only requests by this OAuth client"),
    ("q", "Only entries with this text, or FIELD:VALUE"),
];

/// The line of an event that carries data (WHATWG HTML, section 9.2.6).
const DATA: &str = "data:";

/// Adds `follow` to the noun `log`.
pub(crate) fn extend(log: Command) -> Command {
    let follow = Command::new("follow").about("Show log entries as they come");
    let args = FILTERS.map(|(name, help)| Arg::new(name).long(name).help(help));
    log.subcommand(follow.args(args))
}

/// The query of the request, when `log follow` was asked for.
pub(crate) fn query(matches: &ArgMatches) -> Option<String> {
    let below = matches.subcommand_matches("log")?.subcommand_matches("follow")?;
    let pairs: Vec<_> = FILTERS
        .iter()
        .filter_map(|(name, _)| {
            let value = below.get_one::<String>(name)?;
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            Some(format!("{}={value}", name.replace('-', "_")))
        })
        .collect();
    Some(pairs.join("&"))
}

/// Prints entries until the gateway ends the stream.
pub(crate) async fn run(client: &Client, query: &str, format: Format) -> Result<(), Failure> {
    let path = format!("/logs/follow?{query}");
    let response = client.open(Method::GET, &path, None, "text/event-stream").await?;
    let status = response.status();
    let mut body = response.into_body();
    if status != StatusCode::OK {
        let body = body.collect().await.map_err(broken)?.to_bytes();
        return Err(Failure::Refused(Answer { status, body }));
    }
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(record) = line.strip_prefix(DATA) else { continue };
            show(record.trim(), format)?;
        }
    }
    Ok(())
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.into())
}

fn show(record: &str, format: Format) -> Result<(), Failure> {
    let Ok(value) = serde_json::from_str::<Value>(record) else { return Ok(()) };
    let text = match format {
        Format::Auto | Format::Table => line(&value),
        // One object a line, so that other programs can read along.
        Format::Json => format!("{value}\n"),
        Format::Yaml | Format::Csv => {
            format.render(&value).map_err(|error| Failure::Render(error.to_string()))?
        }
    };
    print_text(&text);
    Ok(())
}

/// One entry as a line for people.
fn line(record: &Value) -> String {
    let field = |name: &str| match record.get(name) {
        Some(Value::String(text)) => text.chars().filter(|c| !c.is_control()).collect(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let fields =
        ["timestamp_iso", "client_ip", "proxy_hostname", "request_method", "request_path", "status_code"];
    let mut text = fields.map(field).join(" ");
    text.push_str(&format!(" {}ms {}\n", field("response_time_ms"), field("auth_user")));
    text
}
