//! What is said about a name: one entry for each check, with what to do.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::HostPattern;

/// What others say may be long; it is kept for people.
const LONGEST: usize = 500;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not looked at.
    Skip,
    /// As it should be.
    Ok,
    /// It may work.
    Warn,
    /// It does not work like this.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// How it went.
    pub result: Outcome,
    /// Which of the name's addresses it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// All checks of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The name.
    pub domain: HostPattern,
    /// The worst of the checks.
    pub result: Outcome,
    /// What was looked at, in its order.
    pub checks: Vec<Check>,
}

impl Check {
    fn new(check: &'static str, result: Outcome, found: &str, advice: Option<&str>) -> Self {
        // What is found comes from strangers.
        let clean = found.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        let found = clean.take(LONGEST).collect();
        Self { check: check.to_owned(), result, address: None, found, advice: advice.map(str::to_owned) }
    }

    pub(super) fn ok(check: &'static str, found: impl AsRef<str>) -> Self {
        Self::new(check, Outcome::Ok, found.as_ref(), None)
    }

    pub(super) fn skip(check: &'static str, found: impl AsRef<str>) -> Self {
        Self::new(check, Outcome::Skip, found.as_ref(), None)
    }

    pub(super) fn warn(check: &'static str, found: impl AsRef<str>, advice: &str) -> Self {
        Self::new(check, Outcome::Warn, found.as_ref(), Some(advice))
    }

    pub(super) fn fail(check: &'static str, found: impl AsRef<str>, advice: &str) -> Self {
        Self::new(check, Outcome::Fail, found.as_ref(), Some(advice))
    }

    pub(super) fn at(self, address: IpAddr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// What would fail matters less, because something else works.
    pub(super) fn eased(self) -> Self {
        Self { result: self.result.min(Outcome::Warn), ..self }
    }
}

impl Report {
    pub(super) const fn new(domain: HostPattern) -> Self {
        Self { domain, result: Outcome::Ok, checks: Vec::new() }
    }

    pub(super) fn add(&mut self, check: Check) {
        self.result = self.result.max(check.result);
        self.checks.push(check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_is_the_result_and_strangers_move_no_cursor() {
        let mut report = Report::new("a.example".parse().expect("valid"));
        report.add(Check::skip("one", "nothing"));
        assert_eq!(report.result, Outcome::Ok);
        report.add(Check::fail("two", "\u{1b}[2J".to_owned() + &"x".repeat(1000), "mend it").eased());
        assert_eq!(report.result, Outcome::Warn);
        assert!(report.checks[1].found.starts_with(" [2Jx") && report.checks[1].found.len() == LONGEST);
        report.add(Check::fail("three", "no", "mend it"));
        report.add(Check::ok("four", "yes"));
        assert_eq!(report.result, Outcome::Fail);
    }
}
