//! The REST API: every operation of [`control`](crate::control) as an axum route.
//!
//! The same routes answer at the root and under `/api/v1`, with and without a slash at the end. The
//! router does not authenticate: it takes the caller from the request's extensions, where the auth
//! layer ([`RequestContext`](portcullis_layers::RequestContext)) or the listener of the local socket
//! ([`Caller`](crate::control::Caller)) has put it. It must stand behind one of them.

pub mod docs;
mod events;
mod input;
pub mod openapi;
pub mod problem;
mod progress;
#[cfg(feature = "docker")]
pub mod service_logs;
#[cfg(feature = "docker")]
pub mod service_stats;
pub mod stream;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;

use self::problem::Problem;
use self::table::Format;
use crate::control::schema::{self, Field};
use crate::control::{Control, Endpoint, Error, Operation, Surface, Table, register};

/// Where the API answers, beside the root.
const PREFIXES: [&str; 2] = ["", "/api/v1"];

/// The API of a control: all operations, the log follower, the OpenAPI document and its page.
pub fn router(control: Arc<Control>) -> Router {
    let mut rest = Rest::new(control.clone());
    register(&mut rest);
    let spec = openapi::document();
    let page = docs::Page::new(&spec);
    let spec = serde_json::to_vec(&spec).expect("a JSON value serialises");
    let spec: Arc<[u8]> = spec.into();

    rest.add_route("/openapi.json", get(move || async move { json_response(StatusCode::OK, spec.to_vec()) }));
    rest.add_route("/docs", get(move || async move { page.into_response() }));
    #[cfg(feature = "docker")]
    rest.add_route(service_logs::PATH, service_logs::follow(control.clone()));
    #[cfg(feature = "docker")]
    rest.change_route(service_stats::PATH, |methods| service_stats::or_follow(control.clone(), methods));
    rest.add_route(stream::PATH, stream::follow(control));
    rest.into_router()
}

/// The surface that makes routes of operations.
#[derive(Debug)]
pub struct Rest {
    control: Arc<Control>,
    routes: BTreeMap<String, MethodRouter>,
}

impl Rest {
    /// No operations yet.
    pub const fn new(control: Arc<Control>) -> Self {
        Self { control, routes: BTreeMap::new() }
    }

    /// Adds what is no operation.
    fn add_route(&mut self, path: &str, methods: MethodRouter) {
        let path = path.trim_end_matches('/').to_owned();
        let present = self.routes.remove(&path).unwrap_or_default();
        self.routes.insert(path, present.merge(methods));
    }

    /// Puts something around what is there.
    #[cfg(feature = "docker")]
    fn change_route(&mut self, path: &str, change: impl FnOnce(MethodRouter) -> MethodRouter) {
        if let Some(present) = self.routes.remove(path) {
            self.routes.insert(path.to_owned(), change(present));
        }
    }

    fn add_endpoint<O: Operation>(&mut self, endpoint: &Endpoint, fields: &Arc<[Field]>) {
        let control = self.control.clone();
        let fields = fields.clone();
        let status = StatusCode::from_u16(endpoint.status).unwrap_or(StatusCode::OK);
        let (path, tail) = endpoint.pattern();
        let handler = move |request: Request| answer::<O>(control, fields, status, tail, request);
        let filter = MethodFilter::try_from(endpoint.method.clone()).expect("operations use plain methods");
        self.add_route(path, on(filter, handler));
    }

    fn add_table<O: Operation>(&mut self, table: Table<O::Output>, fields: &Arc<[Field]>) {
        let (control, fields) = (self.control.clone(), fields.clone());
        let handler = move |request: Request| formatted::<O>(control, fields, table, request);
        self.add_route(table.path, get(handler));
    }

    /// The router.
    pub fn into_router(self) -> Router {
        let mut router = Router::new();
        for (path, methods) in self.routes {
            for prefix in PREFIXES {
                router = router.route(&format!("{prefix}{path}"), methods.clone());
                // What may have slashes has the last one, too.
                if !path.contains("{*") {
                    router = router.route(&format!("{prefix}{path}/"), methods.clone());
                }
            }
        }
        router.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
    }
}

impl Surface for Rest {
    fn add<O: Operation>(&mut self) {
        let fields: Arc<[Field]> = schema::fields_of::<O>().into();
        self.add_endpoint::<O>(&O::HTTP, &fields);
        for alias in O::ALIASES {
            self.add_endpoint::<O>(alias, &fields);
        }
        if let Some(table) = O::TABLE {
            self.add_table::<O>(table, &fields);
        }
    }
}

async fn not_found(request: Request) -> Problem {
    let detail = format!("there is nothing at {}: see /docs", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", detail)
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} is not possible here: see Allow", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

async fn answer<O: Operation>(
    control: Arc<Control>,
    fields: Arc<[Field]>,
    status: StatusCode,
    tail: &'static str,
    request: Request,
) -> Response {
    if O::HTTP.writes() && progress::is_wanted(&request) {
        return progress::answer(request, |request| plainly::<O>(control, fields, status, tail, request));
    }
    plainly::<O>(control, fields, status, tail, request).await
}

async fn plainly<O: Operation>(
    control: Arc<Control>,
    fields: Arc<[Field]>,
    status: StatusCode,
    tail: &'static str,
    request: Request,
) -> Response {
    match run::<O>(control, &fields, tail, request).await.and_then(|output| json_of(&output)) {
        Ok(output) => success(status, &output),
        Err(problem) => problem.into_response(),
    }
}

async fn formatted<O: Operation>(
    control: Arc<Control>,
    fields: Arc<[Field]>,
    table: Table<O::Output>,
    mut request: Request,
) -> Response {
    let format = match Format::take(&mut request) {
        Ok(format) => format,
        Err(problem) => return problem.into_response(),
    };
    match run::<O>(control, &fields, "", request).await {
        Ok(output) => format.answer(&table, &output).unwrap_or_else(|| match json_of(&output) {
            Ok(output) => success(StatusCode::OK, &output),
            Err(problem) => problem.into_response(),
        }),
        Err(problem) => problem.into_response(),
    }
}

fn json_of<T: serde::Serialize>(output: &T) -> Result<Value, Problem> {
    serde_json::to_value(output).map_err(|error| Error::internal(error).into())
}

async fn run<O: Operation>(
    control: Arc<Control>,
    fields: &[Field],
    tail: &str,
    request: Request,
) -> Result<O::Output, Problem> {
    let (parts, body) = request.into_parts();
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    let ctx = input::context(&parts)?;
    if !reads {
        input::refuse_cross_site(&parts)?;
    }
    // Before the body is read: nobody without the scope makes us read megabytes.
    control.admit::<O>(&ctx)?;
    let input = input::read::<O>(parts, body, fields, tail).await?;
    // Whoever waits may go away; then the operation hears of it, but a change is never cut in the middle.
    let _gone = ctx.cancel.clone().drop_guard();
    if reads {
        return Ok(control.call(input, &ctx).await?);
    }
    let work = tokio::spawn(async move { control.call(input, &ctx).await });
    Ok(work.await.map_err(Error::internal)??)
}

fn success(status: StatusCode, output: &Value) -> Response {
    let body = serde_json::to_vec(output).expect("a JSON value serialises");
    let mut response = json_response(status, body);
    let version = output.get("config_version").or_else(|| output.pointer("/proxy_target/config_version"));
    if let Some(version) = version.and_then(Value::as_u64)
        && let Ok(tag) = HeaderValue::try_from(format!("\"{version}\""))
    {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Answers depend on who asks.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
