//! Commits: preconditions and writes in one transaction.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::{DOCUMENTS, Inner, LEASES, REVISION, failed, now};
use crate::store::{Error, Expect, Result, Revision, Write, new_epoch};

impl Inner {
    pub(super) fn begin_write(&self) -> Result<WriteTransaction> {
        self.database.begin_write().map_err(failed)
    }

    pub(super) fn commit(&self, writes: &[Write]) -> Result<Revision> {
        let transaction = self.begin_write()?;
        check(&transaction, writes)?;
        let changed = apply(&transaction, writes)?;
        let revision = {
            let mut table = transaction.open_table(REVISION).map_err(failed)?;
            let mut revision = stored_revision(&table).map_err(failed)?;
            if changed {
                if revision.epoch.is_empty() {
                    revision.epoch = new_epoch()?;
                }
                revision.n += 1;
                table.insert((), (revision.epoch.as_str(), revision.n)).map_err(failed)?;
            }
            revision
        };
        if !changed {
            transaction.abort().map_err(failed)?;
            return Ok(revision);
        }
        transaction.commit().map_err(failed)?;
        self.revision.send_if_modified(|current| {
            // Of two commits the second one may get here first.
            let newer = revision.n > current.n;
            if newer {
                current.clone_from(&revision);
            }
            newer
        });
        Ok(revision)
    }
}

/// All preconditions, on the state before the commit.
fn check(transaction: &WriteTransaction, writes: &[Write]) -> Result<()> {
    let documents = transaction.open_table(DOCUMENTS).map_err(failed)?;
    let leases = transaction.open_table(LEASES).map_err(failed)?;
    for write in writes {
        match write {
            Write::Put { key, expect, .. } | Write::Delete { key, expect } | Write::Check { key, expect } => {
                let row = documents.get((key.kind.as_str(), key.id.as_str())).map_err(failed)?;
                let version = row.map(|row| row.value().0);
                let holds = match expect {
                    Expect::Any => true,
                    Expect::Absent => version.is_none(),
                    Expect::Present => version.is_some(),
                    Expect::Version(expected) => version == Some(*expected),
                };
                if !holds {
                    return Err(Error::Conflict { key: key.clone() });
                }
            }
            Write::Fence { lease, number } => {
                let row = leases.get(lease.as_str()).map_err(failed)?;
                let held = row.is_some_and(|row| {
                    let (_, until, held) = row.value();
                    held == *number && until > now()
                });
                if !held {
                    return Err(Error::Fenced { lease: lease.clone() });
                }
            }
        }
    }
    Ok(())
}

/// All writes; returns whether there were any.
fn apply(transaction: &WriteTransaction, writes: &[Write]) -> Result<bool> {
    let mut documents = transaction.open_table(DOCUMENTS).map_err(failed)?;
    let mut changed = false;
    for write in writes {
        match write {
            Write::Put { key, value, .. } => {
                let name = (key.kind.as_str(), key.id.as_str());
                let version = documents.get(name).map_err(failed)?.map_or(0, |row| row.value().0);
                let json = serde_json::to_vec(value)
                    .map_err(|error| Error::Corrupt { place: key.to_string(), source: Box::new(error) })?;
                documents.insert(name, (version + 1, json.as_slice())).map_err(failed)?;
                changed = true;
            }
            Write::Delete { key, .. } => {
                let name = (key.kind.as_str(), key.id.as_str());
                changed |= documents.remove(name).map_err(failed)?.is_some();
            }
            Write::Check { .. } | Write::Fence { .. } => {}
        }
    }
    Ok(changed)
}

pub(super) fn read_revision(view: &ReadTransaction) -> std::result::Result<Revision, redb::Error> {
    Ok(stored_revision(&view.open_table(REVISION)?)?)
}

fn stored_revision(
    table: &impl ReadableTable<(), (&'static str, u64)>,
) -> std::result::Result<Revision, redb::StorageError> {
    Ok(table.get(())?.map_or(Revision { epoch: String::new(), n: 0 }, |row| {
        let (epoch, n) = row.value();
        Revision { epoch: epoch.to_owned(), n }
    }))
}
