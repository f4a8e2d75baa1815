//! A web server of somebody else, with a certificate: what clients publish about themselves is there.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_services::oauth::clients::Exceptions;
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server on this machine that answers each request with what it was told last, and remembers the requests.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) port: u16,
    ca: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answer: String,
    requests: Vec<String>,
}

impl Site {
    pub(crate) async fn start() -> Self {
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
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let site = Self { port, ca: identity.cert.pem().into(), state: Arc::default() };
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

    async fn converse(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let answer = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push(String::from_utf8_lossy(&head).into_owned());
            state.answer.clone()
        };
        // Who asked may have gone already.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// From now on it answers with this; `headers` each end with a line break.
    pub(crate) fn says(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        self.state.lock().unwrap_or_else(PoisonError::into_inner).answer = answer;
    }

    /// The same with a document.
    pub(crate) fn publishes(&self, headers: &str, document: &Value) {
        self.says("200 OK", &format!("content-type: application/json\r\n{headers}"), &document.to_string());
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// What lets a deployment fetch from here, where no one else may.
    pub(crate) fn fetches(&self) -> (Exceptions, Option<Arc<str>>) {
        let networks = ["127.0.0.0/8", "::1/128"].map(|network| network.parse().expect("a network"));
        let exceptions = Exceptions { networks: networks.into(), hosts: Vec::new(), ports: vec![self.port] };
        (exceptions, Some(Arc::clone(&self.ca)))
    }

    /// The same for its name alone.
    pub(crate) fn fetches_by_name(&self) -> (Exceptions, Option<Arc<str>>) {
        let (exceptions, ca) = self.fetches();
        let hosts = vec!["localhost".parse().expect("a host")];
        (Exceptions { networks: Vec::new(), hosts, ..exceptions }, ca)
    }
}
