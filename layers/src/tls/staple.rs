//! What the responder of a certificate has said of it, shown in handshakes (RFC 6066, section 8; RFC 8446, section
//! 4.4.2.1). What it says is not judged here.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::sign::CertifiedKey;

/// The place of a certificate's response; empty until there is one. A clone is the same place.
// A pointer that is swapped: handshakes never wait for whoever puts a response here.
#[derive(Clone, Default)]
pub(super) struct Staple(Arc<ArcSwapOption<Stapled>>);

struct Stapled {
    /// The certificate and its key, with the response.
    key: Arc<CertifiedKey>,
    /// Until when it may be shown, in seconds since 1970.
    until: i64,
}

impl Staple {
    pub(super) fn put(&self, key: &CertifiedKey, response: Vec<u8>, until: i64) {
        let key = Arc::new(CertifiedKey { ocsp: Some(response), ..key.clone() });
        self.0.store(Some(Arc::new(Stapled { key, until })));
    }

    pub(super) fn clear(&self) {
        self.0.store(None);
    }

    pub(super) fn until(&self) -> Option<i64> {
        self.0.load().as_ref().map(|stapled| stapled.until)
    }

    /// What is served now: a response whose time is over is not shown, whether or not somebody has removed it.
    pub(super) fn key(&self) -> Option<Arc<CertifiedKey>> {
        let stapled = self.0.load();
        stapled.as_ref().filter(|stapled| now() < stapled.until).map(|stapled| stapled.key.clone())
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{
        ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
        SignatureScheme, SupportedProtocolVersion,
    };

    use super::*;
    use crate::tls::Certified;
    use crate::tls::certified::{always, provider};

    fn certified() -> Certified {
        let key = rcgen::KeyPair::generate().expect("generates");
        let params = rcgen::CertificateParams::new(["a.example".to_owned()]).expect("valid");
        let certificate = params.self_signed(&key).expect("signs");
        Certified::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("loads")
    }

    /// A client that trusts everybody, and notes what is stapled.
    #[derive(Debug, Default)]
    struct Noting(Mutex<Vec<u8>>);

    impl ServerCertVerifier for Noting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            response: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            *self.0.lock().expect("alone") = response.to_vec();
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    /// The configuration of a layer, which certificates are served with.
    fn base() -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .expect("known")
            .with_no_client_auth()
            .with_cert_resolver(always(certified().key));
        Arc::new(config)
    }

    /// What a client sees stapled.
    fn seen(
        certified: &Certified,
        base: &Arc<ServerConfig>,
        version: &'static SupportedProtocolVersion,
    ) -> Vec<u8> {
        let noting = Arc::new(Noting::default());
        let config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[version])
            .expect("known")
            .dangerous()
            .with_custom_certificate_verifier(noting.clone())
            .with_no_client_auth();
        let name = ServerName::try_from("a.example").expect("valid");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut server = ServerConnection::new(certified.config(base)).expect("a server");
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("memory");
            server.read_tls(&mut bytes.as_slice()).expect("memory");
            server.process_new_packets().expect("understood");
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).expect("memory");
            client.read_tls(&mut bytes.as_slice()).expect("memory");
            client.process_new_packets().expect("understood");
        }
        noting.0.lock().expect("alone").clone()
    }

    #[test]
    fn a_response_is_shown_until_its_time_is_over() {
        let (certified, base) = (certified(), base());
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            assert!(seen(&certified, &base, version).is_empty());
            certified.staple(b"one".to_vec(), now() + 3600);
            assert_eq!(seen(&certified, &base, version), b"one");
            certified.staple(b"two".to_vec(), now() + 3600);
            assert_eq!(seen(&certified, &base, version), b"two", "without another configuration");
            certified.staple(b"old".to_vec(), now());
            assert!(seen(&certified, &base, version).is_empty());
            certified.staple(b"three".to_vec(), now() + 3600);
            certified.unstaple();
            assert!(seen(&certified, &base, version).is_empty());
            assert_eq!(certified.stapled_until(), None);
        }
    }

    #[test]
    fn the_same_chain_loaded_anew_has_the_same_staple() {
        let (first, base) = (certified(), base());
        let until = now() + 3600;
        first.staple(b"one".to_vec(), until);
        let again = first.clone().sharing_staple_of(&first);
        first.staple(b"two".to_vec(), until);
        assert_eq!(seen(&again, &base, &rustls::version::TLS13), b"two");
        again.unstaple();
        assert_eq!(first.stapled_until(), None);
        first.staple(b"three".to_vec(), until);
        let other = certified().sharing_staple_of(&first);
        assert!(other.stapled_until().is_none(), "it says nothing about another certificate");
    }
}
