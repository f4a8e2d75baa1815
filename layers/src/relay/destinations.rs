//! Where a port leads to, as it is now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Addresses, any of which will do.
pub type Addresses = Arc<[SocketAddr]>;

/// The addresses that a port leads to, taken in turn. A clone takes turns with the others.
#[derive(Debug, Clone)]
pub struct Destinations {
    addresses: watch::Receiver<Addresses>,
    turn: Arc<AtomicUsize>,
}

impl Destinations {
    /// What somebody else says.
    pub fn new(addresses: watch::Receiver<Addresses>) -> Self {
        Self { addresses, turn: Arc::default() }
    }

    /// Destinations and the end to change them by.
    pub fn channel(addresses: Vec<SocketAddr>) -> (watch::Sender<Addresses>, Self) {
        let (sender, addresses) = watch::channel(addresses.into());
        (sender, Self::new(addresses))
    }

    /// Whether an address is among them.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.addresses.borrow().contains(&address)
    }

    /// All of them, beginning with the one whose turn it is; [`changed`](Self::changed) tells of what comes after.
    pub(super) fn look(&mut self) -> impl Iterator<Item = SocketAddr> + use<> {
        let addresses = Arc::clone(&self.addresses.borrow_and_update());
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = addresses.len();
        (0..count).map(move |step| addresses[first.wrapping_add(step) % count])
    }

    /// Waits for other destinations than those that were looked at; for ever, when nobody can change them any more.
    pub(super) async fn changed(&mut self) {
        if self.addresses.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
