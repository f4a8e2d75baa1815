//! The gateway's own server. It has no tools of a fixture, so each scenario that calls one fails, and for that reason
//! only; what is left is the protocol itself.

use crate::expected::{EXTENSIONS, Exception, check};
use crate::forwarder::Target;
use crate::runs::{JULY_2026, JUNE_2025, MARCH_2025, NOVEMBER_2025, RELEASED, Run};
use crate::suite::Verdict;
use crate::support::api::Api;
use crate::support::daemon::Daemon;

const PLACE: &str = "own";
/// The host of the API, which has the server from the beginning.
const HOST: &str = "localhost";

/// What is not there. All else passes.
const ABSENT: &[Exception] = &[
    Exception::failing(
        &[
            "tools-call-simple-text",
            "tools-call-image",
            "tools-call-audio",
            "tools-call-embedded-resource",
            "tools-call-mixed-content",
            "tools-call-error",
            "tools-call-with-progress",
            "tools-call-sampling",
            "tools-call-elicitation",
            "elicitation-sep1034-defaults",
            "elicitation-sep1330-enums",
            "input-required-result-basic-elicitation",
            "input-required-result-basic-sampling",
            "input-required-result-basic-list-roots",
            "input-required-result-request-state",
            "input-required-result-multiple-input-requests",
            "input-required-result-result-type",
            "input-required-result-capability-check",
        ],
        "there is no tool",
        "calls a tool of a fixture",
    ),
    Exception::failing(
        &["input-required-result-multi-round"],
        "Expected InputRequiredResult",
        "calls a tool of a fixture",
    ),
    Exception::failing(
        &["input-required-result-tampered-state"],
        "could not get initial InputRequiredResult",
        "calls a tool of a fixture",
    ),
    Exception {
        scenarios: &[
            "input-required-result-ignore-extra-params",
            "input-required-result-missing-input-response",
        ],
        verdict: Verdict::Warned,
        says: "Server returned JSON-RPC error",
        why: "calls a tool of a fixture",
    },
    Exception {
        scenarios: &["server-sse-polling"],
        verdict: Verdict::Warned,
        // An answer that is there at once is no stream that could be resumed.
        says: "Server did not send",
        why: "calls a tool of a fixture",
    },
    Exception::failing(&["json-schema-2020-12"], "json_schema_2020_12_tool", "looks for a tool of a fixture"),
    Exception::failing(
        &["server-stateless", "http-custom-header-server-validation"],
        "Not testable",
        "looks for tools of a fixture",
    ),
    Exception::failing(
        &[
            "prompts-get-simple",
            "prompts-get-with-args",
            "prompts-get-embedded-resource",
            "prompts-get-with-image",
            "input-required-result-non-tool-request",
        ],
        "there is no prompt",
        "asks for a prompt of a fixture",
    ),
    Exception::failing(
        &["resources-read-text", "resources-read-binary", "resources-templates-read"],
        "there is no such resource",
        "asks for a resource of a fixture",
    ),
    Exception::failing(
        &["logging-set-level", "tools-call-with-logging"],
        "logging/setLevel",
        "nothing is logged to clients",
    ),
    Exception::failing(
        &["resources-subscribe", "resources-unsubscribe"],
        "resources/subscribe",
        "nobody is told of changes",
    ),
];

async fn own(run: &Run) {
    let daemon = Daemon::start();
    let Api::Remote(address, Some(token)) = Api::remote(&daemon, "suite", "mcp,admin") else {
        unreachable!()
    };
    let target = Target { address, host: HOST.into(), token };
    check(PLACE, run, &target.forwarded().await, &[ABSENT, EXTENSIONS].concat()).await;
}

#[tokio::test]
async fn our_own_server_passes_what_of_the_released_suite_needs_no_fixture() {
    own(&RELEASED).await;
}

#[tokio::test]
async fn our_own_server_speaks_the_revision_of_march_2025() {
    own(&MARCH_2025).await;
}

#[tokio::test]
async fn our_own_server_speaks_the_revision_of_june_2025() {
    own(&JUNE_2025).await;
}

#[tokio::test]
async fn our_own_server_speaks_the_revision_of_november_2025() {
    own(&NOVEMBER_2025).await;
}

#[tokio::test]
async fn our_own_server_speaks_the_revision_of_july_2026() {
    own(&JULY_2026).await;
}
