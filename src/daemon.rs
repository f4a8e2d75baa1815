//! Wires store, services, stacks and tasks together, and owns the order in which they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_layers::access_log::{Sink, Tee};
use portcullis_layers::deadline::Ticker;
use portcullis_layers::drain::Drain;
use portcullis_layers::forward::{Checker, Client, PoolSettings, Timeouts, Tunnels};
use portcullis_layers::per_worker::enter_worker;
use portcullis_layers::sealed::Keys;
use portcullis_services::acme::on_demand::{self, Demand};
use portcullis_services::acme::{Challenges, Doctor, Manager, Policy, doctor, manager};
use portcullis_services::api;
use portcullis_services::applied::Applied;
use portcullis_services::control::oauth::Minter;
use portcullis_services::control::probes::Probes;
use portcullis_services::control::services::LabelledHosts;
use portcullis_services::control::{self, Control};
use portcullis_services::docker::Reconciler;
use portcullis_services::logs::{self, Levels, Writer, Writers, parse_level};
use portcullis_services::mcp;
use portcullis_services::mcp_tools::Recorder;
use portcullis_services::mirror::Mirror;
use portcullis_services::oauth::jwks::JwksFetcher;
use portcullis_services::oauth::upstream_tokens::{Follower, Sweep};
use portcullis_services::oauth::{
    IdentitySigner, Judge, Revocations, RevokedFile, Rotation, Trust, endpoints, keys,
};
use portcullis_services::stapling::{Served, Stapler, Staples};
use portcullis_services::store::connect::ConnectError;
use portcullis_services::store::snapshot_file::{self, SnapshotFile};
use portcullis_services::store::{Keep, Store, Stream};
use portcullis_services::vault;
use secrecy::ExposeSecret;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;
use tracing::{error, info, warn};

use crate::authorization;
use crate::bootstrap::BootstrapError;
use crate::builtin::{self, Streams};
use crate::edge::Edge;
use crate::listen::{Acceptor, Balance, BindError, bind};
use crate::live::{self, Live};
use crate::local::{self, SocketError};
use crate::metrics::Metrics;
use crate::observe::Observed;
use crate::ports::{self, Ports, Requests};
use crate::prepare::{first_look, open_store, open_vault, prepare, site, store_address};
use crate::reconcile::Reconcile;
use crate::runtime::{Parts, Runtime};
use crate::settings::{InvalidAcmeDns, LogFormat, Settings};
use crate::setup;
use crate::verifiers::Verifiers;

/// Threads of the control plane: one waits for stores, the other one may compute.
const CONTROL_THREADS: usize = 2;

/// The threads that serve published ports.
const PORT_THREADS: usize = 2;

/// What the logs may still take when everything else has ended.
const LAST_FLUSH: Duration = Duration::from_secs(3);

/// How long answers on the admin socket may still take when everybody else is gone.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// How long the Docker engine may take to say what runs before the first connection is accepted.
const ENGINE_LOOK: Duration = Duration::from_secs(5);

/// How long tunnels that are closed may take to say goodbye and to have their ends told.
const TUNNELS_GRACE: Duration = Duration::from_secs(2);

/// How much of the audit log is kept: longer than requests, because it tells who changed what.
const AUDIT_KEEP: Keep = Keep { entries: 100_000, age: Duration::from_secs(90 * 86_400) };

/// The name of this node's copy of the configuration in the data folder.
const COPY: &str = "configuration.sealed";

/// The name of this node's copy of the revocations there.
const REVOKED: &str = "revocations.sealed";

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
    /// Who changes the DNS.
    #[error(transparent)]
    Dns(#[from] InvalidAcmeDns),
    /// TLS.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
    /// The system.
    #[error("the system refuses")]
    System(#[from] std::io::Error),
    /// This node's copy of the configuration.
    #[error(
        "PORTCULLIS_DATA: the copy of the configuration can't be read, and the store can't replace it. Restore the \
         store or PORTCULLIS_SECRET_KEY, or remove the copy to begin anew"
    )]
    Copy {
        /// Why.
        #[source]
        source: snapshot_file::Error,
    },
    /// It was told to stop before it could start.
    #[error("stopped while waiting for the store")]
    Interrupted,
}

/// Runs the daemon until it is told to stop by SIGTERM or SIGINT. On an empty store it prints a setup token.
///
/// # Errors
///
/// When it can't start; the message names the variable that would have to change.
pub fn run(settings: Settings) -> Result<(), DaemonError> {
    run_in(settings, Around { stop: CancellationToken::new(), announce: true, started: |_| () })
}

/// Where a daemon listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
}

/// Runs the daemon until `stop`, or a signal. `started` is called when it serves. It prints nothing: standard output
/// belongs to the program around it, which finds its first admin through the admin socket.
///
/// # Errors
///
/// As for [`run`].
pub fn run_until(
    settings: Settings,
    stop: CancellationToken,
    started: impl FnOnce(Addresses) + Send,
) -> Result<(), DaemonError> {
    run_in(settings, Around { stop, announce: false, started })
}

/// What the program around the daemon wants.
struct Around<F> {
    stop: CancellationToken,
    /// Whether a setup token is printed on an empty store.
    announce: bool,
    started: F,
}

fn run_in<F: FnOnce(Addresses) + Send>(settings: Settings, around: Around<F>) -> Result<(), DaemonError> {
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
    // Of their own, so that whoever talks to a published port keeps nobody else waiting.
    let ports = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(PORT_THREADS)
        .thread_name("port")
        .on_thread_start(move || enter_worker(workers))
        .enable_all()
        .build()?;
    let outcome = control.block_on(async {
        let sockets = Sockets { http, https, admin: socket, ports: ports.handle().clone() };
        serve(&settings, sockets, addresses, levels, writers, around).await
    });
    ports.shutdown_background();
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
    /// Where published ports are served.
    ports: tokio::runtime::Handle,
}

async fn serve(
    settings: &Settings,
    sockets: Sockets,
    addresses: Addresses,
    levels: Levels,
    writers: Writers,
    around: Around<impl FnOnce(Addresses)>,
) -> Result<(), DaemonError> {
    let Around { stop, announce, started } = around;
    let signals = watch_signals(stop.clone())?;
    let vault = Arc::new(open_vault(settings)?);
    let store = open_store(settings)?;
    let mirror = Mirror::new(Arc::clone(&store));
    let copy = settings.storage.redis_url.as_ref().map(|url| {
        let file = SnapshotFile::new(settings.storage.data.join(COPY), Arc::clone(&vault));
        Arc::new(file.of_store(store_address(url.expose_secret())))
    });
    let first = first_look(settings, &mirror, &vault, copy.as_deref(), &stop).await?;
    let site = site(settings)?;
    let workers = settings.workers();
    let ticker = Ticker::new(workers + 1);
    let drain = Drain::new();
    let draining = CancellationToken::new();
    let tunnels = Tunnels::new(workers + 1);
    let streams = Streams { tunnels: tunnels.clone(), ticker: ticker.clone() };
    let client = Client::new(workers + 1, ticker.clone(), tunnels.clone(), PoolSettings::default());
    let trust = Trust::new(site.issuer.as_str(), &first.keys, workers + 1)?;
    let revocations = Arc::new(Revocations::new(Arc::clone(&store), Arc::clone(trust.revoked())));
    // Without Redis the store is this node's own, and never away.
    let revoked = settings.storage.redis_url.as_ref();
    let revoked = revoked.map(|_| RevokedFile::new(settings.storage.data.join(REVOKED), Arc::clone(&vault)));
    if let Some(Err(error)) = revoked.as_ref().map(|file| file.restore(trust.revoked())) {
        warn!(error = &error as &dyn std::error::Error, "kept revocations can't be used");
    }
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
    let jwks = JwksFetcher::new(client.clone(), None);
    let verifiers = Arc::new(Verifiers::new(trust, jwks.clone()));
    let ca = authorization::fetch_ca(&settings.oauth)?;
    let authorization = authorization::build(
        settings,
        &authorization::Parts {
            mirror: &mirror,
            vault: &vault,
            site: &site,
            client: &client,
            keys: &first.keys,
            revocations: &revocations,
            verifiers: &verifiers,
            writers: &writers,
            ca: ca.clone(),
        },
    )?;
    let policy = settings.acme.policy(settings.identity.rsa_key_size);
    let policy = policy.map_err(|(variable, detail)| DaemonError::Setting { variable, detail })?;
    let dns = settings.acme_dns.provider()?;
    let policy = Arc::new(Policy { can_dns: dns.is_some(), ..policy });
    let challenges = Challenges::new(Arc::clone(&store), tokio::runtime::Handle::current());
    let doctor = Doctor::new(doctor::Parts {
        client: client.clone(),
        challenges: challenges.clone(),
        resolvers: settings.acme_dns.resolvers(),
        policy: Arc::clone(&policy),
    });
    let staples = Arc::new(Staples::default());
    let operations = Control::new(control::Parts {
        mirror: mirror.clone(),
        vault: Arc::clone(&vault),
        issuer,
        mint: Arc::new(minter),
        judge: Arc::clone(&verifiers) as Arc<dyn Judge>,
        levels: levels.clone(),
        writers: writers.clone(),
        applied: applied.subscribe(),
        site: site.clone(),
        github_app: settings.oauth.github_client_id.clone(),
        key_policy: settings.oauth.key_policy(),
        acme: Arc::clone(&policy),
        doctor: Arc::new(doctor),
        staples: Arc::clone(&staples),
        accept: Arc::clone(&accept),
        draining: draining.clone(),
    });
    let docker = settings.docker.engine(&site.issuer);
    let docker = docker.map_err(|(variable, detail)| DaemonError::Setting { variable, detail })?;
    if let Some(docker) = docker.as_ref().filter(|docker| docker.connection().is_exposed()) {
        let at = docker.connection().to_string();
        warn!(
            at,
            "the Docker engine is spoken to in the clear: whoever reaches that port is root on its machine"
        );
    }
    let services = docker.as_ref().map(|docker| docker.switchboard().clone()).unwrap_or_default();
    let probes = Probes::new(client.clone(), ca);
    let operations = operations.with_oauth(Arc::clone(&authorization)).with_probes(probes);
    let operations = match &docker {
        Some(docker) => operations.with_docker(docker.clone()),
        None => operations,
    };
    let operations = Arc::new(operations);
    let api = api::router(Arc::clone(&operations));
    let mcp = mcp::service(Arc::clone(&operations));
    let (tools, recorder) = Recorder::new(mirror.clone());
    let limits = &settings.limits;
    let identity = Arc::new(IdentitySigner::new(site.issuer.as_str(), Arc::clone(&first.keys)));
    let runtime = Arc::new(Runtime::new(Parts {
        client,
        verifiers,
        vault: Arc::clone(&vault),
        mirror: mirror.clone(),
        site,
        timeouts: Timeouts {
            connect: limits.proxy_connect_timeout,
            head: limits.proxy_request_timeout,
            body_idle: Some(limits.body_idle_timeout),
        },
        services: services.clone(),
        max_body: limits.max_body,
        public_https_port: settings.public_https_port(),
        oauth: Some(builtin::elsewhere(
            endpoints::router(&authorization),
            tokio::runtime::Handle::current(),
            streams.clone(),
        )),
        identity,
        workers: workers + 1,
        calls: Arc::new(writers.mcp.clone()),
        tools,
        github_tokens: authorization.held_tokens(),
        sealed: Keys::new([vault.blob_key()]).expect("there is a key"),
        builtins: builtin::all(api.clone(), mcp.clone(), tokio::runtime::Handle::current(), &streams),
    }));
    let issuing = Manager::new(manager::Parts {
        mirror: mirror.clone(),
        vault: Arc::clone(&vault),
        client: runtime.client.clone(),
        policy,
        challenges: challenges.clone(),
        dns,
    });
    let (demand, demanded) = Demand::new(issuing.policy().on_demand.per_network);
    let judge = on_demand::Judge::new(mirror.clone(), Arc::clone(issuing.policy()), runtime.client.clone());
    let live = Live::default();
    let trust = runtime.verifiers.trust.clone();
    live::judge_late(&tunnels, &live, trust.clone());
    let kept = Sweep::new(Arc::clone(&authorization));
    let held = Follower::new(Arc::clone(&authorization));
    let rotation = Rotation::new(mirror.clone(), Arc::clone(&vault), settings.oauth.key_policy());
    let reconcile = Reconcile {
        mirror,
        live: live.clone(),
        runtime: Arc::clone(&runtime),
        authorization,
        challenges: challenges.clone(),
        levels,
        copy,
        copying: Arc::default(),
        applied,
        accept,
        settings: settings.clone(),
    };
    let published = docker.as_ref().map(|docker| (docker.node().clone(), docker.ports().clone()));
    let labelled = docker.clone().map(|docker| LabelledHosts::new(Arc::clone(&operations), docker));
    let containers = match docker {
        Some(docker) => {
            let vault = Arc::clone(&vault);
            let mut containers = Reconciler::new(docker, vault, Arc::clone(&store));
            // What runs already is found before the first request; an engine that is slow is not waited for.
            let _found = tokio::time::timeout(ENGINE_LOOK, containers.look(&first.view)).await;
            Some(containers)
        }
        None => None,
    };
    reconcile.apply(first.view, first.from_copy).await;
    if let Some(found) = &first.replaced {
        reconcile.report_replaced(found);
    }
    // Everything that serves stands before the first connection is accepted.
    let metrics = Metrics::new(workers + 1);
    let sink = Tee(writers.of_requests(), metrics.clone());
    let edge = Edge::new(settings, live.clone(), (&challenges, demand.clone()), sink, ticker, drain.clone())?;
    let published = published.map(|(node, board)| Ports {
        live: live.clone(),
        containers: runtime.services.clone(),
        node,
        board,
        requests: Requests { front: front(&edge), runtime: Arc::clone(&runtime) },
        max_connections: settings.limits.max_connections,
        drain: drain.clone(),
        runtime: sockets.ports,
    });
    let (balance, handed) = Balance::new(workers, limits.max_connections);
    let background = CancellationToken::new();
    let observed = Observed {
        edge: &edge,
        writers: &writers,
        balance: &balance,
        client: &runtime.client,
        services: &runtime.services,
        tunnels: &tunnels,
        jwks: &jwks,
        issuing: issuing.counters(),
        staples: &staples,
        control: &operations,
        live: &live,
        demand: &demand,
    };
    crate::observe::register(&metrics, &observed);
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
    if settings.acme.ocsp_stapling {
        let (stapler, served) = (Stapler::new(runtime.client.clone(), staples), served(live.clone()));
        tokio::spawn(stapler.run(served, reconcile.applied.subscribe(), background.clone()));
    }
    tokio::spawn(Checker::new(runtime.client.clone()).run(background.clone()));
    tokio::spawn(Arc::new(issuing).run(reconcile.applied.subscribe(), background.clone()));
    let judged = reconcile.applied.subscribe();
    tokio::spawn(Arc::new(judge).run(demand, demanded, judged, background.clone()));
    tokio::spawn(rotation.run(reconcile.applied.subscribe(), background.clone()));
    tokio::spawn(kept.run(reconcile.applied.subscribe(), background.clone()));
    tokio::spawn(held.run(reconcile.applied.subscribe(), background.clone()));
    tokio::spawn(Arc::clone(mcp.sessions()).run(background.clone()));
    tokio::spawn(recorder.run(background.clone()));
    if let Some(published) = published {
        tokio::spawn(published.run(reconcile.applied.subscribe(), background.clone()));
    }
    if let Some(containers) = containers {
        let current = live.clone();
        let current = move || current.current().view.clone();
        tokio::spawn(containers.run(current, reconcile.applied.subscribe(), background.clone()));
    }
    if let Some(labelled) = labelled {
        let current = live.clone();
        let current = move || current.current().view.clone();
        tokio::spawn(labelled.run(current, reconcile.applied.subscribe(), background.clone()));
    }
    tokio::spawn(reconcile.run(background.clone()));
    tokio::spawn(live::end_revoked(Arc::clone(&revocations), tunnels.clone(), trust, background.clone()));
    if let Some(file) = revoked {
        tokio::spawn(file.follow(Arc::clone(&revocations), background.clone()));
    }
    tokio::spawn(revocations.run(background.clone()));
    tokio::spawn(jwks.run(background.clone()));
    let logs = spawn_writers(settings, &writers, &store);
    sockets.admin.set_nonblocking(true)?;
    // Its own signals: while the node drains, this socket still tells so.
    let admin = Drain::new();
    admin.spawn(local::serve(UnixListener::from_std(sockets.admin)?, api, streams, admin.clone()));
    let threads = spawn_workers(sockets.http, sockets.https, handed, &edge, &balance, &drain, &tunnels)?;
    info!(
        http = %addresses.http,
        https = %addresses.https,
        metrics = metrics_address.map(tracing::field::display),
        workers,
        store = if settings.storage.redis_url.is_some() { "redis" } else { "embedded" },
        "listening"
    );
    if first.fresh && announce {
        setup::announce(&operations, settings).await;
    }
    started(addresses);
    signals.await;
    // First of all, so that whoever reads of the end finds the node not ready.
    draining.cancel();
    let drains = Drains { edge: drain, admin };
    shut_down(settings, drains, tunnels, background, threads, &writers, logs).await;
    Ok(())
}

/// What makes the stack of a published port.
fn front<K: Sink + Clone + Send + Sync + 'static>(edge: &Edge<K>) -> ports::Front {
    let edge = edge.clone();
    Arc::new(move |inner| BoxCloneSyncService::new(edge.port(inner)))
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

/// The certificates that handshakes are served with.
fn served(live: Live) -> impl Fn() -> Served {
    move || {
        let current = live.current();
        current.certificates.iter().map(|(name, certified)| (name.clone(), Arc::clone(certified))).collect()
    }
}

/// What has to end in order: connections from elsewhere, then those on the admin socket, where one can see how far it is.
struct Drains {
    edge: Drain,
    admin: Drain,
}

/// The order of the end: nobody new, everybody out, what they left behind written down.
async fn shut_down(
    settings: &Settings,
    drains: Drains,
    tunnels: Tunnels,
    background: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
    writers: &Writers,
    logs: CancellationToken,
) {
    info!("stopping: not ready, no new connections, open ones may end");
    tunnels.close_all();
    let late = drains.edge.shutdown(settings.limits.shutdown_grace).await;
    if late > 0 {
        warn!(connections = late, "ended connections that did not end by themselves");
    }
    drains.admin.shutdown(ADMIN_GRACE).await;
    // Their ends are in the log; without this the last ones could come after its last flush.
    if tokio::time::timeout(TUNNELS_GRACE, tunnels.closed()).await.is_err() {
        warn!("tunnels have not ended");
    }
    background.cancel();
    for writer in [&writers.requests, &writers.mcp, &writers.audit, &writers.oauth, &writers.diagnostics] {
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
        oauth: Writer::new(Stream::Oauth, workers + 1, bytes / 4),
        mcp: Writer::new(Stream::Mcp, workers + 1, bytes),
    }
}

fn spawn_writers(settings: &Settings, writers: &Writers, store: &Arc<dyn Store>) -> CancellationToken {
    let stop = CancellationToken::new();
    let age = Duration::from_secs(u64::from(settings.logging.log_ttl_days) * 86_400);
    let keep = Keep { entries: settings.logging.log_max_entries, age };
    for writer in [&writers.requests, &writers.mcp, &writers.diagnostics] {
        tokio::spawn(writer.clone().run(Arc::clone(store), keep, stop.clone()));
    }
    for writer in [&writers.audit, &writers.oauth] {
        tokio::spawn(writer.clone().run(Arc::clone(store), AUDIT_KEEP, stop.clone()));
    }
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
    tunnels: &Tunnels,
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
            let (drain, tunnels) = (drain.clone(), tunnels.clone());
            std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
                enter_worker(worker);
                runtime.block_on(async move {
                    match (TcpListener::from_std(http), TcpListener::from_std(https)) {
                        (Ok(http), Ok(https)) => acceptor.run(http, https, handed).await,
                        (Err(error), _) | (_, Err(error)) => error!(%error, "a worker can't listen"),
                    }
                    // Connections and their tunnels live on this thread: it ends with the last of them.
                    drain.ended().await;
                    let _all_or_late = tokio::time::timeout(TUNNELS_GRACE, tunnels.closed()).await;
                });
            })
        })
        .collect()
}
