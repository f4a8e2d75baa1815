//! The REST API of a daemon: over its admin socket, or over HTTPS with a token.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::net::UnixStream;

use super::client::{self, Answer};
use super::daemon::Daemon;

/// A way to the API.
#[derive(Debug, Clone)]
pub enum Api {
    /// Over the admin socket: admin, without a token.
    Local(PathBuf),
    /// Over HTTPS on the host `localhost`.
    Remote(SocketAddr, Option<String>),
}

impl Api {
    /// Over the daemon's admin socket.
    pub fn local(daemon: &Daemon) -> Self {
        Self::Local(daemon.dir.path().join("data/admin.sock"))
    }

    /// Over HTTPS, by nobody.
    pub fn anonymous(daemon: &Daemon) -> Self {
        Self::Remote(daemon.https, None)
    }

    /// Over HTTPS, with a new named token that has these scopes.
    pub fn remote(daemon: &Daemon, name: &str, scopes: &str) -> Self {
        let made = daemon.run(&["token", "create", name, "--scopes", scopes, "--audience", "localhost"]);
        Self::Remote(daemon.https, Some(made["token"].as_str().unwrap().to_owned()))
    }

    /// Calls with a JSON body; `null` sends none.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        if body.is_null() {
            return self.send(method, path, &[], "").await;
        }
        self.send(method, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    /// Sends these headers and this body.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        client::read(self.open(method, path, headers, body).await).await
    }

    /// Sends, and leaves the body of the answer to be read.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> http::Response<Incoming> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Self::Remote(_, Some(token)) = self {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        match self {
            Self::Local(path) => client::open(UnixStream::connect(path).await.unwrap(), request).await,
            Self::Remote(address, _) => {
                let stream = client::handshake(*address, "localhost", &[b"http/1.1"]).await.unwrap();
                client::open(stream, request).await
            }
        }
    }
}
