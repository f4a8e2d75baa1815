//! Profiles: which gateway a name stands for, and the token or the login for it. One file in the home folder, mode
//! 0600. Who changes it holds a lock meanwhile: of two commands at once none loses what the other has written.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use super::oauth::session::Session;

/// The profile that is used when none is named.
pub(crate) const DEFAULT: &str = "default";

/// How long another command may hold the file: as long as a token takes to be renewed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the lock is tried.
const RETRY: Duration = Duration::from_millis(50);

/// All profiles of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Profiles {
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// A gateway and the token for it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reveal")]
    pub(crate) token: Option<SecretString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cacert: Option<PathBuf>,
    /// Tokens of a login; in place of `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<Session>,
}

/// Keeps other commands from changing the profiles until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "closing it ends the lock")] File);

/// The one place where a token is written down: the owner's own file.
#[allow(clippy::ref_option, reason = "serde asks for a reference to the field")]
fn reveal<S: Serializer>(token: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default())
}

/// Why the profiles could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("{}: can't be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: is no file of profiles: {detail}", path.display())]
    Format { path: PathBuf, detail: String },
    #[error("{}: others may read it; run: chmod 600 {}", .0.display(), .0.display())]
    Open(PathBuf),
    #[error("{}: another command has held it for {} s", path.display(), PATIENCE.as_secs())]
    Busy { path: PathBuf },
}

impl Profiles {
    /// The usual place: `~/.config/portcullis/profiles.yml`.
    pub(crate) fn path() -> Option<PathBuf> {
        let home = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
        Some(home.join("portcullis").join("profiles.yml"))
    }

    /// Reads the file; a missing one is empty.
    pub(crate) fn read(path: &Path) -> Result<Self, ProfileError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ProfileError::File { path: path.to_owned(), source }),
        };
        let mode = fs::metadata(path).map(|data| data.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            return Err(ProfileError::Open(path.to_owned()));
        }
        serde_norway::from_str(&text)
            .map_err(|error| ProfileError::Format { path: path.to_owned(), detail: error.to_string() })
    }

    /// Writes the file, readable by its owner only. It is replaced as a whole, never half.
    pub(crate) fn write(&self, path: &Path) -> Result<(), ProfileError> {
        let fail = |source| ProfileError::File { path: path.to_owned(), source };
        let text = serde_norway::to_string(self)
            .map_err(|error| ProfileError::Format { path: path.to_owned(), detail: error.to_string() })?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let fresh = path.with_extension("new");
        private(&fresh, true).and_then(|mut file| file.write_all(text.as_bytes())).map_err(fail)?;
        fs::rename(&fresh, path).map_err(fail)
    }

    /// Waits until no other command changes the profiles. The lock is on a file beside them, because they are
    /// replaced as a whole.
    pub(crate) async fn lock(path: &Path) -> Result<Lock, ProfileError> {
        let path = path.with_extension("lock");
        let fail = |source| ProfileError::File { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let file = private(&path, false).map_err(fail)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::Error(source)) => return Err(fail(source)),
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(TryLockError::WouldBlock) => return Err(ProfileError::Busy { path }),
            }
        }
    }

    /// Changes one profile, made if there is none of that name, as the file has it now.
    pub(crate) async fn change(
        path: &Path,
        name: &str,
        change: impl FnOnce(&mut Profile),
    ) -> Result<(), ProfileError> {
        let _lock = Self::lock(path).await?;
        let mut profiles = Self::read(path)?;
        change(profiles.profiles.entry(name.to_owned()).or_default());
        profiles.write(path)
    }
}

/// Opens a file for writing that nobody else may read.
fn private(path: &Path, empty: bool) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(empty).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/profiles.yml");
        let mut profiles = Profiles::default();
        let profile = Profile { token: Some("secret".into()), ..Profile::default() };
        profiles.profiles.insert(DEFAULT.to_owned(), profile);
        profiles.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Profiles::read(&path).unwrap();
        assert_eq!(read.profiles[DEFAULT].token.as_ref().unwrap().expose_secret(), "secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Profiles::read(&path), Err(ProfileError::Open(_))));
    }
}
