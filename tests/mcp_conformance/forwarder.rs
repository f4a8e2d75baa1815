//! What adds a token to requests, because the suite can't. Streams flow as they come.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portcullis_layers::BoxError;
use tokio::net::TcpListener;

use crate::support::client::{handshake, open};

/// Where requests go.
#[derive(Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub token: String,
}

impl Target {
    /// Starts a forwarder on a free port, ended with the test's runtime. The URL of the MCP server behind it.
    pub async fn forwarded(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let target = Arc::new(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let target = Arc::clone(&target);
                let service = service_fn(move |request| {
                    let target = Arc::clone(&target);
                    async move { target.forward(own, request).await }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        format!("http://{own}/mcp")
    }

    /// On a connection of its own, so that who goes away here is seen to go away there.
    async fn forward(
        &self,
        own: SocketAddr,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, BoxError> {
        let headers = request.headers_mut();
        // What names this forwarder is meant for the server; other names are part of what is tested.
        for (name, ours, theirs) in [
            (HOST, own.to_string(), self.host.clone()),
            (ORIGIN, format!("http://{own}"), format!("https://{}", self.host)),
        ] {
            rename(headers.get_mut(&name), &ours, &theirs)?;
        }
        headers.insert(AUTHORIZATION, format!("Bearer {}", self.token).parse()?);
        headers.remove(CONNECTION);
        let stream = handshake(self.address, &self.host, &[b"http/1.1"]).await?;
        let mut response = open(stream, request).await;
        for name in [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
            response.headers_mut().remove(name);
        }
        Ok(response)
    }
}

fn rename(value: Option<&mut HeaderValue>, ours: &str, theirs: &str) -> Result<(), BoxError> {
    if let Some(value) = value.filter(|value| **value == ours) {
        *value = theirs.parse()?;
    }
    Ok(())
}
