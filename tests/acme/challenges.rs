//! Servers that answer challenges, made by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::Response;
use instant_acme::ChallengeHandle;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use crate::support::handmade::{full, scripted, serve};

/// HTTP-01 (RFC 8555, section 8.3).
pub struct Http {
    pub port: u16,
    answers: Arc<Mutex<BTreeMap<String, String>>>,
    /// The hosts and paths that were asked for.
    pub asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Http {
    pub async fn start() -> Self {
        let answers: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let asked: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let (of_server, seen) = (Arc::clone(&answers), Arc::clone(&asked));
        let address = serve(false, move |request| {
            let path = request.uri().path().to_owned();
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            let answer = of_server.lock().unwrap().get(&path).cloned();
            seen.lock().unwrap().push((host, path));
            async move {
                let status = if answer.is_some() { 200 } else { 404 };
                Response::builder().status(status).body(full(answer.unwrap_or_default())).unwrap()
            }
        });
        Self { port: address.await.port(), answers, asked }
    }

    pub fn prove(&self, challenge: &ChallengeHandle<'_>) {
        let path = format!("/.well-known/acme-challenge/{}", challenge.token);
        self.answers.lock().unwrap().insert(path, challenge.key_authorization().as_str().to_owned());
    }
}

/// TLS-ALPN-01 (RFC 8737).
pub struct TlsAlpn {
    pub port: u16,
    certificates: Arc<Certificates>,
}

impl TlsAlpn {
    pub async fn start() -> Self {
        let certificates = Arc::new(Certificates::default());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let resolver: Arc<dyn ResolvesServerCert> = certificates.clone();
        let mut tls = tls.with_no_client_auth().with_cert_resolver(resolver);
        tls.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let address = scripted(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                // The authority looks at the handshake and goes.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _gone = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        });
        Self { port: address.await.port(), certificates }
    }

    pub fn prove(&self, name: &str, challenge: &ChallengeHandle<'_>) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let digest = challenge.key_authorization().digest().as_ref().to_vec();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key));
        self.certificates.0.lock().unwrap().insert(name.to_owned(), certified);
    }
}

#[derive(Debug, Default)]
struct Certificates(Mutex<BTreeMap<String, Arc<CertifiedKey>>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().get(hello.server_name()?).cloned()
    }
}
