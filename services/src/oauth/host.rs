//! Which host a request to the authorization server came in at.

use std::sync::Arc;

use portcullis_layers::HostName;

use crate::config::Proxy;

/// The host that a request to the authorization server came in at: the issuer's own, or one that hands a few
/// paths on to it. The paths are those behind the issuer, whatever stands before them there: `/token`, and the
/// root form of well-known ones. Whoever hands the request on puts this into its extensions.
#[derive(Debug, Clone, PartialEq)]
pub struct OAuthHost {
    /// The name that was asked for. Below a wildcard, the document does not tell it.
    pub name: HostName,
    /// The host's document, as it is in force.
    pub proxy: Arc<Proxy>,
    /// Whether it is the issuer's own.
    pub is_issuer: bool,
}
