//! The last applied configuration in a sealed file, for a start while the store is away.
//!
//! The file is a cache: it is written after each change that was applied, read only when the store
//! does not answer at start or is another one than before, and never written back to the store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Document, Key, Raw, Revision, private};
use crate::vault::{self, Vault};

/// What the vault authenticates with the content.
const PURPOSE: &str = "snapshot";

/// Where the snapshot is kept.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    path: PathBuf,
    vault: Arc<Vault>,
    store: Option<String>,
}

/// Why a snapshot can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be written or read.
    #[error("the snapshot {path} can't be accessed")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The vault refused.
    #[error("the snapshot {path} can't be sealed or opened")]
    Vault {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: vault::Error,
    },
    /// The content is of another version of portcullis.
    #[error("the snapshot {path} has a content that can't be read")]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    store: Option<&'a str>,
    revision: &'a Revision,
    documents: Vec<Kept<'a>>,
}

/// A [`Document`] whose content is already written.
#[derive(Serialize)]
struct Kept<'a> {
    key: &'a Key,
    version: u64,
    value: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Json(&'a RawValue),
    Text(Value),
}

impl<'a> From<&'a Raw> for Kept<'a> {
    fn from(raw: &'a Raw) -> Self {
        let value = serde_json::from_slice(&raw.json)
            .map_or_else(|_| Content::Text(raw.clone().read().value), Content::Json);
        Self { key: &raw.key, version: raw.version, value }
    }
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    store: Option<String>,
    revision: Revision,
    documents: Vec<Document>,
}

impl SnapshotFile {
    /// The snapshot at `path`, sealed by `vault`.
    pub fn new(path: impl Into<PathBuf>, vault: Arc<Vault>) -> Self {
        Self { path: path.into(), vault, store: None }
    }

    /// Only for the store at this address: what was kept of another one is not read.
    #[must_use]
    pub fn of_store(self, address: impl Into<String>) -> Self {
        Self { store: Some(address.into()), ..self }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the snapshot in one step; waits for the disk, so not for a thread that serves.
    pub fn write<'a>(
        &self,
        revision: &Revision,
        documents: impl IntoIterator<Item = &'a Raw>,
    ) -> Result<(), Error> {
        let documents = documents.into_iter().map(Kept::from).collect();
        let content = serde_json::to_vec(&Written { store: self.store.as_deref(), revision, documents })
            .map_err(|source| Error::Content { path: self.path.clone(), source })?;
        let sealed = self
            .vault
            .seal_file(PURPOSE, &content)
            .map_err(|source| Error::Vault { path: self.path.clone(), source })?;
        let made = self.path.parent().map_or(Ok(()), private::create_dir);
        made.and_then(|()| private::replace(&self.path, &sealed))
            .map_err(|source| Error::File { path: self.path.clone(), source })
    }

    /// Reads the snapshot; nothing if there never was one of this store.
    pub fn read(&self) -> Result<Option<(Revision, Vec<Document>)>, Error> {
        let sealed = match std::fs::read(&self.path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { path: self.path.clone(), source }),
        };
        let content = self
            .vault
            .open_file(PURPOSE, &sealed)
            .map_err(|source| Error::Vault { path: self.path.clone(), source })?;
        let Read { store, revision, documents } = serde_json::from_slice(&content)
            .map_err(|source| Error::Content { path: self.path.clone(), source })?;
        let is_other = store.is_some() && self.store.is_some() && store != self.store;
        Ok((!is_other).then_some((revision, documents)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::super::Kind;
    use super::*;

    fn vault(key: &str) -> Arc<Vault> {
        Arc::new(Vault::new(&key.into()).expect("a good key"))
    }

    fn documents(target: &str) -> Vec<Document> {
        let key = Key::new(Kind::Proxy, "app.example.com");
        let odd = Document { key: Key::new(Kind::Setting, "odd"), version: 0, value: json!("not { json") };
        vec![Document { key, version: 3, value: json!({ "target": target }) }, odd]
    }

    /// As a store has them; a hand has written the last one.
    fn raw(target: &str) -> Vec<Raw> {
        let mut raw: Vec<_> = documents(target).iter().map(Raw::from).collect();
        raw[1].json = b"not { json"[..].into();
        raw
    }

    #[test]
    fn the_last_written_configuration_is_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data/snapshot");
        let file = SnapshotFile::new(&path, vault("one key that has thirty-two characters"));
        assert_eq!(file.read().expect("no file is no error"), None);
        let revision = |n| Revision { epoch: "e".into(), n };
        file.write(&revision(1), &raw("http://one")).expect("written");
        file.write(&revision(2), &raw("http://two")).expect("written");
        assert_eq!(file.read().expect("read"), Some((revision(2), documents("http://two"))));
        let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let raw = std::fs::read(&path).expect("read");
        assert!(!raw.windows(10).any(|part| part == b"http://two"), "it is sealed");
    }

    #[test]
    fn a_snapshot_of_another_store_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = vault("one key that has thirty-two characters");
        let of = |store: &str| SnapshotFile::new(dir.path().join("snapshot"), vault.clone()).of_store(store);
        of("redis://one/0")
            .write(&Revision { epoch: "e".into(), n: 1 }, &raw("http://one"))
            .expect("written");
        assert!(of("redis://one/0").read().expect("read").is_some());
        assert!(of("redis://two/0").read().expect("read").is_none());
    }

    #[test]
    fn a_snapshot_of_another_key_or_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("snapshot");
        let file = SnapshotFile::new(&path, vault("one key that has thirty-two characters"));
        file.write(&Revision { epoch: "e".into(), n: 1 }, &raw("http://one")).expect("written");
        let other = SnapshotFile::new(&path, vault("quite another key, thirty-two characters"));
        assert!(matches!(other.read(), Err(Error::Vault { source: vault::Error::OtherKey { .. }, .. })));
        let raw = std::fs::read(&path).expect("read");
        std::fs::write(&path, &raw[..raw.len() - 1]).expect("cut");
        assert!(matches!(file.read(), Err(Error::Vault { source: vault::Error::Damaged { .. }, .. })));
    }
}
