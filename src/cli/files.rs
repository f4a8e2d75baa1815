//! Files that a command writes: private from their first moment, and nobody else's.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// For what only the owner may read.
pub(crate) const PRIVATE: u32 = 0o600;

/// For what everybody may read, as far as the umask allows it.
pub(crate) const PUBLIC: u32 = 0o644;

/// Writes a file that is not there yet. A link in its place is not followed, wherever it leads.
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // The mode is that of the file from the beginning, and `O_EXCL` refuses whatever has the name.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content).and_then(|()| file.sync_all()).inspect_err(|_| {
        // Half of a file is worse than none; if that fails, too, the first error tells enough.
        let _removed = fs::remove_file(path);
    })
}

/// Writes a file in place of what has its name, a link among it: whoever reads it gets the old or the new one, whole.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let fresh = beside(path)?;
    create(&fresh, content, mode)?;
    fs::rename(&fresh, path).inspect_err(|_| {
        let _removed = fs::remove_file(&fresh);
    })
}

/// A name in the same folder that nobody else uses at this moment.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(path.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_has_the_name_stays_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("key.pem"), dir.path().join("other"));
        create(&path, b"one", PRIVATE).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one".to_vec(), 0o600));
        assert_eq!(create(&path, b"two", PRIVATE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let link = dir.path().join("link");
        symlink(&other, &link).unwrap();
        assert_eq!(create(&link, b"two", PRIVATE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!other.exists(), "a link that leads nowhere is no place to write to");
    }

    #[test]
    fn what_is_replaced_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (other, link) = (dir.path().join("other"), dir.path().join("link"));
        fs::write(&other, "another's").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o666)).unwrap();
        symlink(&other, &link).unwrap();
        replace(&link, b"new", PRIVATE).unwrap();
        assert_eq!((fs::read(&link).unwrap(), mode(&link)), (b"new".to_vec(), 0o600));
        assert_eq!(fs::read(&other).unwrap(), b"another's");
        replace(&other, b"new", PRIVATE).unwrap();
        assert_eq!(mode(&other), 0o600, "what was open before is not any more");
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        assert!(replace(&folder, b"new", PRIVATE).is_err());
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "nothing is left behind: {names:?}");
    }
}
