//! Records: one table for them, one for their indexes, and one that says what to remove when.

use redb::{ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::{DATABASE_FILE, Inner, failed, now};
use crate::store::{
    Error, Expect, MAX_PAGE, Record, RecordCursor, RecordKey, RecordKind, RecordPage, RecordWrite, Result,
    milliseconds,
};

/// Version, place, end, indexes as JSON, and content.
type Row<'a> = (u64, u64, u64, &'a str, &'a [u8]);

/// Kind and id, to the record.
const RECORDS: TableDefinition<'_, (&str, &str), Row<'_>> = TableDefinition::new("records");
/// Kind, index, place and id, to the end. The list of a whole kind has an empty name.
const INDEXES: TableDefinition<'_, (&str, &str, u64, &str), u64> = TableDefinition::new("record indexes");
/// End, kind and id.
const EXPIRIES: TableDefinition<'_, (u64, &str, &str), ()> = TableDefinition::new("record expiries");
/// One row: the last place that was given.
const PLACE: TableDefinition<'_, (), u64> = TableDefinition::new("record place");

/// The end of what has none.
const NEVER: u64 = u64::MAX;

/// How many expired records a commit removes: the first one after a quiet night must not take long.
const SWEEP: usize = 256;

pub(super) fn make_tables(transaction: &WriteTransaction) -> std::result::Result<(), redb::Error> {
    transaction.open_table(RECORDS)?;
    transaction.open_table(INDEXES)?;
    transaction.open_table(EXPIRIES)?;
    transaction.open_table(PLACE)?;
    Ok(())
}

impl Inner {
    pub(super) fn get_record(&self, key: RecordKey) -> Result<Option<Record>> {
        let view = self.database.begin_read().map_err(failed)?;
        let records = view.open_table(RECORDS).map_err(failed)?;
        let row = records.get((key.kind.as_str(), key.id.as_str())).map_err(failed)?;
        Ok(row.and_then(|row| record(key, row.value(), now())))
    }

    pub(super) fn list_records(
        &self,
        kind: RecordKind,
        index: &str,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<RecordPage> {
        let limit = limit.min(MAX_PAGE);
        let mut page = RecordPage::default();
        if limit == 0 {
            return Ok(page);
        }
        let now = now();
        let view = self.database.begin_read().map_err(failed)?;
        let records = view.open_table(RECORDS).map_err(failed)?;
        let indexes = view.open_table(INDEXES).map_err(failed)?;
        let kind_name = kind.as_str();
        // Places start at 1, and no two records share one.
        let end = after.map_or(u64::MAX, |after| after.0);
        let rows = indexes.range((kind_name, index, 0, "")..(kind_name, index, end, "")).map_err(failed)?;
        for row in rows.rev() {
            let (entry, until) = row.map_err(failed)?;
            let (_, _, _, id) = entry.value();
            if until.value() <= now {
                continue;
            }
            if page.records.len() == limit {
                page.next = page.records.last().map(|record| record.cursor);
                break;
            }
            let row = records.get((kind_name, id)).map_err(failed)?;
            page.records.extend(row.and_then(|row| record(RecordKey::new(kind, id), row.value(), now)));
        }
        Ok(page)
    }

    pub(super) fn count_records(&self, kind: RecordKind, index: &str) -> Result<u64> {
        let now = now();
        let view = self.database.begin_read().map_err(failed)?;
        let indexes = view.open_table(INDEXES).map_err(failed)?;
        let kind = kind.as_str();
        let mut count = 0;
        for row in indexes.range((kind, index, 0, "")..(kind, index, u64::MAX, "")).map_err(failed)? {
            let (_, until) = row.map_err(failed)?;
            count += u64::from(until.value() > now);
        }
        Ok(count)
    }

    pub(super) fn commit_records(&self, writes: &[RecordWrite]) -> Result<()> {
        let now = now();
        let transaction = self.begin_write()?;
        let changed = {
            let mut tables = Tables {
                records: transaction.open_table(RECORDS).map_err(failed)?,
                indexes: transaction.open_table(INDEXES).map_err(failed)?,
                expiries: transaction.open_table(EXPIRIES).map_err(failed)?,
                place: transaction.open_table(PLACE).map_err(failed)?,
            };
            tables.check(writes, now)?;
            let changed = writes.iter().any(|write| !matches!(write, RecordWrite::Check { .. }));
            if changed {
                tables.sweep(now)?;
                tables.apply(writes, now)?;
            }
            changed
        };
        if changed { transaction.commit().map_err(failed) } else { transaction.abort().map_err(failed) }
    }
}

struct Tables<'a> {
    records: Table<'a, (&'static str, &'static str), Row<'static>>,
    indexes: Table<'a, (&'static str, &'static str, u64, &'static str), u64>,
    expiries: Table<'a, (u64, &'static str, &'static str), ()>,
    place: Table<'a, (), u64>,
}

impl Tables<'_> {
    /// All preconditions, on the state before the commit.
    fn check(&self, writes: &[RecordWrite], now: u64) -> Result<()> {
        for write in writes {
            let key = write.key();
            let row = self.records.get((key.kind.as_str(), key.id.as_str())).map_err(failed)?;
            let version = row.and_then(|row| {
                let (version, _, until, ..) = row.value();
                (until > now).then_some(version)
            });
            let holds = match write.expect() {
                Expect::Any => true,
                Expect::Absent => version.is_none(),
                Expect::Present => version.is_some(),
                Expect::Version(expected) => version == Some(expected),
            };
            if !holds {
                return Err(Error::RecordConflict { key: key.clone() });
            }
        }
        Ok(())
    }

    fn apply(&mut self, writes: &[RecordWrite], now: u64) -> Result<()> {
        for write in writes {
            match write {
                RecordWrite::Put { key, value, ttl, indexes, .. } => {
                    let (kind, id) = (key.kind.as_str(), key.id.as_str());
                    // What has expired is no predecessor: its version and its place end with it.
                    let old = self.remove(kind, id)?.filter(|old| old.until > now);
                    let (version, place) = match old {
                        Some(old) => (old.version + 1, old.place),
                        None => (1, self.next_place(now)?),
                    };
                    let until = ttl.map_or(NEVER, |ttl| now.saturating_add(milliseconds(ttl).max(1)));
                    let names = serde_json::to_string(indexes).map_err(|error| damaged(kind, id, error))?;
                    let row = (version, place, until, names.as_str(), &value[..]);
                    self.records.insert((kind, id), row).map_err(failed)?;
                    for name in indexes.iter().map(String::as_str).chain([""]) {
                        self.indexes.insert((kind, name, place, id), until).map_err(failed)?;
                    }
                    if until != NEVER {
                        self.expiries.insert((until, kind, id), ()).map_err(failed)?;
                    }
                }
                RecordWrite::Delete { key, .. } => {
                    self.remove(key.kind.as_str(), &key.id)?;
                }
                RecordWrite::Check { .. } => {}
            }
        }
        Ok(())
    }

    /// Removes a record from all tables.
    fn remove(&mut self, kind: &str, id: &str) -> Result<Option<Old>> {
        let (old, names) = {
            let Some(row) = self.records.remove((kind, id)).map_err(failed)? else { return Ok(None) };
            let (version, place, until, names, _) = row.value();
            (Old { version, place, until }, names.to_owned())
        };
        let names: Vec<String> = serde_json::from_str(&names).map_err(|error| damaged(kind, id, error))?;
        for name in names.iter().map(String::as_str).chain([""]) {
            self.indexes.remove((kind, name, old.place, id)).map_err(failed)?;
        }
        self.expiries.remove((old.until, kind, id)).map_err(failed)?;
        Ok(Some(old))
    }

    fn sweep(&mut self, now: u64) -> Result<()> {
        let mut dead = Vec::new();
        for row in self.expiries.range(..(now, "", "")).map_err(failed)?.take(SWEEP) {
            let (key, _) = row.map_err(failed)?;
            let (_, kind, id) = key.value();
            dead.push((kind.to_owned(), id.to_owned()));
        }
        for (kind, id) in dead {
            self.remove(&kind, &id)?;
        }
        Ok(())
    }

    /// Microseconds, and never the same twice.
    fn next_place(&mut self, now: u64) -> Result<u64> {
        let last = self.place.get(()).map_err(failed)?.map_or(0, |row| row.value());
        let place = now.saturating_mul(1000).max(last + 1);
        self.place.insert((), place).map_err(failed)?;
        Ok(place)
    }
}

struct Old {
    version: u64,
    place: u64,
    until: u64,
}

fn record(key: RecordKey, (version, place, until, _, value): Row<'_>, now: u64) -> Option<Record> {
    (until > now).then(|| Record {
        key,
        version,
        cursor: RecordCursor(place),
        until: (until != NEVER).then_some(until),
        value: value.to_vec().into(),
    })
}

fn damaged(kind: &str, id: &str, error: serde_json::Error) -> Error {
    Error::Corrupt { place: format!("{DATABASE_FILE}: {kind} {id:?}"), source: Box::new(error) }
}
