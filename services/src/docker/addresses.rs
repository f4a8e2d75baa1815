//! Where the ready containers of services are, and whether requests already go there.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::resolve::Addresses;

/// Addresses, and how often they have changed.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Grows with each change.
    pub serial: u64,
    /// By the names of services.
    pub addresses: Arc<Addresses>,
}

/// Between those who find addresses and those who send requests there: an address that goes is still served until
/// nobody is sent there any more.
#[derive(Debug, Clone)]
pub struct Switchboard {
    published: watch::Sender<Published>,
    served: watch::Sender<u64>,
}

impl Default for Switchboard {
    fn default() -> Self {
        Self { published: watch::Sender::new(Published::default()), served: watch::Sender::new(0) }
    }
}

impl Switchboard {
    /// Says where services are from now on; the serial of that.
    pub fn publish(&self, addresses: Addresses) -> u64 {
        self.published.send_if_modified(|published| {
            let changed = *published.addresses != addresses;
            if changed {
                *published = Published { serial: published.serial + 1, addresses: Arc::new(addresses) };
            }
            changed
        });
        self.published.borrow().serial
    }

    /// What was published last.
    pub fn current(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Wakes whoever sends requests.
    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// From now on requests go where this serial says.
    pub fn served(&self, serial: u64) {
        self.served.send_if_modified(|served| {
            let newer = serial > *served;
            *served = serial.max(*served);
            newer
        });
    }

    /// Up to which serial requests go where they shall.
    pub fn is_served(&self, serial: u64) -> bool {
        *self.served.borrow() >= serial
    }

    /// Wakes whoever waits for that.
    pub fn on_served(&self) -> watch::Receiver<u64> {
        self.served.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_has_another_serial() {
        let board = Switchboard::default();
        let at = |port| {
            let address = std::net::SocketAddr::from(([172, 29, 0, 2], port));
            Addresses::from([("web".parse().expect("a name"), vec![address])])
        };
        assert_eq!((board.publish(at(80)), board.publish(at(80)), board.publish(at(81))), (1, 1, 2));
        board.served(1);
        assert!(board.is_served(1) && !board.is_served(2));
    }
}
