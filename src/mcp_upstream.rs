//! What is between a host that knows of MCP and its upstreams: sessions stay where they began, and the upstreams get the
//! credentials that they know their callers by.

use portcullis_layers::forward::Forward;
use portcullis_layers::mcp_affinity::Affinity;
use portcullis_layers::{BoxError, HttpService};
use portcullis_services::config::resolve::{Destination, EffectiveHost};

use crate::runtime::Runtime;
use crate::upstream_credentials;

/// The upstreams of a host as its gate calls them.
pub(crate) fn service(
    runtime: &Runtime,
    effective: &EffectiveHost,
    resource: &str,
    forward: Forward,
) -> Result<HttpService, BoxError> {
    let service = match &effective.destination {
        // One, too: its sessions are for who began them.
        Destination::Upstream(target) => {
            let each = target.upstreams.iter().enumerate();
            let each = each.filter_map(|(at, upstream)| Some((upstream.label(), forward.only(at)?)));
            let each: Vec<_> = each.collect();
            let next = move |tried: &[usize]| forward.in_turn(tried);
            HttpService::flat(Affinity::with_next(runtime.sealed.clone(), resource, each, next))
        }
        _ => forward.into_service(),
    };
    Ok(match upstream_credentials::layer(runtime, &effective.proxy)? {
        // Inside of what takes away what a client sends in this header.
        Some(credentials) => credentials.layer(service),
        None => service,
    })
}
