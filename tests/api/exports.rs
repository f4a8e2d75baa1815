//! Certificates as files, for servers that read PEM.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::certificate::{Authority, Pair};
use crate::support::daemon::{BINARY, Daemon};

/// A daemon that holds a certificate, which the test has as well.
fn holding(name: &str) -> (Daemon, Pair) {
    let (daemon, pair) = (Daemon::start(), Authority::new().sign(&["app.example.com"]));
    let [cert, key] = pair.flags(daemon.dir.path(), "source");
    daemon.run(&["cert", "upload", name, &cert, &key]);
    (daemon, pair)
}

/// Runs a command where new files are open to everybody, unless their maker sees to it.
fn careless(daemon: &Daemon, args: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask 000; exec {BINARY} {args}")]).current_dir(daemon.dir.path());
    shell.env_remove("API_URL").env("PORTCULLIS_DATA", daemon.dir.path().join("data")).output().unwrap()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn exports(daemon: &Daemon) -> usize {
    let found = daemon.run(&["log", "search", "--log", "audit", "--q", "export_certificate"]);
    found["logs"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_chain_and_a_key_become_files_and_the_key_is_the_owners_alone() {
    let (daemon, pair) = holding("web");
    let dir = daemon.dir.path();
    let output = careless(&daemon, "cert export web");
    assert!(output.status.success(), "{output:?}");
    let chain = dir.join("web.fullchain.pem");
    assert_eq!((std::fs::read_to_string(&chain).unwrap().trim(), mode(&chain)), (pair.chain.trim(), 0o644));
    assert!(!dir.join("web.key.pem").exists(), "nobody asked for the key");

    std::fs::create_dir(dir.join("out")).unwrap();
    let output = careless(&daemon, "cert export web --include-key --separate -o out --format yaml");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("out/web.fullchain.pem") && said.contains("out/web.key.pem"), "{output:?}");
    assert!(!said.contains("PRIVATE KEY"));
    let key = dir.join("out/web.key.pem");
    assert_eq!((std::fs::read_to_string(&key).unwrap().trim(), mode(&key)), (pair.key.trim(), 0o600));

    assert!(careless(&daemon, "cert export web --include-key --combined --output-dir out").status.success());
    let both = dir.join("out/web.pem");
    let text = std::fs::read_to_string(&both).unwrap();
    let (chain, key) = (text.find(pair.chain.trim()), text.find(pair.key.trim()));
    assert!(chain == Some(0) && key > chain, "the chain first, then the key");
    assert_eq!(mode(&both), 0o600);
}

#[test]
fn what_is_there_is_neither_followed_nor_replaced_unless_forced() {
    let (daemon, pair) = holding("web");
    let dir = daemon.dir.path();
    let (victim, link) = (dir.join("victim"), dir.join("web.key.pem"));
    std::fs::write(&victim, "another's").unwrap();
    symlink(&victim, &link).unwrap();
    let refused = complaint(&daemon.cli(&["cert", "export", "web", "--include-key"]));
    assert!(refused.contains("web.key.pem is there already") && refused.contains("--force"), "{refused}");
    assert!(!dir.join("web.fullchain.pem").exists(), "all or nothing");
    assert_eq!(exports(&daemon), 0, "no key has left the gateway");
    daemon.run(&["cert", "export", "web", "--include-key", "--force"]);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "another's");
    assert_eq!((std::fs::read_to_string(&link).unwrap().trim(), mode(&link)), (pair.key.trim(), 0o600));
    assert!(!link.symlink_metadata().unwrap().is_symlink());
    let left = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().ends_with(".new")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_can_not_be_exported_is_told_clearly() {
    let (daemon, pair) = holding("web");
    for (args, words) in [
        (&["cert", "export", "web", "-o", "nowhere"][..], "nowhere is no folder: make it first"),
        (&["cert", "export", "none"], "there is no certificate \"none\""),
    ] {
        let said = complaint(&daemon.cli(args));
        assert!(said.contains(words), "{said}");
    }
    let combined = daemon.cli(&["cert", "export", "web", "--combined"]);
    assert_eq!(combined.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&combined.stderr).contains("--include-key"), "{combined:?}");
    // For a pipe.
    let printed = daemon.cli(&["cert", "export", "web", "-o", "-"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim(), pair.chain.trim());
    let shown = daemon.cli(&["cert", "show", "web", "--pem"]);
    assert_eq!(shown.stdout, printed.stdout);
}
