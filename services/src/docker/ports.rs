//! Which ports of the machine are free, and how those that are published here do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_layers::relay::Counters;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::config::port::{PortProtocol, RANGE, forbidden};

/// Ports that stand side by side and are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FreeRange {
    /// The first.
    pub start: u16,
    /// The last.
    pub end: u16,
    /// How many there are.
    pub count: u32,
}

/// The ports that are given away.
pub fn taken(config: &Config, protocol: PortProtocol) -> BTreeSet<u16> {
    config.ports.values().filter(|port| port.protocol == protocol).map(|port| port.host_port).collect()
}

/// The ports that can still be given away, lowest first.
pub fn free(taken: &BTreeSet<u16>) -> impl Iterator<Item = u16> {
    RANGE.filter(move |port| forbidden(*port).is_none() && !taken.contains(port))
}

/// The same, those side by side together.
pub fn ranges(taken: &BTreeSet<u16>) -> Vec<FreeRange> {
    let mut ranges: Vec<FreeRange> = Vec::new();
    for port in free(taken) {
        match ranges.last_mut() {
            Some(range) if u32::from(range.end) + 1 == u32::from(port) => {
                range.end = port;
                range.count += 1;
            }
            _ => ranges.push(FreeRange { start: port, end: port, count: 1 }),
        }
    }
    ranges
}

/// Whether this machine lets a port be bound now.
///
/// # Errors
///
/// What the system says.
pub fn try_bind(address: IpAddr, port: u16, protocol: PortProtocol) -> io::Result<()> {
    match protocol {
        PortProtocol::Tcp => TcpListener::bind((address, port)).map(drop),
        PortProtocol::Udp => UdpSocket::bind((address, port)).map(drop),
    }
}

/// How it is with a published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PortState {
    /// `listening`, `failed`, `pending` until this node has looked, or `elsewhere` when another node has the service.
    pub status: &'static str,
    /// Why it does not listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Connections, or clients of UDP, that are open.
    pub open: u64,
    /// Those that were taken, since the node started.
    pub taken: u64,
    /// Those that no container was there for.
    pub failed: u64,
    /// Those that came from networks that may not, or were too many.
    pub refused: u64,
    /// Bytes from clients; not counted where requests need a token, which stand in the log of requests.
    pub received: u64,
    /// Bytes to clients; the same.
    pub sent: u64,
}

impl PortState {
    /// Nobody has looked here.
    pub fn unknown(status: &'static str) -> Self {
        Self { status, error: None, open: 0, taken: 0, failed: 0, refused: 0, received: 0, sent: 0 }
    }
}

/// How the ports that are published here do. A clone is a reference count.
#[derive(Debug, Clone, Default)]
pub struct PortBoard(Arc<Mutex<BTreeMap<String, Listening>>>);

#[derive(Debug, Clone)]
struct Listening {
    counters: Arc<Counters>,
    error: Option<String>,
}

impl PortBoard {
    /// A port listens.
    pub fn listens(&self, id: &str, counters: Arc<Counters>) {
        self.lock().insert(id.to_owned(), Listening { counters, error: None });
    }

    /// A port can't listen.
    pub fn fails(&self, id: &str, error: String) {
        self.lock().insert(id.to_owned(), Listening { counters: Arc::default(), error: Some(error) });
    }

    /// A port is not published here any more.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// How a port does, if it is published here.
    pub fn of(&self, id: &str) -> Option<PortState> {
        let Listening { counters, error } = self.lock().get(id)?.clone();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Some(PortState {
            status: if error.is_some() { "failed" } else { "listening" },
            error,
            open: read(&counters.open),
            taken: read(&counters.taken),
            failed: read(&counters.failed),
            refused: read(&counters.refused),
            received: read(&counters.received),
            sent: read(&counters.sent),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Listening>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_port_that_is_neither_taken_nor_restricted_is_next() {
        let taken = BTreeSet::from([14_000, 14_001, 14_003]);
        assert_eq!(free(&taken).take(3).collect::<Vec<_>>(), [14_002, 14_004, 14_005]);
        assert!(free(&BTreeSet::new()).all(|port| port != 27_017));
    }

    #[test]
    fn free_ports_are_told_in_ranges() {
        let ranges = ranges(&BTreeSet::from([14_000, 14_002]));
        let of = |start, end, count| FreeRange { start, end, count };
        assert_eq!(ranges, [of(14_001, 14_001, 1), of(14_003, 27_016, 13_014), of(27_018, 65_535, 38_518)]);
    }

    #[test]
    fn a_port_that_another_program_has_can_not_be_bound() {
        let any = IpAddr::from([0, 0, 0, 0]);
        let (tcp, udp) =
            (TcpListener::bind((any, 0)).expect("bound"), UdpSocket::bind((any, 0)).expect("bound"));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let port = tcp.local_addr().expect("bound").port();
        assert!(try_bind(loopback, port, PortProtocol::Tcp).is_err());
        drop(tcp);
        assert!(try_bind(loopback, port, PortProtocol::Tcp).is_ok());
        let port = udp.local_addr().expect("bound").port();
        assert!(try_bind(loopback, port, PortProtocol::Udp).is_err());
    }

    #[test]
    fn a_board_tells_what_was_counted() {
        let board = PortBoard::default();
        assert_eq!(board.of("tcp-14000"), None);
        let counters = Arc::new(Counters::default());
        board.listens("tcp-14000", Arc::clone(&counters));
        counters.taken.fetch_add(2, Ordering::Relaxed);
        let state = board.of("tcp-14000").expect("known");
        assert_eq!((state.status, state.taken), ("listening", 2));
        board.fails("tcp-14000", "in use".into());
        assert_eq!(board.of("tcp-14000").expect("known").error.as_deref(), Some("in use"));
    }
}
