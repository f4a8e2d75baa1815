//! Asking somebody else whether a name may have a certificate.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::http::{Request, StatusCode};
use portcullis_layers::forward::Client;
use portcullis_layers::{Body, HostName};
use tracing::warn;

use crate::config::TargetUrl;
use crate::outbound::{Limits, Outbound, SetupError};

/// Nobody waits for the answer but the next handshake, and the answer is a status.
const LIMITS: Limits = Limits { time: Duration::from_secs(5), body: 64 * 1024 };

/// A deployment asks in a few places at most; those that changed are forgotten with all others.
const MAX_SERVERS: usize = 64;

/// Asks the servers that hosts name.
#[derive(Debug)]
pub(super) struct Ask {
    client: Client,
    servers: Mutex<HashMap<TargetUrl, Outbound>>,
}

impl Ask {
    pub(super) fn new(client: Client) -> Self {
        Self { client, servers: Mutex::default() }
    }

    /// Whether the server at this URL allows a name: by 200, and nothing else.
    pub(super) async fn allows(&self, url: &TargetUrl, name: &HostName) -> bool {
        match self.status(url, name).await {
            Ok(status) => status == StatusCode::OK,
            Err(detail) => {
                warn!(%url, host = %name, detail, "nobody says whether a name may have a certificate");
                false
            }
        }
    }

    async fn status(&self, url: &TargetUrl, name: &HostName) -> Result<StatusCode, String> {
        let server = self.server(url).map_err(|error| error.to_string())?;
        let path = if url.path.is_empty() { "/" } else { &url.path };
        // What a host name is made of needs no encoding.
        let request = Request::get(format!("{path}?domain={name}")).body(Body::empty());
        let answer = server.send(request.map_err(|error| error.to_string())?).await;
        answer.map(|answer| answer.status).map_err(|error| error.to_string())
    }

    fn server(&self, url: &TargetUrl) -> Result<Outbound, SetupError> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(url) {
            return Ok(server.clone());
        }
        let base = TargetUrl { path: "".into(), ..url.clone() };
        let server = Outbound::new(&self.client, &base, None, LIMITS)?;
        if servers.len() >= MAX_SERVERS {
            servers.clear();
        }
        servers.insert(url.clone(), server.clone());
        Ok(server)
    }
}
