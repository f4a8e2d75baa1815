//! `acme doctor`: shows what was found, and ends with an error when a check fails.

use std::fmt::Write;
use std::io::IsTerminal;

use serde_json::Value;

use super::output::{Format, printable};
use super::{Failure, print_text};

/// The words of the command.
const COMMAND: [&str; 2] = ["acme", "doctor"];

/// Whether these words ask for it.
pub(super) fn is_asked(words: &[&str]) -> bool {
    words == COMMAND
}

/// Shows the report.
pub(super) fn show(report: &Value, format: Format) -> Result<(), Failure> {
    let people = match format {
        Format::Auto => std::io::stdout().is_terminal(),
        Format::Table => true,
        Format::Json | Format::Yaml | Format::Csv => false,
    };
    let rendered = if people { Ok(text(report)) } else { format.render(report) };
    print_text(&rendered.map_err(|error| Failure::Render(error.to_string()))?);
    match count(report, "fail") {
        0 => Ok(()),
        failed => Err(Failure::Unwell(failed)),
    }
}

fn checks(report: &Value) -> impl Iterator<Item = &Value> {
    report["checks"].as_array().into_iter().flatten()
}

fn count(report: &Value, result: &str) -> usize {
    checks(report).filter(|check| check["result"] == result).count()
}

fn text(report: &Value) -> String {
    let member = |value: &Value, name: &str| printable(value[name].as_str().unwrap_or_default());
    let mut text = format!("{}\n\n", member(report, "domain"));
    for check in checks(report) {
        let mark = match check["result"].as_str() {
            Some("ok") => "ok  ",
            Some("warn") => "WARN",
            Some("fail") => "FAIL",
            _ => "skip",
        };
        let address = check["address"].as_str().map(|address| format!(" of {}", printable(address)));
        // Writing into a text does not fail.
        let _written = writeln!(
            text,
            "{mark}  {}{}: {}",
            member(check, "check"),
            address.unwrap_or_default(),
            member(check, "found")
        );
        if check["advice"].is_string() {
            let _written = writeln!(text, "      do: {}", member(check, "advice"));
        }
    }
    let [fine, warned, failed] = ["ok", "warn", "fail"].map(|result| count(report, result));
    let _written = writeln!(text, "\n{fine} ok, {warned} warnings, {failed} failed");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_see_what_to_do() {
        let report = json!({ "domain": "a.example", "result": "fail", "checks": [
            { "check": "dns a", "result": "ok", "found": "192.0.2.1" },
            { "check": "port 80", "address": "192.0.2.1", "result": "fail", "found": "\u{1b}[2Jx", "advice": "mend it" },
        ] });
        assert_eq!(
            text(&report),
            "a.example\n\nok    dns a: 192.0.2.1\nFAIL  port 80 of 192.0.2.1: \u{fffd}[2Jx\n      do: mend it\n\n1 ok, 0 warnings, 1 failed\n"
        );
        assert!(matches!(show(&report, Format::Json), Err(Failure::Unwell(1))));
        assert!(is_asked(&["acme", "doctor"]) && !is_asked(&["cert", "status"]));
    }
}
