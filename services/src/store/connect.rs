//! Which store: Redis if there is an address for it, or else the data directory.

use std::path::PathBuf;
use std::sync::Arc;

use super::Store;
use super::embedded::{Embedded, OpenError};
use super::redis::{Options, RedisStore, UrlError};

/// What the daemon's settings say of the store.
#[derive(Debug, Clone)]
pub enum Settings {
    /// The cluster's store in Redis.
    Redis(Options),
    /// The store of this node alone, in its data directory.
    Embedded(PathBuf),
}

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The settings of Redis are wrong.
    #[error("the Redis store can't be used")]
    Redis(#[from] UrlError),
    /// The data directory can't be used.
    #[error("the embedded store can't be opened")]
    Embedded(#[from] OpenError),
}

/// Opens the store. Redis need not be there yet; a data directory has to be free. Blocks while a data
/// directory is checked: for the start of the process.
pub fn open(settings: &Settings) -> Result<Arc<dyn Store>, ConnectError> {
    Ok(match settings {
        Settings::Redis(options) => Arc::new(RedisStore::new(options)?),
        Settings::Embedded(dir) => Arc::new(Embedded::open(dir)?),
    })
}
