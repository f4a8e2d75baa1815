//! What is between a host that knows of MCP and its upstreams: sessions stay where they began, and the upstreams get the
//! credentials that they know their callers by.

use std::sync::Arc;

use portcullis_layers::forward::{Forward, Target};
use portcullis_layers::mcp_affinity::Affinity;
use portcullis_layers::{BoxError, HttpService};
use portcullis_services::config::resolve::{Destination, EffectiveHost};
use tokio_util::sync::CancellationToken;

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
            let each = target.upstreams.iter().map(|upstream| {
                let target = Target { upstreams: vec![upstream.clone()], ..Target::clone(target) };
                let forward = Forward::new(&runtime.client, Arc::new(target), CancellationToken::new())?;
                Ok((upstream.label(), forward.into_service()))
            });
            let each = each.collect::<Result<Vec<_>, BoxError>>()?;
            HttpService::flat(Affinity::new(runtime.sealed.clone(), resource, each))
        }
        _ => forward.into_service(),
    };
    Ok(match upstream_credentials::layer(runtime, &effective.proxy)? {
        // Inside of what takes away what a client sends in this header.
        Some(credentials) => credentials.layer(service),
        None => service,
    })
}
