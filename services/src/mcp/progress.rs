//! Tells a client how far long work is, as far as it wants to know.

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RoleServer};
use tokio::sync::mpsc;

use crate::control::Progress;

/// Where an operation reports to, and what a client reads of it.
#[derive(Debug)]
pub(super) struct Reports {
    token: ProgressToken,
    steps: mpsc::Receiver<String>,
}

impl Reports {
    /// For a client that gave a token to name them by.
    pub(super) fn new(token: ProgressToken) -> (Progress, Self) {
        let (progress, steps) = Progress::channel();
        (progress, Self { token, steps })
    }

    /// Sends each step as it is done, until the work has ended.
    pub(super) async fn send(mut self, peer: Peer<RoleServer>) {
        let mut done = 0.0;
        while let Some(step) = self.steps.recv().await {
            done += 1.0;
            let told = ProgressNotificationParam::new(self.token.clone(), done).with_message(step);
            // Whoever no longer listens misses it.
            if peer.notify_progress(told).await.is_err() {
                return;
            }
        }
    }
}
