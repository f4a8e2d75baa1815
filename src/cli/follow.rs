//! `log follow`: entries as they come, over server-sent events.

use clap::{Arg, ArgAction, ArgMatches, Command, ValueEnum, value_parser};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use portcullis_services::api::stream::WINDOW;
use portcullis_services::control::logs::Log;
use portcullis_services::control::schema::{self, Field, Kind};
use portcullis_services::logs::Search;
use serde_json::Value;

use super::client::{Answer, Client, ClientError};
use super::output::Format;
use super::{Failure, print_text};

/// The line of an event that carries data (WHATWG HTML, section 9.2.6).
const DATA: &str = "data:";

/// Adds `follow` to the noun `log`, with the fields of a search as flags.
pub(crate) fn extend(log: Command) -> Command {
    let about = "Show log entries as they come: those of requests, or of another log";
    let log_flag = Arg::new("log").long("log").help("Which log").value_parser(value_parser!(Log));
    let filters = filters().map(|field| {
        let flag = Arg::new(field.name.clone()).long(field.name.replace('_', "-")).help(field.help);
        if field.kind == Kind::Bool { flag.action(ArgAction::SetTrue) } else { flag }
    });
    log.subcommand(Command::new("follow").about(about).arg(log_flag).args(filters))
}

/// The fields of a search that mean something here.
fn filters() -> impl Iterator<Item = Field> {
    schema::fields_of::<Search>().into_iter().filter(|field| !WINDOW.contains(&field.name.as_str()))
}

/// The query of the request, when `log follow` was asked for.
pub(crate) fn query(matches: &ArgMatches) -> Option<String> {
    let below = matches.subcommand_matches("log")?.subcommand_matches("follow")?;
    let log = below.get_one::<Log>("log").and_then(|log| Some(("log".to_owned(), log.to_possible_value()?)));
    let log = log.map(|(name, log)| (name, log.get_name().to_owned()));
    let given = filters().filter_map(|field| {
        let value = match field.kind {
            Kind::Bool => below.get_flag(&field.name).then(|| "true".to_owned())?,
            _ => below.get_one::<String>(&field.name)?.clone(),
        };
        Some((field.name, value))
    });
    let pairs = log.into_iter().chain(given);
    let pairs =
        pairs.map(|(name, value)| format!("{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)));
    Some(pairs.collect::<Vec<_>>().join("&"))
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
