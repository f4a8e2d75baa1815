//! Files and directories that only their owner can read.
//!
//! Directories are made with mode 0700, files with 0600. A directory that exists keeps its mode: it
//! may be somebody else's, and no file in it depends on it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a directory and those above it, unless they exist.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a file that must not exist yet.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Replaces a file in one step: whoever reads it sees the old content or the new one, also after a
/// crash.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let next = write_beside(path, content)?;
    std::fs::rename(&next, path).inspect_err(|_| drop(std::fs::remove_file(&next)))?;
    sync_parent(path)
}

/// Makes a file with its content in one step, unless there is one: then `AlreadyExists`.
pub(crate) fn create_with(path: &Path, content: &[u8]) -> io::Result<()> {
    let next = write_beside(path, content)?;
    // A link fails where a rename would replace what another process has just made.
    let linked = std::fs::hard_link(&next, path);
    std::fs::remove_file(&next)?;
    linked?;
    sync_parent(path)
}

/// A new file with this content on disk, in the same directory.
fn write_beside(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two threads may be about to make the same file.
    static MADE: AtomicU64 = AtomicU64::new(0);
    name.push(format!(".{}-{}.new", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
    let next = path.with_file_name(name);
    // What an earlier process of this id left behind.
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create_new(&next)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(std::fs::remove_file(&next)))?;
    Ok(next)
}

/// Makes the names of a directory survive a crash.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_can_read_what_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("a/b");
        create_dir(&inner).expect("made");
        assert_eq!(mode(&inner), 0o700);
        let file = inner.join("file");
        replace(&file, b"one").expect("written");
        replace(&file, b"two").expect("written");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(std::fs::read(&file).expect("read"), b"two");
        assert_eq!(std::fs::read_dir(&inner).expect("listed").count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_file_that_exists_is_not_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        create_with(&file, b"first").expect("written");
        let again = create_with(&file, b"second").expect_err("it exists");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&file).expect("read"), b"first");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
