//! Wires store, services, stacks and tasks together, and owns the order in which they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::access_log::Tee;
use portcullis_layers::deadline::Ticker;
use portcullis_layers::drain::Drain;
use portcullis_layers::forward::{Client, PoolSettings, Timeouts, Tunnels};
use portcullis_layers::per_worker::enter_worker;
use portcullis_services::api;
use portcullis_services::control::{self, Applied, Control, Writers};
use portcullis_services::logs::{self, Levels, Writer, parse_level};
use portcullis_services::oauth::jwks::JwksFetcher;
use portcullis_services::oauth::{Minter, Revocations, Trust, keys};
use portcullis_services::store::connect::ConnectError;
use portcullis_services::store::snapshot_file::SnapshotFile;
use portcullis_services::store::{Keep, Store, Stream};
use portcullis_services::vault;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bootstrap::BootstrapError;
use crate::builtin::{self, Streams};
use crate::edge::Edge;
use crate::listen::{Acceptor, Balance, BindError, bind};
use crate::live::{self, Live};
use crate::local::{self, SocketError};
use crate::metrics::Metrics;
use crate::prepare::{first_look, open_store, open_vault, prepare, site};
use crate::reconcile::Reconcile;
use crate::runtime::{Parts, Runtime};
use crate::settings::{LogFormat, Settings};
use crate::setup;

/// Threads of the control plane: one waits for stores, the other one may compute.
const CONTROL_THREADS: usize = 2;

/// What the logs may still take when everything else has ended.
const LAST_FLUSH: Duration = Duration::from_secs(3);

/// How much of the audit log is kept: longer than requests, because it tells who changed what.
const AUDIT_KEEP: Keep = Keep { entries: 100_000, age: Duration::from_secs(90 * 86_400) };

/// The name of this node's copy of the configuration in the data folder.
const COPY: &str = "configuration.sealed";

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A setting.
    #[error("{variable}: {detail}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it, and what would be right.
        detail: String,
    },
    /// The data folder.
    #[error("PORTCULLIS_DATA: {} can't be used", path.display())]
    Data {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The secret key.
    #[error("PORTCULLIS_SECRET_KEY: the key can't be used")]
    Vault(#[from] vault::Error),
    /// The store.
    #[error("{variable}: the store can't be used")]
    Connect {
        /// The variable that names it.
        variable: &'static str,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// What the store must hold.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The signing keys.
    #[error("the signing keys can't be used")]
    Keys(#[from] keys::Error),
    /// TLS.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
    /// The system.
    #[error("the system refuses")]
    System(#[from] std::io::Error),
    /// It was told to stop before it could start.
    #[error("stopped while waiting for the store")]
    Interrupted,
}

/// Runs the daemon until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
///
/// When it can't start; the message names the variable that would have to change.
pub fn run(settings: Settings) -> Result<(), DaemonError> {
    run_until(settings, CancellationToken::new(), |_| ())
}

/// Where a daemon listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
}

/// Runs the daemon until `stop`, or a signal. `started` is called when it serves.
///
/// # Errors
///
/// As for [`run`].
pub fn run_until(
    settings: Settings,
    stop: CancellationToken,
    started: impl FnOnce(Addresses) + Send,
) -> Result<(), DaemonError> {
    let levels = Levels::new(
        parse_level(&settings.logging.log_level)
            .map_err(|error| DaemonError::Setting { variable: "LOG_LEVEL", detail: error.to_string() })?,
    );
    let workers = settings.workers();
    let writers = writers(&settings, workers);
    let format = match settings.logging.log_format {
        LogFormat::Text => logs::tracing::Format::Text,
        LogFormat::Json => logs::tracing::Format::Json,
    };
    // Fails when the program around us has a subscriber of its own, which then is the right one.
    let _installed = logs::tracing::install(format, &levels, Some(writers.diagnostics.clone()));
    // Ports first: what can't be had should be known before anything is written anywhere.
    let listen = &settings.listen;
    let http = bind("HTTP_PORT", SocketAddr::new(listen.server_host, listen.http_port), workers)?;
    let https = bind("HTTPS_PORT", SocketAddr::new(listen.server_host, listen.https_port), workers)?;
    let addresses = Addresses { http: http[0].local_addr()?, https: https[0].local_addr()? };
    let settings = with_ports(settings, addresses);
    prepare(&settings.storage.data)?;
    let socket = local::bind(&settings.socket())?;
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .on_thread_start(move || enter_worker(workers))
        .enable_all()
        .build()?;
    let outcome = control.block_on(async {
        let sockets = Sockets { http, https, admin: socket };
        serve(&settings, sockets, addresses, levels, writers, stop, started).await
    });
    // Nobody can use it any more; the next start would replace it.
    let _removed = std::fs::remove_file(settings.socket());
    control.shutdown_timeout(LAST_FLUSH);
    outcome
}

/// The sockets that were bound before anything else.
struct Sockets {
    http: Vec<std::net::TcpListener>,
    https: Vec<std::net::TcpListener>,
    admin: std::os::unix::net::UnixListener,
}

async fn serve(
    settings: &Settings,
    sockets: Sockets,
    addresses: Addresses,
    levels: Levels,
    writers: Writers,
    stop: CancellationToken,
    started: impl FnOnce(Addresses),
) -> Result<(), DaemonError> {
    let signals = watch_signals(stop.clone())?;
    let vault = Arc::new(open_vault(settings)?);
    let store = open_store(settings)?;
    let copy = settings
        .storage
        .redis_url
        .is_some()
        .then(|| Arc::new(SnapshotFile::new(settings.storage.data.join(COPY), Arc::clone(&vault))));
    let first = first_look(settings, &store, &vault, copy.as_deref(), &stop).await?;
    let site = site(settings)?;
    let workers = settings.workers();
    let ticker = Ticker::new(workers + 1);
    let drain = Drain::new();
    let tunnels = Tunnels::new(workers + 1);
    let streams = Streams { tunnels: tunnels.clone(), ticker: ticker.clone() };
    let client = Client::new(workers + 1, ticker.clone(), tunnels.clone(), PoolSettings::default());
    let trust = Trust::new(site.issuer.as_str(), &first.keys, workers + 1)?;
    let revocations = Arc::new(Revocations::new(Arc::clone(&store), Arc::clone(trust.revoked())));
    if let Err(error) = revocations.catch_up().await {
        warn!(%error, "revocations can't be read yet");
    }
    let minter =
        Minter::new(Arc::clone(&store), Arc::clone(&vault), site.issuer.clone(), Arc::clone(&revocations));
    let applied = watch::Sender::new(Applied::default());
    let accept = Arc::new(Notify::new());
    let issuer = site.issuer.parse().map_err(|_| DaemonError::Setting {
        variable: if settings.identity.oauth_issuer.is_some() { "OAUTH_ISSUER" } else { "BASE_DOMAIN" },
        detail: format!("{:?} is no URL: write https://HOST", site.issuer),
    })?;
    let operations = Arc::new(Control::new(control::Parts {
        store: Arc::clone(&store),
        vault: Arc::clone(&vault),
        issuer,
        mint: Arc::new(minter),
        levels: levels.clone(),
        writers: writers.clone(),
        applied: applied.subscribe(),
        public_https_port: settings.public_https_port(),
        accept: Arc::clone(&accept),
    }));
    let api = api::router(Arc::clone(&operations));
    let jwks = JwksFetcher::new(client.clone(), None);
    let limits = &settings.limits;
    let runtime = Arc::new(Runtime::new(Parts {
        client,
        trust,
        jwks: jwks.clone(),
        vault: Arc::clone(&vault),
        site,
        timeouts: Timeouts {
            connect: limits.proxy_connect_timeout,
            head: limits.proxy_request_timeout,
            body_idle: Some(limits.body_idle_timeout),
        },
        max_body: limits.max_body,
        public_https_port: settings.public_https_port(),
        builtins: builtin::all(api.clone(), tokio::runtime::Handle::current(), &streams),
    }));
    let live = Live::default();
    let reconcile = Reconcile {
        store: Arc::clone(&store),
        live: live.clone(),
        runtime: Arc::clone(&runtime),
        levels,
        copy,
        applied,
        accept,
        settings: settings.clone(),
    };
    reconcile.apply(first.revision, first.documents, first.from_copy).await;
    // Everything that serves stands before the first connection is accepted.
    let metrics = Metrics::new(workers + 1);
    let sink = Tee(writers.requests.clone(), metrics.clone());
    let edge = Edge::new(settings, live.clone(), sink, ticker, drain.clone())?;
    let (balance, handed) = Balance::new(workers, limits.max_connections);
    let background = CancellationToken::new();
    crate::observe::register(&metrics, &edge, &writers, &balance, &operations, &live);
    let metrics_address = match settings.listen.metrics_addr {
        Some(address) => {
            let listener = TcpListener::bind(address).await.map_err(|source| DaemonError::Setting {
                variable: "PORTCULLIS_METRICS_ADDR",
                detail: format!("can't listen on {address}: {source}"),
            })?;
            let address = listener.local_addr()?;
            tokio::spawn(crate::metrics::serve(listener, metrics.clone(), background.clone()));
            Some(address)
        }
        None => None,
    };
    tokio::spawn(count_hosts(reconcile.applied.subscribe(), metrics, live.clone(), background.clone()));
    tokio::spawn(reconcile.run(background.clone()));
    tokio::spawn(live::end_revoked(Arc::clone(&revocations), tunnels.clone(), background.clone()));
    tokio::spawn(revocations.run(background.clone()));
    tokio::spawn(jwks.run(background.clone()));
    let logs = spawn_writers(settings, &writers, &store);
    sockets.admin.set_nonblocking(true)?;
    drain.spawn(local::serve(UnixListener::from_std(sockets.admin)?, api, streams, drain.clone()));
    let threads = spawn_workers(sockets.http, sockets.https, handed, &edge, &balance, &drain)?;
    info!(
        http = %addresses.http,
        https = %addresses.https,
        metrics = metrics_address.map(tracing::field::display),
        workers,
        store = if settings.storage.redis_url.is_some() { "redis" } else { "embedded" },
        "listening"
    );
    if first.fresh {
        setup::announce(&operations, settings).await;
    }
    started(addresses);
    signals.await;
    shut_down(settings, drain, tunnels, background, threads, &writers, logs).await;
    Ok(())
}

/// Has each configured host counted on its own.
async fn count_hosts(
    mut applied: watch::Receiver<Applied>,
    metrics: Metrics,
    live: Live,
    stop: CancellationToken,
) {
    loop {
        metrics.set_hosts(live.current().hosts.iter().map(|(pattern, _)| pattern.to_string()));
        if !matches!(stop.run_until_cancelled(applied.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

/// The order of the end: nobody new, everybody out, what they left behind written down.
async fn shut_down(
    settings: &Settings,
    drain: Drain,
    tunnels: Tunnels,
    background: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
    writers: &Writers,
    logs: CancellationToken,
) {
    info!("stopping: no new connections, open ones may end");
    tunnels.close_all();
    let late = drain.shutdown(settings.limits.shutdown_grace).await;
    if late > 0 {
        warn!(connections = late, "ended connections that did not end by themselves");
    }
    background.cancel();
    for writer in [&writers.requests, &writers.audit, &writers.diagnostics] {
        if !writer.flush(LAST_FLUSH).await {
            eprintln!("portcullis: {} log entries could not be written", writer.counts().waiting);
        }
    }
    logs.cancel();
    for thread in threads {
        if thread.join().is_err() {
            error!("a worker panicked");
        }
    }
    info!("stopped");
}

/// Resolves when the process is told to stop.
fn watch_signals(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
        // Whoever asks twice means it.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(stop.cancelled_owned())
}

/// Port 0 has become a real one; public URLs must name that.
fn with_ports(mut settings: Settings, addresses: Addresses) -> Settings {
    settings.listen.http_port = addresses.http.port();
    settings.listen.https_port = addresses.https.port();
    settings
}

fn writers(settings: &Settings, workers: usize) -> Writers {
    let bytes = settings.logging.log_buffer.saturating_mul(workers);
    Writers {
        requests: Writer::new(Stream::Requests, workers + 1, bytes),
        diagnostics: Writer::new(Stream::Diagnostics, workers + 1, bytes / 4),
        audit: Writer::new(Stream::Audit, workers + 1, bytes / 4),
    }
}

fn spawn_writers(settings: &Settings, writers: &Writers, store: &Arc<dyn Store>) -> CancellationToken {
    let stop = CancellationToken::new();
    let age = Duration::from_secs(u64::from(settings.logging.log_ttl_days) * 86_400);
    let keep = Keep { entries: settings.logging.log_max_entries, age };
    for writer in [&writers.requests, &writers.diagnostics] {
        tokio::spawn(writer.clone().run(Arc::clone(store), keep, stop.clone()));
    }
    tokio::spawn(writers.audit.clone().run(Arc::clone(store), AUDIT_KEEP, stop.clone()));
    stop
}

/// Starts the worker threads: each has a runtime, sockets and shards of its own.
fn spawn_workers<K: portcullis_layers::access_log::Sink>(
    http: Vec<std::net::TcpListener>,
    https: Vec<std::net::TcpListener>,
    handed: Vec<tokio::sync::mpsc::UnboundedReceiver<crate::listen::Handed>>,
    edge: &Edge<K>,
    balance: &Balance,
    drain: &Drain,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let sockets = http.into_iter().zip(https).zip(handed);
    sockets
        .enumerate()
        .map(|(worker, ((http, https), handed))| {
            let acceptor = Acceptor {
                worker,
                balance: balance.clone(),
                plain: edge.plain(),
                tls: edge.secure(),
                drain: drain.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let drain = drain.clone();
            std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
                enter_worker(worker);
                runtime.block_on(async move {
                    match (TcpListener::from_std(http), TcpListener::from_std(https)) {
                        (Ok(http), Ok(https)) => acceptor.run(http, https, handed).await,
                        (Err(error), _) | (_, Err(error)) => error!(%error, "a worker can't listen"),
                    }
                    // Connections live on this thread: it ends with the last of them.
                    drain.ended().await;
                });
            })
        })
        .collect()
}
