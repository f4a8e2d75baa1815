//! Whose pages may make requests to a protected resource.
//!
//! Servers of the Model Context Protocol must refuse all others with 403 (Streamable HTTP, "Security warning"). The
//! list is the one that says who may read the answers: a page that may not read has no business to ask.

use portcullis_layers::HostName;
use portcullis_layers::headers::{CorsError, OriginLayer};
use portcullis_layers::resource_metadata::WELL_KNOWN;

use super::Proxy;
use super::access::Site;
use super::names::Origin;

/// What refuses the requests of other origins' pages to a host's resource and to the gateway's own MCP server; `None`
/// where there is neither, or every page may ask.
///
/// # Errors
///
/// When the document names an origin that no browser would send.
pub fn origins(site: &Site, proxy: &Proxy, host: &HostName) -> Result<Option<OriginLayer>, CorsError> {
    if proxy.program_paths().next().is_none() {
        return Ok(None);
    }
    let listed = proxy.cors.as_ref().map_or(&proxy.resource_allowed_origins, |own| &own.origins);
    if listed.iter().any(|origin| origin.as_str() == "*") {
        return Ok(None);
    }
    let own = site.origin(host.as_str());
    let allowed = std::iter::once(own.as_str()).chain(listed.iter().map(Origin::as_str));
    // The metadata is for everybody, wherever it is.
    let layer = OriginLayer::new(allowed)?.except(WELL_KNOWN);
    Ok(Some(proxy.program_paths().fold(layer, OriginLayer::below)))
}
