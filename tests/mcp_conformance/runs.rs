//! What the suite is asked to run, and the scenarios that this comes to.

/// A version of the suite.
#[derive(Debug, Clone, Copy)]
pub enum Version {
    /// 0.1.16, the latest release.
    Current,
    /// 0.2.0-alpha.12, which knows what each revision requires.
    Next,
}

/// One call of the suite.
#[derive(Debug)]
pub struct Run {
    pub name: &'static str,
    pub version: Version,
    pub arguments: &'static [&'static str],
    /// What counts.
    pub scored: &'static [&'static [&'static str]],
    /// What is run all the same.
    pub others: &'static [&'static [&'static str]],
}

impl Run {
    /// All scenarios, and whether they count.
    pub fn scenarios(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let scored = self.scored.iter().copied().flatten().map(|name| (*name, true));
        scored.chain(self.others.iter().copied().flatten().map(|name| (*name, false)))
    }
}

/// All of them.
pub const ALL: &[&Run] = &[&RELEASED, &MARCH_2025, &JUNE_2025, &NOVEMBER_2025, &JULY_2026];

/// The latest release has no revisions, but scenarios of the last two with a handshake.
pub const RELEASED: Run = Run {
    name: "0.1.16",
    version: Version::Current,
    arguments: &[],
    scored: &[EVERY, HANDSHAKE, NOVEMBER, STREAMS],
    others: &[],
};

pub const MARCH_2025: Run = Run {
    name: "2025-03-26",
    version: Version::Next,
    arguments: &["--suite", "active", "--spec-version", "2025-03-26"],
    scored: &[SESSIONS],
    others: &[],
};

pub const JUNE_2025: Run = Run {
    name: "2025-06-18",
    version: Version::Next,
    arguments: &["--suite", "active", "--spec-version", "2025-06-18"],
    scored: &[EVERY, HANDSHAKE, SESSIONS],
    others: &[],
};

pub const NOVEMBER_2025: Run = Run {
    name: "2025-11-25",
    version: Version::Next,
    arguments: &["--requirements", "2025-11-25"],
    scored: &[EVERY, HANDSHAKE, NOVEMBER, STREAMS],
    others: &[SESSIONS, SCHEMAS, &["server-sse-polling"]],
};

pub const JULY_2026: Run = Run {
    name: "2026-07-28",
    version: Version::Next,
    arguments: &["--requirements", "2026-07-28"],
    scored: &[EVERY, STREAMS, STATELESS, ROUNDS],
    others: &[
        SCHEMAS,
        &["http-header-validation", "http-custom-header-server-validation"],
        TASKS,
        &["tasks-status-notifications"],
    ],
};

/// In each revision from 2025-06-18 on.
const EVERY: &[&str] = &[
    "completion-complete",
    "tools-list",
    "tools-call-simple-text",
    "tools-call-image",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-mixed-content",
    "tools-call-error",
    "tools-call-with-progress",
    "resources-list",
    "resources-read-text",
    "resources-read-binary",
    "resources-templates-read",
    "prompts-list",
    "prompts-get-simple",
    "prompts-get-with-args",
    "prompts-get-embedded-resource",
    "prompts-get-with-image",
];

/// What went with the handshake.
const HANDSHAKE: &[&str] = &[
    "server-initialize",
    "logging-set-level",
    "ping",
    "tools-call-with-logging",
    "tools-call-sampling",
    "tools-call-elicitation",
    "resources-subscribe",
    "resources-unsubscribe",
];

const SESSIONS: &[&str] = &["server-session-lifecycle"];

/// New in 2025-11-25, and gone with the handshake.
const NOVEMBER: &[&str] = &["elicitation-sep1034-defaults", "elicitation-sep1330-enums"];

/// From 2025-11-25 on.
const STREAMS: &[&str] = &["server-sse-multiple-streams", "dns-rebinding-protection"];

const SCHEMAS: &[&str] = &["json-schema-2020-12"];

/// From 2026-07-28 on.
const STATELESS: &[&str] = &["server-stateless", "caching", "sep-2164-resource-not-found"];

/// What replaces requests of servers from 2026-07-28 on.
const ROUNDS: &[&str] = &[
    "input-required-result-basic-elicitation",
    "input-required-result-basic-sampling",
    "input-required-result-basic-list-roots",
    "input-required-result-request-state",
    "input-required-result-multiple-input-requests",
    "input-required-result-multi-round",
    "input-required-result-missing-input-response",
    "input-required-result-non-tool-request",
    "input-required-result-result-type",
    "input-required-result-unsupported-methods",
    "input-required-result-tampered-state",
    "input-required-result-capability-check",
    "input-required-result-ignore-extra-params",
    "input-required-result-validate-input",
];

/// An extension, which no revision requires.
pub const TASKS: &[&str] = &[
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
];
