//! Registrations that users can't tell apart.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::entry::ClientEntry;
use crate::oauth::clients::Registered;
use crate::oauth::clients::redirect::places;

/// How many ids of look-alikes are told.
const MAX_ALIKE: usize = 100;

/// What users can tell registrations apart by: the name, and where they redirect to.
pub(super) fn look(registered: &Registered) -> (Option<String>, BTreeSet<String>) {
    let metadata = &registered.metadata;
    let hosts = places(&metadata.redirect_uris).into_iter().map(ToString::to_string);
    (metadata.client_name.as_ref().map(|name| name.to_lowercase()), hosts.collect())
}

/// Adds a registration to those that look the same. They come newest first: that one stands for all.
pub(super) fn merge<K: Ord>(alike: &mut BTreeMap<K, ClientEntry>, look: K, client: ClientEntry) {
    let first = match alike.entry(look) {
        Entry::Vacant(place) => {
            place.insert(client);
            return;
        }
        Entry::Occupied(place) => place.into_mut(),
    };
    if first.client_ids.is_empty() {
        first.client_ids.push(first.client_id.clone());
    }
    if first.client_ids.len() < MAX_ALIKE {
        first.client_ids.push(client.client_id);
    }
    first.count += 1;
    first.is_active |= client.is_active;
    first.token_count += client.token_count;
    first.grant_count += client.grant_count;
    first.usage_count = first.usage_count.saturating_add(client.usage_count);
    first.last_token_issued = first.last_token_issued.max(client.last_token_issued);
    first.last_used = first.last_used.max(client.last_used);
    // The last of them to go.
    if first.expires_at < client.expires_at {
        (first.expires_at, first.days_until_expiry) = (client.expires_at, client.days_until_expiry);
    }
}
