//! Chooses a route, and calls the stack of the route that was chosen.
//!
//! Two halves, because authentication needs the route's context: [`RouteLayer`] notes the first match in
//! the [`RequestContext`], and [`Routes`], the service below it, calls the stack that has that index. What
//! is matched is the path that [`normalize`](crate::normalize) left, byte for byte and case-sensitive.
//!
//! A path that an application may read differently (`/admin;x`, `//admin`, and `%2F` where it is allowed)
//! is matched in its other readings, too; if one of them leads to another route the request is refused,
//! so nobody steps over a route's rules that way. See [`readings`].
//!
//! It does not authenticate, rewrite ([`rewrite`] does, in the route's stack) or forward. It must stand
//! inside hosts and outside auth.
//!
//! ```
//! use http::Request;
//! use portcullis_layers::route::{HostRoutes, Pattern, PatternKind, Route, RouteLayer, RouteTable, Routes};
//! use portcullis_layers::{Body, BoxError, HttpService};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let api = HttpService::new(service_fn(|_| async { Ok::<_, BoxError>(http::Response::new(Body::from("api"))) }));
//! let table = RouteTable::new(vec![Route::new("api", Pattern::new(PatternKind::Prefix, "/api")?)]);
//! let stack = RouteLayer::new(HostRoutes::only(table)).layer(Routes::new(move |_| Some(api.clone())));
//! let response = stack.clone().oneshot(Request::get("/api/users").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 200);
//! assert!(stack.oneshot(Request::get("/apis").body(Body::empty())?).await.is_err());
//! # Ok(())
//! # }
//! ```

mod condition;
mod explain;
mod matcher;
mod overlay;
mod pattern;
pub use crate::readings;
pub mod rewrite;

use std::fmt;
use std::task::{Context, Poll};

use http::StatusCode;
use smol_str::SmolStr;
use tower_layer::Layer;
use tower_service::Service;

pub use self::condition::{HeaderCondition, HeaderTest, Methods, MethodsError};
pub use self::explain::{Considered, Verdict};
pub use self::matcher::{Priority, PriorityError, Route, RouteTable};
pub use self::overlay::{HostRoutes, Mode, Place};
pub use self::pattern::{Anchored, Pattern, PatternError, PatternKind};
pub use self::rewrite::{Rewrite, RewriteError, RewriteLayer};
use crate::body::{BoxError, BoxFuture, HttpService, Request, Response};
use crate::context::{RequestContext, RouteMatch};
use crate::future::Gate;
use crate::rejection::Rejection;

/// Applies [`RouteService`].
#[derive(Debug, Clone)]
pub struct RouteLayer {
    routes: HostRoutes,
}

impl RouteLayer {
    /// Chooses among these routes.
    pub const fn new(routes: HostRoutes) -> Self {
        Self { routes }
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = RouteService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RouteService { inner, routes: self.routes.clone() }
    }
}

/// Notes the route that matches, or that none does.
#[derive(Debug, Clone)]
pub struct RouteService<S> {
    inner: S,
    routes: HostRoutes,
}

impl<S, B> Service<http::Request<B>> for RouteService<S>
where
    S: Service<http::Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Gate<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match choose(&self.routes, &request) {
            Ok(route) => {
                let context = RequestContext::of(request.extensions_mut());
                if let (Some(facts), Some(route)) = (&context.facts, &route) {
                    let _ = facts.route.set(route.id.clone());
                }
                context.route = route;
                Gate::pass(self.inner.call(request))
            }
            Err(error) => Gate::refuse(Rejection::from(error)),
        }
    }
}

fn choose<B>(routes: &HostRoutes, request: &http::Request<B>) -> Result<Option<RouteMatch>, RouteError> {
    let (path, method, headers) = (request.uri().path(), request.method(), request.headers());
    let index = routes.find(path, method, headers);
    let deliberate = index.is_some_and(|index| readings::is_ambiguous(routes.route(index).pattern.text()));
    if !deliberate && readings::is_ambiguous(path) {
        for reading in readings::others(path) {
            if routes.find(&reading, method, headers) != index {
                return Err(RouteError::Ambiguous);
            }
        }
    }
    Ok(index.map(|index| RouteMatch { id: routes.route(index).id.clone(), index }))
}

/// Calls the stack of the route that [`RouteLayer`] noted. Always ready.
///
/// The stacks are asked for by index, so that a host can share those of global routes instead of
/// holding a copy of each.
#[derive(Clone)]
pub struct Routes<D> {
    stacks: D,
    default: Option<HttpService>,
}

impl<D> Routes<D>
where
    D: Fn(usize) -> Option<HttpService>,
{
    /// Dispatches to what this gives for the index of a route. `None` is answered with 503: the
    /// route is there, its target is not.
    pub const fn new(stacks: D) -> Self {
        Self { stacks, default: None }
    }

    /// Calls this stack where no route matches, instead of answering 404.
    #[must_use]
    pub fn with_default(self, default: Option<HttpService>) -> Self {
        Self { default, ..self }
    }
}

impl<D> Service<Request> for Routes<D>
where
    D: Fn(usize) -> Option<HttpService>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = Gate<BoxFuture<Result<Response, BoxError>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let stack = match &RequestContext::of(request.extensions_mut()).route {
            Some(route) => (self.stacks)(route.index).ok_or_else(|| RouteError::NoTarget(route.id.clone())),
            None => self.default.clone().ok_or(RouteError::NoRoute),
        };
        match stack {
            Ok(stack) => Gate::pass(stack.call(request)),
            Err(error) => Gate::refuse(Rejection::from(error)),
        }
    }
}

impl<D> fmt::Debug for Routes<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("default", &self.default).finish_non_exhaustive()
    }
}

/// Why no route's stack was called.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Nothing matches and the host has no default.
    #[error("no route matches")]
    NoRoute,
    /// The route has no stack: its target can't be resolved now.
    #[error("route {0} has no target")]
    NoTarget(SmolStr),
    /// Another reading of the path leads to another route.
    #[error("the path leads to different routes, depending on who reads it")]
    Ambiguous,
}

impl From<RouteError> for Rejection {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::NoRoute => {
                Self::new(StatusCode::NOT_FOUND, "no_route", "There is nothing at this path.")
            }
            RouteError::NoTarget(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_target",
                "What serves this path is not available.",
            )
            .with_source(error),
            RouteError::Ambiguous => Self::new(
                StatusCode::BAD_REQUEST,
                "ambiguous_path",
                "The path can be read in two ways that lead to different places.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::body::Body;
    use crate::context::Facts;

    fn route(id: &str, kind: PatternKind, text: &str) -> Route {
        Route::new(id, Pattern::new(kind, text).expect("valid"))
    }

    /// Answers with the index of the route in the status; route 7 has no target.
    fn stack(
        routes: Vec<Route>,
        default: bool,
    ) -> RouteService<Routes<impl Fn(usize) -> Option<HttpService> + Clone>> {
        let answering = |status: u16| {
            HttpService::new(service_fn(move |_: Request| async move {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::from_u16(status).expect("valid");
                Ok::<_, BoxError>(response)
            }))
        };
        let default = default.then(|| answering(299));
        let stacks =
            move |index: usize| (index < 7).then(|| answering(200 + u16::try_from(index).expect("small")));
        RouteLayer::new(HostRoutes::only(RouteTable::new(routes)))
            .layer(Routes::new(stacks).with_default(default))
    }

    async fn ask(routes: Vec<Route>, default: bool, path: &str) -> Result<u16, &'static str> {
        let request =
            http::Request::builder().method(Method::GET).uri(path).body(Body::empty()).expect("valid");
        let answer = stack(routes, default).oneshot(request).await;
        answer.map(|response| response.status().as_u16()).map_err(|error| Rejection::of(error).code())
    }

    fn routes() -> Vec<Route> {
        vec![route("admin", PatternKind::Prefix, "/admin"), route("root", PatternKind::Prefix, "/")]
    }

    #[tokio::test]
    async fn the_stack_of_the_matching_route_is_called() {
        assert_eq!(ask(routes(), false, "/admin/x").await, Ok(200));
        assert_eq!(ask(routes(), false, "/administrator").await, Ok(201));
        let only = || vec![route("a", PatternKind::Exact, "/a")];
        assert_eq!(ask(only(), true, "/b").await, Ok(299));
        assert_eq!(ask(only(), false, "/b").await, Err("no_route"));
        let many = (0..8).map(|n| route(&format!("r{n}"), PatternKind::Exact, &format!("/{n}"))).collect();
        assert_eq!(ask(many, true, "/7").await, Err("no_target"));
    }

    #[tokio::test]
    async fn a_path_that_would_step_over_a_route_is_refused() {
        for (path, expected) in [
            ("/admin;x", Err("ambiguous_path")),
            ("/admin;x/y", Err("ambiguous_path")),
            ("//admin", Err("ambiguous_path")),
            ("/%2Fadmin", Err("ambiguous_path")),
            ("/;//admin", Err("ambiguous_path")),
            ("/admin/x;y=1", Ok(200)),
            ("/admin//x", Ok(200)),
            ("/x;y/z", Ok(201)),
            ("/fetch/https://a.example", Ok(201)),
        ] {
            assert_eq!(ask(routes(), false, path).await, expected, "{path}");
        }
        let deliberate =
            vec![route("root", PatternKind::Prefix, "/"), route("x", PatternKind::Exact, "/x;y")];
        assert_eq!(ask(deliberate, false, "/x;y").await, Ok(200));
    }

    #[tokio::test]
    async fn the_route_is_noted_and_a_stale_one_forgotten() {
        let facts = Arc::new(Facts::default());
        let mut request = http::Request::get("/admin").body(()).expect("valid");
        let context = RequestContext::of(request.extensions_mut());
        context.facts = Some(facts.clone());
        context.route = Some(RouteMatch { id: "stale".into(), index: 99 });
        let inner = service_fn(|mut request: http::Request<()>| async move {
            Ok::<_, BoxError>(RequestContext::of(request.extensions_mut()).route.clone())
        });
        let layer = RouteLayer::new(HostRoutes::only(RouteTable::new(routes())));
        let noted = layer.layer(inner).oneshot(request).await.expect("noted").expect("a route");
        assert_eq!((noted.id.as_str(), noted.index), ("admin", 0));
        assert_eq!(facts.route.get().map(SmolStr::as_str), Some("admin"));

        let mut request = http::Request::get("/none").body(()).expect("valid");
        RequestContext::of(request.extensions_mut()).route = Some(noted);
        let none = RouteLayer::new(HostRoutes::only(RouteTable::new(Vec::new())));
        assert!(none.layer(inner).oneshot(request).await.expect("noted").is_none());
    }
}
