//! Why a request takes the route that it takes: for people, so it may walk over all routes. Pure.

use std::fmt;

use http::{HeaderMap, HeaderName, Method};

use super::matcher::Route;
use super::overlay::{HostRoutes, Place};

/// A route and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Considered<'a> {
    /// The route.
    pub route: &'a Route,
    /// Where it comes from.
    pub place: Place,
    /// What became of it.
    pub verdict: Verdict,
}

/// Why a route was taken or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It matches and goes first.
    Chosen,
    /// It matches, but another one goes first.
    Later,
    /// The host does not show it.
    Hidden,
    /// The pattern is for other paths.
    Path,
    /// It is for other methods.
    Method,
    /// What it asks of this header does not hold.
    Header(HeaderName),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chosen => f.write_str("chosen"),
            Self::Later => f.write_str("matches, but another route goes first"),
            Self::Hidden => f.write_str("disabled or replaced on this host"),
            Self::Path => f.write_str("the pattern does not match the path"),
            Self::Method => f.write_str("the method is not one of the route's"),
            Self::Header(name) => write!(f, "the condition on header {name} does not hold"),
        }
    }
}

impl HostRoutes {
    /// Every route in the order in which it is tried, and what becomes of it for this request.
    pub fn explain(&self, path: &str, method: &Method, headers: &HeaderMap) -> Vec<Considered<'_>> {
        let chosen = self.find(path, method, headers);
        let count = self.global().routes().len() + self.own().routes().len();
        let mut considered: Vec<Considered<'_>> = (0..count)
            .map(|index| {
                let (route, place) = (self.route(index), self.place(index));
                let hidden = matches!(place, Place::Global(at) if !self.shows(at));
                let verdict = match mismatch(route, path, method, headers) {
                    _ if hidden => Verdict::Hidden,
                    _ if chosen == Some(index) => Verdict::Chosen,
                    Some(mismatch) => mismatch,
                    None => Verdict::Later,
                };
                Considered { route, place, verdict }
            })
            .collect();
        considered.sort_by(|a, b| a.route.order(b.route));
        considered
    }
}

fn mismatch(route: &Route, path: &str, method: &Method, headers: &HeaderMap) -> Option<Verdict> {
    if !route.pattern.matches(path) {
        return Some(Verdict::Path);
    }
    if !route.methods.contains(method) {
        return Some(Verdict::Method);
    }
    let failed = route.headers.iter().find(|condition| !condition.holds(headers))?;
    Some(Verdict::Header(failed.name.clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::route::{HeaderCondition, HeaderTest, Methods, Mode, Pattern, PatternKind, RouteTable};

    #[test]
    fn every_route_is_named_with_its_reason() {
        let route =
            |id: &str, prefix| Route::new(id, Pattern::new(PatternKind::Prefix, prefix).expect("valid"));
        let mut post = route("post", "/aaaa");
        post.pattern = Pattern::new(PatternKind::Glob, "/a*").expect("valid");
        post.methods = Methods::only([Method::POST]);
        let mut beta = route("beta", "/a");
        beta.headers =
            vec![HeaderCondition { name: HeaderName::from_static("x-beta"), test: HeaderTest::Present }];
        let global =
            Arc::new(RouteTable::new(vec![route("root", "/"), route("off", "/"), route("other", "/other")]));
        let mode = Mode::All { disabled: vec!["off".into()] };
        let routes = HostRoutes::new(global, vec![post, beta, route("mine", "/a")], &mode);
        let explained = routes.explain("/a", &Method::GET, &HeaderMap::new());
        let explained: Vec<_> = explained.iter().map(|c| (c.route.id.as_str(), c.verdict.clone())).collect();
        let expected = [
            ("other", Verdict::Path),
            ("post", Verdict::Method),
            ("beta", Verdict::Header(HeaderName::from_static("x-beta"))),
            ("mine", Verdict::Chosen),
            ("off", Verdict::Hidden),
            ("root", Verdict::Later),
        ];
        assert_eq!(explained, expected);
    }
}
