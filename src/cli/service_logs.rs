//! `service logs --follow`: lines as they come, over server-sent events.

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{Answer, Client, ClientError};
use super::{Failure, print_text};

/// The lines of an event that carry data (WHATWG HTML, section 9.2.6).
const DATA: &str = "data:";

/// The flags that mean something here.
const FLAGS: [&str; 4] = ["lines", "since", "timestamps", "replica"];

/// Adds the flag to `service logs`.
pub(crate) fn extend(service: Command) -> Command {
    if service.find_subcommand("logs").is_none() {
        return service;
    }
    let help = "Go on with each line as it comes";
    let follow = Arg::new("follow").long("follow").short('f').help(help).action(ArgAction::SetTrue);
    service.mut_subcommand("logs", |logs| logs.arg(follow))
}

/// The path of the request, when it is wanted.
pub(crate) fn path(matches: &ArgMatches) -> Option<String> {
    let logs = matches.subcommand_matches("service")?.subcommand_matches("logs")?;
    logs.get_flag("follow").then_some(())?;
    let raw = |name: &str| logs.get_raw(name)?.next_back().map(|value| value.to_string_lossy().into_owned());
    let encoded = |value: &str| utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    let name = raw("service_name")?;
    let given = FLAGS.iter().filter_map(|flag| match *flag {
        "timestamps" => logs.get_flag(flag).then(|| "timestamps=true".to_owned()),
        _ => Some(format!("{flag}={}", encoded(&raw(flag)?))),
    });
    let query: Vec<_> = given.collect();
    Some(format!("/services/{}/logs/follow?{}", encoded(&name.to_ascii_lowercase()), query.join("&")))
}

/// Prints lines until the container ends.
pub(crate) async fn run(client: &Client, path: &str) -> Result<(), Failure> {
    follow(client, path, |said| {
        // Nothing that a program writes steers the terminal.
        let said: String = said.chars().filter(|one| !one.is_control() || *one == '\t').collect();
        print_text(&format!("{said}\n"));
    })
    .await
}

/// Shows the data of each event until there are no more.
pub(super) async fn follow(client: &Client, path: &str, mut show: impl FnMut(&str)) -> Result<(), Failure> {
    let broken = |error: hyper::Error| ClientError::Broken(error.into());
    let response = client.open(Method::GET, path, None, "text/event-stream").await?;
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
            let Some(said) = line.trim_end_matches(['\r', '\n']).strip_prefix(DATA) else { continue };
            show(said.strip_prefix(' ').unwrap_or(said));
        }
    }
    Ok(())
}
