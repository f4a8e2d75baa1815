//! What the tests of this module share: a web server with a certificate, and clients that nobody stores.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{Client as HttpClient, PoolSettings, Tunnels};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::EndGrants;
use super::ssrf::{Exceptions, Guard};
use crate::store;

/// A server on this machine that answers each request with what it was told last, and remembers the requests.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) port: u16,
    pub(super) ca: Arc<str>,
    state: Arc<Mutex<(String, Vec<String>)>>,
    /// One answer for each permit.
    pub(super) gate: Arc<Semaphore>,
}

pub(super) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

pub(super) fn json_answer(body: &Value) -> String {
    answer("200 OK", "content-type: application/json\r\n", &body.to_string())
}

impl Site {
    pub(super) async fn start() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let identity = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![identity.cert.der().clone()], key)
            .expect("a good certificate");
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        // `localhost` may be looked up to both.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let site = Self {
            port: listener.local_addr().expect("bound").port(),
            ca: identity.cert.pem().into(),
            state: Arc::default(),
            gate: Arc::new(Semaphore::new(1000)),
        };
        let accepting = site.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (site, tls) = (accepting.clone(), tls.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        site.converse(stream).await;
                    }
                });
            }
        });
        site
    }

    async fn converse(self, mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let answer = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.1.push(String::from_utf8_lossy(&head).into_owned());
            state.0.clone()
        };
        self.gate.acquire().await.expect("open").forget();
        // The client may have gone already.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    pub(super) fn says(&self, answer: String) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = answer;
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub(super) fn url(&self, path: &str) -> String {
        let url = format!("https://localhost:{}{path}", self.port);
        assert!(url.parse::<Uri>().is_ok());
        url
    }

    /// Fetches from this machine, where no one else may.
    pub(super) fn guard(&self) -> Guard {
        let exceptions = Exceptions {
            networks: vec!["127.0.0.0/8".parse().expect("valid"), "::1/128".parse().expect("valid")],
            hosts: Vec::new(),
            ports: vec![self.port],
        };
        self.guard_with(exceptions)
    }

    pub(super) fn guard_with(&self, exceptions: Exceptions) -> Guard {
        Guard::new(http_client(), Some(Arc::clone(&self.ca)), exceptions)
    }
}

pub(super) fn http_client() -> HttpClient {
    HttpClient::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default())
}

/// Waits for something that is bound to happen.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
}

/// Remembers whose grants were ended; fails when told to.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) clients: Mutex<Vec<String>>,
    pub(super) failing: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl EndGrants for Ended {
    async fn end_grants(&self, client_id: &str) -> store::Result<()> {
        if self.failing.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(store::Error::Unavailable("told to fail".into()));
        }
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client_id.to_owned());
        Ok(())
    }
}
