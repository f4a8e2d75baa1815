//! A node's name stands for one engine: two nodes of one name would both make what one of them shall.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, error, info};

use super::Docker;
use super::engine::Error;
use crate::store::Store;

/// How long a name stays an engine's when its node is gone, and how often that is said again.
const TIME: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(5);

/// Whose the name of this node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nobody has told yet.
    #[default]
    Unknown,
    /// That of this node's engine.
    Ours,
    /// That of another engine.
    Anothers,
}

/// Says again and again that the name is this engine's. While the store does not answer it stays whose it was.
pub(super) async fn hold(docker: Docker, store: Arc<dyn Store>, told: watch::Sender<Claim>) {
    let lease = format!("engine:{}", docker.owner.node);
    let mut engine = None;
    loop {
        if engine.is_none() {
            engine = match docker.engine.id().await {
                Ok(id) => Some(Some(id)),
                // A proxy before it does not let that through.
                Err(Error::Refused(_) | Error::NotFound(_)) => Some(None),
                Err(_) => None,
            };
        }
        let claim = match &engine {
            None => Claim::Unknown,
            // Nobody can tell it from others.
            Some(None) => Claim::Ours,
            Some(Some(id)) => match store.acquire(&lease, id, TIME).await {
                Ok(Some(_)) => Claim::Ours,
                Ok(None) => Claim::Anothers,
                Err(error) => {
                    debug!(%error, "the name of this node could not be claimed");
                    *told.borrow()
                }
            },
        };
        let before = told.send_replace(claim);
        let node = &docker.owner.node;
        match (before, claim) {
            (Claim::Ours | Claim::Unknown, Claim::Anothers) => error!(%node, "{}", reason(&docker)),
            (Claim::Anothers, Claim::Ours) => info!(%node, "the name of this node is its own again"),
            _ => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Why a node whose name is another one's does nothing.
pub(super) fn reason(docker: &Docker) -> String {
    let node = &docker.owner.node;
    format!(
        "another node with another Docker engine is called {node}: give each its own PORTCULLIS_NODE_NAME"
    )
}
