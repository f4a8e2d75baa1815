//! The suite as a program, and what it finds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::runs::{Run, Version};
use crate::support::eventually_within;
use crate::support::programs::of_clients;

/// How long a run may take, on a busy machine; it takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many characters of a folder's name tell when it was made: `-2026-11-22T18-34-48-960Z`.
const STAMP: usize = 25;

/// What became of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    /// It has found what should be otherwise.
    Warned,
    /// It has looked at nothing.
    Silent,
}

/// What a scenario has found.
#[derive(Debug, Default)]
pub struct Found {
    pub passed: usize,
    pub failed: usize,
    pub warnings: usize,
    /// What is wrong.
    pub complaints: Vec<String>,
}

impl Found {
    fn of(checks: &Value) -> Self {
        let mut found = Self::default();
        for check in checks.as_array().unwrap() {
            match check["status"].as_str().unwrap() {
                "SUCCESS" => found.passed += 1,
                "FAILURE" => found.failed += 1,
                "WARNING" => found.warnings += 1,
                "INFO" | "SKIPPED" => continue,
                other => panic!("what is {other}? {check}"),
            }
            if check["status"] != "SUCCESS" {
                found.complaints.push(format!("{}: {}", check["id"], check["errorMessage"]));
            }
        }
        found
    }

    pub fn verdict(&self) -> Verdict {
        match (self.failed, self.warnings, self.passed) {
            (1.., ..) => Verdict::Failed,
            (_, 1.., _) => Verdict::Warned,
            (.., 1..) => Verdict::Passed,
            _ => Verdict::Silent,
        }
    }
}

/// Runs the suite at a server: what it finds, by scenario.
pub async fn run(run: &Run, url: &str) -> BTreeMap<String, Found> {
    let package = match run.version {
        Version::Current => "conformance-current",
        Version::Next => "conformance-next",
    };
    let dir = tempfile::tempdir().unwrap();
    let (results, said) = (dir.path().join("results"), dir.path().join("said"));
    let (mut command, script) = of_clients(&format!("node_modules/{package}/dist/index.js"));
    command.arg(script).args(["server", "--url", url]).args(run.arguments).arg("--output-dir").arg(&results);
    let said_to = File::create(&said).unwrap();
    command.stdin(Stdio::null()).stdout(said_to.try_clone().unwrap()).stderr(said_to).current_dir(dir.path());
    let child = command.spawn().unwrap_or_else(|error| panic!("{error}; `just client-deps` installs it"));
    let mut child = Ended(child);
    // It ends with an error when anything fails, which is looked at below.
    eventually_within(PATIENCE, "the suite ends", || std::future::ready(child.0.try_wait().unwrap())).await;
    let found = read(&results);
    assert!(!found.is_empty(), "{}", fs::read_to_string(&said).unwrap());
    found
}

/// There is a folder for each scenario.
fn read(results: &Path) -> BTreeMap<String, Found> {
    let Ok(folders) = fs::read_dir(results) else { return BTreeMap::new() };
    let folders = folders.map(|folder| folder.unwrap());
    folders
        .map(|folder| {
            let name = folder.file_name().into_string().unwrap();
            let scenario =
                name[..name.len() - STAMP].strip_prefix("server-").expect("a scenario for servers");
            // A scenario that was broken off has none.
            let checks = fs::read(folder.path().join("checks.json"));
            let found = checks.map_or_else(
                |error| Found { failed: 1, complaints: vec![error.to_string()], ..Found::default() },
                |checks| Found::of(&serde_json::from_slice(&checks).unwrap()),
            );
            (scenario.to_owned(), found)
        })
        .collect()
}

/// A process that does not outlive its test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Fails when it has ended by itself.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
