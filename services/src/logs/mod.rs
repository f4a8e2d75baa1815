//! Logs: written without waiting, read by search, follow and statistics.
//!
//! - [`Writer`] is the sink of requests, and of whatever else becomes a stream of the store.
//! - [`Search`] is what a user asks; it compiles into a [`Filter`]; [`search`] pages through what matches.
//! - [`follow`] yields what is written from now on.
//! - [`stats`] sums a window up.
//! - [`tracing`] turns the daemon's diagnostics into such a stream, [`Levels`] says how many of them.
//!
//! Every record is one JSON object whose field names are those of the access log
//! (`portcullis_layers::access_log`); diagnostics have `level`, `component`, `message` and `fields`.

mod fields;
mod follow;
mod histogram;
mod levels;
mod query;
mod read;
mod scan;
mod stats;
pub mod tracing;
mod writer;
mod writers;

#[cfg(test)]
mod memory;

pub use self::follow::{Followed, Place, follow};
pub use self::histogram::Histogram;
pub use self::levels::{LevelError, LevelSettings, Levels, SILENT, component, parse_level};
pub use self::query::{Filter, Search, SearchError};
pub use self::scan::{Bounds, Error, Hit, Page, Truncated, entry_id, parse_entry_id, search};
pub use self::stats::{HostStats, PathCount, Stats, stats};
pub use self::writer::Writer;
pub use self::writers::{RequestWriter, Writers};

pub(crate) use self::read::range;

/// Milliseconds since 1970, now.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
