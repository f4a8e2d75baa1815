//! The keys of clients that say where theirs are (`jwks_uri`; RFC 7591, section 2), fetched and kept for a while.
//!
//! Who is a client chooses the URI, and who sends an assertion, good or not, makes us call it. So besides what the
//! guard and the cache bound there are limits of what is fetched: one for each client, and one for all that nobody
//! but themselves has set up. Those of the administrator have one of their own, so that strangers can't use it up.
//! A fetch that is one too many is none: what is fresh still counts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::auth::{JwksError, KeySet};

use super::cache::{CacheError, HttpCache};
use super::ssrf::{Guard, HttpsUrl};
use super::{Client, Origin};
use crate::limiter::Limiter;

/// How many clients' keys are kept.
const CAPACITY: usize = 256;

/// For how long keys that could not be fetched are not tried again: an assertion that is no good costs nothing.
const BACK_OFF: Duration = Duration::from_secs(10);

/// How often the keys of one client are fetched at most. The back-off allows as much as long as the cache has a place
/// for its failures; this holds when others have pushed them out, and when a client's document names ever other URIs.
const EACH: u32 = 6;

/// How often those of all clients that registered, or that publish a document, are fetched at most.
const ALL: u32 = 300;

/// What the numbers above are for.
const WINDOW: Duration = Duration::from_secs(60);

/// The keys of clients, by where they are.
#[derive(Debug)]
pub(super) struct ClientKeys {
    cache: HttpCache<KeySet, JwksError>,
    each: Limiter,
    strangers: Limiter,
    configured: Limiter,
}

impl ClientKeys {
    /// Keys that are fetched through this guard.
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self {
            cache: HttpCache::new(guard, CAPACITY, read).backing_off(BACK_OFF),
            each: Limiter::new(EACH, WINDOW),
            strangers: Limiter::new(ALL, WINDOW),
            configured: Limiter::new(ALL, WINDOW),
        }
    }

    /// The keys of a client at a URI, fetched unless there are some that are fresh and not from before `since`.
    pub(super) async fn get(
        &self,
        client: &Client,
        uri: &HttpsUrl,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, Arc<CacheError<JwksError>>> {
        self.cache.get_newer_if(uri, since, now, || self.may_fetch(client, now)).await
    }

    /// Counts a fetch for a client, unless it is one too many.
    fn may_fetch(&self, client: &Client, now: Timestamp) -> bool {
        let all = match client.origin {
            Origin::Configured => &self.configured,
            Origin::Document | Origin::Registered => &self.strangers,
        };
        // What is too much for one takes nothing from the others.
        let counted = self.each.count_name(&client.id, now).and_then(|()| all.count_name("", now));
        if counted.is_err() {
            tracing::info!(client_id = client.id, "the keys of a client are not fetched: that was too often");
        }
        counted.is_ok()
    }
}

/// Reads what is published as a key set (RFC 7517, section 5).
pub(super) fn read(_: &HttpsUrl, body: &[u8]) -> Result<KeySet, JwksError> {
    KeySet::from_jwks(&String::from_utf8_lossy(body))
}

#[cfg(test)]
mod tests;
