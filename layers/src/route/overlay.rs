//! The routes of one host: an overlay on the global ones. Pure.
//!
//! Global routes are compiled once and shared; a host adds its own and notes which global ones it
//! shows. So a thousand hosts and a thousand global routes are two thousand things, not a million.

use std::sync::Arc;

use http::{HeaderMap, Method};
use smol_str::SmolStr;

use super::matcher::{Route, RouteTable};

/// Which routes hold on a host, global and own alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// All but these.
    All {
        /// Ids.
        disabled: Vec<SmolStr>,
    },
    /// These only.
    Selective {
        /// Ids.
        enabled: Vec<SmolStr>,
    },
    /// None.
    None,
}

impl Default for Mode {
    fn default() -> Self {
        Self::All { disabled: Vec::new() }
    }
}

/// Where a route of a host comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Its place in the global table.
    Global(usize),
    /// Its place in the host's own table.
    Own(usize),
}

/// The routes of one host. A clone is one reference count.
///
/// An index counts the global routes first, whether shown or not, then the host's own.
#[derive(Debug, Clone)]
pub struct HostRoutes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    global: Arc<RouteTable>,
    own: RouteTable,
    shown: Shown,
}

/// Which global routes hold; places ascending.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Except(Box<[usize]>),
    Only(Box<[usize]>),
}

impl Shown {
    fn contains(&self, at: usize) -> bool {
        match self {
            Self::Except(places) => places.is_empty() || places.binary_search(&at).is_err(),
            Self::Only(places) => places.binary_search(&at).is_ok(),
        }
    }
}

impl HostRoutes {
    /// Lays a host's own routes over the global ones. An own route replaces a global one of the same id.
    pub fn new(global: Arc<RouteTable>, mut own: Vec<Route>, mode: &Mode) -> Self {
        match mode {
            Mode::All { disabled } => own.retain(|route| !disabled.contains(&route.id)),
            Mode::Selective { enabled } => own.retain(|route| enabled.contains(&route.id)),
            Mode::None => own.clear(),
        }
        let own = RouteTable::new(own);
        let places = |ids: &mut dyn Iterator<Item = &SmolStr>| {
            let mut places: Vec<usize> = ids.filter_map(|id| global.position(id)).collect();
            places.sort_unstable();
            places.dedup();
            places.into_boxed_slice()
        };
        let replaced = own.routes().iter().map(|route| &route.id);
        let shown = match mode {
            Mode::All { disabled } => Shown::Except(places(&mut replaced.chain(disabled))),
            Mode::Selective { enabled } => {
                Shown::Only(places(&mut enabled.iter().filter(|id| own.position(id).is_none())))
            }
            Mode::None => Shown::Only(Box::default()),
        };
        Self { shared: Arc::new(Shared { global, own, shown }) }
    }

    /// A host that knows no global routes.
    pub fn only(own: RouteTable) -> Self {
        let (global, shown) = (Arc::default(), Shown::Except(Box::default()));
        Self { shared: Arc::new(Shared { global, own, shown }) }
    }

    /// The index of the first route that matches.
    pub fn find(&self, path: &str, method: &Method, headers: &HeaderMap) -> Option<usize> {
        let Shared { global, own, shown } = &*self.shared;
        let first = global.find_visible(path, method, headers, |at| shown.contains(at));
        let second = own.find(path, method, headers).map(|at| (at, at + global.routes().len()));
        match (first, second) {
            (Some(first), Some((at, index))) => {
                let own_goes_first = own.routes()[at].order(&global.routes()[first]).is_le();
                Some(if own_goes_first { index } else { first })
            }
            (first, second) => first.or(second.map(|(_, index)| index)),
        }
    }

    /// Where the route with this index comes from.
    pub fn place(&self, index: usize) -> Place {
        match index.checked_sub(self.shared.global.routes().len()) {
            Some(at) => Place::Own(at),
            None => Place::Global(index),
        }
    }

    /// The route with this index, as [`find`](Self::find) gave it.
    pub fn route(&self, index: usize) -> &Route {
        match self.place(index) {
            Place::Global(at) => &self.shared.global.routes()[at],
            Place::Own(at) => &self.shared.own.routes()[at],
        }
    }

    /// The table that all hosts share.
    pub fn global(&self) -> &Arc<RouteTable> {
        &self.shared.global
    }

    /// The host's own routes.
    pub fn own(&self) -> &RouteTable {
        &self.shared.own
    }

    /// Whether the global route at this place holds on the host.
    pub fn shows(&self, at: usize) -> bool {
        self.shared.shown.contains(at)
    }
}

impl PartialEq for HostRoutes {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (&*self.shared, &*other.shared);
        std::ptr::eq(ours, theirs)
            || (ours.shown == theirs.shown
                && ours.own == theirs.own
                && (Arc::ptr_eq(&ours.global, &theirs.global) || ours.global == theirs.global))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Pattern, PatternKind};

    fn route(id: &str, priority: u16, prefix: &str) -> Route {
        let pattern = Pattern::new(PatternKind::Prefix, prefix).expect("valid");
        Route { priority: priority.try_into().expect("valid"), ..Route::new(id, pattern) }
    }

    fn global() -> Arc<RouteTable> {
        Arc::new(RouteTable::new(vec![
            route("health", 80, "/health"),
            route("docs", 50, "/docs"),
            route("all", 1, "/"),
        ]))
    }

    fn found(routes: &HostRoutes, path: &str) -> Option<(String, Place)> {
        let index = routes.find(path, &Method::GET, &HeaderMap::new())?;
        Some((routes.route(index).id.to_string(), routes.place(index)))
    }

    fn id(routes: &HostRoutes, path: &str) -> Option<String> {
        found(routes, path).map(|(id, _)| id)
    }

    #[test]
    fn modes_choose_among_global_and_own_routes() {
        let own = || vec![route("mine", 60, "/docs"), route("other", 60, "/other")];
        let ids = |ids: &[&str]| ids.iter().map(SmolStr::new).collect::<Vec<_>>();
        for (mode, expected) in [
            (Mode::default(), [Some("health"), Some("mine"), Some("other"), Some("all")]),
            (
                Mode::All { disabled: ids(&["mine", "all"]) },
                [Some("health"), Some("docs"), Some("other"), None],
            ),
            (
                Mode::Selective { enabled: ids(&["docs", "other", "unknown"]) },
                [None, Some("docs"), Some("other"), None],
            ),
            (Mode::None, [None; 4]),
        ] {
            let routes = HostRoutes::new(global(), own(), &mode);
            let found = ["/health", "/docs", "/other", "/x"].map(|path| id(&routes, path));
            assert_eq!(found, expected.map(|id| id.map(str::to_owned)), "{mode:?}");
        }
    }

    #[test]
    fn the_order_runs_through_both_tables() {
        let routes = HostRoutes::new(
            global(),
            vec![route("low", 70, "/health"), route("high", 90, "/docs")],
            &Mode::default(),
        );
        assert_eq!(found(&routes, "/health"), Some(("health".to_owned(), Place::Global(0))));
        assert_eq!(found(&routes, "/docs"), Some(("high".to_owned(), Place::Own(0))));
    }

    #[test]
    fn an_own_route_replaces_a_global_one_of_the_same_id() {
        let routes = HostRoutes::new(global(), vec![route("health", 5, "/healthz")], &Mode::default());
        assert_eq!(id(&routes, "/health").as_deref(), Some("all"));
        assert_eq!(found(&routes, "/healthz"), Some(("health".to_owned(), Place::Own(0))));
    }

    #[test]
    fn equal_overlays_are_equal_and_others_are_not() {
        let shared = global();
        let with = |mode: &Mode| HostRoutes::new(shared.clone(), Vec::new(), mode);
        assert_eq!(with(&Mode::default()), with(&Mode::default()));
        assert_eq!(with(&Mode::default()), HostRoutes::new(global(), Vec::new(), &Mode::default()));
        assert_ne!(with(&Mode::default()), with(&Mode::None));
        assert_ne!(
            with(&Mode::default()),
            HostRoutes::new(shared.clone(), vec![route("a", 1, "/")], &Mode::default())
        );
    }
}
