//! Datagrams: each client has a socket of its own towards its destination, so that answers find their way back.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace};

use super::{Counters, Destinations, Open, Settings};
use crate::source_networks::{Networks, admits};

/// The longest datagram that there is.
const LONGEST: usize = 65_535;

/// What to do when receiving fails: wait, not spin.
const BREATH: Duration = Duration::from_millis(50);

/// Relays the datagrams of one port.
#[derive(Debug)]
pub struct UdpRelay {
    socket: Arc<UdpSocket>,
    destinations: Destinations,
    networks: watch::Receiver<Networks>,
    settings: Settings,
    counters: Arc<Counters>,
    clients: Arc<Mutex<HashMap<SocketAddr, Arc<Client>>>>,
}

/// Somebody who sends datagrams.
#[derive(Debug)]
struct Client {
    towards: UdpSocket,
    destination: SocketAddr,
    /// Milliseconds after the beginning of the relay.
    heard: AtomicU64,
    /// Whether it was ever answered.
    answered: AtomicBool,
    /// Whether it went on after an answer: then its address is its own. Who only sends may be forged.
    proven: AtomicBool,
    /// Somebody else has its place.
    gone: CancellationToken,
}

impl UdpRelay {
    /// From a socket to destinations, for clients of these networks.
    pub fn new(
        socket: impl Into<Arc<UdpSocket>>,
        destinations: Destinations,
        networks: watch::Receiver<Networks>,
        settings: Settings,
    ) -> Self {
        let socket = socket.into();
        let (counters, clients) = (Arc::default(), Arc::default());
        Self { socket, destinations, networks, settings, counters, clients }
    }

    /// What this has relayed.
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Relays until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let begun = Instant::now();
        let mut datagram = vec![0; LONGEST];
        // One for all clients: thousands of the longest datagrams would be a lot of memory.
        let room: Arc<Mutex<Box<[u8]>>> = Arc::new(Mutex::new(vec![0; LONGEST].into()));
        let mut answers = JoinSet::new();
        loop {
            let received = tokio::select! {
                received = self.socket.recv_from(&mut datagram) => received,
                Some(_) = answers.join_next() => continue,
                () = stop.cancelled() => return,
            };
            let (length, from) = match received {
                Ok(received) => received,
                Err(error) => {
                    // What a client's machine said to an answer, most of the time.
                    debug!(%error, "can't receive datagrams");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            if !admits(&self.networks.borrow(), from.ip()) {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let client = match self.client(from).await {
                Ok((client, true)) => {
                    let answering = Answers {
                        client: Arc::clone(&client),
                        to: from,
                        begun,
                        socket: Arc::clone(&self.socket),
                        room: Arc::clone(&room),
                        clients: Arc::clone(&self.clients),
                        networks: self.networks.clone(),
                        idle: self.settings.idle,
                        open: Open::new(&self.counters),
                    };
                    answers.spawn(answering.run());
                    client
                }
                Ok((client, false)) => client,
                Err(error) => {
                    trace!(%from, %error, "a datagram was dropped");
                    continue;
                }
            };
            client.heard.store(since(begun), Ordering::Relaxed);
            if client.answered.load(Ordering::Relaxed) {
                client.proven.store(true, Ordering::Relaxed);
            }
            self.counters.received.fetch_add(length as u64, Ordering::Relaxed);
            // A buffer that is full must not hold up the others for long.
            let sent = timeout(BREATH, client.towards.send(&datagram[..length])).await;
            if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into())) {
                trace!(%from, %error, "a datagram was lost");
            }
        }
    }

    /// The client of an address, and whether it is new: its destination may be gone.
    async fn client(&mut self, from: SocketAddr) -> io::Result<(Arc<Client>, bool)> {
        let known = self.clients().get(&from).cloned();
        if let Some(client) = known.filter(|client| self.destinations.has(client.destination)) {
            return Ok((client, false));
        }
        let Some(destination) = self.destinations.look().next() else {
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::NotConnected.into());
        };
        let known = self.clients().contains_key(&from);
        if !known && !self.has_place(from.ip()) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other("there are too many clients"));
        }
        let any: IpAddr = match destination {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let towards = UdpSocket::bind((any, 0)).await?;
        towards.connect(destination).await?;
        let client = Arc::new(Client {
            towards,
            destination,
            heard: AtomicU64::default(),
            answered: AtomicBool::default(),
            proven: AtomicBool::default(),
            gone: CancellationToken::new(),
        });
        self.clients().insert(from, Arc::clone(&client));
        Ok((client, true))
    }

    /// Makes room for one more client: whoever has been silent for longest gives way, those first that have never gone on
    /// after an answer, and at an address that has a quarter of all places one of its own. So forged senders push out
    /// each other.
    fn has_place(&self, ip: IpAddr) -> bool {
        let mut clients = self.clients();
        if clients.len() < self.settings.max_clients {
            return true;
        }
        let share = self.settings.max_clients.div_ceil(4);
        let own = clients.keys().filter(|client| client.ip() == ip).count();
        let candidates = clients.iter().filter(|(client, _)| own < share || client.ip() == ip);
        let silent = candidates.min_by_key(|(_, client)| {
            (client.proven.load(Ordering::Relaxed), client.heard.load(Ordering::Relaxed))
        });
        let Some(address) = silent.map(|(address, _)| *address) else { return false };
        if let Some(client) = clients.remove(&address) {
            client.gone.cancel();
        }
        true
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The way back to one client.
struct Answers {
    client: Arc<Client>,
    to: SocketAddr,
    begun: Instant,
    socket: Arc<UdpSocket>,
    room: Arc<Mutex<Box<[u8]>>>,
    clients: Arc<Mutex<HashMap<SocketAddr, Arc<Client>>>>,
    networks: watch::Receiver<Networks>,
    idle: Duration,
    open: Open,
}

impl Answers {
    /// Until nothing has moved for a while.
    async fn run(self) {
        let mut moved = Instant::now();
        loop {
            let heard = self.begun + Duration::from_millis(self.client.heard.load(Ordering::Relaxed));
            let end = moved.max(heard) + self.idle;
            let received = tokio::select! {
                received = timeout_at(end, self.receive()) => received,
                () = self.client.gone.cancelled() => return,
            };
            match received {
                Ok(Ok(datagram)) if admits(&self.networks.borrow(), self.to.ip()) => {
                    moved = Instant::now();
                    self.client.answered.store(true, Ordering::Relaxed);
                    self.open.0.sent.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                    if let Err(error) = self.socket.send_to(&datagram, self.to).await {
                        trace!(to = %self.to, %error, "an answer was lost");
                    }
                }
                // Nobody listens there (ICMP): the next datagram may find somebody.
                Ok(Err(error)) => {
                    trace!(destination = %self.client.destination, %error, "no answer");
                    tokio::time::sleep(BREATH).await;
                }
                Ok(Ok(_)) => break,
                Err(_) if self.is_over(moved) => break,
                Err(_) => {}
            }
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // Another one may have taken its place, towards another destination.
        if clients.get(&self.to).is_some_and(|client| Arc::ptr_eq(client, &self.client)) {
            clients.remove(&self.to);
        }
    }

    /// The next answer.
    async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            self.client.towards.readable().await?;
            let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
            match self.client.towards.try_recv(&mut room) {
                Ok(length) => return Ok(room[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn is_over(&self, moved: Instant) -> bool {
        let heard = self.begun + Duration::from_millis(self.client.heard.load(Ordering::Relaxed));
        moved.max(heard) + self.idle <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each datagram with its name and what it got.
    async fn server(name: &'static str) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut datagram = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
                let answer = [name.as_bytes(), &datagram[..length]].concat();
                socket.send_to(&answer, from).await.expect("sent");
            }
        });
        address
    }

    struct World {
        at: SocketAddr,
        addresses: watch::Sender<super::super::Addresses>,
        networks: watch::Sender<Networks>,
        counters: Arc<Counters>,
        stop: CancellationToken,
    }

    impl Drop for World {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    async fn relay(to: Vec<SocketAddr>, settings: Settings) -> World {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let at = socket.local_addr().expect("bound");
        let (addresses, destinations) = Destinations::channel(to);
        let (networks, allowed) = watch::channel(Networks::from([]));
        let relay = UdpRelay::new(socket, destinations, allowed, settings);
        let (counters, stop) = (Arc::clone(relay.counters()), CancellationToken::new());
        tokio::spawn(relay.run(stop.clone()));
        World { at, addresses, networks, counters, stop }
    }

    async fn client(world: &World) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.connect(world.at).await.expect("connected");
        socket
    }

    /// Sends until there is an answer: datagrams may get lost.
    async fn ask(client: &UdpSocket, text: &str) -> String {
        let mut datagram = [0; 2048];
        for _ in 0..50 {
            client.send(text.as_bytes()).await.expect("sent");
            let answer = tokio::time::timeout(Duration::from_millis(200), client.recv(&mut datagram));
            if let Ok(Ok(length)) = answer.await {
                return String::from_utf8(datagram[..length].into()).expect("text");
            }
        }
        panic!("no answer to {text:?}");
    }

    #[tokio::test]
    async fn each_client_keeps_its_destination_as_long_as_it_is_there() {
        let (a, b) = (server("a").await, server("b").await);
        let world = relay(vec![a, b], Settings::default()).await;
        let (one, two) = (client(&world).await, client(&world).await);
        let (first, second) = (ask(&one, "1").await, ask(&two, "2").await);
        assert_ne!(first[..1], second[..1], "they take turns");
        assert_eq!((&first[1..], &second[1..]), ("1", "2"), "each gets its own answers");
        assert_eq!(ask(&one, "3").await[..1], first[..1]);
        world.addresses.send_replace([b].into());
        let mut answers = vec![ask(&one, "4").await, ask(&two, "5").await];
        answers.retain(|answer| answer.starts_with('a'));
        assert_eq!(answers, [""; 0]);
    }

    #[tokio::test]
    async fn strangers_get_nothing() {
        let world = relay(vec![server("a").await], Settings::default()).await;
        let one = client(&world).await;
        assert_eq!(ask(&one, "1").await, "a1");
        world.networks.send_replace(["10.0.0.0/8".parse().expect("a network")].into());
        one.send(b"3").await.expect("sent");
        while world.counters.refused.load(Ordering::Relaxed) < 1 {
            tokio::task::yield_now().await;
        }
        assert!(one.try_recv(&mut [0; 16]).is_err());
    }

    #[tokio::test]
    async fn who_only_sends_gives_way_and_who_goes_on_after_an_answer_stays() {
        let world = relay(vec![server("a").await], Settings { max_clients: 2, ..Settings::default() }).await;
        let there = client(&world).await;
        for text in ["1", "2"] {
            assert_eq!(ask(&there, text).await, format!("a{text}"));
        }
        // Each has an address of its own, like those that are forged.
        for _ in 0..20 {
            assert_eq!(ask(&client(&world).await, "x").await, "ax");
        }
        assert_eq!(ask(&there, "3").await, "a3");
        assert_eq!(world.counters.refused.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_is_silent_is_forgotten() {
        let settings = Settings { idle: Duration::from_millis(100), ..Settings::default() };
        let world = relay(vec![server("a").await], settings).await;
        assert_eq!(ask(&client(&world).await, "1").await, "a1");
        while world.counters.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(ask(&client(&world).await, "2").await, "a2");
    }
}
