//! Patterns never panic, an expression means what it means without our short cuts, and a table finds
//! what trying its routes one after the other finds. The last line of the input is the path; each line
//! before it is a pattern, of a kind that its first letter tells.

use http::{HeaderMap, Method};
use portcullis_layers::route::{Anchored, HostRoutes, Pattern, PatternKind, Priority, Route, RouteTable};

/// More only make the fuzzer slow.
const MAX_ROUTES: usize = 16;

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (patterns, path) = text.rsplit_once('\n').unwrap_or(("", text));
    let lines = patterns.lines().take(MAX_ROUTES);
    let routes: Vec<Route> = lines.enumerate().filter_map(|(at, line)| route(at, line)).collect();
    for route in &routes {
        let pattern = &route.pattern;
        let expected = match pattern.kind() {
            PatternKind::Regex => Anchored::whole(pattern.text()).map(|whole| whole.is_match(path)),
            PatternKind::RegexStart => Anchored::start(pattern.text()).map(|start| start.is_match(path)),
            PatternKind::Exact => Ok(pattern.text() == path),
            PatternKind::Prefix | PatternKind::Glob => continue,
        };
        assert_eq!(expected, Ok(pattern.matches(path)), "{pattern} and {path:?}");
    }
    let table = RouteTable::new(routes);
    let (method, headers) = (Method::GET, HeaderMap::new());
    let found = table.find(path, &method, &headers);
    let first = table.routes().iter().position(|route| route.pattern.matches(path));
    assert_eq!(found, first, "{:?} and {path:?}", table.routes());
    assert_eq!(HostRoutes::only(table).find(path, &method, &headers), found);
}

fn route(at: usize, line: &str) -> Option<Route> {
    let mut letters = line.chars();
    let kind = match letters.next()? {
        '=' => PatternKind::Exact,
        '*' => PatternKind::Glob,
        '~' => PatternKind::Regex,
        '<' => PatternKind::RegexStart,
        _ => PatternKind::Prefix,
    };
    let pattern = Pattern::new(kind, letters.as_str()).ok()?;
    let priority = Priority::try_from(u16::try_from(line.len() % 3).ok()?).ok()?;
    Some(Route { priority, ..Route::new(format!("r{at}"), pattern) })
}
