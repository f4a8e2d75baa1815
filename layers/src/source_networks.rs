//! Lets connections in from some networks only.
//!
//! A connection from anywhere else is closed before a byte of it is read. The list may change while connections are
//! open: those whose client is not on it any more are closed, and only those. An empty list lets everybody in.
//!
//! It says nothing about who somebody is: for that see [`auth`](crate::auth). It stands behind
//! [`proxy_protocol`](crate::proxy_protocol), where there is one, so that the client is judged and not the balancer.
//!
//! ```
//! use portcullis_layers::Accepted;
//! use portcullis_layers::source_networks::SourceNetworksLayer;
//! use tokio::io::DuplexStream;
//! use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let (networks, layer) = SourceNetworksLayer::channel(vec!["10.0.0.0/8".parse()?]);
//! let service = ServiceBuilder::new().layer(layer).service(service_fn(|_: Accepted<DuplexStream>| async {
//!     Ok::<_, BoxError>(())
//! }));
//! let from = |peer: &str| {
//!     Accepted::new(tokio::io::duplex(64).0, "10.0.0.1:14000".parse().unwrap(), peer.parse().unwrap())
//! };
//! assert!(service.clone().oneshot(from("10.1.2.3:5000")).await.is_ok());
//! assert!(service.clone().oneshot(from("192.0.2.7:5000")).await.is_err());
//! networks.send_replace(["192.0.2.0/24".parse()?].into());
//! assert!(service.oneshot(from("192.0.2.7:5000")).await.is_ok());
//! # Ok(())
//! # }
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, ready};
use ipnet::IpNet;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

use crate::accept::Accepted;
use crate::allowlist::holds;
use crate::body::BoxError;

/// The networks that may connect; none: everybody.
pub type Networks = Arc<[IpNet]>;

/// The client's address is in none of the networks that may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{client} is in no network that may connect")]
pub struct NotAdmitted {
    /// The client.
    pub client: IpAddr,
}

/// Whether an address may connect. One of IPv4 that is mapped into IPv6 is the one of IPv4.
pub fn admits(networks: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.is_empty() || networks.iter().any(|network| holds(network, client))
}

/// Applies [`SourceNetworks`].
#[derive(Debug, Clone)]
pub struct SourceNetworksLayer {
    networks: watch::Receiver<Networks>,
}

impl SourceNetworksLayer {
    /// Lets in what the list says at the time.
    pub const fn new(networks: watch::Receiver<Networks>) -> Self {
        Self { networks }
    }

    /// A layer with a list of its own, and the end to change it by.
    pub fn channel(networks: Vec<IpNet>) -> (watch::Sender<Networks>, Self) {
        let (sender, networks) = watch::channel(networks.into());
        (sender, Self { networks })
    }
}

impl<S> Layer<S> for SourceNetworksLayer {
    type Service = SourceNetworks<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SourceNetworks { inner, networks: self.networks.clone() }
    }
}

/// Hands on connections of admitted clients, as long as they are.
#[derive(Debug, Clone)]
pub struct SourceNetworks<S> {
    inner: S,
    networks: watch::Receiver<Networks>,
}

impl<S, I> Service<Accepted<I>> for SourceNetworks<S>
where
    S: Service<Accepted<I>, Response = (), Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = ();
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<(), BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Accepted<I>) -> Self::Future {
        let client = connection.client.0.ip();
        if !admits(&self.networks.borrow(), client) {
            return Box::pin(ready(Err(NotAdmitted { client }.into())));
        }
        let served = self.inner.call(connection);
        let mut networks = self.networks.clone();
        Box::pin(async move {
            tokio::select! {
                outcome = served => outcome.map_err(Into::into),
                Ok(_) = networks.wait_for(|networks| !admits(networks, client)) => {
                    Err(NotAdmitted { client }.into())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tower::{ServiceExt, service_fn};

    use super::*;

    fn from(client: &str) -> Accepted<()> {
        Accepted::new((), "127.0.0.1:14000".parse().expect("valid"), client.parse().expect("valid"))
    }

    fn nets(all: &[&str]) -> Vec<IpNet> {
        all.iter().map(|net| net.parse().expect("a network")).collect()
    }

    #[test]
    fn a_list_admits_what_is_in_it_and_an_empty_one_everybody() {
        let some = nets(&["10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.0/120"]);
        for (client, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", true),
            ("192.0.2.9", true),
            ("11.0.0.1", false),
            ("::1", false),
        ] {
            let client: IpAddr = client.parse().expect("an address");
            assert_eq!(admits(&some, client), expected, "{client}");
            assert!(admits(&[], client));
        }
    }

    #[tokio::test]
    async fn only_connections_that_are_not_admitted_any_more_are_closed() {
        let (networks, layer) = SourceNetworksLayer::channel(nets(&["10.0.0.0/8", "192.0.2.0/24"]));
        let service = layer.layer(service_fn(|_: Accepted<()>| pending::<Result<(), BoxError>>()));
        let stays = tokio::spawn(service.clone().oneshot(from("10.0.0.1:1")));
        let goes = tokio::spawn(service.oneshot(from("192.0.2.1:1")));
        tokio::task::yield_now().await;
        networks.send_replace(nets(&["10.0.0.0/8"]).into());
        let error = goes.await.expect("no panic").expect_err("closed");
        assert!(error.is::<NotAdmitted>());
        assert!(!stays.is_finished());
        // Whoever has set the list may be gone: what it said last holds.
        drop(networks);
        tokio::task::yield_now().await;
        assert!(!stays.is_finished());
        stays.abort();
    }
}
