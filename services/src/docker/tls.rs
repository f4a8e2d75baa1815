//! TLS towards an engine: what is in the folder of its certificates, and what a failed handshake means.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bollard::BollardRequest;
use http::Response;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What becomes of a request.
pub(super) type Answer =
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, bollard::errors::Error>> + Send>>;

/// Sends requests over TLS, with what the folder holds now.
///
/// # Errors
///
/// Which file can't be used, and why.
pub(super) fn transport(
    folder: &Path,
) -> Result<impl Fn(BollardRequest) -> Answer + Send + Sync + use<>, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let connector = HttpsConnectorBuilder::new().with_tls_config(config(folder)?);
    let connector = connector.https_only().enable_http1().wrap_connector(http);
    // Where an exec takes a connection over nobody else may be waiting for it; and the engine closes idle ones.
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    Ok(move |request: BollardRequest| {
        let answer = client.request(request);
        Box::pin(async move { answer.await.map_err(bollard::errors::Error::from) }) as Answer
    })
}

/// Only the engine's own authority is trusted: no other one has to do with it.
fn config(folder: &Path) -> Result<ClientConfig, String> {
    let ca = folder.join("ca.pem");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&ca, &read(&ca)?)? {
        roots.add(certificate).map_err(|error| format!("{} can't be used: {error}", ca.display()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS can't be set up: {error}"))?
        .with_root_certificates(roots);
    let (chain, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if !chain.exists() && !key.exists() {
        // An engine may do without; one that does not says so.
        return Ok(builder.with_no_client_auth());
    }
    let certificates = certificates(&chain, &read(&chain)?)?;
    let text = read(&key)?;
    let private = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| format!("{} is no private key: expected one as PEM", key.display()))?;
    builder
        .with_client_auth_cert(certificates, private)
        .map_err(|error| format!("{} and {} do not go together: {error}", chain.display(), key.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{} can't be read: {error}", path.display()))
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{} holds no certificate: expected one as PEM", path.display())),
    }
}

/// What went wrong with TLS, for people, when that is what an error is about.
pub(super) fn reason(error: &bollard::errors::Error, folder: &Path) -> Option<String> {
    let folder = folder.display();
    Some(match cause(error)? {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("its certificate is signed by none of the authorities in {folder}/ca.pem")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for other names than the one in DOCKER_HOST".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            other => format!("its certificate is not good: {other}"),
        },
        rustls::Error::AlertReceived(alert) => {
            format!("it does not take the client certificate of {folder}/cert.pem (TLS alert {alert:?})")
        }
        rustls::Error::InvalidMessage(_) => "it speaks no TLS at this port".to_owned(),
        other => format!("TLS fails: {other}"),
    })
}

/// The end of the chain, if it is about TLS. An error of input or output does not show what it holds as its source.
fn cause(error: &bollard::errors::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = match error {
        bollard::errors::Error::HyperLegacyError { err } => Some(err),
        bollard::errors::Error::HyperResponseError { err } => Some(err),
        other => other.source(),
    };
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_not_be_used_is_told_by_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let told = || config(folder.path()).err().unwrap_or_default();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        assert!(told().contains("ca.pem can't be read"), "{}", told());
        write("ca.pem", "hidden");
        assert!(told().contains("ca.pem holds no certificate") && !told().contains("hidden"), "{}", told());
        let key = rcgen::KeyPair::generate().expect("a key");
        let own = rcgen::CertificateParams::new(vec!["engine".to_owned()]).expect("names");
        let own = own.self_signed(&key).expect("signed").pem();
        write("ca.pem", &own);
        assert_eq!(told(), "", "an engine may do without certificates of clients");
        write("cert.pem", &own);
        assert!(told().contains("key.pem can't be read"), "{}", told());
        write("key.pem", "hidden");
        assert!(told().contains("key.pem is no private key") && !told().contains("hidden"), "{}", told());
        write("key.pem", &rcgen::KeyPair::generate().expect("a key").serialize_pem());
        assert!(told().contains("do not go together"), "{}", told());
        write("key.pem", &key.serialize_pem());
        assert_eq!(told(), "");
    }
}
