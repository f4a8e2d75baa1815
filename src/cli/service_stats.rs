//! `service stats --follow`: a line for each container each second, over server-sent events.

use clap::{Arg, ArgAction, ArgMatches, Command};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::Client;
use super::output::Format;
use super::{Failure, print_text, service_logs};

/// Adds the flag to `service stats`.
pub(crate) fn extend(service: Command) -> Command {
    if service.find_subcommand("stats").is_none() {
        return service;
    }
    let help = "Go on with a line for each container each second, until they end";
    let follow = Arg::new("follow").long("follow").short('f').help(help).action(ArgAction::SetTrue);
    service.mut_subcommand("stats", |stats| stats.arg(follow))
}

/// The path of the request, when it is wanted.
pub(crate) fn path(matches: &ArgMatches) -> Option<String> {
    let stats = matches.subcommand_matches("service")?.subcommand_matches("stats")?;
    stats.get_flag("follow").then_some(())?;
    let name = stats.get_raw("service_name")?.next_back()?.to_string_lossy().to_ascii_lowercase();
    Some(format!("/services/{}/stats?follow=true", utf8_percent_encode(&name, NON_ALPHANUMERIC)))
}

/// Prints readings until the containers end.
pub(crate) async fn run(client: &Client, path: &str, format: Format) -> Result<(), Failure> {
    let mut failed = None;
    service_logs::follow(client, path, |said| match serde_json::from_str::<Value>(said) {
        Ok(reading) => match shown(&reading, format) {
            Ok(text) => print_text(&text),
            Err(error) => failed = Some(error),
        },
        // That a container has ended, or what the engine complains about.
        Err(_) => eprintln!("{}", said.chars().filter(|one| !one.is_control()).collect::<String>()),
    })
    .await?;
    failed.map_or(Ok(()), Err)
}

fn shown(reading: &Value, format: Format) -> Result<String, Failure> {
    match format {
        Format::Auto | Format::Table => Ok(line(reading)),
        // One object a line, so that other programs can read along.
        Format::Json => Ok(format!("{reading}\n")),
        Format::Yaml | Format::Csv => {
            format.render(reading).map_err(|error| Failure::Render(error.to_string()))
        }
    }
}

/// A reading as a line for people.
fn line(reading: &Value) -> String {
    let number = |name: &str| reading[name].as_u64().unwrap_or_default();
    let percent = |name: &str| reading[name].as_f64().unwrap_or_default();
    let id: String = reading["container_id"].as_str().unwrap_or_default().chars().take(12).collect();
    format!(
        "{} {id} cpu {:.1}% memory {} of {} ({:.1}%) network {} in {} out disk {} read {} written pids {}\n",
        number("replica"),
        percent("cpu_usage"),
        size(number("memory_usage")),
        size(number("memory_limit")),
        percent("memory_percentage"),
        size(number("network_rx_bytes")),
        size(number("network_tx_bytes")),
        size(number("block_read_bytes")),
        size(number("block_write_bytes")),
        number("pids"),
    )
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{size:.1}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reading_is_a_line() {
        let reading = json!({ "container_id": "0123456789abcdef", "replica": 1, "cpu_usage": 12.34,
            "memory_usage": 1536, "memory_limit": 64 << 20, "memory_percentage": 0.5, "network_rx_bytes": 5,
            "network_tx_bytes": 0, "block_read_bytes": 0, "block_write_bytes": 0, "pids": 3 });
        let line = line(&reading);
        assert!(line.starts_with("1 0123456789ab cpu 12.3% memory 1.5KiB of 64.0MiB (0.5%)"), "{line}");
        assert!(line.ends_with("pids 3\n"), "{line}");
    }
}
