//! The route to the gateway's own MCP server, which no document describes: a host has it or not.

use std::sync::{Arc, OnceLock};

use portcullis_layers::route;
use portcullis_layers::route::Priority;
use serde_json::json;
use smol_str::SmolStr;

use super::{Destination, EffectiveRoute};
use crate::config::field::FieldError;
use crate::config::proxy::BUILTIN_MCP;
use crate::config::route::RESERVED;
use crate::config::{Builtin, Proxy, Route};

impl Proxy {
    /// Tokens for the server are those for the host, and clients hold the URL that they are given against the name of
    /// the resource: it has to be the server's, or the whole host.
    pub(in crate::config) fn check_builtin_mcp(&self, problems: &mut Vec<FieldError>) {
        if !self.has_builtin_mcp() {
            return;
        }
        if self.mcp.is_some() {
            let detail = "the gateway's own server is at `/mcp` here: expected no `builtin_mcp`, and a host of its own for it";
            problems.push(FieldError::bare("mcp", detail));
        }
        if let Some(endpoint) = &self.resource_endpoint
            && !["", BUILTIN_MCP].contains(&self.resource_path())
        {
            let detail = "the gateway's own server is at `/mcp` here, and tokens for it name the resource: expected `/mcp` \
                          or `/`, or no `builtin_mcp`";
            problems.push(FieldError::new("resource_endpoint", endpoint.as_str(), detail));
        }
    }
}

/// The route of a host that has the server, as the router and as the stacks want it.
///
/// It asks for a token whatever the host says, and goes before routes of the host and of all hosts, so that no pattern
/// takes its requests elsewhere by accident.
pub(super) fn of(proxy: &Proxy) -> Option<(route::Route, EffectiveRoute)> {
    static ROUTE: OnceLock<Option<(route::Route, Arc<Route>)>> = OnceLock::new();
    if !proxy.has_builtin_mcp() {
        return None;
    }
    let (matcher, route) = ROUTE.get_or_init(made).clone()?;
    Some((matcher, EffectiveRoute { route, destination: Destination::Builtin(Builtin::Mcp) }))
}

fn made() -> Option<(route::Route, Arc<Route>)> {
    let mut route: Route = serde_json::from_value(json!({
        "route_id": RESERVED,
        "path_pattern": BUILTIN_MCP,
        "match": "exact",
        "priority": 1000,
        "target_type": "builtin",
        "target_value": "mcp",
        "scope": "proxy",
        "override_proxy_auth": true,
        "auth_config": { "auth_type": "bearer", "required_scopes": ["mcp"] },
    }))
    .ok()?;
    // Clients ask for what the challenge names, and no tool's refusal makes them ask for more. Whoever is on no list for
    // the others gets what the lists give.
    route.auth_config.as_mut()?.challenged = Some("mcp user admin");
    let mut matcher = route.matcher().ok()?;
    matcher.priority = Priority::FIRST;
    Some((matcher, Arc::new(route)))
}

/// The mode of a host's routes, with the one to the server among them.
pub(super) fn shown(mode: route::Mode) -> route::Mode {
    let id = SmolStr::new_static(RESERVED);
    match mode {
        route::Mode::All { mut disabled } => {
            disabled.retain(|one| *one != id);
            route::Mode::All { disabled }
        }
        route::Mode::Selective { mut enabled } => {
            enabled.push(id);
            route::Mode::Selective { enabled }
        }
        route::Mode::None => route::Mode::Selective { enabled: vec![id] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_route_when_it_says_so() {
        let proxy = |more: &str| {
            let text = format!("{{\"proxy_hostname\": \"a.example\", {more}}}");
            serde_json::from_str::<Proxy>(&text).expect("a proxy")
        };
        assert!(of(&proxy("\"target_url\": \"builtin:echo\"")).is_none());
        for with in
            ["\"target_url\": \"builtin:echo\", \"builtin_mcp\": true", "\"target_url\": \"builtin:mcp\""]
        {
            let (matcher, route) = of(&proxy(with)).expect("a route");
            assert_eq!(matcher.id, RESERVED);
            assert!(route.route.needs_token(), "{with}");
        }
    }

    #[test]
    fn no_pattern_goes_before_it() {
        let other = json!({
            "route_id": "first", "path_pattern": "^/(mcp|other)$", "match": "regex", "priority": 1000,
            "target_type": "url", "target_value": "http://10.0.0.5", "scope": "global",
        });
        let other: Route = serde_json::from_value(other).expect("a route");
        let (own, _) = made().expect("a route");
        let routes = [other.matcher().expect("a matcher"), own];
        let table = route::RouteTable::new(routes.into());
        let found = table.find(BUILTIN_MCP, &http::Method::POST, &http::HeaderMap::new());
        assert_eq!(found.map(|at| table.routes()[at].id.as_str()), Some(RESERVED));
    }

    #[test]
    fn the_resource_of_its_host_covers_it() {
        let problems = |more: serde_json::Value| {
            let mut fields = json!({ "proxy_hostname": "a.example", "target_url": "http://10.0.0.5" });
            fields.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
            let mut problems = Vec::new();
            serde_json::from_value::<Proxy>(fields).expect("a proxy").check_builtin_mcp(&mut problems);
            problems.into_iter().map(|problem| problem.field).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        for endpoint in [json!(null), json!("/"), json!("/mcp"), json!("/mcp/")] {
            assert_eq!(problems(json!({ "builtin_mcp": true, "resource_endpoint": endpoint })), none);
        }
        assert_eq!(
            problems(json!({ "builtin_mcp": true, "resource_endpoint": "/tools" })),
            ["resource_endpoint"]
        );
        assert_eq!(problems(json!({ "resource_endpoint": "/tools", "mcp": {} })), none);
        assert_eq!(problems(json!({ "builtin_mcp": true, "resource_endpoint": "/", "mcp": {} })), ["mcp"]);
    }

    #[test]
    fn no_mode_takes_it_away() {
        let id = SmolStr::new_static(RESERVED);
        let disabled = route::Mode::All { disabled: vec![id.clone(), "other".into()] };
        assert_eq!(shown(disabled), route::Mode::All { disabled: vec!["other".into()] });
        assert_eq!(shown(route::Mode::None), route::Mode::Selective { enabled: vec![id] });
    }
}
