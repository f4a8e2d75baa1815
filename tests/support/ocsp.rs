//! A real OCSP responder, `openssl ocsp`, and a client that sees what is stapled.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::eventually;

/// A responder that ends with its value. Its address is known, and its own, before it is started.
pub struct Responder {
    address: SocketAddr,
    /// Bound, but not listening: connections are refused, and nobody else gets the port.
    _place: Socket,
    dir: TempDir,
    process: Option<Child>,
}

/// Who answers for whom.
pub struct Signer<'a> {
    /// The authority, in PEM.
    pub authority: &'a str,
    /// Who signs, in PEM: the authority itself, or somebody for it.
    pub certificate: &'a str,
    /// The key, in PEM.
    pub key: &'a str,
}

/// What is known of a certificate by its serial number in hexadecimal.
pub enum Fate<'a> {
    Good(&'a str),
    Revoked(&'a str),
}

impl Responder {
    pub fn new() -> Self {
        let place = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        place.set_reuse_address(true).unwrap();
        place.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = place.local_addr().unwrap().as_socket().unwrap();
        Self { address, _place: place, dir: tempfile::tempdir().unwrap(), process: None }
    }

    /// Where it will be. With a query it is asked with `POST` only; it does not know questions below another path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Starts it, instead of the one before: answers are good for so many minutes, and other certificates unknown.
    pub async fn start(&mut self, signer: &Signer<'_>, fates: &[Fate<'_>], minutes: u32) {
        self.stop();
        let write = |name: &str, text: &str| {
            let file = self.dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        // Of two entries with one subject the second is refused.
        let lines = fates.iter().map(|fate| match fate {
            Fate::Good(serial) => {
                let serial = serial.to_uppercase();
                format!("V\t401231235959Z\t\t{serial}\tunknown\t/CN={serial}\n")
            }
            Fate::Revoked(serial) => {
                let serial = serial.to_uppercase();
                format!("R\t401231235959Z\t260101000000Z,keyCompromise\t{serial}\tunknown\t/CN={serial}\n")
            }
        });
        let index = write("index.txt", &lines.collect::<String>());
        let mut command = Command::new("openssl");
        command.arg("ocsp").arg("-index").arg(index).arg("-port").arg(self.address.port().to_string());
        let authority = write("authority.pem", signer.authority);
        command.arg("-CA").arg(&authority);
        command.arg("-rsigner").arg(write("signer.pem", signer.certificate));
        command.arg("-rkey").arg(write("signer.key", signer.key)).arg("-nmin").arg(minutes.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        // It ends when it is asked what it does not understand, and waits for ever where nothing is asked.
        let mut client = Command::new("openssl");
        client.arg("ocsp").arg("-issuer").arg(authority).args(["-serial", "0x01", "-no_nonce", "-noverify"]);
        client.arg("-url").arg(self.url("/"));
        eventually("the responder", || {
            let output = client.output().unwrap();
            async move { output.status.success().then_some(()) }
        })
        .await;
    }

    /// Ends it: connections are refused.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ended = process.kill();
            let _status = process.wait();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The serial number of a certificate, in hexadecimal.
pub fn serial(leaf: &CertificateDer<'_>) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).unwrap();
    // The byte that keeps a number positive is not part of it.
    let serial = certificate.raw_serial();
    serial.strip_prefix(&[0]).unwrap_or(serial).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is shown in a handshake for a name: the certificate, and what is stapled to it, which may be nothing.
pub async fn shown(address: SocketAddr, host: &str) -> io::Result<(CertificateDer<'static>, Vec<u8>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let noting =
        Arc::new(Noting { known: provider.signature_verification_algorithms, seen: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(noting.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let seen = noting.seen.lock().unwrap().take();
    Ok(seen.expect("a handshake without resumption has a certificate"))
}

/// Whether openssl's own client part takes a response as good for a certificate; what it says.
pub fn judged(
    response: &[u8],
    leaf: &CertificateDer<'_>,
    authority: &str,
    root: &str,
    dir: &Path,
) -> (bool, String) {
    let write = |name: &str, bytes: &[u8]| {
        let file = dir.join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let mut command = Command::new("openssl");
    command.arg("ocsp").arg("-respin").arg(write("response.der", response));
    command.arg("-issuer").arg(write("issuer.pem", authority.as_bytes()));
    command.arg("-serial").arg(format!("0x{}", serial(leaf)));
    // The issuer may be no root.
    command.arg("-CAfile").arg(write("root.pem", root.as_bytes())).arg("-partial_chain").arg("-no_nonce");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (text.contains("Response verify OK") && text.contains(": good"), text)
}

/// Takes every certificate, and notes it with what is stapled.
#[derive(Debug)]
struct Noting {
    known: WebPkiSupportedAlgorithms,
    seen: Mutex<Option<(CertificateDer<'static>, Vec<u8>)>>,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap() = Some((leaf.clone().into_owned(), response.to_vec()));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_schemes()
    }
}
