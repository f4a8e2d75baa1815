//! Who is told when something has changed: sessions by their streams, and streams that do nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::model::ResourceUpdatedNotificationParam;
use rmcp::service::{Peer, RoleServer, SubscriptionSink};

/// What has changed.
pub enum Change {
    Tools,
    Prompts,
    /// One resource.
    Resource(String),
}

/// The resources that a session watches.
#[derive(Clone, Default)]
pub struct Watched(Arc<Mutex<BTreeSet<String>>>);

impl Watched {
    pub fn add(&self, uri: String) {
        lock(&self.0).insert(uri);
    }

    pub fn remove(&self, uri: &str) {
        lock(&self.0).remove(uri);
    }
}

#[derive(Default)]
pub struct Changes {
    listeners: Arc<Mutex<Listeners>>,
}

#[derive(Default)]
struct Listeners {
    next: u64,
    /// Before 2026-07-28, with what they watch.
    sessions: Vec<(Peer<RoleServer>, Watched)>,
    /// Since 2026-07-28. Each is told only what it has asked for.
    streams: BTreeMap<u64, SubscriptionSink>,
}

/// A stream that listens until this is dropped.
pub struct Listening {
    listeners: Arc<Mutex<Listeners>>,
    id: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        lock(&self.listeners).streams.remove(&self.id);
    }
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Changes {
    pub fn tell_session(&self, peer: Peer<RoleServer>, watched: Watched) {
        let mut listeners = lock(&self.listeners);
        listeners.sessions.retain(|(peer, _)| !peer.is_transport_closed());
        listeners.sessions.push((peer, watched));
    }

    pub fn tell_stream(&self, sink: SubscriptionSink) -> Listening {
        let mut listeners = lock(&self.listeners);
        listeners.next += 1;
        let id = listeners.next;
        listeners.streams.insert(id, sink);
        Listening { listeners: Arc::clone(&self.listeners), id }
    }

    /// Tells everybody who wants to know.
    pub async fn tell(&self, change: &Change) -> String {
        let (sessions, streams) = {
            let listeners = lock(&self.listeners);
            let concerned = |watched: &Watched| match change {
                Change::Tools | Change::Prompts => true,
                Change::Resource(uri) => lock(&watched.0).contains(uri),
            };
            let sessions = listeners.sessions.iter().filter(|(_, watched)| concerned(watched));
            let sessions: Vec<_> = sessions.map(|(peer, _)| peer.clone()).collect();
            (sessions, listeners.streams.values().cloned().collect::<Vec<_>>())
        };
        for peer in sessions {
            // Those that have gone are told nothing.
            let _gone = match change {
                Change::Tools => peer.notify_tool_list_changed().await,
                Change::Prompts => peer.notify_prompt_list_changed().await,
                Change::Resource(uri) => {
                    peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri.clone())).await
                }
            };
        }
        for sink in streams {
            // Nor those that want to know something else.
            let _unwanted = match change {
                Change::Tools => sink.notify_tool_list_changed().await,
                Change::Prompts => sink.notify_prompt_list_changed().await,
                Change::Resource(uri) => sink.notify_resource_updated(uri.clone()).await,
            };
        }
        "Everybody was told.".into()
    }
}
