//! This node's copy of the revocations, sealed: a node that starts while the store is away refuses what was revoked.
//!
//! It is a cache: it is written soon after each revocation, and read at start only.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::auth::Revoked;
use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Revocations;
use super::state::seconds;
use crate::store::private;
use crate::vault::{self, Vault};

/// What the vault authenticates with the content.
const PURPOSE: &str = "revocations";

/// How long after a revocation the file is written, with those that come meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the revocations are kept.
#[derive(Debug, Clone)]
pub struct RevokedFile {
    path: PathBuf,
    vault: Arc<Vault>,
}

/// Why they can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be written or read.
    #[error("the revocations in {path} can't be accessed")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The vault refused.
    #[error("the revocations in {path} can't be sealed or opened")]
    Vault {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: vault::Error,
    },
    /// The content is of another version of portcullis.
    #[error("the revocations in {path} can't be read")]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
}

impl RevokedFile {
    /// The revocations at `path`, sealed by `vault`.
    pub fn new(path: impl Into<PathBuf>, vault: Arc<Vault>) -> Self {
        Self { path: path.into(), vault }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds what is kept to a set.
    ///
    /// # Errors
    ///
    /// When there is a file that can't be read.
    pub fn restore(&self, revoked: &Revoked) -> Result<(), Error> {
        revoked.extend(self.read()?, seconds(Timestamp::now()));
        Ok(())
    }

    /// The ids of tokens, and when they expire; none if there never were any.
    fn read(&self) -> Result<Vec<(SmolStr, u64)>, Error> {
        let sealed = match std::fs::read(&self.path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::File { path: self.path.clone(), source }),
        };
        let content = self.vault.open_file(PURPOSE, &sealed);
        let content = content.map_err(|source| Error::Vault { path: self.path.clone(), source })?;
        serde_json::from_slice(&content).map_err(|source| Error::Content { path: self.path.clone(), source })
    }

    /// Replaces them in one step; waits for the disk.
    fn write(&self, tokens: &[(SmolStr, u64)]) -> Result<(), Error> {
        let content = serde_json::to_vec(tokens)
            .map_err(|source| Error::Content { path: self.path.clone(), source })?;
        let sealed = self.vault.seal_file(PURPOSE, &content);
        let sealed = sealed.map_err(|source| Error::Vault { path: self.path.clone(), source })?;
        let made = self.path.parent().map_or(Ok(()), private::create_dir);
        made.and_then(|()| private::replace(&self.path, &sealed))
            .map_err(|source| Error::File { path: self.path.clone(), source })
    }

    /// Keeps what is revoked from now on, until it is told to stop.
    pub async fn follow(self, revocations: Arc<Revocations>, stop: CancellationToken) {
        let mut grown = revocations.grown();
        let mut failing = false;
        while let Some(Ok(())) = stop.run_until_cancelled(grown.changed()).await {
            // The last ones are kept at once when the node stops.
            stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            grown.mark_unchanged();
            let (file, tokens) = (self.clone(), revocations.revoked().list());
            let written = tokio::task::spawn_blocking(move || file.write(&tokens)).await;
            match written {
                Ok(Ok(())) => failing = false,
                Ok(Err(error)) if !failing => {
                    failing = true;
                    warn!(error = &error as &dyn std::error::Error, "revocations are not kept on this node");
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_revoked_is_read_back_and_nothing_else_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = |key: &str| Arc::new(Vault::new(&key.into()).expect("a good key"));
        let path = dir.path().join("data/revocations");
        let file = RevokedFile::new(&path, vault("one key that has thirty-two characters"));
        assert_eq!(file.read().expect("no file is no error"), []);
        let tokens = [("a-token".into(), 7), ("another".into(), 9)];
        file.write(&tokens).expect("written");
        assert_eq!(file.read().expect("read"), tokens);
        let sealed = std::fs::read(&path).expect("there");
        assert!(!sealed.windows(7).any(|part| part == b"a-token"), "it is sealed");
        let stranger = RevokedFile::new(&path, vault("a stranger's key of thirty-two characters"));
        assert!(matches!(stranger.read(), Err(Error::Vault { .. })));
        std::fs::write(&path, &sealed[1..]).expect("written");
        assert!(file.read().is_err());
    }
}
