//! A handshake as an authority does it for TLS-ALPN-01 (RFC 8737, section 3). Whoever answers is let finish: what counts
//! is the certificate that is shown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::{ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The protocol of the challenge (RFC 8737, section 6.2).
const PROTOCOL: &[u8] = b"acme-tls/1";

/// The extension with the hash (section 6.1).
const IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";

/// Why no certificate was shown.
#[derive(Debug)]
pub(super) enum Failure {
    Connection(io::Error),
    Handshake(String),
}

/// The certificate that is shown to an authority.
pub(super) async fn shown(address: SocketAddr, host: &str) -> Result<CertificateDer<'static>, Failure> {
    let handshake = Failure::Handshake;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| handshake(error.to_string()))?;
    let config = config().map_err(|error| handshake(error.to_string()))?;
    let stream = TcpStream::connect(address).await.map_err(Failure::Connection)?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| handshake(error.to_string()))?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(PROTOCOL) {
        return Err(handshake("it does not speak acme-tls/1".to_owned()));
    }
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    certificate.map(|shown| shown.clone().into_owned()).ok_or_else(|| handshake("no certificate".to_owned()))
}

/// Whether a certificate answers the challenge of this key authorization.
pub(super) fn proves(certificate: &CertificateDer<'_>, authorization: &str) -> bool {
    let hash = digest::digest(&digest::SHA256, authorization.as_bytes());
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    parsed.extensions().iter().any(|extension| {
        extension.oid.to_id_string() == IDENTIFIER && extension.value.ends_with(hash.as_ref())
    })
}

fn config() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier = Arc::new(Anybody { provider });
    let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// Takes every certificate, if whoever shows it has its key: nothing is sent, and nothing believed but the hash in it.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // It is not offered.
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The extension of the challenge is critical, and a verifier of chains refuses what it does not know.
        let parsed = x509_parser::parse_x509_certificate(certificate);
        let (_, parsed) =
            parsed.map_err(|_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let key = SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw);
        verify_tls13_signature_with_raw_key(
            message,
            &key,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
