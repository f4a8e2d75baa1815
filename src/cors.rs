//! Which other origins' pages may call a host: by its own rules, or, where it has none and is a protected
//! resource, by those that web clients of MCP servers need. Where neither says anything, pages of every origin may
//! learn why a request was refused, and nothing else.

use std::time::Duration;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, Method};
use portcullis_layers::headers::{Allowed, Cors, CorsLayer, Origins};
use portcullis_layers::resource_metadata::WELL_KNOWN;
use portcullis_layers::{BoxError, HostName};
use portcullis_services::config::Proxy;
use portcullis_services::config::access::Site;
use portcullis_services::config::auth::AuthMode;
use portcullis_services::config::headers as rules;
use portcullis_services::config::names::Origin;
use portcullis_services::config::proxy::BUILTIN_MCP;

/// What clients of MCP servers send (Streamable HTTP, all versions).
const REQUEST_HEADERS: [&str; 9] = [
    "Authorization",
    "Content-Type",
    "Accept",
    "MCP-Protocol-Version",
    "Mcp-Session-Id",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Param-*",
    "Last-Event-ID",
];

/// What they must be able to read: where to get a token, and the session to go on with.
const RESPONSE_HEADERS: [HeaderName; 2] = [WWW_AUTHENTICATE, HeaderName::from_static("mcp-session-id")];

/// How long browsers may remember a preflight.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The rules of a host, if there are any.
pub(crate) fn cors(site: &Site, proxy: &Proxy, host: &HostName) -> Result<Option<CorsLayer>, BoxError> {
    let layer = match &proxy.cors {
        Some(own) => CorsLayer::new(&of_document(own)?)?,
        // Without a token everybody is let in, the upstream has to say who may read what.
        // The gateway's own MCP server always asks for one.
        None => {
            let open = !proxy.auth_enabled || proxy.auth_mode == AuthMode::Passthrough;
            let own = proxy.has_builtin_mcp();
            let mut paths =
                proxy.program_paths().filter(|path| !open || own && *path == BUILTIN_MCP).peekable();
            if paths.peek().is_none() {
                return Ok(None);
            }
            paths.fold(CorsLayer::new(&of_resource(site, proxy, host))?, CorsLayer::below)
        }
    };
    // The metadata is for everybody, whatever the host is.
    Ok(Some(layer.except(WELL_KNOWN)))
}

/// Whether scripts of every origin may read why a request needs a token. Not where the host has its own rules, and not
/// where it is for some networks only: then a page in one of them could ask for others.
pub(crate) const fn are_refusals_readable(proxy: &Proxy) -> bool {
    proxy.cors.is_none() && proxy.allowed_networks.is_none()
}

fn of_resource(site: &Site, proxy: &Proxy, host: &HostName) -> Cors {
    let own = site.origin(host.as_str());
    let origins = match origins(&proxy.resource_allowed_origins) {
        Origins::Any => Origins::Any,
        Origins::List(listed) => Origins::List(std::iter::once(own).chain(listed).collect()),
    };
    Cors {
        origins,
        methods: vec![Method::DELETE],
        headers: Allowed::List(REQUEST_HEADERS.map(str::to_owned).into()),
        expose: RESPONSE_HEADERS.into(),
        credentials: false,
        max_age: Some(MAX_AGE),
    }
}

fn of_document(rules: &rules::Cors) -> Result<Cors, BoxError> {
    Ok(Cors {
        origins: origins(&rules.origins),
        methods: rules
            .methods
            .iter()
            .map(|name| name.as_str().parse::<Method>())
            .collect::<Result<_, _>>()?,
        headers: Allowed::List(rules.headers.iter().map(|name| name.as_str().into()).collect()),
        expose: rules.expose.iter().map(|name| name.as_str().parse()).collect::<Result<_, _>>()?,
        credentials: false,
        max_age: Some(Duration::from_secs(rules.max_age.into())),
    })
}

fn origins(listed: &[Origin]) -> Origins {
    if listed.iter().any(|origin| origin.as_str() == "*") {
        return Origins::Any;
    }
    Origins::List(listed.iter().map(|origin| origin.as_str().into()).collect())
}
