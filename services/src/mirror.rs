//! What this node knows of the store: read by operations and by the reconciler, parsed once for both.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::config::view::View;
use crate::store::{Error, Result, Store};

/// The newest state of a store that this node has read. A clone is a reference count.
#[derive(Debug, Clone)]
pub struct Mirror {
    store: Arc<dyn Store>,
    newest: Arc<ArcSwapOption<View>>,
}

impl Mirror {
    /// A mirror that knows nothing yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, newest: Arc::default() }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// All documents as they are in the store now. Only those that changed are parsed.
    pub async fn load(&self) -> Result<Arc<View>> {
        let (revision, documents) = self.store.load_raw().await?;
        let known = self.newest.load_full();
        let previous = known.clone();
        // Reading thousands of new documents takes a while: nothing else must wait for it.
        let read = tokio::task::spawn_blocking(move || match previous {
            Some(previous) => {
                let view = View::new(revision, documents, Some(&previous));
                if view.revision == previous.revision && view.is_same(&previous) {
                    previous
                } else {
                    Arc::new(view)
                }
            }
            None => Arc::new(View::new(revision, documents, None)),
        });
        let view = read.await.map_err(|error| Error::Unavailable(Box::new(error)))?;
        self.newest.rcu(|newest| match newest {
            Some(newest) if is_overtaken(&view, newest, known.as_ref()) => Arc::clone(newest),
            _ => Arc::clone(&view),
        });
        Ok(view)
    }

    /// What is known already, without a look at the store; nothing before the first.
    pub fn known(&self) -> Option<Arc<View>> {
        self.newest.load_full()
    }

    /// The same with less work: what is known already, unless the store has another revision. What a hand
    /// has written without moving the revision is seen when somebody calls [`load`](Self::load).
    pub async fn latest(&self) -> Result<Arc<View>> {
        let revision = self.store.revision().await?;
        match self.newest.load_full() {
            // A store that was never written to by a commit has no revision that could tell.
            Some(view) if view.revision == revision && !revision.epoch.is_empty() => Ok(view),
            _ => self.load().await,
        }
    }
}

/// Of two that load at once the slower one may have the older state. Where nobody else has loaded since, it is the
/// store that went back, as a backup does.
fn is_overtaken(view: &View, newest: &Arc<View>, known: Option<&Arc<View>>) -> bool {
    let is_known = known.is_some_and(|known| Arc::ptr_eq(known, newest));
    !is_known && newest.revision.epoch == view.revision.epoch && newest.revision.n > view.revision.n
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::embedded::Embedded;
    use crate::store::{Expect, Key, Kind, Revision, Write};

    fn put(id: &str, port: u16) -> Write {
        let value = json!({ "proxy_hostname": id, "target_url": format!("http://10.0.0.5:{port}") });
        Write::Put { key: Key::new(Kind::Proxy, id), value, expect: Expect::Any }
    }

    #[tokio::test]
    async fn readers_share_what_did_not_change_and_see_every_commit() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        let mirror = Mirror::new(Arc::clone(&store));
        assert!(mirror.latest().await.expect("read").config.proxies.is_empty());
        store.commit(vec![put("a.example", 80), put("b.example", 80)]).await.expect("committed");
        let before = mirror.latest().await.expect("read");
        assert_eq!(before.config.proxies.len(), 2);
        assert!(Arc::ptr_eq(&before, &mirror.latest().await.expect("read")));
        assert!(Arc::ptr_eq(&before, &mirror.load().await.expect("read")));
        let revision = store.commit(vec![put("b.example", 81)]).await.expect("committed");
        let after = mirror.latest().await.expect("read");
        assert_eq!(after.revision, revision);
        assert!(Arc::ptr_eq(&before.config.proxies["a.example"], &after.config.proxies["a.example"]));
        assert_eq!(after.config.proxies["b.example"].target_url.to_string(), "http://10.0.0.5:81");
    }

    #[test]
    fn only_who_was_overtaken_is_not_the_newest() {
        let at = |n| Arc::new(View::new(Revision { epoch: "e".into(), n }, Vec::new(), None));
        let (older, known, newest) = (at(3), at(5), at(7));
        assert!(is_overtaken(&older, &newest, Some(&known)), "another reader was faster");
        assert!(!is_overtaken(&older, &known, Some(&known)), "the store went back");
        assert!(!is_overtaken(&newest, &known, None));
    }
}
