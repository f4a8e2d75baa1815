use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portcullis_services::store::embedded::{Embedded, OpenError};
use portcullis_services::store::{Expect, ItemKey, Keep, Key, Kind, Store, Stream, Write};
use serde_json::json;

use crate::conformance::{self, ALL, entry, key, now, put};

const KEEP: Keep = Keep { entries: 10_000, age: Duration::from_secs(3600) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_conforms() {
    conformance::run(|_| Arc::new(Embedded::in_memory().expect("a store"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_files_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::run(|number| {
        Arc::new(Embedded::open(&dir.path().join(number.to_string())).expect("a store"))
    })
    .await;
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let item = ItemKey { kind: "code", id: "a".into() };
    let store = Embedded::open(&data).expect("a store");
    let revision = store.commit(vec![put("a", json!({ "x": 1 }), Expect::Absent)]).await.expect("committed");
    store.put_item(&item, b"bytes", Duration::from_secs(60)).await.expect("put");
    let lease = store.acquire("l", "me", Duration::from_secs(60)).await.expect("asked").expect("free");
    store.append(Stream::Audit, vec![entry(now(), "{}", &["t"])], KEEP).await.expect("appended");
    let logged = store.range(Stream::Audit, &ALL).await.expect("read");
    let before = store.load().await.expect("loaded");
    drop(store);

    let store = Embedded::open(&data).expect("opened again");
    assert_eq!(store.load().await.expect("loaded"), before);
    assert_eq!(before.0, revision);
    assert_eq!(store.take_item(&item).await.expect("taken").as_deref(), Some(&b"bytes"[..]));
    assert!(store.acquire("l", "other", Duration::from_secs(60)).await.expect("asked").is_none());
    let renewed = store.acquire("l", "me", Duration::from_secs(60)).await.expect("asked");
    assert_eq!(renewed, Some(lease));
    assert_eq!(store.range(Stream::Audit, &ALL).await.expect("read"), logged);
    let next = store.commit(vec![put("a", json!(2), Expect::Version(1))]).await.expect("committed");
    assert_eq!((next.epoch, next.n), (revision.epoch, 2));
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path()).expect("a store");
    let refused = Embedded::open(dir.path()).expect_err("in use");
    assert!(matches!(refused, OpenError::InUse { .. }));
    let message = refused.to_string();
    for part in [dir.path().to_str().expect("text"), "PORTCULLIS_DATA", &std::process::id().to_string()] {
        assert!(message.contains(part), "{message}");
    }
    drop(store);
    drop(Embedded::open(dir.path()).expect("free again"));
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let store = Embedded::open(&data).expect("a store");
    store.append(Stream::Requests, vec![entry(now(), "{}", &[])], KEEP).await.expect("appended");
    let mut files = 0;
    let mut open = vec![data];
    while let Some(path) = open.pop() {
        let metadata = std::fs::metadata(&path).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            open.extend(
                std::fs::read_dir(&path).expect("listed").map(|entry| entry.expect("an entry").path()),
            );
        } else {
            files += 1;
        }
    }
    assert!(files >= 3, "database, lock and segment");
}

#[tokio::test]
async fn a_damaged_database_is_an_error_with_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("store.redb"), b"not a database, but long enough to look at")
        .expect("written");
    let error = Embedded::open(dir.path()).expect_err("damaged");
    assert!(error.to_string().contains("store.redb"), "{error}");
}

#[tokio::test]
async fn a_torn_log_is_cut_and_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path()).expect("a store");
    let entries = (0..3).map(|n| entry(now() - 10 + n, &n.to_string(), &[])).collect();
    store.append(Stream::Requests, entries, KEEP).await.expect("appended");
    drop(store);
    let streams = dir.path().join("streams/requests");
    let segment = std::fs::read_dir(&streams).expect("listed").next().expect("one").expect("an entry").path();
    let length = std::fs::metadata(&segment).expect("there").len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .expect("opened")
        .set_len(length - 1)
        .expect("torn");

    let store = Embedded::open(dir.path()).expect("opened again");
    store.append(Stream::Requests, vec![entry(now(), "3", &[])], KEEP).await.expect("appended");
    let logged = store.range(Stream::Requests, &ALL).await.expect("read");
    let records: Vec<&[u8]> = logged.iter().map(|logged| &logged.record[..]).collect();
    assert_eq!(records, [b"0", b"1", b"3"]);
}

/// Names the directory in which the next test shall write.
const DIR: &str = "PORTCULLIS_TEST_KILLED_IN";

/// Not a test by itself: the process that the next one kills.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Embedded::open(Path::new(&dir)).expect("a store");
    let (_, documents) = store.load().await.expect("loaded");
    let start = documents.first().map_or(0, |document| document.version);
    for n in start + 1.. {
        let secret = Write::Put { key: Key::new(Kind::Secret, "a"), value: json!(n), expect: Expect::Any };
        store.commit(vec![put("a", json!(n), Expect::Any), secret]).await.expect("committed");
        writeln!(std::io::stderr(), "committed {n}").expect("told");
    }
}

#[tokio::test]
async fn a_commit_survives_a_kill_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..5u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "embedded::writes_until_it_is_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut told = 0;
        let mut commits = 0;
        while commits < 3 + round {
            let line = lines.next().expect("it goes on").expect("text");
            if let Some(n) = line.strip_prefix("committed ") {
                told = n.parse().expect("a number");
                commits += 1;
            }
        }
        child.kill().expect("killed");
        child.wait().expect("ended");

        let store = Embedded::open(dir.path()).expect("opened after the kill");
        let (revision, documents) = store.load().await.expect("loaded");
        assert_eq!(documents.len(), 2);
        assert!(revision.n >= told, "{} was acknowledged, but {} is there", told, revision.n);
        for document in documents {
            assert_eq!((document.version, &document.value), (revision.n, &json!(revision.n)));
        }
        assert_eq!(store.get(&key("a")).await.expect("read").expect("there").version, revision.n);
    }
}
