//! What operations look at over the network, because only that shows it: whether the issuer can be reached, and what an
//! upstream is.
//!
//! Nothing here stands in the way of anybody's request. Only addresses that an administrator has set are called, without
//! anything of a caller in the request; redirects are answers like any other; time and size are bounded; and who asks
//! for the same again soon gets what was found before.

mod call;
mod issuer;
mod kept;
mod upstream;

use std::fmt;
use std::sync::Arc;

use portcullis_layers::forward::Client;

use self::issuer::IssuerProbe;
use self::upstream::UpstreamProbes;
pub(crate) use self::upstream::{Finding, Seen};
use super::Control;

/// Looks at the network for operations.
pub struct Probes {
    client: Client,
    /// Authorities (PEM) that are trusted beside those of the platform.
    ca: Option<Arc<str>>,
    issuer: IssuerProbe,
    upstreams: UpstreamProbes,
}

impl Probes {
    /// What upstreams are called with.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Calls with this client. The issuer's certificate must be good for the platform's authorities, or for those in
    /// `ca` (PEM).
    pub fn new(client: Client, ca: Option<Arc<str>>) -> Self {
        Self { client, ca, issuer: IssuerProbe::default(), upstreams: UpstreamProbes::default() }
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
}

impl Control {
    /// The same control, for a node that may look at the network.
    #[must_use]
    pub fn with_probes(mut self, probes: Probes) -> Self {
        self.probes = Some(probes);
        self
    }
}
