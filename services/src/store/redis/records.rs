//! Records in Redis: one hash each, with sorted sets as indexes.

use std::sync::LazyLock;

use redis::{Script, Value, cmd};

use super::{COMMIT_MARK, NO_ARGS, RedisStore, expectation, read};
use crate::store::{
    Error, MAX_PAGE, Record, RecordCursor, RecordKey, RecordKind, RecordPage, RecordWrite, Result,
    milliseconds, new_epoch,
};

static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../records_commit.lua")));
static LIST: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../records_list.lua")));
static COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../records_count.lua")));

/// Version, place, end and content.
type Fields = (Option<u64>, Option<u64>, Option<String>, Option<Vec<u8>>);

impl RedisStore {
    pub(super) async fn read_record(&self, key: &RecordKey) -> Result<Option<Record>> {
        let name = self.keys.record(key);
        let fields: Fields =
            self.run(cmd("HMGET").arg(&name).arg(&["v", "b", "u", "d"]), || key.to_string()).await?;
        record(key.clone(), fields)
    }

    pub(super) async fn write_records(&self, writes: Vec<RecordWrite>) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        // A random name for this commit, so that repeating it after a lost answer changes nothing.
        let mut keys = vec![self.keys.record_commit(&new_epoch()?), self.keys.record_place()];
        let mut args: Vec<Vec<u8>> =
            vec![self.keys.indexes().into(), milliseconds(COMMIT_MARK).to_string().into()];
        for write in &writes {
            let key = write.key();
            keys.push(self.keys.record(key));
            let (operation, life, indexes, value) = match write {
                RecordWrite::Put { ttl, indexes, value, .. } => {
                    // Redis refuses a life of nothing, and one that is longer than its clock goes.
                    let life = ttl.map(|ttl| milliseconds(ttl).clamp(1, u64::from(u32::MAX) * 1000));
                    let indexes = serde_json::to_vec(indexes).map_err(|error| corrupt(key, error))?;
                    ("put", life.map(|life| life.to_string()).unwrap_or_default(), indexes, value.to_vec())
                }
                RecordWrite::Delete { .. } => ("delete", String::new(), Vec::new(), Vec::new()),
                RecordWrite::Check { .. } => ("check", String::new(), Vec::new(), Vec::new()),
            };
            args.extend([
                operation.into(),
                key.kind.to_string().into(),
                key.id.clone().into(),
                expectation(write.expect()).into(),
                life.into(),
                indexes,
                value,
            ]);
        }
        let reply: Vec<String> = self.run_script(&COMMIT, &keys, &args, || "the records".to_owned()).await?;
        match &reply[..] {
            [ok] if ok == "ok" => Ok(()),
            [_, place] => {
                let write = place.parse().ok().and_then(|place: usize| writes.get(place));
                let write = write.ok_or_else(|| unexpected(&reply))?;
                Err(Error::RecordConflict { key: write.key().clone() })
            }
            _ => Err(unexpected(&reply)),
        }
    }

    pub(super) async fn page_of_records(
        &self,
        kind: RecordKind,
        index: Option<&str>,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<RecordPage> {
        let limit = limit.min(MAX_PAGE);
        if limit == 0 {
            return Ok(RecordPage::default());
        }
        let [order, _] = self.keys.index(kind, index);
        let highest = after.map_or_else(|| "+inf".to_owned(), |after| format!("({after}"));
        let args = [highest, limit.to_string(), self.keys.records(kind)];
        let rows: Vec<Value> =
            self.run_script(&LIST, std::slice::from_ref(&order), &args, || order.clone()).await?;
        let mut rows = rows.into_iter();
        let next = match rows.next() {
            Some(next) => read::<String>(next, || order.clone())?,
            None => String::new(),
        };
        let mut page = RecordPage { next: next.parse().ok(), records: Vec::with_capacity(rows.len()) };
        for row in rows {
            let (id, version, place, until, value): (String, _, _, _, _) = read(row, || order.clone())?;
            page.records.extend(record(RecordKey { kind, id }, (version, place, until, value))?);
        }
        Ok(page)
    }

    pub(super) async fn number_of_records(&self, kind: RecordKind, index: Option<&str>) -> Result<u64> {
        let keys = self.keys.index(kind, index);
        self.run_script(&COUNT, &keys, NO_ARGS, || keys[0].clone()).await
    }
}

fn record(key: RecordKey, fields: Fields) -> Result<Option<Record>> {
    let (Some(version), Some(place), until, value) = fields else { return Ok(None) };
    let until = match until.as_deref() {
        None | Some("") => None,
        Some(until) => Some(until.parse().map_err(|error| corrupt(&key, error))?),
    };
    let value = value.unwrap_or_default().into();
    Ok(Some(Record { key, version, cursor: RecordCursor(place), until, value }))
}

fn corrupt(key: &RecordKey, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Corrupt { place: key.to_string(), source: error.into() }
}

fn unexpected(reply: &[String]) -> Error {
    Error::Corrupt { place: "the records".into(), source: format!("unexpected answer {reply:?}").into() }
}
