//! Every example, run with `--check`: it does to itself what it tells people to try.

mod support;

use std::process::{Output, Stdio};
use std::time::Instant;

use support::PATIENCE;
use support::examples::example;
use support::redis::RedisServer;

#[track_caller]
fn check(name: &str, environment: &[(&str, &str)]) {
    let mut child = example(name)
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
    mcp_fixture
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
