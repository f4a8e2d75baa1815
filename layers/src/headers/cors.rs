//! Cross-origin requests (Fetch standard, section 3.3), for hosts that have rules about them.
//!
//! Preflights are answered here, before anybody asks for a token, which a preflight never carries. On
//! answers and refusals alike our headers take the place of the upstream's: two sets of rules would be none.
//!
//! It does not refuse requests from other origins, which browsers then keep from reading the answer; that
//! is no protection against forged requests, which need no answer: [`OriginLayer`](super::OriginLayer) is. Without
//! the layer nothing of CORS changes, nor does it on paths that the rules are not for ([`CorsLayer::below`],
//! [`CorsLayer::except`]).

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use super::marked::{Mark, Marked};
use super::origin::refusal;
use crate::body::BoxError;
use crate::future::Gate;
use crate::glob;
use crate::rejection::Rejection;

/// Which origins may read answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Every one.
    Any,
    /// These: scheme, host and port as a browser writes them, `https://app.example.com`.
    List(Vec<String>),
}

/// Which headers a request may have beyond the simple ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Every one.
    Any,
    /// These, in any case; a name with `*` at its end stands for all that start so.
    List(Vec<String>),
}

/// The rules of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Which origins may read answers.
    pub origins: Origins,
    /// Methods beyond GET, HEAD and POST.
    pub methods: Vec<Method>,
    /// Request headers beyond the simple ones.
    pub headers: Allowed,
    /// Response headers that a script may read, beyond the simple ones.
    pub expose: Vec<HeaderName>,
    /// Whether requests may carry cookies. Never together with every origin.
    pub credentials: bool,
    /// How long a browser may remember a preflight.
    pub max_age: Option<Duration>,
}

/// Why rules are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorsError {
    /// Everybody could read what the user sees.
    #[error("credentials can't be allowed for every origin")]
    CredentialsForAll,
    /// A browser would never send this.
    #[error("{0:?} is no origin: write scheme://host, with the port if it is not the default, in lower case")]
    Origin(String),
    /// Not a name of a header, nor the start of one.
    #[error("{0:?} is no header name")]
    Header(String),
}

/// Applies [`CorsService`].
#[derive(Debug, Clone)]
pub struct CorsLayer {
    shared: Arc<Shared>,
}

/// The rules as header values.
#[derive(Debug, Clone)]
struct Shared {
    /// The rules are for these paths and those below them; for all when there are none.
    below: Vec<String>,
    /// But not for this one and those below it.
    except: Option<String>,
    origins: Option<Vec<HeaderValue>>,
    methods: HeaderValue,
    headers: Option<Vec<String>>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

impl CorsLayer {
    /// Checks and renders the rules.
    pub fn new(cors: &Cors) -> Result<Self, CorsError> {
        if cors.credentials && cors.origins == Origins::Any {
            return Err(CorsError::CredentialsForAll);
        }
        let origins = match &cors.origins {
            Origins::Any => None,
            Origins::List(list) => {
                Some(list.iter().map(|origin| parse_origin(origin)).collect::<Result<_, _>>()?)
            }
        };
        let headers = match &cors.headers {
            Allowed::Any => None,
            Allowed::List(list) => {
                Some(list.iter().map(|name| parse_header(name)).collect::<Result<_, _>>()?)
            }
        };
        let always = [Method::GET, Method::HEAD, Method::POST];
        let methods = always.iter().chain(cors.methods.iter().filter(|method| !always.contains(method)));
        let shared = Shared {
            below: Vec::new(),
            except: None,
            origins,
            methods: list(methods.map(Method::as_str)),
            headers,
            expose: (!cors.expose.is_empty()).then(|| list(cors.expose.iter().map(HeaderName::as_str))),
            credentials: cors.credentials,
            max_age: cors.max_age.map(|age| HeaderValue::from(age.as_secs())),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The rules hold at this path and below it only, and where this was said of others before. A slash at its end
    /// does not matter.
    #[must_use]
    pub fn below(self, path: &str) -> Self {
        let mut shared = Arc::unwrap_or_clone(self.shared);
        shared.below.push(path.trim_end_matches('/').to_owned());
        Self { shared: Arc::new(shared) }
    }

    /// The rules don't hold at this path and below it: what is there has its own.
    #[must_use]
    pub fn except(self, path: &str) -> Self {
        let except = Some(path.trim_end_matches('/').to_owned());
        Self { shared: Arc::new(Shared { except, ..Arc::unwrap_or_clone(self.shared) }) }
    }
}

impl<S> Layer<S> for CorsLayer {
    type Service = CorsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CorsService { inner, shared: self.shared.clone() }
    }
}

/// Answers preflights, and marks what other origins may read.
#[derive(Debug, Clone)]
pub struct CorsService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, R> Service<http::Request<B>> for CorsService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Gate<Marked<S::Future, Permit>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if !self.shared.is_for(request.uri().path()) {
            return Gate::pass(Marked::new(self.inner.call(request), Permit { shared: None, origin: None }));
        }
        let origin = request.headers().get(ORIGIN).cloned();
        if let Some(origin) = &origin
            && request.method() == Method::OPTIONS
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            return Gate::refuse(self.shared.preflight(origin, request.headers()));
        }
        let permit = Permit { shared: Some(self.shared.clone()), origin };
        Gate::pass(Marked::new(self.inner.call(request), permit))
    }
}

/// What one origin is told.
#[derive(Debug)]
pub struct Permit {
    /// `None` where there are no rules.
    shared: Option<Arc<Shared>>,
    origin: Option<HeaderValue>,
}

impl Mark for Permit {
    fn mark(&self, headers: &mut HeaderMap) {
        if let Some(shared) = &self.shared {
            shared.mark(self.origin.as_ref(), headers);
        }
    }
}

impl Shared {
    fn is_for(&self, path: &str) -> bool {
        let at_or_below = |start: &str| glob::starts_path(start, path);
        (self.below.is_empty() || self.below.iter().any(|start| at_or_below(start)))
            && !self.except.as_deref().is_some_and(at_or_below)
    }

    /// What `Access-Control-Allow-Origin` says to this origin.
    fn allow(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(list) => list.contains(origin).then(|| origin.clone()),
        }
    }

    fn preflight(&self, origin: &HeaderValue, request: &HeaderMap) -> Rejection {
        let Some(allow) = self.allow(origin) else { return refusal() };
        let mut answer = Rejection::new(StatusCode::NO_CONTENT, "preflight", "");
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allow);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        let vary = "origin, access-control-request-method, access-control-request-headers";
        headers.insert(VARY, HeaderValue::from_static(vary));
        let asked: Vec<&str> = request
            .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|name| HeaderName::from_bytes(name.as_bytes()).is_ok() && self.admits(name))
            .collect();
        if !asked.is_empty() {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, list(asked.into_iter()));
        }
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(age) = &self.max_age {
            headers.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
        }
        answer
    }

    fn admits(&self, name: &str) -> bool {
        let Some(list) = &self.headers else { return true };
        list.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(start) => name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start)),
            None => name.eq_ignore_ascii_case(allowed),
        })
    }

    fn mark(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        for name in
            [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS]
        {
            headers.remove(name);
        }
        if self.origins.is_some() {
            // Without an Origin, too: a cache must not give that answer to a browser that sends one.
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        let Some(allow) = origin.and_then(|origin| self.allow(origin)) else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allow);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

fn list<'a>(entries: impl Iterator<Item = &'a str>) -> HeaderValue {
    let text = entries.collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(text).expect("names of methods and headers are valid in a header value")
}

/// A serialised origin (RFC 6454, section 6.2), which is compared byte by byte.
pub(super) fn parse_origin(text: &str) -> Result<HeaderValue, CorsError> {
    let invalid = || CorsError::Origin(text.to_owned());
    let (scheme, authority) = text.split_once("://").ok_or_else(invalid)?;
    let plain =
        |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"/?#@,*\\".contains(&byte);
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let default = !default_port.is_empty() && authority.ends_with(default_port);
    if scheme.is_empty()
        || authority.is_empty()
        || default
        || !(scheme.bytes().chain(authority.bytes())).all(plain)
    {
        return Err(invalid());
    }
    HeaderValue::from_str(text).map_err(|_| invalid())
}

fn parse_header(text: &str) -> Result<String, CorsError> {
    let name = text.strip_suffix('*').unwrap_or(text);
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err(CorsError::Header(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn cors() -> Cors {
        Cors {
            origins: Origins::List(vec!["https://app.example".into(), "http://localhost:6274".into()]),
            methods: vec![Method::DELETE, Method::GET],
            headers: Allowed::List(vec!["Authorization".into(), "Mcp-Param-*".into()]),
            expose: vec![HeaderName::from_static("mcp-session-id")],
            credentials: false,
            max_age: Some(Duration::from_secs(600)),
        }
    }

    async fn ask(cors: &Cors, request: Request<()>, fail: bool) -> Result<HeaderMap, Rejection> {
        let inner = service_fn(move |_: Request<()>| async move {
            if fail {
                return Err(BoxError::from(Rejection::new(StatusCode::UNAUTHORIZED, "invalid_token", "")));
            }
            let response = Response::builder()
                .header(ACCESS_CONTROL_ALLOW_ORIGIN, "*")
                .header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")
                .header(VARY, "accept");
            Ok(response.body(()).expect("valid"))
        });
        let answer = CorsLayer::new(cors).expect("valid").layer(inner).oneshot(request).await;
        answer.map(|response| response.headers().clone()).map_err(Rejection::of)
    }

    fn from(origin: &str) -> http::request::Builder {
        Request::builder().header(ORIGIN, origin)
    }

    fn preflight(origin: &str) -> Request<()> {
        from(origin)
            .method(Method::OPTIONS)
            .header(ACCESS_CONTROL_REQUEST_METHOD, "DELETE")
            .header(ACCESS_CONTROL_REQUEST_HEADERS, "authorization, x-evil,mcp-param-a, mcp-para")
            .body(())
            .expect("valid")
    }

    #[tokio::test]
    async fn a_preflight_is_answered_here() {
        let answer = ask(&cors(), preflight("https://app.example"), true).await.expect_err("answered");
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let headers = answer.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET, HEAD, POST, DELETE");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "authorization, mcp-param-a");
        assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "600");
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        let answer = ask(&cors(), preflight("https://evil.example"), true).await.expect_err("answered");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert!(!answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[tokio::test]
    async fn answers_carry_our_rules_and_not_the_upstreams() {
        for (origin, allowed) in [
            (Some("https://app.example"), Some("https://app.example")),
            (Some("https://app.example.evil.example"), None),
            (Some("null"), None),
            (None, None),
        ] {
            let request = origin.map_or_else(Request::builder, from).body(()).expect("valid");
            let headers = ask(&cors(), request, false).await.expect("answered");
            let got = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().expect("text"));
            assert_eq!(got, allowed, "{origin:?}");
            assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
            assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), ["accept", "origin"]);
            assert_eq!(headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS), allowed.is_some());
        }
    }

    #[tokio::test]
    async fn rules_hold_where_they_are_for() {
        let layer = CorsLayer::new(&cors()).expect("valid").below("/mcp/").except("/mcp/.well-known");
        for (path, ours) in [
            ("/mcp", true),
            ("/mcp/", true),
            ("/mcp/a", true),
            ("/mcpx", false),
            ("/", false),
            ("/mcp/.well-known", false),
            ("/mcp/.well-known/a", false),
            ("/mcp/.well-knownx", true),
        ] {
            let inner = service_fn(async |_: Request<()>| {
                let response = Response::builder().header(ACCESS_CONTROL_ALLOW_ORIGIN, "*").body(());
                Ok::<_, BoxError>(response.expect("valid"))
            });
            let mut asked = from("https://app.example").uri(path).body(()).expect("valid");
            let answer = layer.layer(inner).oneshot(asked.clone()).await.expect("answered");
            let allowed = if ours { "https://app.example" } else { "*" };
            assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], allowed, "{path}");
            assert_eq!(answer.headers().contains_key(VARY), ours, "{path}");
            *asked.method_mut() = Method::OPTIONS;
            asked.headers_mut().insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("GET"));
            let answer = layer.layer(inner).oneshot(asked).await;
            assert_eq!(answer.is_err(), ours, "who answers the preflight at {path}");
        }
    }

    #[tokio::test]
    async fn refusals_can_be_read_too() {
        let request = from("http://localhost:6274").body(()).expect("valid");
        let refusal = ask(&cors(), request, true).await.expect_err("refused");
        assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refusal.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "http://localhost:6274");
    }

    #[tokio::test]
    async fn every_origin_is_a_star() {
        let all = Cors { origins: Origins::Any, headers: Allowed::Any, ..cors() };
        let answer = ask(&all, preflight("https://any.example"), false).await.expect_err("answered");
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(
            answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "authorization, x-evil, mcp-param-a, mcp-para"
        );
    }

    #[tokio::test]
    async fn an_options_request_that_is_no_preflight_goes_on() {
        let request = Request::builder().method(Method::OPTIONS).body(()).expect("valid");
        assert!(ask(&cors(), request, false).await.is_ok());
    }

    #[test]
    fn bad_rules_are_refused() {
        let all = Cors { origins: Origins::Any, credentials: true, ..cors() };
        assert_eq!(CorsLayer::new(&all).err(), Some(CorsError::CredentialsForAll));
        for origin in [
            "app.example",
            "https://",
            "https://a.example/",
            "https://A.example",
            "https://a:443",
            "*",
            "https://*.a",
            "",
        ] {
            let cors = Cors { origins: Origins::List(vec![origin.into()]), ..cors() };
            assert!(matches!(CorsLayer::new(&cors), Err(CorsError::Origin(_))), "{origin:?}");
        }
        let bad = Cors { headers: Allowed::List(vec!["a b".into()]), ..cors() };
        assert!(matches!(CorsLayer::new(&bad), Err(CorsError::Header(_))));
    }
}
