//! Calls a gateway's REST API: over the admin socket of this machine, or over HTTP(S).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::net::UnixStream;

use super::web::{Web, exchange};

/// The largest answer that a command reads; exports of thousands of documents fit.
const MAX_ANSWER: usize = 256 << 20;

/// Where the API is.
#[derive(Debug, Clone)]
pub(crate) enum Gateway {
    /// The admin socket in the data folder: whoever may open it is admin.
    Socket(PathBuf),
    /// A URL, with a token.
    Url(Uri),
}

/// A client of one gateway.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) gateway: Gateway,
    pub(crate) token: Option<SecretString>,
    pub(crate) timeout: Duration,
    /// Further roots to trust, e.g. the gateway's self-signed certificate.
    pub(crate) cacert: Option<PathBuf>,
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The answer as JSON; an empty one as `null`, anything else as text.
    pub(crate) fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.body).into_owned()))
    }
}

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("can't open {}: is `portcullis serve` running there, and are you its user? Else name a gateway with --base-url", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't connect to {authority}: is the gateway running there? Name another with --base-url")]
    Connect {
        authority: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "can't speak TLS with {authority}: a certificate that the system does not know is trusted with --cacert FILE"
    )]
    Tls {
        authority: String,
        #[source]
        source: io::Error,
    },
    #[error("{0} is no URL of a gateway: write http://HOST[:PORT] or https://HOST[:PORT]")]
    Url(Uri),
    #[error("{}: no certificates could be read from it", path.display())]
    Roots {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the gateway did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the connection to the gateway broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Client {
    /// Calls of URLs beside the API's, with the same patience and trust.
    pub(crate) fn web(&self) -> Web {
        Web::new(self.timeout, self.cacert.clone())
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, ClientError> {
        let call = async {
            let response = self.open(method, path, body, "application/json").await?;
            let status = response.status();
            let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
            let body = limited.collect().await.map_err(ClientError::Broken)?.to_bytes();
            Ok(Answer { status, body })
        };
        tokio::time::timeout(self.timeout, call).await.map_err(|_| ClientError::Timeout(self.timeout))?
    }

    /// Sends a request and leaves the answer's body to the caller.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        accept: &str,
    ) -> Result<Response<Incoming>, ClientError> {
        let authority = match &self.gateway {
            Gateway::Socket(_) => "localhost".to_owned(),
            Gateway::Url(url) => url.authority().ok_or_else(|| ClientError::Url(url.clone()))?.to_string(),
        };
        let mut request =
            Request::builder().method(method).uri(path).header(HOST, authority).header(ACCEPT, accept);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let payload = match body {
            Some(value) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(payload)).map_err(|error| ClientError::Broken(error.into()))?;
        match &self.gateway {
            Gateway::Socket(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(|source| ClientError::Socket { path: path.clone(), source })?;
                exchange(stream, request).await
            }
            Gateway::Url(url) => self.web().open(url, request).await,
        }
    }
}
