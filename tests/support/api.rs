//! The REST API of a daemon: over its admin socket, or over HTTPS with a token.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::client::{self, Answer};
use super::daemon::Daemon;
use super::eventually;

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

/// The API over the admin socket: many changes in a test would make it wait for as many processes of the command line.
impl Daemon {
    /// Asks the API.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        Api::local(self).call(method.as_str(), path, body.clone()).await
    }

    /// Asks the API for something that must succeed.
    pub async fn api(&self, method: Method, path: &str, body: Value) -> Value {
        let answer = self.ask(method.clone(), path, &body).await;
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.status.is_success(), "{method} {path} {body}: {} {text}", answer.status);
        answer.json()
    }

    /// Makes a host; `more` are further fields.
    pub async fn host(&self, host: &str, target: &str, more: Value) {
        let mut proxy = json!({ "proxy_hostname": host, "target_url": target });
        proxy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.api(Method::POST, "/proxy/targets/", proxy).await;
    }

    /// Changes a host.
    pub async fn change(&self, host: &str, fields: Value) {
        self.api(Method::PATCH, &format!("/proxy/targets/{host}"), fields).await;
    }

    /// Makes a route.
    pub async fn route(&self, route: Value) {
        self.api(Method::POST, "/routes/", route).await;
    }

    /// Makes a token for a host.
    pub async fn token(&self, name: &str, host: &str) -> String {
        let wanted = json!({ "name": name, "audience": [host], "scopes": ["user"] });
        let shown = self.api(Method::POST, "/tokens/", wanted).await;
        shown["token"].as_str().unwrap().to_owned()
    }

    /// Waits for a record of the request log that the search finds and the condition wants.
    pub async fn record(&self, search: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/logs/search?{search}");
        eventually(&path, async || {
            let page = self.api(Method::GET, &path, Value::Null).await;
            page["logs"].as_array()?.iter().find(|entry| wanted(entry)).cloned()
        })
        .await
    }
}
