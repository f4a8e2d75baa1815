//! The current snapshot, and who wants to know when it changes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_layers::forward::{LiveStream, Tunnels};
use portcullis_layers::hosts::Lookup;
use portcullis_layers::tls::{Certificates, Certified};
use portcullis_layers::{HostName, HttpService};
use portcullis_services::oauth::{Revocations, Trust};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::runtime::Runtime;
use crate::snapshot::Snapshot;

/// The one `ArcSwap` of the process: hosts and certificates change together. A clone is a reference count.
#[derive(Debug, Clone, Default)]
pub struct Live {
    current: Arc<ArcSwap<Snapshot>>,
}

impl Live {
    /// Starts without any host.
    pub fn new() -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(Snapshot::default())) }
    }

    /// The snapshot that requests are served from now.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Serves a new snapshot from the next request on, and ends what the hosts that are gone left behind.
    pub fn publish(&self, next: Snapshot, runtime: &Runtime) {
        let next = Arc::new(next);
        let previous = self.current.swap(Arc::clone(&next));
        let closed = previous.retire(&next, runtime);
        if closed > 0 {
            info!(closed, "closed tunnels and event streams whose host no longer lets them in");
        }
    }
}

/// Has tunnels and event streams judged when they begin by what is in force then: their host may have changed, or
/// their token been revoked, while the upstream thought about its answer.
pub fn judge_late(tunnels: &Tunnels, live: &Live, trust: Trust) {
    // The stacks have the tunnels: without the weak pointer none of them would ever be freed.
    let current = Arc::downgrade(&live.current);
    tunnels.admit_if(move |stream| {
        current.upgrade().is_some_and(|current| current.load().admits(stream)) && is_good(&trust, stream)
    });
}

/// Whether the token that opened a stream was neither revoked nor signed by a key that was forgotten.
fn is_good(trust: &Trust, stream: &LiveStream) -> bool {
    stream.principal.as_deref().is_none_or(|principal| {
        !trust.revoked().contains(principal.token_id.as_deref(), principal.expires_at)
            && trust.knows_key_of(principal)
    })
}

/// Ends what tokens had opened that are no good any more.
pub fn end_bad(tunnels: &Tunnels, trust: &Trust) {
    let closed = tunnels.close_where(|stream| !is_good(trust, stream));
    if closed > 0 {
        info!(closed, "closed tunnels and event streams whose token or signing key was revoked");
    }
}

/// Ends what a token had opened when it is revoked, until `stop`.
pub async fn end_revoked(
    revocations: Arc<Revocations>,
    tunnels: Tunnels,
    trust: Trust,
    stop: CancellationToken,
) {
    let mut grown = revocations.grown();
    while let Some(Ok(())) = stop.run_until_cancelled(grown.changed()).await {
        end_bad(&tunnels, &trust);
    }
}

impl Lookup<HttpService> for Live {
    fn lookup(&self, host: &HostName) -> Option<HttpService> {
        self.current.load().hosts.get(host)?.service(host)
    }

    fn revision(&self) -> u64 {
        self.current.load().serial
    }
}

impl Certificates for Live {
    fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>> {
        self.current.load().certificate(sni)
    }
}
