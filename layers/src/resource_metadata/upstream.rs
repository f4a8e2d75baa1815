//! What an upstream says of itself as a protected resource, joined with what we say of it.
//!
//! Whose tokens count, and for what, is never the upstream's to say: a client that believed another issuer there
//! would hand its user's login to it. What it says about the application is taken over.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::{Metadata, OURS, WELL_KNOWN};
use crate::body::{Body, HttpService, Request};

/// How long an answer counts, and the lack of one.
const AGE: Duration = Duration::from_secs(60);

/// How long a client waits for the upstream at most: ours is good enough.
const PATIENCE: Duration = Duration::from_secs(3);

/// Documents have a few hundred bytes.
const MAX_BODY: usize = 64 * 1024;

/// Members about how tokens are made and checked (RFC 9728, section 2), which is done here and not there.
const ABOUT_TOKENS: [&str; 4] = [
    "tls_client_certificate_bound_access_tokens",
    "authorization_details_types_supported",
    "dpop_signing_alg_values_supported",
    "dpop_bound_access_tokens_required",
];

/// Where an upstream has its own document, if it has one.
pub struct Published {
    upstream: HttpService,
    host: HeaderValue,
    /// Where it is looked for, in this order (RFC 9728, section 3.1).
    urls: Vec<Uri>,
}

/// The document of an upstream, as it was when it was last asked.
pub(super) struct Own {
    ours: Metadata,
    theirs: Published,
    // Held while the upstream is asked: who waits for it finds what came of it.
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    at: Instant,
    /// Both joined; none where the upstream says nothing.
    joined: Option<Bytes>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("theirs", &self.theirs).finish_non_exhaustive()
    }
}

impl Published {
    /// At the well-known URLs of an upstream that knows itself by this `Host`, for a resource at this path.
    pub fn new(upstream: HttpService, host: HeaderValue, endpoint: &str) -> Self {
        let endpoint = endpoint.trim_end_matches('/');
        let mut urls = vec![format!("{WELL_KNOWN}{endpoint}"), WELL_KNOWN.to_owned()];
        urls.dedup();
        Self {
            upstream,
            host,
            // An endpoint that is no path can't be asked for.
            urls: urls.into_iter().filter_map(|url| url.parse().ok()).collect(),
        }
    }

    /// Asks for it, without anything of a client in the request. None where there is no document of use; how long that
    /// may take is the caller's to say.
    pub async fn ask(&self) -> Option<Map<String, Value>> {
        for url in &self.urls {
            if let Some(found) = self.ask_at(url).await {
                return Some(found);
            }
        }
        None
    }

    async fn ask_at(&self, url: &Uri) -> Option<Map<String, Value>> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = url.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let (parts, body) = self.upstream.call(request).await.ok()?.into_parts();
        let json = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let json = json.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json"));
        if parts.status != StatusCode::OK || !json {
            return None;
        }
        let body = Limited::new(body, MAX_BODY).collect().await.ok()?.to_bytes();
        let found: Map<String, Value> = serde_json::from_slice(&body).ok()?;
        // Servers that have an answer to everything are common; the document always has this member (section 2).
        found.get("resource").is_some_and(Value::is_string).then_some(found)
    }
}

impl Own {
    pub(super) fn new(ours: Metadata, theirs: Published) -> Self {
        Self { ours, theirs, kept: Mutex::default() }
    }

    /// Both documents joined; none where the upstream has none of use.
    pub(super) async fn document(&self) -> Option<Bytes> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.at.elapsed() < AGE) {
            return kept.joined.clone();
        }
        let found = timeout(PATIENCE, self.theirs.ask()).await.ok().flatten();
        let joined = found.map(|theirs| self.ours.joined_with(&theirs).to_json());
        *kept = Some(Kept { at: Instant::now(), joined: joined.clone() });
        joined
    }
}

impl Metadata {
    /// This, with what an upstream says of the application. `resource`, the issuers and everything about tokens stays
    /// what it is; of the scopes those remain that both know, for nobody can get others; further members are taken
    /// over where we have none of that name.
    #[must_use]
    pub fn joined_with(&self, theirs: &Map<String, Value>) -> Self {
        let mut joined = self.clone();
        let texts = |name: &str| theirs.get(name).and_then(Value::as_array).into_iter().flatten();
        let scopes: Vec<String> = texts("scopes_supported")
            .filter_map(|scope| self.scopes_supported.iter().find(|own| scope == own.as_str()).cloned())
            .collect();
        if !scopes.is_empty() {
            joined.scopes_supported = scopes;
        }
        let page = theirs.get("resource_documentation").and_then(Value::as_str);
        if let Some(page) = page.filter(|page| page.starts_with("https://")) {
            joined.resource_documentation = Some(page.to_owned());
        }
        for (name, value) in theirs {
            let ours = OURS.contains(&name.as_str()) || ABOUT_TOKENS.contains(&name.as_str());
            if !ours && !joined.extra.contains_key(name) {
                joined.extra.insert(name.clone(), value.clone());
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tower::{Layer, ServiceExt, service_fn};

    use super::super::ResourceMetadataLayer;
    use super::*;
    use crate::body::{BoxError, Response};

    fn ours() -> Metadata {
        let Value::Object(extra) = json!({ "mcp_stateful": false }) else { panic!("an object") };
        Metadata {
            resource: "https://a.example/mcp".into(),
            authorization_servers: vec!["https://auth.example".into()],
            scopes_supported: vec!["read".into(), "write".into(), "admin".into()],
            bearer_methods_supported: vec!["header".into()],
            extra,
            ..Metadata::default()
        }
    }

    fn theirs() -> Value {
        json!({
            "resource": "http://10.0.0.5/mcp", "authorization_servers": ["https://evil.example"],
            "jwks_uri": "https://evil.example/keys", "signed_metadata": "x", "bearer_methods_supported": ["query"],
            "dpop_bound_access_tokens_required": true, "tls_client_certificate_bound_access_tokens": true,
            "scopes_supported": ["write", "delete", "read", 7], "resource_name": "Files", "resource_name#de": "Dateien",
            "resource_documentation": "https://files.example/docs", "mcp_stateful": true, "nothing": null,
        })
    }

    fn joined() -> Value {
        json!({
            "resource": "https://a.example/mcp", "authorization_servers": ["https://auth.example"],
            "bearer_methods_supported": ["header"], "scopes_supported": ["write", "read"],
            "resource_name": "Files", "resource_name#de": "Dateien",
            "resource_documentation": "https://files.example/docs", "mcp_stateful": false,
        })
    }

    fn plain() -> Value {
        serde_json::from_slice(&ours().to_json()).expect("JSON")
    }

    #[test]
    fn what_a_client_acts_on_stays_ours() {
        let Value::Object(theirs) = theirs() else { panic!("an object") };
        let document: Value = serde_json::from_slice(&ours().joined_with(&theirs).to_json()).expect("JSON");
        assert_eq!(document, joined());
        let Value::Object(other) =
            json!({ "scopes_supported": ["x"], "resource_documentation": "javascript:1" })
        else {
            panic!("an object")
        };
        assert_eq!(ours().joined_with(&other), ours(), "nobody could get such a scope");
    }

    /// A layer in front of an upstream with this answer, and how often that was asked.
    fn layer(
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> (ResourceMetadataLayer, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let upstream = HttpService::from_fn(move |request: Request| {
            counted.fetch_add(1, Ordering::Relaxed);
            assert_eq!(request.headers().len(), 2, "Host and Accept: {:?}", request.headers());
            assert_eq!(request.headers()[HOST], "a.example");
            let answer = answer(&request);
            async move { Ok(answer) }
        });
        let host = "a.example".parse().expect("a host");
        let layer = ResourceMetadataLayer::joined(&ours(), "/mcp", upstream, &host);
        (layer, asked)
    }

    fn response(status: u16, kind: &str, body: impl Into<Body>) -> Response {
        let response = http::Response::builder().status(status).header(CONTENT_TYPE, kind);
        response.body(body.into()).expect("valid")
    }

    async fn ask(layer: &ResourceMetadataLayer, path: &str) -> Value {
        let inner = service_fn(async |_: http::Request<()>| Err::<Response, BoxError>("not here".into()));
        let request = http::Request::get(path)
            .header("authorization", "Bearer secret")
            .header("cookie", "a=b")
            .body(())
            .expect("valid");
        let response = layer.layer(inner).oneshot(request).await.expect("an answer");
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&body).expect("JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn the_upstream_is_asked_once_in_a_minute_at_both_urls() {
        for (found_at, asked_before) in [(format!("{WELL_KNOWN}/mcp"), 1), (WELL_KNOWN.to_owned(), 2)] {
            let (layer, asked) = layer(move |request| {
                if request.uri().path() == found_at {
                    response(200, "application/json; charset=utf-8", theirs().to_string())
                } else {
                    response(404, "application/json", "{}".to_owned())
                }
            });
            let of_path = format!("{WELL_KNOWN}/mcp");
            let both = tokio::join!(ask(&layer, WELL_KNOWN), ask(&layer, &of_path));
            assert_eq!(both, (joined(), joined()));
            assert_eq!(asked.load(Ordering::Relaxed), asked_before);
            tokio::time::advance(AGE).await;
            assert_eq!(ask(&layer, WELL_KNOWN).await, joined());
            assert_eq!(asked.load(Ordering::Relaxed), 2 * asked_before);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ours_is_published_where_the_upstream_has_none_of_use() {
        let long = format!("{{\"resource\":\"x\",\"a\":\"{}\"}}", "x".repeat(MAX_BODY));
        for (status, kind, body) in [
            (404, "application/json", theirs().to_string()),
            (401, "application/json", theirs().to_string()),
            (302, "application/json", theirs().to_string()),
            (200, "text/html", theirs().to_string()),
            (200, "application/json", "{\"error\":\"who are you\"}".to_owned()),
            (200, "application/json", "[]".to_owned()),
            (200, "application/json", String::new()),
            (200, "application/json", long),
        ] {
            let shown = format!("{status} {kind} {}", &body[..body.len().min(40)]);
            let (layer, asked) = layer(move |_| response(status, kind, body.clone()));
            assert_eq!(ask(&layer, WELL_KNOWN).await, plain(), "{shown}");
            assert_eq!(ask(&layer, WELL_KNOWN).await, plain(), "{shown}");
            assert_eq!(asked.load(Ordering::Relaxed), 2, "{shown}: that there is none is remembered, too");
        }
        let host = "a.example".parse().expect("a host");
        let silent = HttpService::from_fn(|_| std::future::pending());
        let layer = ResourceMetadataLayer::joined(&ours(), "/mcp", silent, &host);
        assert_eq!(ask(&layer, WELL_KNOWN).await, plain(), "it is not waited for long");
    }
}
