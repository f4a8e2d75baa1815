//! One process for a data directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::OpenError;
use crate::store::segments::open_file;

const LOCK_FILE: &str = "lock";

/// Locks the directory for this process.
pub(super) fn lock(dir: &Path) -> std::result::Result<File, OpenError> {
    let path = dir.join(LOCK_FILE);
    let failed = |source| OpenError::File { path: path.clone(), source };
    let mut file = open_file(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(source)) => return Err(failed(source)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = Read::take(&file, 32).read_to_string(&mut holder).is_ok_and(|length| length > 0);
            let holder = if known { format!(" (process {})", holder.trim()) } else { holder };
            return Err(OpenError::InUse { dir: dir.to_owned(), holder, lock: path.clone() });
        }
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}
