//! A deployment whose certificates come from a Pebble of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::pebble::{Pebble, Settings, free_port};

/// Where a node listens, and where it keeps what it knows.
#[derive(Clone)]
pub struct Place {
    pub http: u16,
    pub https: u16,
    pub dir: Arc<TempDir>,
}

impl Place {
    pub fn new() -> Self {
        Self { http: free_port(), https: free_port(), dir: Arc::new(tempfile::tempdir().unwrap()) }
    }

    /// A Pebble that looks for answers here.
    pub fn settings(&self) -> Settings {
        Settings { http: self.http, tls: self.https, ..Settings::default() }
    }

    /// A node here that asks this directory for certificates.
    pub fn serve(&self, directory: &str, ca: &Path, change: impl FnOnce(&mut Command)) -> Daemon {
        Daemon::start_in(Arc::clone(&self.dir), |command| {
            command.env("HTTP_PORT", self.http.to_string()).env("HTTPS_PORT", self.https.to_string());
            command.env("PORTCULLIS_ACME_AUTOMATIC", "true");
            command.env("ACME_DIRECTORY_URL", directory).env("PORTCULLIS_ACME_CA", ca);
            command.env("ACME_POLL_INTERVAL_SECONDS", "0.2");
            change(command);
        })
    }
}

/// The certificates of the hosts that every deployment has.
const BUILTIN: [&str; 2] = ["proxy-auth-localhost", "proxy-localhost"];

/// One node and its Pebble.
pub struct World {
    pub daemon: Daemon,
    pub pebble: Pebble,
    pub place: Place,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(|_| (), |_| ()).await
    }

    pub async fn start_with(pebble: impl FnOnce(&mut Settings), node: impl FnOnce(&mut Command)) -> Self {
        let place = Place::new();
        let mut settings = place.settings();
        pebble(&mut settings);
        let pebble = Pebble::start(settings).await;
        let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), node);
        let world = Self { daemon, pebble, place };
        // The hosts that every deployment has: what a test counts comes after them.
        for builtin in BUILTIN {
            world.until(builtin, "issued", |status| status["in_progress"] == false).await;
        }
        world
    }

    /// Waits until a browser that trusts this Pebble would take what is served for a name; the leaf.
    pub async fn trusted(&self, host: &str) -> CertificateDer<'static> {
        let root = self.pebble.root(0).await;
        eventually(&format!("a certificate for {host}"), || async {
            leaf(self.daemon.https, host, &root).await.ok()
        })
        .await
    }

    /// Waits until a status is as wanted; there may be none yet.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{name}: {what}"), || async {
            let output = self.daemon.cli(&["--format", "json", "cert", "status", name]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (output.status.success() && wanted(&status)).then_some(status)
        })
        .await
    }

    /// A host without any certificate.
    pub fn host(&self, host: &str) {
        self.daemon.proxy(host, "builtin:echo", &json!({}));
    }
}

/// What a command answers, whether it is content with it or not.
pub fn ask(daemon: &Daemon, args: &[&str]) -> Value {
    let output = daemon.cli(&[&["--format", "json"], args].concat());
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A connection that trusts what this root has signed, and nothing else.
pub async fn connect(address: SocketAddr, host: &str, root: &str) -> std::io::Result<TlsStream<TcpStream>> {
    secure(TcpStream::connect(address).await?, host, root).await
}

/// The same on a stream that is open.
pub async fn secure(stream: TcpStream, host: &str, root: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The certificate that is served to whoever trusts this root.
pub async fn leaf(address: SocketAddr, host: &str, root: &str) -> std::io::Result<CertificateDer<'static>> {
    let stream = connect(address, host, root).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

/// All that a node keeps on disk, for a look at what must not be there.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}
