//! An ACME client without a daemon: `instant-acme`, driven by the test.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, header};
use hyper_util::rt::TokioIo;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeHandle,
    ChallengeType, Error, ExternalAccountKey, HttpClient, Identifier, NewAccount, NewOrder, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::certificate::Authority;

/// HTTPS that trusts one authority; each request has a connection of its own.
#[derive(Clone)]
pub struct Trusting {
    tls: Arc<ClientConfig>,
    /// The last `Retry-After`, which `instant-acme` does not tell of problems.
    pub retry_after: Arc<Mutex<Option<String>>>,
}

impl Trusting {
    pub fn new(authority: &Authority) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(roots(&authority.pem)).with_no_client_auth();
        Self { tls: Arc::new(tls), retry_after: Arc::default() }
    }

    async fn send(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, BoxError> {
        let authority = request.uri().authority().expect("an absolute URL").clone();
        let stream = TcpStream::connect(authority.as_str()).await?;
        let name = ServerName::try_from(authority.host().to_owned())?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        request.headers_mut().insert(header::HOST, authority.as_str().parse()?);
        *request.uri_mut() = request.uri().path_and_query().expect("a path").as_str().parse()?;
        let response = sender.send_request(request).await?;
        let retry_after = response.headers().get(header::RETRY_AFTER);
        *self.retry_after.lock().unwrap() = retry_after.map(|value| value.to_str().unwrap().to_owned());
        Ok(BytesResponse::from(response))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl HttpClient for Trusting {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move { client.send(request).await.map_err(Error::Other) })
    }
}

/// A new account.
pub async fn account(
    client: &Trusting,
    directory: String,
    external: Option<&ExternalAccountKey>,
) -> Result<(Account, AccountCredentials), Error> {
    let new = NewAccount {
        contact: &["mailto:admin@example.test"],
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    Account::builder_with_http(Box::new(client.clone())).create(&new, directory, external).await
}

pub fn names(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|&name| Identifier::Dns(name.to_owned())).collect()
}

/// Brings an order to its certificate, with a new key, and returns the chain; `prove` gets the challenge of each name that needs it.
pub async fn issue(
    account: &Account,
    new: &NewOrder<'_>,
    kind: ChallengeType,
    mut prove: impl AsyncFnMut(&ChallengeHandle<'_>),
) -> Result<String, Error> {
    let mut order = account.new_order(new).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization.challenge(kind.clone()).expect("a challenge of this kind");
        prove(&challenge).await;
        challenge.set_ready().await?;
    }
    let retries = RetryPolicy::new();
    if order.poll_ready(&retries).await? != OrderStatus::Ready {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            authorization.refresh().await?;
            if let Some(error) = authorization.challenges.iter().find_map(|challenge| challenge.error.clone())
            {
                return Err(Error::Api(error));
            }
        }
        return Err(Error::Str("the order is invalid"));
    }
    let mut params = CertificateParams::new(identifiers(&mut order).await).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let key = KeyPair::generate().unwrap();
    order.finalize_csr(params.serialize_request(&key).unwrap().der()).await?;
    order.poll_certificate(&retries).await
}

async fn identifiers(order: &mut instant_acme::Order) -> Vec<String> {
    let mut names = Vec::new();
    let mut identifiers = order.identifiers();
    while let Some(name) = identifiers.next().await {
        names.push(name.unwrap().to_string());
    }
    names
}

/// The type of the problem that a request ended with, without what all have in front.
pub fn problem<T>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Api(problem)) => {
            let kind = problem.r#type.unwrap_or_default();
            kind.trim_start_matches("urn:ietf:params:acme:error:").to_owned()
        }
        Err(error) => panic!("no problem but {error}"),
        Ok(_) => panic!("no problem at all"),
    }
}

/// Whether a browser that trusts this root would take the chain for a name.
pub fn trusted(chain: &str, root: &str, name: &str) -> bool {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(root)), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).is_ok()
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    roots
}
