//! Which names somebody has asked for lately, on any node.

use std::time::Duration;

use portcullis_layers::HostName;

use crate::config::{Certificate, HostPattern};
use crate::store::{self, ItemKey, Store};

/// A name that nobody has asked for in this time is not renewed.
const LATELY: Duration = Duration::from_secs(30 * 86_400);

/// Notes that somebody asks for a name.
pub(in crate::acme) async fn note(store: &dyn Store, name: &HostName) -> store::Result<()> {
    store.put_item(&item(name), b"1", LATELY).await
}

/// Whether somebody has asked lately for one of the names of a certificate.
pub(crate) async fn is_any_asked_for(store: &dyn Store, certificate: &Certificate) -> store::Result<bool> {
    for name in certificate.domains.iter().filter_map(HostPattern::host) {
        if is_asked_for(store, &name).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether somebody has asked for a name lately.
pub(super) async fn is_asked_for(store: &dyn Store, name: &HostName) -> store::Result<bool> {
    Ok(store.get_item(&item(name)).await?.is_some())
}

fn item(name: &HostName) -> ItemKey {
    ItemKey { kind: "acme-asked", id: name.as_str().to_owned() }
}
