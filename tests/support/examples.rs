//! The examples as programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::programs::Program;

/// Where the examples are. They are built here, because no way of running tests builds both them and
/// the tests; nothing is compiled that the tests' own build did not compile, so it takes a moment.
static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().expect("a binary is in a folder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "--workspace", "--all-features", "--examples"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs this test").success(), "the examples don't compile");
    folder.join("examples")
});

/// An example to be run.
pub fn example(name: &str) -> Command {
    Command::new(EXAMPLES.join(name))
}

/// A known-good MCP server, ended when it is dropped.
pub struct Fixture {
    /// Where it is, with its path.
    pub url: String,
    _program: Program,
}

impl Fixture {
    /// Starts it on a free port.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut command = example("mcp_fixture");
        command.args(arguments);
        let mut program = Program::start(command);
        Self { url: program.line().await, _program: program }
    }

    /// Where it is, without its path.
    pub fn origin(&self) -> &str {
        self.url.trim_end_matches("/mcp")
    }
}
