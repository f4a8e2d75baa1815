//! Every example, run with `--check`: it does to itself what it tells people to try.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

use support::PATIENCE;
use support::redis::RedisServer;

/// Where the examples are. They are built here, because no way of running tests builds both them and
/// this test; nothing is compiled that the tests' own build did not compile, so it takes a moment.
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

#[track_caller]
fn check(name: &str, environment: &[(&str, &str)]) {
    let mut child = Command::new(EXAMPLES.join(name))
        .arg("--check")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example is built");
    let end = Instant::now() + PATIENCE;
    while child.try_wait().expect("a child can be waited for").is_none() {
        if Instant::now() >= end {
            child.kill().expect("a child can be killed");
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().expect("its output is read");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{name} ended with {status}\n{stdout}{stderr}");
    assert!(
        !stdout.contains("pcs_"),
        "{name}: a daemon inside another program prints no setup token\n{stdout}"
    );
}

macro_rules! examples {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name), &[]); })*
    };
}

examples! {
    dynamic_hosts
    embedded_daemon
    jwt_gate
    one_layer_in_axum
    proxy_protocol_echo
    static_proxy
}

#[test]
fn log_to_redis() {
    let redis = RedisServer::start();
    check("log_to_redis", &[("REDIS_URL", &redis.url())]);
}

/// An example that nobody checks rots.
#[test]
fn every_example_is_checked() {
    let source = include_str!("examples.rs");
    for entry in
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).expect("there are examples")
    {
        let path = entry.expect("a readable folder").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(source.contains(&name), "{name} is not checked");
    }
}
