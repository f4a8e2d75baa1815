//! A compiled table of routes. Pure.
//!
//! Exact paths are one look-up, prefixes one for each segment that a prefix of the table can have;
//! globs and expressions are tried in order, and only those whose first letters fit. No step is
//! linear in the number of exact and prefix routes, and a long path costs no more than a long pattern.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use http::{HeaderMap, Method};
use smol_str::SmolStr;

use super::condition::{HeaderCondition, Methods};
use super::pattern::{Pattern, PatternKind};

/// Which route goes first: from 0 to 1000, the higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(u16);

/// A number that is no priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("priority {0} is not from 0 to 1000")]
pub struct PriorityError(u16);

impl Priority {
    /// Before each that can be asked for.
    pub const FIRST: Self = Self(u16::MAX);

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Priority {
    type Error = PriorityError;

    fn try_from(number: u16) -> Result<Self, PriorityError> {
        if number <= 1000 { Ok(Self(number)) } else { Err(PriorityError(number)) }
    }
}

impl Default for Priority {
    /// 50
    fn default() -> Self {
        Self(50)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a request must be like to take a route.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name in configuration and logs.
    pub id: SmolStr,
    /// Which route goes first where several match.
    pub priority: Priority,
    /// Of the path.
    pub pattern: Pattern,
    /// Of the method.
    pub methods: Methods,
    /// Of headers; all of them must hold.
    pub headers: Vec<HeaderCondition>,
}

impl Route {
    /// A route for any method and any headers, with the default priority.
    pub fn new(id: impl Into<SmolStr>, pattern: Pattern) -> Self {
        Self {
            id: id.into(),
            priority: Priority::default(),
            pattern,
            methods: Methods::any(),
            headers: Vec::new(),
        }
    }

    /// Higher priority first, then the longer pattern, then the id.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        other
            .priority
            .cmp(&self.priority)
            .then_with(|| other.pattern.text().len().cmp(&self.pattern.text().len()))
            .then_with(|| self.id.cmp(&other.id))
    }

    fn admits(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.methods.contains(method) && self.headers.iter().all(|condition| condition.holds(headers))
    }
}

/// Routes in the order in which they are tried, with the indexes to find them.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    exact: Index,
    prefix: Index,
    /// Nothing longer is worth looking up in `prefix`.
    longest_prefix: usize,
    /// Globs and expressions.
    programs: Vec<usize>,
    by_id: HashMap<SmolStr, usize, ahash::RandomState>,
}

/// Places in `routes`, ascending.
type Index = HashMap<SmolStr, Vec<usize>, ahash::RandomState>;

impl RouteTable {
    /// Sorts and indexes the routes.
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by(Route::order);
        let mut table = Self::default();
        for (at, route) in routes.iter().enumerate() {
            let text = route.pattern.text();
            match route.pattern.kind() {
                PatternKind::Exact => table.exact.entry(text.into()).or_default().push(at),
                PatternKind::Prefix => {
                    table.longest_prefix = table.longest_prefix.max(text.len());
                    table.prefix.entry(text.into()).or_default().push(at);
                }
                PatternKind::Glob | PatternKind::Regex | PatternKind::RegexStart => table.programs.push(at),
            }
            table.by_id.entry(route.id.clone()).or_insert(at);
        }
        table.routes = routes;
        table
    }

    /// The routes in the order in which they are tried: the index of a match is a place in here.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The place of the route with this id.
    pub fn position(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The first route that matches.
    pub fn find(&self, path: &str, method: &Method, headers: &HeaderMap) -> Option<usize> {
        self.find_visible(path, method, headers, |_| true)
    }

    /// The first route that matches, among those for which `visible` says yes.
    pub(super) fn find_visible(
        &self,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
        visible: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let admits = |at: usize| visible(at) && self.routes[at].admits(method, headers);
        let mut best = usize::MAX;
        let mut consider = |candidates: Option<&Vec<usize>>| {
            // Ascending: beyond the best nothing is of interest.
            let limit = best;
            let mut candidates = candidates.into_iter().flatten().copied().take_while(|at| *at < limit);
            best = candidates.find(|at| admits(*at)).unwrap_or(best);
        };
        consider(self.exact.get(path));
        for prefix in self.prefixes(path) {
            consider(self.prefix.get(prefix));
        }
        let limit = best;
        let mut programs = self.programs.iter().copied().take_while(|at| *at < limit);
        let matches = |at: &usize| self.routes[*at].pattern.matches(path) && admits(*at);
        let best = programs.find(matches).unwrap_or(best);
        (best != usize::MAX).then_some(best)
    }

    /// Every text that a prefix pattern for this path can have: `/`, `/a`, `/a/` and `/a/b` for `/a/b`.
    fn prefixes<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let limit = if self.prefix.is_empty() { 0 } else { self.longest_prefix };
        // One byte more than the longest pattern may be the slash behind it.
        let cut = &path.as_bytes()[..path.len().min(limit + 1)];
        let slashes = cut.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let folders = slashes.flat_map(|at| [at, at + 1]);
        let whole = (!path.ends_with('/')).then_some(path.len());
        let ends = folders.chain(whole).filter(move |end| (1..=limit).contains(end));
        // `//` names one place twice, which costs a look-up and does no harm.
        ends.map(|end| &path[..end])
    }
}

impl PartialEq for RouteTable {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::route::HeaderTest;

    fn route(id: &str, priority: u16, kind: PatternKind, text: &str) -> Route {
        Route {
            priority: priority.try_into().expect("valid"),
            ..Route::new(id, Pattern::new(kind, text).expect("valid"))
        }
    }

    fn found<'a>(table: &'a RouteTable, method: &Method, path: &str) -> Option<&'a str> {
        table.find(path, method, &HeaderMap::new()).map(|at| table.routes()[at].id.as_str())
    }

    #[test]
    fn order_is_priority_then_length_then_id() {
        use PatternKind::{Exact, Glob, Prefix, Regex};
        let table = RouteTable::new(vec![
            route("root", 50, Prefix, "/"),
            route("api", 50, Prefix, "/api"),
            route("api-slash", 60, Prefix, "/deep/"),
            route("b-twin", 50, Exact, "/twin"),
            route("a-twin", 50, Prefix, "/twin"),
            route("users", 40, Exact, "/api/users"),
            route("any-json", 70, Glob, "/**.json"),
            route("year", 50, Regex, r"/\d{4}/.*"),
        ]);
        for (path, expected) in [
            ("/", "root"),
            ("/x/y", "root"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/api/users", "api"),
            ("/apis", "root"),
            ("/deep", "root"),
            ("/deep/", "api-slash"),
            ("/deep/x", "api-slash"),
            ("/deep//x", "api-slash"),
            ("/twin", "a-twin"),
            ("/api/x.json", "any-json"),
            ("/2026/x", "year"),
            ("/20260/x", "root"),
        ] {
            assert_eq!(found(&table, &Method::GET, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_a_route_asks_beside_the_path_lets_the_next_one_match() {
        let mut get = route("get", 90, PatternKind::Prefix, "/");
        get.methods = Methods::only([Method::GET]);
        let mut beta = route("beta", 95, PatternKind::Exact, "/x");
        let test = HeaderTest::Exact(HeaderValue::from_static("beta"));
        beta.headers = vec![HeaderCondition { name: HeaderName::from_static("x-channel"), test }];
        let table = RouteTable::new(vec![get, beta, route("rest", 10, PatternKind::Prefix, "/")]);
        assert_eq!(found(&table, &Method::GET, "/x"), Some("get"));
        assert_eq!(found(&table, &Method::POST, "/x"), Some("rest"));
        let headers =
            [(HeaderName::from_static("x-channel"), HeaderValue::from_static("beta"))].into_iter().collect();
        assert_eq!(table.find("/x", &Method::POST, &headers), table.position("beta"));
    }

    #[test]
    fn the_index_finds_what_a_linear_search_finds() {
        let kinds = [PatternKind::Exact, PatternKind::Prefix, PatternKind::Glob, PatternKind::RegexStart];
        let texts = ["/", "/a", "/a/", "/a/b", "/a/b/", "/b", "/a/bc", "/a/b/c", "//", "//a"];
        let routes = kinds.iter().enumerate().flat_map(|(k, kind)| {
            texts.iter().enumerate().map(move |(t, text)| {
                route(&format!("{k}-{t}"), u16::try_from((k * 7 + t * 13) % 5).expect("small"), *kind, text)
            })
        });
        let table = RouteTable::new(routes.collect());
        for path in ["/", "/a", "/a/", "/a/b", "/a/b/c/d", "/a/bc", "/b/", "//", "//a/x", "/c", "/a//b"] {
            let linear = table.routes().iter().position(|route| route.pattern.matches(path));
            assert_eq!(table.find(path, &Method::GET, &HeaderMap::new()), linear, "{path}");
        }
    }

    #[test]
    fn an_empty_table_matches_nothing() {
        assert_eq!(found(&RouteTable::default(), &Method::GET, "/"), None);
        assert_eq!(found(&RouteTable::new(Vec::new()), &Method::GET, "//"), None);
    }

    /// A bound far above what an index needs, and far below what a walk over all routes and bytes would.
    #[test]
    fn many_routes_and_a_hostile_path_are_cheap() {
        let routes = (0..1000).flat_map(|n| {
            let exact = route(&format!("e{n}"), 50, PatternKind::Exact, &format!("/e/{n}"));
            [exact, route(&format!("p{n}"), 50, PatternKind::Prefix, &format!("/p/{n}"))]
        });
        let table = RouteTable::new(routes.collect());
        let hostile = "/".repeat(16 * 1024);
        let started = Instant::now();
        for _ in 0..1000 {
            assert_eq!(found(&table, &Method::GET, "/p/999/x/y/z"), Some("p999"));
            assert_eq!(found(&table, &Method::GET, &hostile), None);
        }
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}
