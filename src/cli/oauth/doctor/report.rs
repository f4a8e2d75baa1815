//! What the doctor says: one entry for each check, with the clients that would fail and what to do.

use std::fmt::Write;
use std::io::IsTerminal;

use http::Uri;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::output::{Format, printable};

/// Those that every check concerns.
pub(super) const EVERY: &[&str] = &["every client"];
/// Those whose calls come from their makers' servers.
pub(super) const HOSTED: &[&str] = &["Claude (web, desktop, mobile)", "ChatGPT"];
/// Those that use a resource only under its own URL.
pub(super) const WHOLE: &[&str] = &["VS Code", "Claude (web, desktop, mobile)"];
/// Those whose calls come over IPv4 only.
pub(super) const OVER_IPV4: &[&str] = &["Claude (web, desktop, mobile)"];
/// Those that register with a secret, which they send in the body.
pub(super) const SECRET: &[&str] = &["Claude (web, desktop, mobile)", "ChatGPT"];
/// Those that are made with the TypeScript SDK.
pub(super) const TYPESCRIPT: &[&str] = &["TypeScript SDK", "Claude Code", "MCP Inspector", "mcp-remote"];
/// Those that are made with either of the two official SDKs.
pub(super) const SDKS: &[&str] = &["TypeScript SDK", "Python SDK", "Claude Code", "MCP Inspector"];
/// Those made with the Python SDK.
pub(super) const PYTHON: &[&str] = &["Python SDK"];
/// Those that run in a browser.
pub(super) const BROWSERS: &[&str] = &["MCP Inspector (direct mode)", "clients in web pages"];
/// Those of the first protocol version with authorization.
pub(super) const OLD: &[&str] = &["clients of 2025-03-26", "Python SDK after a restart"];
/// Those that have no client id of their own, and publish no document about themselves.
pub(super) const UNKNOWN: &[&str] = &["MCP Inspector", "Python SDK", "mcp-remote", "Cursor"];
/// Those that publish a document about themselves.
pub(super) const PUBLISHED: &[&str] = &["Claude Code", "VS Code"];

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Pass,
    /// Some clients would miss something.
    Warn,
    /// Some clients would fail.
    Fail,
    /// It was not looked at.
    Skip,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    check: &'static str,
    result: Outcome,
    /// What was seen.
    seen: String,
    /// Which clients it concerns.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    clients: &'static [&'static str],
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'static str,
}

/// What is wrong with what was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finding {
    /// Which clients would fail.
    pub(super) clients: &'static [&'static str],
    pub(super) why: &'static str,
    pub(super) advice: &'static str,
}

/// All checks of a host.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    url: String,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(url: &Uri) -> Self {
        Self { url: url.to_string(), checks: Vec::new() }
    }

    pub(super) fn pass(&mut self, check: &'static str, seen: impl Into<String>) {
        self.add(check, Outcome::Pass, seen.into(), Finding { clients: &[], why: "", advice: "" });
    }

    pub(super) fn skip(&mut self, check: &'static str, seen: impl Into<String>) {
        self.add(check, Outcome::Skip, seen.into(), Finding { clients: &[], why: "", advice: "" });
    }

    pub(super) fn warn(&mut self, check: &'static str, seen: impl Into<String>, finding: Finding) {
        self.add(check, Outcome::Warn, seen.into(), finding);
    }

    pub(super) fn fail(&mut self, check: &'static str, seen: impl Into<String>, finding: Finding) {
        self.add(check, Outcome::Fail, seen.into(), finding);
    }

    /// A check that passes or fails by a condition.
    pub(super) fn expect(
        &mut self,
        fine: bool,
        check: &'static str,
        seen: impl Into<String>,
        finding: Finding,
    ) {
        if fine { self.pass(check, seen) } else { self.fail(check, seen, finding) }
    }

    /// A check that passes or warns by a condition.
    pub(super) fn prefer(
        &mut self,
        fine: bool,
        check: &'static str,
        seen: impl Into<String>,
        finding: Finding,
    ) {
        if fine { self.pass(check, seen) } else { self.warn(check, seen, finding) }
    }

    fn add(&mut self, check: &'static str, result: Outcome, seen: String, finding: Finding) {
        let Finding { clients, why, advice } = finding;
        self.checks.push(Check { check, result, seen, clients, why, advice });
    }

    /// How many checks fail.
    pub(super) fn failures(&self) -> usize {
        self.count(Outcome::Fail)
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|check| check.result == outcome).count()
    }

    /// The report for people, or for programs.
    pub(super) fn render(&self, format: Format) -> Result<String, Box<dyn std::error::Error>> {
        let people = match format {
            Format::Auto => std::io::stdout().is_terminal(),
            Format::Table => true,
            Format::Json | Format::Yaml | Format::Csv => false,
        };
        if people { Ok(self.text()) } else { format.render(&self.value()) }
    }

    fn value(&self) -> Value {
        let worst = [Outcome::Fail, Outcome::Warn].into_iter().find(|outcome| self.count(*outcome) > 0);
        json!({ "url": self.url, "result": worst.unwrap_or(Outcome::Pass), "checks": self.checks })
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.url);
        for check in &self.checks {
            let mark = match check.result {
                Outcome::Pass => "pass",
                Outcome::Warn => "WARN",
                Outcome::Fail => "FAIL",
                Outcome::Skip => "skip",
            };
            // Writing into a text does not fail.
            let _written = writeln!(text, "{mark}  {}: {}", check.check, printable(&check.seen));
            for (name, said) in [
                ("fails for", check.clients.join(", ")),
                ("why", check.why.into()),
                ("do", check.advice.into()),
            ] {
                if !said.is_empty() {
                    let _written = writeln!(text, "      {name}: {said}");
                }
            }
        }
        let _written = writeln!(
            text,
            "\n{} passed, {} warnings, {} failed",
            self.count(Outcome::Pass),
            self.count(Outcome::Warn),
            self.failures()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_is_the_result() {
        let mut report = Report::new(&Uri::from_static("https://a.example/mcp"));
        let finding = Finding { clients: PYTHON, why: "it stops", advice: "mend it" };
        report.pass("dns", "1.2.3.4");
        assert_eq!((report.value()["result"].as_str(), report.failures()), (Some("pass"), 0));
        report.prefer(false, "cors", "nothing", finding);
        assert_eq!(report.value()["result"], "warn");
        report.expect(false, "tls", "\u{1b}[2Jx", finding);
        assert_eq!((report.value()["result"].as_str(), report.failures()), (Some("fail"), 1));
        let text = report.text();
        assert!(
            text.contains("FAIL  tls: \u{fffd}[2Jx\n      fails for: Python SDK\n      why: it stops"),
            "{text}"
        );
        assert!(text.ends_with("1 passed, 1 warnings, 1 failed\n"), "{text}");
        assert_eq!(
            report.value()["checks"][0],
            json!({ "check": "dns", "result": "pass", "seen": "1.2.3.4" })
        );
    }
}
