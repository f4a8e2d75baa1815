//! Bind and accept: a listener per worker on one port, and one task per connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_layers::Accepted;
use portcullis_layers::drain::Drain;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tower::Service;
use tracing::{debug, warn};

/// How many connections the kernel holds until we accept them.
const BACKLOG: i32 = 4096;

/// What to do when accepting fails for want of file descriptors or memory: wait, not spin.
pub(crate) const BREATH: Duration = Duration::from_millis(50);

/// Finds dead peers under tunnels and event streams, which have no idle limit.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Why a port can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: can't listen on {address}: {hint}")]
pub struct BindError {
    variable: &'static str,
    address: SocketAddr,
    hint: &'static str,
    #[source]
    source: io::Error,
}

/// Listeners on one port, one for each worker.
///
/// A first bind without `SO_REUSEPORT` proves that no other process has the port: with the option
/// alone, two daemons of one user would silently share it. A port that the kernel chooses (0) needs no such
/// proof, and is never let go again: another process could take it in between.
pub fn bind(
    variable: &'static str,
    address: SocketAddr,
    workers: usize,
) -> Result<Vec<TcpListener>, BindError> {
    let fail = |source: io::Error| BindError {
        variable,
        address,
        hint: match source.kind() {
            io::ErrorKind::AddrInUse => "another process has the port; stop it or choose another port",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE; grant it or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "no interface has this address; set SERVER_HOST",
            _ => "the system refuses",
        },
        source,
    };
    if address.port() != 0 {
        drop(socket(address, false).map_err(fail)?);
    }
    let first = socket(address, true).map_err(fail)?;
    let address = first.local_addr().map_err(fail)?;
    let others = (1..workers).map(|_| socket(address, true));
    std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>().map_err(fail)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The load of each worker and the way to hand it a connection.
///
/// The kernel spreads connections over listeners by a hash, which leaves some workers with twice
/// the connections of others; a worker that has more than another gives new ones away.
#[derive(Debug, Clone)]
pub struct Balance {
    workers: Arc<[Worker]>,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Worker {
    active: AtomicUsize,
    handed: mpsc::UnboundedSender<Handed>,
}

/// An accepted connection on its way to another worker.
#[derive(Debug)]
pub struct Handed {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: bool,
}

impl Balance {
    /// Room for `workers` workers and `connections` connections; each receiver belongs to one worker.
    pub fn new(workers: usize, connections: usize) -> (Self, Vec<mpsc::UnboundedReceiver<Handed>>) {
        let (workers, receivers): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (handed, receiver) = mpsc::unbounded_channel();
                (Worker { active: AtomicUsize::new(0), handed }, receiver)
            })
            .unzip();
        (Self { workers: workers.into(), permits: Arc::new(Semaphore::new(connections)) }, receivers)
    }

    /// The number of open connections.
    pub fn active(&self) -> usize {
        self.workers.iter().map(|worker| worker.active.load(Ordering::Relaxed)).sum()
    }

    fn lightest(&self, own: usize) -> usize {
        let load = |index: usize| self.workers[index].active.load(Ordering::Relaxed);
        let lightest = (0..self.workers.len()).min_by_key(|&index| load(index)).unwrap_or(own);
        if load(lightest) < load(own) { lightest } else { own }
    }
}

/// Counts a connection as long as it lives.
struct Counted {
    balance: Balance,
    worker: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.balance.workers[self.worker].active.fetch_sub(1, Ordering::Relaxed);
        self.balance.permits.add_permits(1);
    }
}

/// One worker's part of the listening: accepts from its own sockets and takes what others hand over.
#[derive(Debug)]
pub struct Acceptor<P, T> {
    /// The worker's index.
    pub worker: usize,
    /// The balance that all workers share.
    pub balance: Balance,
    /// The stack of plain connections.
    pub plain: P,
    /// The stack of TLS connections.
    pub tls: T,
    /// Stops accepting, and waits for the connections.
    pub drain: Drain,
}

impl<P, T> Acceptor<P, T>
where
    P: Service<Accepted<TcpStream>, Response = ()> + Clone + Send + 'static,
    P::Future: Send,
    T: Service<Accepted<TcpStream>, Response = ()> + Clone + Send + 'static,
    T::Future: Send,
{
    /// Accepts until draining begins.
    pub async fn run(
        self,
        http: tokio::net::TcpListener,
        https: tokio::net::TcpListener,
        mut handed: mpsc::UnboundedReceiver<Handed>,
    ) {
        // A child, so that workers share no lock.
        let stopping = self.drain.stopping().child_token();
        loop {
            let permit = tokio::select! {
                permit = self.balance.permits.acquire() => permit,
                // Handed connections have their permit already: they must not wait for one.
                Some(handed) = handed.recv() => {
                    self.take(handed);
                    continue;
                }
                () = stopping.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            let (accepted, tls) = tokio::select! {
                Some(handed) = handed.recv() => {
                    self.take(handed);
                    continue;
                }
                accepted = http.accept() => (accepted, false),
                accepted = https.accept() => (accepted, true),
                () = stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    permit.forget();
                    self.place(stream, peer, tls);
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    warn!(%error, "can't accept connections");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    fn place(&self, stream: TcpStream, peer: SocketAddr, tls: bool) {
        let worker = self.balance.lightest(self.worker);
        self.balance.workers[worker].active.fetch_add(1, Ordering::Relaxed);
        if worker == self.worker {
            self.serve(stream, peer, tls);
            return;
        }
        let sent = stream.into_std().is_ok_and(|stream| {
            self.balance.workers[worker].handed.send(Handed { stream, peer, tls }).is_ok()
        });
        if !sent {
            self.forget(worker);
        }
    }

    fn take(&self, Handed { stream, peer, tls }: Handed) {
        match TcpStream::from_std(stream) {
            Ok(stream) => self.serve(stream, peer, tls),
            Err(_) => self.forget(self.worker),
        }
    }

    fn forget(&self, worker: usize) {
        drop(Counted { balance: self.balance.clone(), worker });
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, tls: bool) {
        let counted = Counted { balance: self.balance.clone(), worker: self.worker };
        let Ok(local) = stream.local_addr() else { return };
        // Small answers must not wait for the client's acknowledgement of the one before.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 4);
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_keepalive(&alive) {
            debug!(%peer, %error, "no keep-alive on a connection");
        }
        let accepted = Accepted::new(stream, local, peer);
        if tls {
            self.spawn(self.tls.clone(), accepted, counted);
        } else {
            self.spawn(self.plain.clone(), accepted, counted);
        }
    }

    fn spawn<S>(&self, mut stack: S, accepted: Accepted<TcpStream>, counted: Counted)
    where
        S: Service<Accepted<TcpStream>, Response = ()> + Send + 'static,
        S::Future: Send,
    {
        self.drain.spawn(async move {
            let _counted = counted;
            // The layers have logged what went wrong, with the facts that they alone know.
            if std::future::poll_fn(|cx| stack.poll_ready(cx)).await.is_ok() {
                let _logged = stack.call(accepted).await;
            }
        });
    }
}

/// Failures that concern one connection and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_variable() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind("HTTP_PORT", address, 2).unwrap_err();
        assert!(error.to_string().starts_with(&format!("HTTP_PORT: can't listen on {address}")), "{error}");
    }

    #[tokio::test]
    async fn all_workers_listen_on_one_port() {
        let listeners = bind("HTTP_PORT", "127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    }

    #[tokio::test]
    async fn daemons_that_start_at_once_never_share_a_chosen_port() {
        let start = |_| std::thread::spawn(|| bind("HTTP_PORT", "127.0.0.1:0".parse().unwrap(), 2).unwrap());
        let daemons: Vec<_> = (0..32).map(start).collect();
        let daemons: Vec<_> = daemons.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut ports: Vec<_> = daemons.iter().map(|own| own[0].local_addr().unwrap().port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 32, "{ports:?}");
    }

    #[test]
    fn a_connection_goes_to_the_worker_with_the_fewest() {
        let (balance, _receivers) = Balance::new(2, 10);
        balance.workers[0].active.store(3, Ordering::Relaxed);
        assert_eq!(balance.lightest(0), 1);
        assert_eq!(balance.lightest(1), 1);
        balance.workers[1].active.store(3, Ordering::Relaxed);
        assert_eq!((balance.lightest(0), balance.lightest(1)), (0, 1));
    }
}
