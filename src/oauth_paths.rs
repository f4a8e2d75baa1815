//! The paths where the authorization server answers: all of them on the issuer's host, a few on others.
//!
//! - On the issuer's host: the endpoints and the metadata, behind the issuer's path when it has one.
//! - On hosts that are published as resources: what clients look for there that know no RFC 9728, the metadata,
//!   `/authorize`, `/token` and `/register`; unless the host says `resource_oauth_endpoints: false`.
//! - On hosts with browser sessions: where the browser comes back from the login, and the way out.
//!
//! The service gets the path that the endpoint has behind an issuer without a path, and an [`OAuthHost`]. It
//! answers CORS by itself and bounds the bodies that it reads; so this stands outside the host's rules for both.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::uri::PathAndQuery;
use portcullis_layers::body::BoxFuture;
use portcullis_layers::{BoxError, HostName, HttpService, Request, Response};
use portcullis_services::config::Proxy;
use portcullis_services::config::access::Site;
use portcullis_services::config::auth::AuthMode;
use portcullis_services::oauth::host::OAuthHost;
use portcullis_services::oauth::server::metadata::{OAUTH_WELL_KNOWN, OPENID_WELL_KNOWN, path};
use tower::{Layer, Service};

const WELL_KNOWN: [&str; 2] = [OAUTH_WELL_KNOWN, OPENID_WELL_KNOWN];

/// The paths of one host.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    host: OAuthHost,
    /// The issuer's path, on its host.
    issuer: Option<String>,
    /// The resource's path, where the host has endpoints for it.
    resource: Option<String>,
    sessions: bool,
    /// A bit for each byte that may stand behind the first slash: what nearly all requests are told by.
    starts: u128,
}

impl Paths {
    /// Those of a host; `None` when it has none. Where nothing needs a token, none is to be had either.
    pub(crate) fn of(site: &Site, proxy: &Arc<Proxy>, protected: bool, name: &HostName) -> Option<Self> {
        let is_issuer = name.as_str().eq_ignore_ascii_case(site.issuer_host());
        let issuer = is_issuer.then(|| site.issuer_path().to_owned());
        let is_resource = protected && proxy.resource_endpoint.is_some() && proxy.resource_oauth_endpoints;
        let resource = is_resource.then(|| proxy.resource_path().to_owned());
        let sessions = proxy.auth_mode == AuthMode::Redirect;
        let mut starts = 0;
        let mut add = |path: &str| {
            starts |= path.as_bytes().get(1).filter(|byte| byte.is_ascii()).map_or(0, |byte| 1 << byte);
        };
        for inner in [&issuer, &resource].into_iter().flatten() {
            WELL_KNOWN.into_iter().for_each(|known| {
                add(known);
                add(&format!("{inner}{known}"));
            });
        }
        if let Some(inner) = &issuer {
            path::OF_ISSUER.into_iter().for_each(|endpoint| add(&format!("{inner}{endpoint}")));
        }
        if is_resource {
            path::OF_RESOURCE.into_iter().for_each(&mut add);
        }
        if sessions {
            path::OF_SESSION.into_iter().for_each(&mut add);
        }
        let host = OAuthHost { name: name.clone(), proxy: Arc::clone(proxy), is_issuer };
        (starts != 0).then_some(Self { host, issuer, resource, sessions, starts })
    }

    /// What the service knows a path by, if it is one of its own.
    fn find<'a>(&self, path: &'a str) -> Option<&'a str> {
        let start = path.as_bytes().get(1)?;
        if !start.is_ascii() || self.starts >> start & 1 == 0 {
            return None;
        }
        let of_resource = self.resource.is_some() && path::OF_RESOURCE.contains(&path);
        let of_session = self.sessions && path::OF_SESSION.contains(&path);
        self.well_known(path)
            .or_else(|| endpoint(path, self.issuer.as_ref()?))
            .or_else(|| (of_resource || of_session).then_some(path))
    }

    /// The root form of a well-known path, in whatever form clients build it (RFC 8414, section 3.1). Other
    /// paths below the well-known ones are the service's, too, but go to it as they are: it has nothing there,
    /// and nobody else may send a client to a login page or to a document of another issuer.
    fn well_known<'a>(&self, path: &'a str) -> Option<&'a str> {
        let inners = || [&self.issuer, &self.resource].into_iter().flatten();
        inners().next()?;
        let plain = path.strip_suffix('/').unwrap_or(path);
        WELL_KNOWN.into_iter().find_map(|known| {
            if path.starts_with(known) {
                let rest = &plain[known.len()..];
                if rest.is_empty() || inners().any(|inner| rest == inner) {
                    return Some(&path[..known.len()]);
                }
                return rest.starts_with('/').then_some(path);
            }
            let before = plain.strip_suffix(known)?;
            inners().any(|inner| before == inner).then(|| &plain[before.len()..])
        })
    }
}

/// What the service knows the path of an endpoint of the issuer by.
fn endpoint<'a>(path: &'a str, inner: &str) -> Option<&'a str> {
    let path = path.strip_prefix(inner)?;
    let of_registration =
        || path.strip_prefix(path::REGISTRATIONS).is_some_and(|id| !id.is_empty() && !id.contains('/'));
    (path::OF_ISSUER.contains(&path) || of_registration()).then_some(path)
}

/// Applies [`OAuthPaths`].
#[derive(Debug, Clone)]
pub(crate) struct OAuthPathsLayer {
    service: HttpService,
    paths: Arc<Paths>,
}

impl OAuthPathsLayer {
    /// Hands requests of these paths to this service.
    pub(crate) fn new(service: HttpService, paths: Paths) -> Self {
        Self { service, paths: Arc::new(paths) }
    }
}

impl<S> Layer<S> for OAuthPathsLayer {
    type Service = OAuthPaths<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OAuthPaths { inner, service: self.service.clone(), paths: Arc::clone(&self.paths) }
    }
}

/// Hands some requests to the authorization server, and all others on.
#[derive(Debug, Clone)]
pub(crate) struct OAuthPaths<S> {
    inner: S,
    service: HttpService,
    paths: Arc<Paths>,
}

impl<S> Service<Request> for OAuthPaths<S>
where
    S: Service<Request, Response = Response, Error = BoxError>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = Either<BoxFuture<Result<Response, BoxError>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let asked = request.uri().path();
        let Some(path) = self.paths.find(asked) else { return Either::Right(self.inner.call(request)) };
        if path != asked {
            let mut parts = request.uri().clone().into_parts();
            let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
            // A part of a path with the query that was there is valid: else nothing changes.
            parts.path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok();
            if let Ok(uri) = http::Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        request.extensions_mut().insert(self.paths.host.clone());
        Either::Left(self.service.call(request))
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use portcullis_layers::{Body, Rejection};
    use portcullis_services::config::access::Lists;
    use serde_json::{Value, json};
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn site(issuer: &str) -> Site {
        Site {
            issuer: issuer.to_owned(),
            port_suffix: String::new(),
            defaults: Lists::default(),
            localhost: Lists::default(),
        }
    }

    fn paths(issuer: &str, host: &str, more: &Value) -> Option<Paths> {
        let mut fields = json!({ "proxy_hostname": host, "target_url": "http://10.0.0.5" });
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let proxy: Proxy = serde_json::from_value(fields).unwrap();
        Paths::of(&site(issuer), &Arc::new(proxy), true, &host.parse().unwrap())
    }

    const ISSUER: &str = "https://auth.example";

    #[test]
    fn the_issuers_host_has_all_endpoints() {
        let paths = paths(ISSUER, "auth.example", &json!({})).unwrap();
        for path in path::OF_ISSUER.into_iter().chain(["/register/abc"]) {
            assert_eq!(paths.find(path), Some(path));
            assert_eq!(paths.find(&format!("{path}/x/y")), None, "{path}");
            assert_eq!(paths.find(&format!("/x{path}")), None, "{path}");
            assert_eq!(paths.find(&format!("{path}x")).is_some(), path == "/register/abc", "{path}");
        }
        for path in
            ["", "/", "*", "/register/", "/token/", "/Token", "/é", "/index.html", "/.portcullis/session"]
        {
            assert_eq!(paths.find(path), None, "{path}");
        }
    }

    #[test]
    fn metadata_is_found_in_every_form_and_its_neighbours_are_nobodys() {
        let known = OAUTH_WELL_KNOWN;
        for (issuer, host, more, inner) in [
            (ISSUER, "auth.example", json!({}), ""),
            ("https://auth.example/a/b", "auth.example", json!({}), "/a/b"),
            (ISSUER, "mcp.example", json!({ "resource_endpoint": "/mcp" }), "/mcp"),
            (ISSUER, "mcp.example", json!({ "resource_endpoint": "/" }), ""),
            (ISSUER, "auth.example", json!({ "resource_endpoint": "/mcp/" }), "/mcp"),
        ] {
            let paths = paths(issuer, host, &more).unwrap();
            for known in WELL_KNOWN {
                for form in [known.to_owned(), format!("{known}{inner}"), format!("{inner}{known}")] {
                    assert_eq!(paths.find(&form), Some(known), "{form} of {issuer}");
                    assert_eq!(paths.find(&format!("{form}/")), Some(known), "{form} of {issuer}");
                }
            }
            let other = format!("{known}/other");
            assert_eq!(paths.find(&other), Some(other.as_str()));
            for path in [&format!("{known}x"), &format!("/other{known}"), "/.well-known/x"] {
                assert_eq!(paths.find(path), None, "{path} of {issuer}");
            }
        }
    }

    #[test]
    fn an_issuer_with_a_path_has_its_endpoints_behind_it() {
        let paths = paths("https://auth.example/a", "auth.example", &json!({})).unwrap();
        assert_eq!(paths.find("/a/token"), Some("/token"));
        assert_eq!(paths.find("/a/register/x"), Some("/register/x"));
        assert_eq!(paths.find("/token"), None);
    }

    #[test]
    fn other_hosts_have_what_their_documents_ask_for() {
        assert!(paths(ISSUER, "app.example", &json!({ "auth_enabled": true })).is_none());
        let off = json!({ "resource_endpoint": "/mcp", "resource_oauth_endpoints": false });
        assert!(paths(ISSUER, "mcp.example", &off).is_none());
        let mcp = paths(ISSUER, "mcp.example", &json!({ "resource_endpoint": "/mcp" })).unwrap();
        let browser = paths(ISSUER, "app.example", &json!({ "auth_mode": "redirect" })).unwrap();
        for (path, on_mcp, on_browser) in [
            ("/authorize", true, false),
            ("/token", true, false),
            ("/register", true, false),
            ("/register/x", false, false),
            ("/callback", false, false),
            ("/jwks", false, false),
            ("/login", false, false),
            (OAUTH_WELL_KNOWN, true, false),
            ("/.portcullis/session", false, true),
            ("/.portcullis/logout", false, true),
            ("/.portcullis", false, false),
            ("/.portcullis/session/", false, false),
        ] {
            assert_eq!(
                (mcp.find(path).is_some(), browser.find(path).is_some()),
                (on_mcp, on_browser),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn the_service_gets_its_path_the_query_and_the_host() {
        let service = HttpService::from_fn(async |request: Request| {
            let host = request.extensions().get::<OAuthHost>().cloned().unwrap();
            let told = format!("{} {} {}", request.uri(), host.name, host.is_issuer);
            Ok(Response::new(Body::from(told)))
        });
        let inner = service_fn(async |request: Request| {
            assert!(request.extensions().get::<OAuthHost>().is_none());
            Err::<Response, _>(BoxError::from(Rejection::new(StatusCode::NOT_FOUND, "other", "")))
        });
        let paths = paths(ISSUER, "mcp.example", &json!({ "resource_endpoint": "/mcp" })).unwrap();
        let layer = OAuthPathsLayer::new(service, paths);
        let ask = async |uri: &str| {
            let request = http::Request::get(uri).body(Body::empty()).unwrap();
            let body = layer.layer(inner).oneshot(request).await.ok()?.into_body();
            let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            Some(String::from_utf8(bytes.to_vec()).unwrap())
        };
        for (uri, told) in [
            ("/token?a=b", Some("/token?a=b mcp.example false")),
            (
                "https://mcp.example/mcp/.well-known/openid-configuration?x",
                Some("https://mcp.example/.well-known/openid-configuration?x mcp.example false"),
            ),
            ("/mcp", None),
        ] {
            assert_eq!(ask(uri).await.as_deref(), told);
        }
    }
}
