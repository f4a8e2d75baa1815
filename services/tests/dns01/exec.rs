//! Programs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portcullis_services::acme::dns::{DnsError, DnsProvider, Exec, Resolvers};
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};

use crate::dns::{Dns, Zone};

const NAME: &str = "_acme-challenge.example.test";

/// A script; `$DIR` in it is the folder that it is in.
fn script(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("hook");
    let text = text.replace("$DIR", &dir.path().display().to_string());
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn exec(program: &Path) -> Exec {
    Exec::new(program).with_resolvers(Resolvers::Fixed(Vec::new()))
}

#[tokio::test]
async fn it_gets_the_change_as_arguments_and_little_else() {
    let dir = tempfile::tempdir().unwrap();
    let hook = exec(&script(
        &dir,
        "printf '%s|' \"$@\" >> $DIR/calls; pwd >> $DIR/calls; env > $DIR/env; cat >> $DIR/calls",
    ));
    hook.present(NAME, "a value; $(touch /x)").await.unwrap();
    hook.cleanup(NAME, "v").await.unwrap();
    let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls, format!("present|{NAME}|a value; $(touch /x)|/\ncleanup|{NAME}|v|/\n"));
    let environment = std::fs::read_to_string(dir.path().join("env")).unwrap();
    let names: Vec<_> =
        environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // The shell adds some of its own.
    let known = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD"];
    assert!(names.contains(&"PATH"));
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    // This one is in the environment of every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
}

#[tokio::test]
async fn it_gets_the_name_that_a_delegation_leads_to() {
    let records = "_acme-challenge CNAME elsewhere.example.test.";
    let dns = Dns::start_with(&[Zone { name: "example.test", records }]);
    let dir = tempfile::tempdir().unwrap();
    let hook = Exec::new(script(&dir, "echo \"$2\" > $DIR/name"));
    hook.with_resolvers(Resolvers::Fixed(vec![dns.address()])).present(NAME, "v").await.unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("name")).unwrap(), "elsewhere.example.test\n");
}

#[tokio::test]
async fn what_it_says_when_it_fails_is_not_for_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let program =
        script(&dir, "echo 'asking the API'; printf 'no such\\033[31m zone\\n\\ntry again\\n' >&2; exit 3");
    let error = exec(&program).present(NAME, "v").await.unwrap_err();
    // What it says may hold its credentials, and many may read why a certificate could not be issued.
    let expected =
        format!("{} present {NAME}: exit status: 3; what it said is in the log", program.display());
    assert_eq!(error.to_string(), expected);
    let DnsError::Failed { output, .. } = error else { panic!("{error}") };
    assert_eq!(output, "asking the API; no such [31m zone try again");
}

#[tokio::test]
async fn a_name_that_a_stranger_leads_to_is_a_name() {
    let records = "_acme-challenge CNAME a\\;b.example.test.";
    let dns = Dns::start_with(&[Zone { name: "example.test", records }]);
    let dir = tempfile::tempdir().unwrap();
    let hook = Exec::new(script(&dir, "touch $DIR/called"));
    let error = hook.with_resolvers(Resolvers::Fixed(vec![dns.address()])).present(NAME, "v").await;
    assert!(matches!(error, Err(DnsError::Name { .. })), "{error:?}");
    assert!(!dir.path().join("called").exists());
}

#[tokio::test(start_paused = true)]
async fn resolvers_that_say_nothing_are_not_waited_for_without_end() {
    let mut silent = Vec::new();
    while silent.len() < 3 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            silent.push((udp, tcp));
        }
    }
    let resolvers = silent.iter().map(|(udp, _)| udp.local_addr().unwrap()).collect();
    let begun = tokio::time::Instant::now();
    let hook = Exec::new("/nowhere/hook").with_resolvers(Resolvers::Fixed(resolvers));
    let error = hook.present(NAME, "v").await.unwrap_err();
    assert!(matches!(error, DnsError::Silent { .. }), "{error}");
    assert!(begun.elapsed() <= Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn much_of_what_it_says_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(&dir, "head -c 3000000 /dev/zero | tr '\\0' x; exit 1");
    let error = exec(&program).present(NAME, "v").await.unwrap_err();
    let DnsError::Failed { output, .. } = error else { panic!("{error}") };
    assert_eq!(output, "x".repeat(2048));
}

#[tokio::test]
async fn it_is_ended_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(&dir, "sleep 1000 & echo $! > $DIR/started; mv $DIR/started $DIR/pid; wait");
    let hook = exec(&program).with_limit(Duration::from_secs(1));
    let error = hook.present(NAME, "v").await.unwrap_err();
    assert!(error.to_string().ends_with("took more than 1 seconds and was killed"), "{error}");
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    // Ended, or dead and not yet buried.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < end, "what the program started still runs");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told() {
    let error = exec(Path::new("/nowhere/hook")).present(NAME, "v").await.unwrap_err();
    assert_eq!(error.to_string(), "/nowhere/hook can't be run");
}
