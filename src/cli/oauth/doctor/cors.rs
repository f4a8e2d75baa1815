//! What clients in browsers need (Fetch standard, CORS protocol).

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, ORIGIN,
};
use http::{HeaderName, Method, Uri};

use super::Probe;
use super::report::{BROWSERS, Finding, Report};
use super::resource::Found;
use super::server::Server;
use crate::cli::web::Reply;

/// What a client in a browser is told when it is not let in.
const FINDING: Finding = Finding {
    clients: BROWSERS,
    why: "the browser keeps the answer from a page of another origin",
    advice: "name the origin in resource_allowed_origins of the host (nothing to do, if no client runs in a browser)",
};

/// The resource and its metadata.
pub(super) async fn resource(probe: &Probe, found: &Found, report: &mut Report) {
    let asked = ["authorization", "content-type", "mcp-protocol-version"];
    preflight(probe, "cors-resource", &probe.url, Method::POST, &asked, report).await;
    if let Some(place) = &found.place {
        preflight(probe, "cors-metadata", place, Method::GET, &["mcp-protocol-version"], report).await;
    }
    exposed(probe, report).await;
}

/// The endpoints of the authorization server that pages call.
pub(super) async fn server(probe: &Probe, server: &Server, report: &mut Report) {
    let json = &["content-type"];
    preflight(probe, "cors-server", &server.place, Method::GET, &["mcp-protocol-version"], report).await;
    for (check, endpoint) in [("cors-token", "token_endpoint"), ("cors-register", "registration_endpoint")] {
        if let Some(url) = server.endpoint(endpoint) {
            preflight(probe, check, &url, Method::POST, json, report).await;
        }
    }
}

async fn preflight(
    probe: &Probe,
    check: &'static str,
    url: &Uri,
    method: Method,
    asked: &[&str],
    report: &mut Report,
) {
    let wanted = asked.join(",");
    let headers = [
        (ORIGIN, probe.origin.as_str()),
        (ACCESS_CONTROL_REQUEST_METHOD, method.as_str()),
        (ACCESS_CONTROL_REQUEST_HEADERS, &wanted),
    ];
    let reply = match probe.web.send(Method::OPTIONS, url, &headers, Bytes::new()).await {
        Ok(reply) => reply,
        Err(error) => return report.warn(check, format!("{url}: {error}"), FINDING),
    };
    let allowed = list(&reply, ACCESS_CONTROL_ALLOW_HEADERS);
    // `*` stands for everything but Authorization.
    let star = |name: &str| name != AUTHORIZATION.as_str() && allowed.iter().any(|own| own == "*");
    let lacking: Vec<&str> =
        asked.iter().copied().filter(|name| !allowed.iter().any(|own| own == name) && !star(name)).collect();
    let seen = if !reply.status.is_success() {
        format!("{url}: the preflight gets {}", reply.status.as_u16())
    } else if !lets_in(&reply, &probe.origin) {
        format!("{url}: {} is not let in", probe.origin)
    } else if !lacking.is_empty() {
        format!("{url}: the header {} is not allowed", lacking.join(", "))
    } else {
        return report.pass(check, format!("{url}: {} is let in", probe.origin));
    };
    report.warn(check, seen, FINDING);
}

/// Whether a page can read the challenge.
async fn exposed(probe: &Probe, report: &mut Report) {
    const CHECK: &str = "cors-challenge";
    let reply = match probe.knock(&[(ORIGIN, &probe.origin)]).await {
        Ok(reply) => reply,
        Err(error) => return report.warn(CHECK, error.to_string(), FINDING),
    };
    let exposed = list(&reply, ACCESS_CONTROL_EXPOSE_HEADERS);
    let lacking: Vec<&str> = ["www-authenticate", "mcp-session-id"]
        .into_iter()
        .filter(|name| !exposed.iter().any(|own| own == name || own == "*"))
        .collect();
    let seen = if !lets_in(&reply, &probe.origin) {
        format!("{} may not read the challenge", probe.origin)
    } else if !lacking.is_empty() {
        format!("{} can't be read by pages", lacking.join(", "))
    } else {
        return report.pass(CHECK, "pages can read the challenge");
    };
    report.warn(CHECK, seen, FINDING);
}

fn lets_in(reply: &Reply, origin: &str) -> bool {
    reply.header(ACCESS_CONTROL_ALLOW_ORIGIN).is_some_and(|allowed| allowed == "*" || allowed == origin)
}

/// The names in a header, in lower case.
fn list(reply: &Reply, header: HeaderName) -> Vec<String> {
    let values = reply.headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}
