//! The API over the admin socket: many changes in a test would make it wait for as many processes.

use http::{Method, Request};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::client::{Answer, open, read};
use super::daemon::Daemon;
use super::eventually;

impl Daemon {
    /// Asks the API.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        let stream = UnixStream::connect(self.dir.path().join("data/admin.sock")).await.unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("content-type", "application/json").body(body).unwrap();
        read(open(stream, request).await).await
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
