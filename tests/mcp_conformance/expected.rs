//! What is expected, and what it is compared with.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::runs::{ALL, Run, TASKS};
use crate::suite::{Found, Verdict, run};

/// Scenarios that do not pass, and why that is right.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    pub scenarios: &'static [&'static str],
    pub verdict: Verdict,
    /// What stands in everything that they complain of, so that nothing else hides behind it.
    pub says: &'static str,
    pub why: &'static str,
}

impl Exception {
    /// Of scenarios that fail.
    pub const fn failing(scenarios: &'static [&'static str], says: &'static str, why: &'static str) -> Self {
        Self { scenarios, verdict: Verdict::Failed, says, why }
    }
}

/// The scenarios of extensions, which no revision requires.
pub const EXTENSIONS: &[Exception] = &[
    Exception::failing(TASKS, "", "tasks are an extension that is not offered"),
    Exception {
        scenarios: &["tasks-status-notifications"],
        verdict: Verdict::Silent,
        says: "",
        why: "the suite skips it",
    },
];

/// Runs the suite at a server and compares. `place` is where the server is, for people.
pub async fn check(place: &str, run: &Run, url: &str, exceptions: &[Exception]) {
    let found = self::run(run, url).await;
    let report = table(place, run, &found, exceptions);
    println!("{report}");
    keep(place, run, &report);
    let wrong = compare(run, &found, exceptions);
    assert!(wrong.is_empty(), "{report}\n{}", wrong.join("\n"));
}

/// What is not as expected.
fn compare(run: &Run, found: &BTreeMap<String, Found>, exceptions: &[Exception]) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected: BTreeMap<_, _> = run.scenarios().collect();
    for (scenario, _) in run.scenarios() {
        let exception = exceptions.iter().find(|exception| exception.scenarios.contains(&scenario));
        let verdict = exception.map_or(Verdict::Passed, |exception| exception.verdict);
        let says = exception.map_or("", |exception| exception.says);
        match found.get(scenario) {
            None => wrong.push(format!("{scenario} was not run")),
            Some(found) if found.verdict() != verdict => wrong.push(format!(
                "{scenario} should have been {verdict:?}, and {:?}: {}",
                found.verdict(),
                found.complaints.join("; ")
            )),
            Some(found) => {
                let others = found.complaints.iter().filter(|complaint| !complaint.contains(says));
                wrong.extend(
                    others.map(|complaint| format!("{scenario} complains of something else: {complaint}")),
                );
            }
        }
    }
    let unknown = found.keys().filter(|scenario| !expected.contains_key(scenario.as_str()));
    wrong.extend(unknown.map(|scenario| format!("{scenario} is not known here")));
    let named = exceptions.iter().flat_map(|exception| exception.scenarios);
    let idle = named.filter(|name| !ALL.iter().any(|run| run.scenarios().any(|(known, _)| known == **name)));
    wrong.extend(idle.map(|name| format!("{name} is no scenario at all")));
    wrong
}

/// The counts, for people.
fn table(place: &str, run: &Run, found: &BTreeMap<String, Found>, exceptions: &[Exception]) -> String {
    let passed = |scored: bool| {
        let of = run.scenarios().filter(|(_, counts)| *counts == scored).map(|(scenario, _)| scenario);
        let verdicts: Vec<_> = of.map(|scenario| found.get(scenario).map(Found::verdict)).collect();
        (verdicts.iter().filter(|verdict| **verdict == Some(Verdict::Passed)).count(), verdicts.len())
    };
    let ((scored, of), (others, of_others)) = (passed(true), passed(false));
    let mut table =
        format!("{place}, {}: {scored} of {of} scored scenarios, {others} of {of_others} others\n", run.name);
    for (scenario, counts) in run.scenarios() {
        let kind = if counts { "scored" } else { "other" };
        let counts = found.get(scenario).map_or("not run".to_owned(), |found| {
            format!(
                "{:?}: {} passed, {} failed, {} warnings",
                found.verdict(),
                found.passed,
                found.failed,
                found.warnings
            )
        });
        let why = exceptions.iter().find(|exception| exception.scenarios.contains(&scenario));
        let why = why.map_or(String::new(), |exception| format!(" ({})", exception.why));
        writeln!(table, "  {kind:6} {scenario:46} {counts}{why}").unwrap();
    }
    table
}

/// Keeps the counts where they can be looked at afterwards.
fn keep(place: &str, run: &Run, table: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mcp_conformance");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{place}-{}.txt", run.name)), table).unwrap();
}

/// The comparison must be able to fail.
#[test]
fn a_scenario_that_fails_is_missing_or_passes_unexpectedly_is_noticed() {
    use crate::runs::MARCH_2025;

    const KNOWN: &str = "server-session-lifecycle";
    let passed = || Found { passed: 1, ..Found::default() };
    let failed = || Found { failed: 1, complaints: vec!["no session".into()], ..passed() };
    let of = |scenario: &str, found| BTreeMap::from([(scenario.to_owned(), found)]);
    let wrong = |found, exceptions: &[Exception]| compare(&MARCH_2025, &found, exceptions).len();
    assert_eq!(wrong(of(KNOWN, passed()), &[]), 0);
    assert_eq!(wrong(of(KNOWN, failed()), &[]), 1);
    assert_eq!(wrong(of(KNOWN, Found { warnings: 1, ..passed() }), &[]), 1);
    assert_eq!(wrong(of(KNOWN, Found::default()), &[]), 1);
    assert_eq!(wrong(BTreeMap::new(), &[]), 1);
    assert_eq!(wrong(of("other", passed()), &[]), 2);

    assert_eq!(wrong(of(KNOWN, failed()), &[Exception::failing(&[KNOWN], "session", "")]), 0);
    assert_eq!(wrong(of(KNOWN, failed()), &[Exception::failing(&[KNOWN], "stream", "")]), 1);
    assert_eq!(wrong(of(KNOWN, passed()), &[Exception::failing(&[KNOWN], "session", "")]), 1);
    assert_eq!(wrong(of(KNOWN, passed()), &[Exception::failing(&["other"], "", "")]), 1);
}
