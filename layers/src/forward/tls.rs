//! TLS towards upstreams: verified by default.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::target::{Protocol, TlsOptions, Upstream};

/// Why TLS towards an upstream can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The text is no PEM.
    #[error("the upstream's certificate authorities are not valid PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// PEM without a certificate.
    #[error("the upstream's certificate authorities hold no certificate")]
    NoCertificate,
    /// A certificate that can't stand as an authority.
    #[error("a certificate authority of the upstream was not accepted")]
    Authority(#[source] rustls::Error),
    /// A host that can't be a server name in TLS.
    #[error("{0:?} can't be a server name")]
    ServerName(String),
    /// The crypto provider has no usable protocol version.
    #[error("TLS has no usable protocol version")]
    Versions(#[source] rustls::Error),
}

/// What a handshake with one upstream needs. One for all connections, so that sessions resume.
#[derive(Debug)]
pub(super) struct TlsClient {
    pub(super) name: ServerName<'static>,
    /// Offers what the upstream's protocol setting says.
    pub(super) any: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only: upgrades need it.
    pub(super) http1: Arc<ClientConfig>,
}

impl TlsClient {
    pub(super) fn new(
        upstream: &Upstream,
        platform: impl FnOnce() -> Arc<RootCertStore>,
    ) -> Result<Self, TlsSetupError> {
        let host = upstream.tls.server_name.as_ref().unwrap_or(&upstream.host).as_str();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name =
            ServerName::try_from(bare.to_owned()).map_err(|_| TlsSetupError::ServerName(host.to_owned()))?;
        let mut any = config(&upstream.tls, platform)?;
        let mut http1 = any.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        any.alpn_protocols = match upstream.protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Negotiate => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Self { name, any: Arc::new(any), http1: Arc::new(http1) })
    }
}

fn config(
    options: &TlsOptions,
    platform: impl FnOnce() -> Arc<RootCertStore>,
) -> Result<ClientConfig, TlsSetupError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Versions)?;
    if !options.verify {
        let anybody = Arc::new(Anybody(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth());
    }
    let roots = match &options.ca {
        Some(pem) => Arc::new(authorities(pem)?),
        None => platform(),
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authorities(pem: &str) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(TlsSetupError::Pem)?).map_err(TlsSetupError::Authority)?;
    }
    if roots.is_empty() { Err(TlsSetupError::NoCertificate) } else { Ok(roots) }
}

/// The authorities that the platform trusts. What can't be read is logged and left out.
pub(super) fn platform_roots() -> Arc<RootCertStore> {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "a platform certificate was not loaded");
    }
    let mut roots = RootCertStore::empty();
    let (accepted, ignored) = roots.add_parsable_certificates(loaded.certs);
    tracing::debug!(accepted, ignored, "platform certificates loaded");
    Arc::new(roots)
}

/// Takes any certificate, for upstreams that opted out; the handshake's signature is still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(ca: &str) -> Result<TlsClient, TlsSetupError> {
        let mut upstream: Upstream = "https://backend.example".parse().expect("valid");
        upstream.tls.ca = Some(ca.into());
        TlsClient::new(&upstream, || panic!("the platform is not asked when authorities are given"))
    }

    #[test]
    fn authorities_must_hold_a_certificate() {
        assert!(matches!(setup(""), Err(TlsSetupError::NoCertificate)));
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(setup(broken), Err(TlsSetupError::Pem(_))));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(setup(nonsense), Err(TlsSetupError::Authority(_))));
    }

    #[test]
    fn alpn_follows_the_protocol_and_upgrades_offer_http1_only() {
        let mut upstream: Upstream = "https://[::1]".parse().expect("valid");
        upstream.tls.verify = false;
        for (protocol, offered) in [
            (Protocol::Http1, &[&b"http/1.1"[..]][..]),
            (Protocol::Negotiate, &[b"h2", b"http/1.1"]),
            (Protocol::Http2, &[b"h2"]),
        ] {
            upstream.protocol = protocol;
            let client = TlsClient::new(&upstream, || panic!("nothing is verified")).expect("valid");
            assert_eq!(client.any.alpn_protocols, offered);
            assert_eq!(client.http1.alpn_protocols, [b"http/1.1"]);
        }
    }
}
