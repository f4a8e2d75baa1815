//! What every store does: one suite for all backends.
//!
//! The tests of the stores include this file; it needs nothing but the `Store` trait. Each case gets a
//! store of its own that was never written to.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::{FutureExt, StreamExt};
use portcullis_services::store::{
    Document, Entry, EntryId, Error, Expect, ItemKey, Keep, Key, Kind, Logged, MAX_PAGE, Range, Raw, Record,
    RecordKey, RecordKind, RecordWrite, Revision, Store, Stream, Write,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

type Case = fn(Arc<dyn Store>) -> LocalBoxFuture<'static, ()>;

/// All cases by name.
const CASES: &[(&str, Case)] = &[
    ("a new store is empty", |s| a_new_store_is_empty(s).boxed_local()),
    ("versions and revisions grow", |s| versions_and_revisions_grow(s).boxed_local()),
    ("every precondition is checked", |s| every_precondition_is_checked(s).boxed_local()),
    ("a commit is all or nothing", |s| a_commit_is_all_or_nothing(s).boxed_local()),
    ("checks alone move nothing", |s| checks_alone_move_nothing(s).boxed_local()),
    ("kinds and ids are kept apart", |s| kinds_and_ids_are_kept_apart(s).boxed_local()),
    ("every value comes back as it was", |s| every_value_comes_back_as_it_was(s).boxed_local()),
    ("one of many creators wins", |s| one_of_many_creators_wins(s).boxed_local()),
    ("no update is lost", |s| no_update_is_lost(s).boxed_local()),
    ("a load is one view", |s| a_load_is_one_view(s).boxed_local()),
    ("many documents are loaded", |s| many_documents_are_loaded(s).boxed_local()),
    ("items are taken once", |s| items_are_taken_once(s).boxed_local()),
    ("items expire", |s| items_expire(s).boxed_local()),
    ("records are silent", |s| records_are_silent(s).boxed_local()),
    ("every precondition of records is checked", |s| {
        every_precondition_of_records_is_checked(s).boxed_local()
    }),
    ("a commit of records is all or nothing", |s| a_commit_of_records_is_all_or_nothing(s).boxed_local()),
    ("one of ten replacements wins", |s| one_of_ten_replacements_wins(s).boxed_local()),
    ("records expire from their lists too", |s| records_expire_from_their_lists_too(s).boxed_local()),
    ("a record that is made again is new", |s| a_record_that_is_made_again_is_new(s).boxed_local()),
    ("pages are stable under changes", |s| pages_are_stable_under_changes(s).boxed_local()),
    ("indexes follow a record", |s| indexes_follow_a_record(s).boxed_local()),
    ("a stream keeps its order", |s| a_stream_keeps_its_order(s).boxed_local()),
    ("a stream is read in parts", |s| a_stream_is_read_in_parts(s).boxed_local()),
    ("wrong clocks do not disturb a stream", |s| wrong_clocks_do_not_disturb_a_stream(s).boxed_local()),
    ("many append to one stream", |s| many_append_to_one_stream(s).boxed_local()),
    ("a stream is found by tag", |s| a_stream_is_found_by_tag(s).boxed_local()),
    ("a stream keeps as much as it shall", |s| a_stream_keeps_as_much_as_it_shall(s).boxed_local()),
    ("a cleared stream is empty", |s| a_cleared_stream_is_empty(s).boxed_local()),
    ("a lease has one holder", |s| a_lease_has_one_holder(s).boxed_local()),
    ("a lease expires", |s| a_lease_expires(s).boxed_local()),
    ("a lost lease fences commits", |s| a_lost_lease_fences_commits(s).boxed_local()),
    ("changes are hinted", |s| changes_are_hinted(s).boxed_local()),
    ("hints end with the store", |s| hints_end_with_the_store(s).boxed_local()),
];

/// Runs all cases side by side, each on a store that `make` gives for its number.
pub(crate) async fn run(make: impl Fn(usize) -> Arc<dyn Store>) {
    let running = CASES.iter().enumerate().map(|(number, (name, case))| {
        let case = timeout(Duration::from_secs(60), case(make(number)));
        AssertUnwindSafe(case).catch_unwind().map(move |result| match result {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("{name} (takes too long)")),
            // What panicked was printed when it did.
            Err(_) => Some((*name).to_owned()),
        })
    });
    let failed: Vec<String> = join_all(running).await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "cases that do not hold: {failed:#?}");
}

/// Waits until something holds; the test fails if it does not within some seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn key(id: &str) -> Key {
    Key::new(Kind::Proxy, id)
}

pub(crate) fn put(id: &str, value: Value, expect: Expect) -> Write {
    Write::Put { key: key(id), value, expect }
}

pub(crate) fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis())
        .expect("soon")
}

pub(crate) const ALL: Range =
    Range { after: None, since: 0, until: u64::MAX, tag: None, newest_first: false, limit: usize::MAX };

const KEEP: Keep = Keep { entries: 1_000_000, age: Duration::from_secs(3600) };

pub(crate) fn entry(time: u64, record: &str, tags: &[&str]) -> Entry {
    Entry {
        time,
        record: Bytes::copy_from_slice(record.as_bytes()),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
    }
}

async fn value(store: &dyn Store, id: &str) -> Option<(u64, Value)> {
    store.get(&key(id)).await.expect("read").map(|document| (document.version, document.value))
}

async fn revision(store: &dyn Store) -> Revision {
    store.load().await.expect("loaded").0
}

fn is_conflict<T: std::fmt::Debug>(result: &Result<T, Error>, id: &str) -> bool {
    matches!(result, Err(Error::Conflict { key: found }) if *found == key(id))
}

fn records(logged: &[Logged]) -> Vec<String> {
    logged.iter().map(|logged| String::from_utf8_lossy(&logged.record).into_owned()).collect()
}

async fn a_new_store_is_empty(store: Arc<dyn Store>) {
    store.ping().await.expect("it answers");
    let (revision, documents) = store.load().await.expect("loaded");
    assert_eq!(revision, Revision { epoch: String::new(), n: 0 });
    assert_eq!(store.revision().await.expect("read"), revision);
    assert_eq!(documents, []);
    assert_eq!(value(&*store, "a").await, None);
    assert_eq!(store.list(Kind::Route).await.expect("listed"), []);
    for stream in Stream::ALL {
        assert_eq!(store.range(stream, &ALL).await.expect("read"), []);
        assert_eq!(store.clear(stream).await.expect("cleared"), 0);
    }
    store.release("nobody", "me").await.expect("nothing to release");
}

async fn versions_and_revisions_grow(store: Arc<dyn Store>) {
    let first = store.commit(vec![put("a", json!(1), Expect::Any)]).await.expect("committed");
    assert_eq!(first.n, 1);
    assert!(!first.epoch.is_empty());
    assert_eq!(value(&*store, "a").await, Some((1, json!(1))));
    let writes = vec![put("a", json!(2), Expect::Any), put("b", json!(3), Expect::Any)];
    let second = store.commit(writes).await.expect("committed");
    assert_eq!(second, Revision { n: 2, ..first.clone() });
    assert_eq!(value(&*store, "a").await, Some((2, json!(2))));
    let (revision, documents) = store.load().await.expect("loaded");
    assert_eq!(revision, second);
    assert_eq!(store.revision().await.expect("read"), second);
    let document = |id, version, value| Document { key: key(id), version, value };
    assert_eq!(documents, [document("a", 2, json!(2)), document("b", 1, json!(3))]);
    let (same, raw) = store.load_raw().await.expect("loaded");
    assert_eq!(same, second);
    assert_eq!(raw.iter().map(|raw| &*raw.json).collect::<Vec<_>>(), [b"2", b"3"]);
    assert_eq!(raw.into_iter().map(Raw::read).collect::<Vec<_>>(), documents);
    let delete = Write::Delete { key: key("a"), expect: Expect::Any };
    assert_eq!(store.commit(vec![delete]).await.expect("committed").n, 3);
    assert_eq!(value(&*store, "a").await, None);
}

async fn every_precondition_is_checked(store: Arc<dyn Store>) {
    let table = [
        (Expect::Any, true, true),
        (Expect::Absent, true, false),
        (Expect::Present, false, true),
        (Expect::Version(0), false, false),
        (Expect::Version(1), false, false),
        (Expect::Version(2), false, true),
        (Expect::Version(3), false, false),
    ];
    for (expect, if_absent, if_present) in table {
        for (id, holds) in [("absent", if_absent), ("present", if_present)] {
            for operation in ["put", "delete", "check"] {
                let clean = vec![
                    Write::Delete { key: key("absent"), expect: Expect::Any },
                    Write::Delete { key: key("present"), expect: Expect::Any },
                ];
                store.commit(clean).await.expect("cleaned");
                for n in 1..=2 {
                    store.commit(vec![put("present", json!(n), Expect::Any)]).await.expect("prepared");
                }
                let before = (value(&*store, id).await, revision(&*store).await);
                let write = match operation {
                    "put" => put(id, json!("new"), expect),
                    "delete" => Write::Delete { key: key(id), expect },
                    _ => Write::Check { key: key(id), expect },
                };
                let result = store.commit(vec![write]).await;
                let case = format!("{operation} of {id} with {expect:?}: {result:?}");
                if !holds {
                    assert!(is_conflict(&result, id), "{case}");
                    assert_eq!((value(&*store, id).await, revision(&*store).await), before, "{case}");
                    continue;
                }
                assert!(result.is_ok(), "{case}");
                let after = match (operation, &before.0) {
                    ("put", old) => Some((old.as_ref().map_or(1, |(version, _)| version + 1), json!("new"))),
                    ("delete", _) => None,
                    _ => before.0.clone(),
                };
                assert_eq!(value(&*store, id).await, after, "{case}");
            }
        }
    }
}

async fn a_commit_is_all_or_nothing(store: Arc<dyn Store>) {
    store.commit(vec![put("old", json!(1), Expect::Absent)]).await.expect("committed");
    let before = store.load().await.expect("loaded");
    let writes = vec![
        put("new", json!(1), Expect::Absent),
        put("old", json!(2), Expect::Version(1)),
        Write::Delete { key: key("old"), expect: Expect::Present },
        Write::Check { key: key("missing"), expect: Expect::Present },
    ];
    assert!(is_conflict(&store.commit(writes).await, "missing"));
    assert_eq!(store.load().await.expect("loaded"), before);
    // Preconditions are those of the state before, not of a state in between.
    let writes = vec![
        Write::Delete { key: key("old"), expect: Expect::Present },
        put("old", json!(3), Expect::Absent),
    ];
    assert!(is_conflict(&store.commit(writes).await, "old"));
    assert_eq!(store.load().await.expect("loaded"), before);
    let secret = Key::new(Kind::Secret, "old");
    let writes = vec![
        put("old", json!(4), Expect::Version(1)),
        Write::Put { key: secret.clone(), value: json!("sealed"), expect: Expect::Absent },
        Write::Check { key: key("missing"), expect: Expect::Absent },
    ];
    store.commit(writes).await.expect("committed");
    assert_eq!(value(&*store, "old").await, Some((2, json!(4))));
    assert!(store.get(&secret).await.expect("read").is_some());
}

async fn checks_alone_move_nothing(store: Arc<dyn Store>) {
    let check = Write::Check { key: key("a"), expect: Expect::Absent };
    let nothing = store.commit(vec![check.clone()]).await.expect("held");
    assert_eq!(nothing, Revision { epoch: String::new(), n: 0 });
    let first = store.commit(vec![put("b", json!(1), Expect::Any)]).await.expect("committed");
    let delete = Write::Delete { key: key("a"), expect: Expect::Any };
    assert_eq!(store.commit(vec![check, delete]).await.expect("held"), first);
    assert_eq!(store.commit(Vec::new()).await.expect("nothing to do"), first);
    assert_eq!(revision(&*store).await, first);
}

async fn kinds_and_ids_are_kept_apart(store: Arc<dyn Store>) {
    let ids = ["", " ", "*.example.com", "a", "a:b", "a\nb", "ab", "B", "{x}", "é", "日本", "0 7"];
    let mut writes = Vec::new();
    for kind in Kind::ALL {
        for id in ids {
            let value = json!([kind.as_str(), id]);
            writes.push(Write::Put { key: Key::new(kind, id), value, expect: Expect::Absent });
        }
    }
    store.commit(writes).await.expect("committed");
    let mut sorted = ids;
    sorted.sort_unstable();
    for kind in Kind::ALL {
        let listed = store.list(kind).await.expect("listed");
        let found: Vec<&str> = listed.iter().map(|document| document.key.id.as_str()).collect();
        assert_eq!(found, sorted, "{kind}");
        for document in listed {
            assert_eq!(document.value, json!([kind.as_str(), document.key.id]));
            assert_eq!(store.get(&document.key).await.expect("read"), Some(document));
        }
    }
    assert_eq!(store.load().await.expect("loaded").1.len(), ids.len() * Kind::ALL.len());
}

async fn every_value_comes_back_as_it_was(store: Arc<dyn Store>) {
    let values = [
        json!(null),
        json!(""),
        json!(-1),
        json!(u64::MAX),
        json!(0.1),
        json!([]),
        json!({}),
        json!({ "a": { "b": [1, { "c": null }], "\u{0}": "\r\n\"\\" }, "日": "é" }),
        json!("x".repeat(1 << 20)),
    ];
    for (version, value) in (1..).zip(&values) {
        store.commit(vec![put("a", value.clone(), Expect::Any)]).await.expect("committed");
        let stored = store.get(&key("a")).await.expect("read").expect("there");
        assert_eq!((stored.version, &stored.value), (version, value));
    }
}

async fn one_of_many_creators_wins(store: Arc<dyn Store>) {
    for round in 0..5 {
        let id = format!("round-{round}");
        let mut creators = JoinSet::new();
        for creator in 0..16 {
            let (store, id) = (store.clone(), id.clone());
            creators.spawn(async move { store.commit(vec![put(&id, json!(creator), Expect::Absent)]).await });
        }
        let results = creators.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(results.iter().all(|result| result.is_ok() || is_conflict(result, &id)));
    }
    assert_eq!(revision(&*store).await.n, 5);
}

async fn no_update_is_lost(store: Arc<dyn Store>) {
    store.commit(vec![put("n", json!(0), Expect::Absent)]).await.expect("created");
    let mut counters = JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        counters.spawn(async move {
            let mut counted = 0;
            while counted < 5 {
                let (version, value) = value(&*store, "n").await.expect("there");
                let next = json!(value.as_u64().expect("a number") + 1);
                match store.commit(vec![put("n", next, Expect::Version(version))]).await {
                    Ok(_) => counted += 1,
                    Err(error) => assert!(matches!(error, Error::Conflict { .. }), "{error}"),
                }
            }
        });
    }
    counters.join_all().await;
    assert_eq!(value(&*store, "n").await, Some((21, json!(20))));
}

async fn a_load_is_one_view(store: Arc<dyn Store>) {
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 1..=40 {
                let other =
                    Write::Put { key: Key::new(Kind::Key, "b"), value: json!(n), expect: Expect::Any };
                store.commit(vec![put("a", json!(n), Expect::Any), other]).await.expect("committed");
            }
        }
    });
    while !writer.is_finished() {
        let (revision, documents) = store.load().await.expect("loaded");
        for document in &documents {
            assert_eq!(document.value, json!(revision.n));
        }
        assert!(documents.len() == 2 || revision.n == 0);
    }
    writer.await.expect("no panic");
}

async fn many_documents_are_loaded(store: Arc<dyn Store>) {
    let writes = (0..2000).map(|n| put(&format!("{n:04}.example.com"), json!({ "n": n }), Expect::Absent));
    store.commit(writes.collect()).await.expect("committed");
    let (revision, documents) = store.load().await.expect("loaded");
    assert_eq!((revision.n, documents.len()), (1, 2000));
    assert!(documents.iter().enumerate().all(|(n, document)| document.value == json!({ "n": n })));
}

async fn items_are_taken_once(store: Arc<dyn Store>) {
    let item = |id: &str| ItemKey { kind: "code", id: id.into() };
    let day = Duration::from_secs(86_400);
    assert_eq!(store.get_item(&item("a")).await.expect("read"), None);
    assert_eq!(store.take_item(&item("a")).await.expect("read"), None);
    let bytes = [0, 255, b'\r', b'\n', 7];
    store.put_item(&item("a"), b"old", day).await.expect("put");
    store.put_item(&item("a"), &bytes, day).await.expect("put");
    store.put_item(&item("b"), b"", day).await.expect("put");
    store.put_item(&ItemKey { kind: "state", id: "a".into() }, b"other", Duration::MAX).await.expect("put");
    assert_eq!(store.get_item(&item("a")).await.expect("read").as_deref(), Some(&bytes[..]));
    assert_eq!(store.get_item(&item("b")).await.expect("read").as_deref(), Some(&b""[..]));
    let mut takers = JoinSet::new();
    for _ in 0..16 {
        let (store, item) = (store.clone(), item("a"));
        takers.spawn(async move { store.take_item(&item).await.expect("taken") });
    }
    let taken: Vec<_> = takers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken, [bytes.to_vec()]);
    assert_eq!(store.get_item(&item("a")).await.expect("read"), None);
    let other = ItemKey { kind: "state", id: "a".into() };
    assert_eq!(store.take_item(&other).await.expect("taken").as_deref(), Some(&b"other"[..]));
}

async fn items_expire(store: Arc<dyn Store>) {
    let item = |id: &str| ItemKey { kind: "code", id: id.into() };
    store.put_item(&item("short"), b"x", Duration::from_millis(50)).await.expect("put");
    store.put_item(&item("taken"), b"x", Duration::from_millis(50)).await.expect("put");
    store.put_item(&item("long"), b"x", Duration::from_secs(100)).await.expect("put");
    eventually("the item expires", async || store.get_item(&item("short")).await.expect("read").is_none())
        .await;
    eventually("the other item expires", async || {
        store.get_item(&item("taken")).await.expect("read").is_none()
    })
    .await;
    assert_eq!(store.take_item(&item("taken")).await.expect("read"), None);
    assert!(store.get_item(&item("long")).await.expect("read").is_some());
    store.put_item(&item("short"), b"again", Duration::from_secs(100)).await.expect("put");
    assert!(store.take_item(&item("short")).await.expect("read").is_some());
}

const DAY: Duration = Duration::from_secs(86_400);

fn grant(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Grant, id)
}

fn record(id: &str, value: &str, expect: Expect, indexes: &[&str]) -> RecordWrite {
    RecordWrite::Put {
        key: grant(id),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl: Some(DAY),
        expect,
        indexes: indexes.iter().map(|&index| index.to_owned()).collect(),
    }
}

async fn read(store: &dyn Store, id: &str) -> Option<Record> {
    store.get_record(&grant(id)).await.expect("read")
}

/// Version and content.
async fn content(store: &dyn Store, id: &str) -> Option<(u64, Bytes)> {
    read(store, id).await.map(|record| (record.version, record.value))
}

async fn listed(store: &dyn Store, index: Option<&str>) -> Vec<String> {
    let page = store.list_records(RecordKind::Grant, index, None, MAX_PAGE).await.expect("listed");
    assert_eq!(page.next, None);
    let count = store.count_records(RecordKind::Grant, index).await.expect("counted");
    assert_eq!(count, page.records.len() as u64, "{index:?}");
    page.records.into_iter().map(|record| record.key.id).collect()
}

fn is_record_conflict(result: &Result<(), Error>, id: &str) -> bool {
    matches!(result, Err(Error::RecordConflict { key }) if *key == grant(id))
}

async fn records_are_silent(store: Arc<dyn Store>) {
    assert_eq!(read(&*store, "a").await, None);
    assert_eq!(listed(&*store, None).await, Vec::<String>::new());
    let bytes = [0, 255, b'\r', b'\n', 7];
    let ids = ["", " ", "https://client.example.com/a?b#c", "a:b", "a\nb", "{x}", "é", "日本"];
    for kind in RecordKind::ALL {
        for id in ids {
            let write = RecordWrite::Put {
                key: RecordKey::new(kind, id),
                value: Bytes::copy_from_slice(&bytes),
                ttl: None,
                expect: Expect::Absent,
                indexes: vec![format!("id:{id}"), "{odd}:\n\"".into()],
            };
            store.commit_records(vec![write]).await.expect("committed");
        }
    }
    for kind in RecordKind::ALL {
        assert_eq!(store.count_records(kind, None).await.expect("counted"), ids.len() as u64);
        assert_eq!(store.count_records(kind, Some("{odd}:\n\"")).await.expect("counted"), ids.len() as u64);
        for id in ids {
            let found = store.get_record(&RecordKey::new(kind, id)).await.expect("read").expect("there");
            assert_eq!((found.version, found.until, &found.value[..]), (1, None, &bytes[..]));
            let index = format!("id:{id}");
            let page = store.list_records(kind, Some(&index), None, 9).await.expect("listed");
            assert_eq!((page.records, page.next), (vec![found], None));
        }
    }
    store.commit_records(Vec::new()).await.expect("nothing to do");
    let (revision, documents) = store.load().await.expect("loaded");
    assert_eq!((revision.n, documents.len()), (0, 0), "no reader of the configuration is disturbed");
}

async fn every_precondition_of_records_is_checked(store: Arc<dyn Store>) {
    let table = [
        (Expect::Any, true, true),
        (Expect::Absent, true, false),
        (Expect::Present, false, true),
        (Expect::Version(0), false, false),
        (Expect::Version(1), false, false),
        (Expect::Version(2), false, true),
        (Expect::Version(3), false, false),
    ];
    for (expect, if_absent, if_present) in table {
        for (id, holds) in [("absent", if_absent), ("present", if_present)] {
            for operation in ["put", "delete", "check"] {
                let clean = ["absent", "present"]
                    .map(|id| RecordWrite::Delete { key: grant(id), expect: Expect::Any })
                    .to_vec();
                store.commit_records(clean).await.expect("cleaned");
                for value in ["1", "2"] {
                    let write = record("present", value, Expect::Any, &[]);
                    store.commit_records(vec![write]).await.expect("prepared");
                }
                let before = content(&*store, id).await;
                let write = match operation {
                    "put" => record(id, "new", expect, &[]),
                    "delete" => RecordWrite::Delete { key: grant(id), expect },
                    _ => RecordWrite::Check { key: grant(id), expect },
                };
                let result = store.commit_records(vec![write]).await;
                let case = format!("{operation} of {id} with {expect:?}: {result:?}");
                let after = match (holds, operation, &before) {
                    (true, "put", old) => {
                        Some((old.as_ref().map_or(1, |(version, _)| version + 1), "new".into()))
                    }
                    (true, "delete", _) => None,
                    _ => before.clone(),
                };
                assert!(if holds { result.is_ok() } else { is_record_conflict(&result, id) }, "{case}");
                assert_eq!(content(&*store, id).await, after, "{case}");
            }
        }
    }
}

async fn a_commit_of_records_is_all_or_nothing(store: Arc<dyn Store>) {
    store.commit_records(vec![record("old", "1", Expect::Absent, &["i"])]).await.expect("committed");
    let before = read(&*store, "old").await;
    let writes = vec![
        record("new", "1", Expect::Absent, &["i"]),
        record("old", "2", Expect::Version(1), &["j"]),
        RecordWrite::Delete { key: grant("old"), expect: Expect::Present },
        RecordWrite::Check { key: grant("missing"), expect: Expect::Present },
    ];
    assert!(is_record_conflict(&store.commit_records(writes).await, "missing"));
    assert_eq!((read(&*store, "old").await, read(&*store, "new").await), (before, None));
    assert_eq!(
        (listed(&*store, Some("i")).await, listed(&*store, Some("j")).await),
        (vec!["old".into()], vec![])
    );
    let other = RecordKey::new(RecordKind::Access, "old");
    let writes = vec![
        record("old", "3", Expect::Version(1), &[]),
        RecordWrite::Put {
            key: other.clone(),
            value: "x".into(),
            ttl: None,
            expect: Expect::Absent,
            indexes: vec![],
        },
        RecordWrite::Check { key: grant("missing"), expect: Expect::Absent },
    ];
    store.commit_records(writes).await.expect("committed");
    assert_eq!(content(&*store, "old").await, Some((2, "3".into())));
    assert!(store.get_record(&other).await.expect("read").is_some(), "kinds are apart");
}

async fn one_of_ten_replacements_wins(store: Arc<dyn Store>) {
    store.commit_records(vec![record("a", "start", Expect::Absent, &["i"])]).await.expect("committed");
    for round in 1..=5 {
        let mut writers = JoinSet::new();
        for writer in 0..10 {
            let store = store.clone();
            writers.spawn(async move {
                let value = format!("{round} {writer}");
                let write = record("a", &value, Expect::Version(round), &["i"]);
                (value, store.commit_records(vec![write]).await)
            });
        }
        let results = writers.join_all().await;
        let won: Vec<_> = results.iter().filter(|(_, result)| result.is_ok()).collect();
        assert!(results.iter().all(|(_, result)| result.is_ok() || is_record_conflict(result, "a")));
        let [(value, _)] = won[..] else { panic!("{} of ten have won", won.len()) };
        assert_eq!(content(&*store, "a").await, Some((round + 1, value.clone().into())));
    }
    assert_eq!(listed(&*store, Some("i")).await, ["a"]);
}

async fn records_expire_from_their_lists_too(store: Arc<dyn Store>) {
    let short = |id: &str, ttl| RecordWrite::Put {
        key: grant(id),
        value: "x".into(),
        ttl: Some(ttl),
        expect: Expect::Any,
        indexes: vec!["i".into()],
    };
    let soon = Duration::from_millis(50);
    let writes = vec![
        short("now", Duration::ZERO),
        short("soon", soon),
        short("prolonged", soon),
        short("late", DAY),
        short("never", Duration::MAX),
        short("shortened", DAY),
    ];
    store.commit_records(writes).await.expect("committed");
    store.commit_records(vec![short("prolonged", DAY), short("shortened", soon)]).await.expect("committed");
    let until = read(&*store, "late").await.expect("there").until.expect("it ends");
    let day = u64::try_from(DAY.as_millis()).expect("small");
    assert!((day - 60_000..=day + 60_000).contains(&(until - now())));
    for id in ["now", "soon", "shortened"] {
        eventually("the record expires", async || read(&*store, id).await.is_none()).await;
    }
    for index in [None, Some("i")] {
        let mut left = listed(&*store, index).await;
        left.sort_unstable();
        assert_eq!(left, ["late", "never", "prolonged"]);
    }
    // What has expired is absent for preconditions too, and nothing is left of it when it is made again.
    let missing = RecordWrite::Check { key: grant("soon"), expect: Expect::Present };
    assert!(is_record_conflict(&store.commit_records(vec![missing]).await, "soon"));
}

async fn a_record_that_is_made_again_is_new(store: Arc<dyn Store>) {
    let write = |ttl, index: &str| RecordWrite::Put {
        key: grant("a"),
        value: "x".into(),
        ttl,
        expect: Expect::Absent,
        indexes: vec![index.to_owned(), "both".into()],
    };
    store.commit_records(vec![write(Some(Duration::from_millis(20)), "first")]).await.expect("committed");
    eventually("it expires", async || read(&*store, "a").await.is_none()).await;
    store.commit_records(vec![write(None, "second")]).await.expect("committed");
    // A write that sweeps must not take the new record for the old one.
    store
        .commit_records(vec![record("b", "x", Expect::Absent, &["first", "both"])])
        .await
        .expect("committed");
    let again = read(&*store, "a").await.expect("there");
    assert_eq!((again.version, again.until), (1, None));
    assert_eq!(listed(&*store, Some("first")).await, ["b"]);
    assert_eq!(listed(&*store, Some("second")).await, ["a"]);
    assert_eq!(listed(&*store, Some("both")).await, ["b", "a"]);
    assert_eq!(listed(&*store, None).await, ["b", "a"]);
}

async fn pages_are_stable_under_changes(store: Arc<dyn Store>) {
    let name = |n: u32| format!("{n:03}");
    for n in 0..60 {
        let write = record(&name(n), "x", Expect::Absent, &["all", if n % 2 == 0 { "even" } else { "odd" }]);
        store.commit_records(vec![write]).await.expect("committed");
    }
    for (index, step) in [(None, 1), (Some("all"), 1), (Some("even"), 2)] {
        let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = store.list_records(RecordKind::Grant, index, after, 7).await.expect("listed");
            assert!(page.records.len() <= 7);
            seen.extend(page.records.into_iter().map(|record| record.key.id));
            pages += 1;
            // New ones stand before the first page; what is replaced keeps its place.
            let fresh = format!("new {index:?} {pages}");
            let writes = vec![
                record(&fresh, "x", Expect::Absent, &["all", "even"]),
                record(&name(58), "y", Expect::Present, &["all", "even"]),
                record(&name(0), "y", Expect::Present, &["all", "even"]),
            ];
            store.commit_records(writes).await.expect("committed");
            let Some(next) = page.next else { break };
            after = Some(next.to_string().parse().expect("a cursor"));
        }
        let expected: Vec<String> = (0..60).rev().filter(|n| n % step == 0).map(name).collect();
        let seen: Vec<String> = seen.into_iter().filter(|id| !id.starts_with("new")).collect();
        assert_eq!(seen, expected, "{index:?}");
    }
    let first = store.list_records(RecordKind::Grant, Some("odd"), None, 2).await.expect("listed");
    let rest: Vec<RecordWrite> =
        (0..58).map(|n| RecordWrite::Delete { key: grant(&name(n)), expect: Expect::Any }).collect();
    store.commit_records(rest).await.expect("committed");
    let second = store.list_records(RecordKind::Grant, Some("odd"), first.next, 2).await.expect("listed");
    assert_eq!((second.records, second.next), (Vec::new(), None), "what was removed is not listed");
    let nothing = store.list_records(RecordKind::Grant, None, None, 0).await.expect("listed");
    assert_eq!((nothing.records.len(), nothing.next), (0, None));
    let many =
        (0..MAX_PAGE + 1).map(|n| record(&format!("many {n}"), "x", Expect::Absent, &["many"])).collect();
    store.commit_records(many).await.expect("committed");
    let page = store.list_records(RecordKind::Grant, Some("many"), None, usize::MAX).await.expect("listed");
    assert_eq!(page.records.len(), MAX_PAGE, "a page is bounded, whatever is asked for");
    let page = store.list_records(RecordKind::Grant, Some("many"), page.next, 2).await.expect("listed");
    assert_eq!((page.records.len(), page.next), (1, None));
}

async fn indexes_follow_a_record(store: Arc<dyn Store>) {
    store.commit_records(vec![record("a", "1", Expect::Absent, &["x", "y"])]).await.expect("committed");
    store.commit_records(vec![record("b", "1", Expect::Absent, &["x"])]).await.expect("committed");
    assert_eq!(listed(&*store, Some("x")).await, ["b", "a"]);
    store.commit_records(vec![record("a", "2", Expect::Version(1), &["y", "z"])]).await.expect("committed");
    assert_eq!(listed(&*store, Some("x")).await, ["b"]);
    assert_eq!(listed(&*store, Some("y")).await, ["a"]);
    assert_eq!(listed(&*store, Some("z")).await, ["a"]);
    assert_eq!(listed(&*store, None).await, ["b", "a"]);
    let page = store.list_records(RecordKind::Access, Some("z"), None, 9).await.expect("listed");
    assert_eq!(page.records, [], "indexes of kinds are apart");
    let delete = RecordWrite::Delete { key: grant("a"), expect: Expect::Version(2) };
    store.commit_records(vec![delete]).await.expect("committed");
    for index in ["y", "z"] {
        assert_eq!(listed(&*store, Some(index)).await, Vec::<String>::new());
    }
    assert_eq!(listed(&*store, None).await, ["b"]);
}

async fn a_stream_keeps_its_order(store: Arc<dyn Store>) {
    let base = now() - 60_000;
    let entries: Vec<Entry> =
        (0..1500).map(|n| entry(base + n / 3, &format!("{{\"n\":{n}}}"), &[])).collect();
    for part in entries.chunks(700) {
        store.append(Stream::Requests, part.to_vec(), KEEP).await.expect("appended");
    }
    store.append(Stream::Requests, Vec::new(), KEEP).await.expect("nothing to append");
    let logged = store.range(Stream::Requests, &ALL).await.expect("read");
    assert_eq!(records(&logged), (0..1500).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
    assert!(logged.is_sorted_by(|a, b| a.id < b.id));
    assert_eq!(logged[0].id, EntryId { time: base, sequence: 0 });
    assert_eq!(logged[5].id, EntryId { time: base + 1, sequence: 2 });
    assert_eq!(store.range(Stream::Audit, &ALL).await.expect("read"), [], "streams are apart");
    let mut backward =
        store.range(Stream::Requests, &Range { newest_first: true, ..ALL }).await.expect("read");
    backward.reverse();
    assert_eq!(backward, logged);
}

async fn a_stream_is_read_in_parts(store: Arc<dyn Store>) {
    let base = now() - 60_000;
    let entries = (0..1300).map(|n| entry(base + n / 2, &n.to_string(), &["t"])).collect();
    store.append(Stream::Audit, entries, KEEP).await.expect("appended");
    let read = async |range: Range| {
        let logged = store.range(Stream::Audit, &range).await.expect("read");
        logged
            .iter()
            .map(|entry| std::str::from_utf8(&entry.record).expect("text").parse().expect("a number"))
            .collect::<Vec<u64>>()
    };
    let nothing: [u64; 0] = [];
    for tag in [None, Some("t".to_owned())] {
        let all = Range { tag, ..ALL };
        let time = Range { since: base + 10, until: base + 12, ..all.clone() };
        assert_eq!(read(time.clone()).await, [20, 21, 22, 23, 24, 25]);
        assert_eq!(read(Range { newest_first: true, ..time.clone() }).await, [25, 24, 23, 22, 21, 20]);
        assert_eq!(read(Range { limit: 2, ..time.clone() }).await, [20, 21]);
        assert_eq!(read(Range { limit: 2, newest_first: true, ..time.clone() }).await, [25, 24]);
        assert_eq!(read(Range { limit: 0, ..time }).await, nothing);
        assert_eq!(read(Range { since: base + 700, ..all.clone() }).await, nothing);
        assert_eq!(read(Range { until: base - 1, ..all.clone() }).await, nothing);
        assert_eq!(read(Range { since: 5, until: 4, ..all.clone() }).await, nothing);
        // Page after page sees everything once.
        for newest_first in [false, true] {
            let mut page = Range { newest_first, limit: 600, ..all.clone() };
            let mut seen = Vec::new();
            loop {
                let logged = store.range(Stream::Audit, &page).await.expect("read");
                let Some(last) = logged.last() else { break };
                page.after = Some(last.id);
                seen.extend(records(&logged));
            }
            if newest_first {
                seen.reverse();
            }
            assert_eq!(seen, (0..1300).map(|n| n.to_string()).collect::<Vec<_>>());
        }
    }
}

async fn wrong_clocks_do_not_disturb_a_stream(store: Arc<dyn Store>) {
    let base = now() - 60_000;
    for (time, record) in [(base, "first"), (0, "no clock"), (u64::MAX >> 12, "ahead"), (base + 1, "late")] {
        store.append(Stream::Requests, vec![entry(time, record, &[])], KEEP).await.expect("appended");
    }
    let logged = store.range(Stream::Requests, &ALL).await.expect("read");
    assert_eq!(records(&logged), ["first", "no clock", "ahead", "late"]);
    assert!(logged.is_sorted_by(|a, b| a.id < b.id));
    assert_eq!(logged[1].id, EntryId { time: base, sequence: 1 });
    assert!(logged[3].id.time <= now() + 1000, "the future does not begin because a clock says so");
}

async fn many_append_to_one_stream(store: Arc<dyn Store>) {
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..10 {
                let entries = (0..5).map(|m| entry(now(), &format!("{writer} {}", n * 5 + m), &[])).collect();
                store.append(Stream::Requests, entries, KEEP).await.expect("appended");
            }
        });
    }
    writers.join_all().await;
    let logged = store.range(Stream::Requests, &ALL).await.expect("read");
    assert_eq!(logged.iter().map(|logged| logged.id).collect::<HashSet<_>>().len(), 400);
    for writer in 0..8 {
        let prefix = format!("{writer} ");
        let own: Vec<String> = records(&logged)
            .iter()
            .filter_map(|record| record.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        assert_eq!(own, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

async fn a_stream_is_found_by_tag(store: Arc<dyn Store>) {
    let base = now() - 60_000;
    let entries = (0..100).map(|n| {
        let host = if n % 3 == 0 { "host:a" } else { "host:b" };
        let tags: &[&str] = if n % 10 == 0 { &[] } else { &[host, "all"] };
        entry(base + n, &n.to_string(), tags)
    });
    store.append(Stream::Requests, entries.collect(), KEEP).await.expect("appended");
    let tagged = |tag: &str| Range { tag: Some(tag.into()), ..ALL };
    let a = store.range(Stream::Requests, &tagged("host:a")).await.expect("read");
    let expected: Vec<String> =
        (0..100).filter(|n| n % 3 == 0 && n % 10 != 0).map(|n| n.to_string()).collect();
    assert_eq!(records(&a), expected);
    assert_eq!(store.range(Stream::Requests, &tagged("all")).await.expect("read").len(), 90);
    assert_eq!(store.range(Stream::Requests, &tagged("host")).await.expect("read"), []);
    assert_eq!(store.range(Stream::Audit, &tagged("all")).await.expect("read"), []);
    let newest = Range { newest_first: true, limit: 2, ..tagged("host:a") };
    assert_eq!(records(&store.range(Stream::Requests, &newest).await.expect("read")), ["99", "96"]);
}

async fn a_stream_keeps_as_much_as_it_shall(store: Arc<dyn Store>) {
    let keep = Keep { entries: 1000, age: Duration::from_secs(3600) };
    let base = now() - 60_000;
    for part in 0..50 {
        let entries = (0..100).map(|n| entry(base + part * 100 + n, "{}", &["t"])).collect();
        store.append(Stream::Requests, entries, keep).await.expect("appended");
    }
    for tag in [None, Some("t".to_owned())] {
        let kept = store.range(Stream::Requests, &Range { tag, ..ALL }).await.expect("read");
        assert!((1000..=1200).contains(&kept.len()), "kept {}", kept.len());
        assert_eq!(kept.last().expect("some").id.time, base + 4999);
    }
    let old = now() - 3_000_000;
    let entries = (0..500).map(|n| entry(old + n, "old", &["t"])).collect();
    store.append(Stream::Audit, entries, keep).await.expect("appended");
    assert_eq!(store.range(Stream::Audit, &ALL).await.expect("read").len(), 500);
    let short = Keep { entries: 1000, age: Duration::from_secs(600) };
    for time in [now() - 1000, now()] {
        store.append(Stream::Audit, vec![entry(time, "new", &["t"])], short).await.expect("appended");
    }
    for tag in [None, Some("t".to_owned())] {
        let kept = store.range(Stream::Audit, &Range { tag, ..ALL }).await.expect("read");
        assert_eq!(records(&kept), ["new", "new"]);
    }
}

async fn a_cleared_stream_is_empty(store: Arc<dyn Store>) {
    let time = now() - 1000;
    let entries = (0..10).map(|n| entry(time + n, "{}", &["t"])).collect();
    store.append(Stream::Requests, entries, KEEP).await.expect("appended");
    store.append(Stream::Audit, vec![entry(time, "{}", &[])], KEEP).await.expect("appended");
    let last = store.range(Stream::Requests, &ALL).await.expect("read").last().expect("some").id;
    assert_eq!(store.clear(Stream::Requests).await.expect("cleared"), 10);
    assert_eq!(store.clear(Stream::Requests).await.expect("cleared"), 0);
    for tag in [None, Some("t".to_owned())] {
        assert_eq!(store.range(Stream::Requests, &Range { tag, ..ALL }).await.expect("read"), []);
    }
    assert_eq!(store.range(Stream::Audit, &ALL).await.expect("read").len(), 1);
    store.append(Stream::Requests, vec![entry(time, "{}", &[])], KEEP).await.expect("appended");
    let after = Range { after: Some(last), ..ALL };
    let followed = store.range(Stream::Requests, &after).await.expect("read");
    assert_eq!(followed.len(), 1, "who follows the stream sees what comes after");
}

async fn a_lease_has_one_holder(store: Arc<dyn Store>) {
    let ttl = Duration::from_secs(60);
    let mut holders = JoinSet::new();
    for holder in 0..8 {
        let store = store.clone();
        holders.spawn(async move {
            let lease = store.acquire("renewer", &format!("node {holder}"), ttl).await.expect("asked");
            lease.map(|lease| (holder, lease.number))
        });
    }
    let held: Vec<_> = holders.join_all().await.into_iter().flatten().collect();
    let [(holder, number)] = held[..] else { panic!("{held:?}") };
    let winner = format!("node {holder}");
    let renewed = store.acquire("renewer", &winner, ttl).await.expect("asked").expect("still held");
    assert_eq!(renewed.number, number, "renewing is not a new holder");
    assert!(store.acquire("other", "node x", ttl).await.expect("asked").is_some(), "leases are apart");
    store.release("renewer", "node x").await.expect("ignored");
    assert!(store.acquire("renewer", "node x", ttl).await.expect("asked").is_none());
    store.release("renewer", &winner).await.expect("released");
    let next = store.acquire("renewer", "node x", ttl).await.expect("asked").expect("free");
    assert!(next.number > number);
    store.release("renewer", "node x").await.expect("released");
    let again = store.acquire("renewer", "node x", ttl).await.expect("asked").expect("free");
    assert!(again.number > next.number, "a lease given back is not the old one");
}

async fn a_lease_expires(store: Arc<dyn Store>) {
    let first = store.acquire("l", "a", Duration::from_millis(50)).await.expect("asked").expect("free");
    let mut second = None;
    eventually("the lease expires", async || {
        second = store.acquire("l", "b", Duration::from_secs(60)).await.expect("asked");
        second.is_some()
    })
    .await;
    assert!(second.expect("held").number > first.number);
    assert!(store.acquire("l", "a", Duration::from_secs(60)).await.expect("asked").is_none());
}

async fn a_lost_lease_fences_commits(store: Arc<dyn Store>) {
    let fenced = async |lease: &str, number| {
        let fence = Write::Fence { lease: lease.into(), number };
        store.commit(vec![put("a", json!(number), Expect::Any), fence]).await
    };
    let minute = Duration::from_secs(60);
    let refused = fenced("l", 1).await.expect_err("nobody holds it");
    assert!(matches!(refused, Error::Fenced { lease } if lease == "l"));
    let lease = store.acquire("l", "a", minute).await.expect("asked").expect("free");
    fenced("l", lease.number).await.expect("held");
    assert!(fenced("l", lease.number + 1).await.is_err());
    assert!(fenced("other", lease.number).await.is_err());
    let held = (revision(&*store).await, value(&*store, "a").await);
    store.release("l", "a").await.expect("released");
    assert!(fenced("l", lease.number).await.is_err(), "given back");
    let next = store.acquire("l", "b", Duration::from_millis(50)).await.expect("asked").expect("free");
    assert!(fenced("l", lease.number).await.is_err(), "somebody else holds it");
    eventually("the lease expires", async || {
        let fence = Write::Fence { lease: "l".into(), number: next.number };
        matches!(store.commit(vec![fence]).await, Err(Error::Fenced { .. }))
    })
    .await;
    assert_eq!((revision(&*store).await, value(&*store, "a").await), held, "nothing was written");
}

async fn changes_are_hinted(store: Arc<dyn Store>) {
    let empty = revision(&*store).await;
    let mut early = store.changes(empty.clone());
    let first = store.commit(vec![put("a", json!(0), Expect::Any)]).await.expect("committed");
    assert_eq!(early.next().await.expect("a hint"), first);
    // Who comes late hears of what was before.
    let mut late = store.changes(empty);
    assert_eq!(late.next().await.expect("a hint"), first);
    // Who has seen it does not.
    let mut current = store.changes(first.clone());
    assert!(timeout(Duration::from_millis(100), current.next()).await.is_err(), "nothing has changed");
    // Many changes are few hints, and the last one is the newest.
    for n in 1..=50 {
        store.commit(vec![put("a", json!(n), Expect::Any)]).await.expect("committed");
    }
    let last = Revision { n: 51, ..first };
    for feed in [&mut early, &mut late, &mut current] {
        let mut hints = 0;
        loop {
            let hint = feed.next().await.expect("a hint");
            hints += 1;
            assert!(hints <= 50, "every change is hinted at most once");
            if hint == last {
                break;
            }
        }
    }
    // A commit without changes wakes nobody.
    store.commit(vec![Write::Check { key: key("a"), expect: Expect::Present }]).await.expect("held");
    assert!(timeout(Duration::from_millis(100), current.next()).await.is_err());
    let next = store.commit(vec![put("b", json!(1), Expect::Any)]).await.expect("committed");
    let hint = timeout(Duration::from_secs(1), current.next()).await.expect("within a second");
    assert_eq!(hint, Some(next));
}

async fn hints_end_with_the_store(store: Arc<dyn Store>) {
    let revision = store.commit(vec![put("a", json!(1), Expect::Any)]).await.expect("committed");
    let mut changes = store.changes(revision);
    assert!(timeout(Duration::from_millis(20), changes.next()).await.is_err());
    drop(store);
    assert_eq!(changes.next().await, None);
}
