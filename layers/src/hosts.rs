//! A table of hosts, and the service that hands each request to the one it is for.
//!
//! [`HostTable`] finds an exact name first, then a wildcard `*.parent` that covers one label.
//! [`Hosts`] looks the request's host up, per request, in whatever implements [`Lookup`], typically a
//! snapshot behind an `ArcSwap`; so a swap is seen by the next request of an open connection and never
//! by one that is under way. An unknown host is a 404.
//!
//! It does not parse or check the host: [`normalize`](crate::normalize) must stand outside it.
//!
//! ```
//! use http::Request;
//! use portcullis_layers::hosts::{HostTable, Hosts};
//! use portcullis_layers::{Body, BoxError, HttpService, RequestContext};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let site = HttpService::new(service_fn(|_| async { Ok::<_, BoxError>(http::Response::new(Body::from("hello"))) }));
//! let table: HostTable<HttpService> = [("*.example.com".parse()?, site)].into_iter().collect();
//! let mut request = Request::new(Body::empty());
//! RequestContext::of(request.extensions_mut()).host = Some("www.example.com".parse()?);
//! assert_eq!(Hosts::new(table).oneshot(request).await?.status(), 200);
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::StatusCode;
use tower_service::Service;

use crate::body::{BoxError, BoxFuture, HttpService, Request, Response};
use crate::context::RequestContext;
use crate::future::Gate;
use crate::names::{HostName, InvalidHostName};
use crate::rejection::Rejection;

/// Which hosts something is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One host.
    Exact(HostName),
    /// Every host that is one label below this one; written `*.parent`.
    Wildcard(HostName),
}

impl HostPattern {
    /// Whether the pattern is for this host.
    pub fn matches(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(parent) => host.parent() == Some(parent.as_str()),
        }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, InvalidHostName> {
        match text.strip_prefix("*.") {
            Some(parent) => {
                let parent: HostName = parent.parse()?;
                if parent.is_ip() { Err(InvalidHostName::Address) } else { Ok(Self::Wildcard(parent)) }
            }
            None => text.parse().map(Self::Exact),
        }
    }
}

impl From<HostName> for HostPattern {
    fn from(name: HostName) -> Self {
        Self::Exact(name)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for HostPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.trim().parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schemars")]
impl schemars::JsonSchema for HostPattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostPattern".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": 255, "description": "A host name, or *.parent for every name one label below it" })
    }
}

/// Values by host.
#[derive(Debug, Clone)]
pub struct HostTable<T> {
    exact: HashMap<HostName, T, ahash::RandomState>,
    /// By parent.
    wildcard: HashMap<HostName, T, ahash::RandomState>,
}

impl<T> HostTable<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default() }
    }

    /// Adds a value and gives back the one that it replaces.
    pub fn insert(&mut self, pattern: HostPattern, value: T) -> Option<T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name, value),
            HostPattern::Wildcard(parent) => self.wildcard.insert(parent, value),
        }
    }

    /// The value for a host: that of its own name, else that of its parent's wildcard.
    pub fn get(&self, host: &HostName) -> Option<&T> {
        self.exact
            .get(host)
            .or_else(|| if self.wildcard.is_empty() { None } else { self.wildcard.get(host.parent()?) })
    }

    /// The value of just this pattern.
    pub fn get_pattern(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(parent) => self.wildcard.get(parent),
        }
    }

    /// Every pattern and its value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (HostPattern, &T)> {
        let exact = self.exact.iter().map(|(name, value)| (HostPattern::Exact(name.clone()), value));
        exact
            .chain(self.wildcard.iter().map(|(parent, value)| (HostPattern::Wildcard(parent.clone()), value)))
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> FromIterator<(HostPattern, T)> for HostTable<T> {
    fn from_iter<I: IntoIterator<Item = (HostPattern, T)>>(entries: I) -> Self {
        let mut table = Self::new();
        for (pattern, value) in entries {
            table.insert(pattern, value);
        }
        table
    }
}

/// Finds what belongs to a host. A plug point: a snapshot implements it for each kind of thing that it holds.
pub trait Lookup<T> {
    /// What belongs to this host now.
    fn lookup(&self, host: &HostName) -> Option<T>;

    /// A number that grows with each change of what is found. Who keeps what was found can tell by it whether
    /// to look again.
    fn revision(&self) -> u64 {
        0
    }
}

impl<T: Clone> Lookup<T> for HostTable<T> {
    fn lookup(&self, host: &HostName) -> Option<T> {
        self.get(host).cloned()
    }
}

impl<T, L: Lookup<T> + ?Sized> Lookup<T> for Arc<L> {
    fn lookup(&self, host: &HostName) -> Option<T> {
        (**self).lookup(host)
    }

    fn revision(&self) -> u64 {
        (**self).revision()
    }
}

/// The guard lives only within the call: what is found is cloned out of it.
impl<T, L: Lookup<T>> Lookup<T> for ArcSwap<L> {
    fn lookup(&self, host: &HostName) -> Option<T> {
        self.load().lookup(host)
    }

    fn revision(&self) -> u64 {
        self.load().revision()
    }
}

/// Calls the service of the request's host. Always ready.
#[derive(Debug, Clone)]
pub struct Hosts<L> {
    hosts: L,
}

impl<L> Hosts<L> {
    /// Dispatches to what the lookup finds; give it an `Arc`, since it is cloned with the stack.
    pub const fn new(hosts: L) -> Self {
        Self { hosts }
    }
}

impl<L: Lookup<HttpService>> Service<Request> for Hosts<L> {
    type Response = Response;
    type Error = BoxError;
    type Future = Gate<BoxFuture<Result<Response, BoxError>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let context = RequestContext::of(request.extensions_mut());
        // First: should there be a change in between, the request counts as older than it is.
        context.revision = self.hosts.revision();
        let found = match &context.host {
            None => Err(HostsError::Unset),
            Some(host) => self.hosts.lookup(host).ok_or_else(|| HostsError::Unknown(host.clone())),
        };
        match found {
            Ok(service) => Gate::pass(service.call(request)),
            Err(error) => Gate::refuse(Rejection::from(error)),
        }
    }
}

/// Why no host was called.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The request has no host: a bug in how the stack is put together.
    #[error("the request has no host: normalize must stand outside hosts")]
    Unset,
    /// Nobody serves the host.
    #[error("nobody serves {0}")]
    Unknown(HostName),
}

impl From<HostsError> for Rejection {
    fn from(error: HostsError) -> Self {
        match error {
            HostsError::Unset => Self::of(error),
            HostsError::Unknown(host) => Self::new(
                StatusCode::NOT_FOUND,
                "no_such_host",
                format!("There is no site named {host} here."),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::body::Body;

    fn host(text: &str) -> HostName {
        text.parse().expect("valid")
    }

    fn table(entries: &[(&str, u16)]) -> HostTable<u16> {
        entries.iter().map(|(pattern, value)| (pattern.parse().expect("valid"), *value)).collect()
    }

    #[test]
    fn an_exact_name_beats_a_wildcard_and_a_wildcard_covers_one_label() {
        let table = table(&[("a.example", 1), ("*.example", 2), ("*.deep.example", 3), ("10.0.0.1", 4)]);
        for (name, expected) in [
            ("a.example", Some(1)),
            ("b.example", Some(2)),
            ("deep.example", Some(2)),
            ("x.deep.example", Some(3)),
            ("x.y.deep.example", None),
            ("example", None),
            ("10.0.0.1", Some(4)),
            ("a.test", None),
        ] {
            assert_eq!(table.get(&host(name)).copied(), expected, "{name}");
        }
    }

    #[test]
    fn patterns_are_written_as_they_are_read() {
        for text in ["a.example", "*.a.example"] {
            assert_eq!(text.parse::<HostPattern>().expect("valid").to_string(), text);
        }
        for text in ["*", "*.", "a.*.example", "*a.example", "*.10.0.0.1", ""] {
            assert!(text.parse::<HostPattern>().is_err(), "{text:?} was taken for a pattern");
        }
    }

    fn answering(status: u16) -> HttpService {
        HttpService::new(service_fn(move |_: Request| async move {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).expect("valid");
            Ok::<_, BoxError>(response)
        }))
    }

    async fn ask(hosts: impl Lookup<HttpService> + Clone, name: Option<&str>) -> Result<u16, Rejection> {
        let mut request = Request::new(Body::empty());
        RequestContext::of(request.extensions_mut()).host = name.map(host);
        Hosts::new(hosts).oneshot(request).await.map(|r| r.status().as_u16()).map_err(Rejection::of)
    }

    #[tokio::test]
    async fn each_request_sees_the_table_of_its_moment() {
        let live = Arc::new(ArcSwap::from_pointee(HostTable::new()));
        let refused = ask(live.clone(), Some("a.example")).await.expect_err("no host yet");
        assert_eq!((refused.status().as_u16(), refused.code()), (404, "no_such_host"));
        live.store(Arc::new([("a.example".parse().expect("valid"), answering(201))].into_iter().collect()));
        assert_eq!(ask(live.clone(), Some("a.example")).await.expect("a host"), 201);
    }

    #[tokio::test]
    async fn a_request_without_a_host_is_our_bug() {
        let refused = ask(HostTable::new(), None).await.expect_err("no host");
        assert_eq!((refused.status().as_u16(), refused.code()), (500, "internal_error"));
    }
}
