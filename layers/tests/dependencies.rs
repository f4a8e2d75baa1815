//! Who takes one layer gets what it needs and no more.

use std::collections::BTreeSet;
use std::process::Command;

/// The packages that these features bring, on this platform and without what only tests need.
fn packages(features: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "portcullis-layers", "--no-default-features", "--features", features])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names of packages are text");
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[track_caller]
fn assert_none(features: &str, unwanted: &[&str]) {
    let packages = packages(features);
    assert!(packages.contains("http"), "{features}: {packages:?}");
    for name in unwanted {
        assert!(!packages.contains(*name), "{features} brings {name}");
    }
}

/// Crates of the control plane, clients of stores, and other frameworks.
const HEAVY: &[&str] = &[
    "axum",
    "bollard",
    "clap",
    "deadpool-redis",
    "jsonwebtoken",
    "redb",
    "redis",
    "reqwest",
    "rmcp",
    "schemars",
];

#[test]
fn all_layers_bring_no_store_and_no_framework() {
    assert_none("full", HEAVY);
}

#[test]
fn only_the_redis_sink_brings_a_client_for_redis() {
    assert!(packages("access-log-redis").contains("redis"));
    assert_none("access-log-redis", &["aws-lc-rs", "axum", "bollard", "redb", "regex"]);
    assert_none("access-log", &["redis", "rustls", "serde_json"]);
}

#[test]
fn a_small_layer_has_a_small_tree() {
    const WEIGHT: &[&str] = &[
        "ahash",
        "aws-lc-rs",
        "h2",
        "hyper-util",
        "ipnet",
        "redis",
        "regex",
        "rustls",
        "serde_json",
        "socket2",
    ];
    for features in ["headers", "forwarded", "https-redirect", "access-log"] {
        assert_none(features, WEIGHT);
    }
}

#[test]
fn layers_without_cryptography_bring_none() {
    for features in
        ["allowlist", "hosts", "normalize", "proxy-protocol", "resource-metadata", "respond", "route"]
    {
        assert_none(features, &["aws-lc-rs", "hyper-util", "redis", "rustls", "socket2"]);
    }
    assert_none("serve", &["aws-lc-rs", "redis", "regex", "rustls"]);
}
