//! The web server of a client that is known by its metadata document.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::certificate::Authority;

pub struct Document {
    pub port: u16,
    /// The URL, which is the client's id.
    pub url: String,
    asked: Arc<AtomicUsize>,
}

impl Document {
    /// Serves the document of a native client, which has no port in its redirect URI.
    pub async fn serve(authority: &Authority) -> Self {
        let document = json!({
            "client_name": "Documented", "redirect_uris": ["http://127.0.0.1/callback"],
            "grant_types": ["authorization_code", "refresh_token"], "token_endpoint_auth_method": "none",
        });
        Self::of(authority, "/oauth/client.json", document).await
    }

    /// Serves this document, with its own URL as the client's id.
    pub async fn of(authority: &Authority, path: &str, mut document: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://localhost:{port}{path}");
        document["client_id"] = json!(url);
        let acceptor = TlsAcceptor::from(Arc::new(config(authority)));
        let (asked, text) = (Arc::new(AtomicUsize::new(0)), document.to_string());
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let service = service_fn(|_| {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let response = Response::builder().header("content-type", "application/json");
                    let response = response.body(Full::new(Bytes::from(text.clone()))).unwrap();
                    async { Ok::<_, Infallible>(response) }
                });
                // How the connection ends is the client's business.
                let _ended = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        Self { port, url, asked }
    }

    /// How often it was fetched.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn config(authority: &Authority) -> rustls::ServerConfig {
    let pair = authority.sign(&["localhost"]);
    let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap()
}
