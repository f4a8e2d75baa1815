//! A connection as it flows through the connection layers, and what is known of it.
//!
//! The facts are typed fields rather than an extension map: the set is closed, so the
//! compiler checks that a layer reads what another layer wrote.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::context::{ClientAddr, Conn, TlsInfo};

/// A connection and what the layers before this one learned of it.
#[derive(Debug)]
pub struct Accepted<I> {
    /// The byte stream, positioned at the first byte that no layer has consumed.
    pub io: I,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The other end of the socket: a load balancer, where one stands in front.
    pub peer: SocketAddr,
    /// Whom we believe: `peer`, until PROXY protocol from a trusted network says otherwise.
    pub client: ClientAddr,
    /// Written by the TLS layer; `None` on a plain connection.
    pub tls: Option<TlsInfo>,
}

impl<I> Accepted<I> {
    /// A fresh connection: the client is the peer and there is no TLS yet.
    pub const fn new(io: I, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { io, local, peer, client: ClientAddr(peer), tls: None }
    }

    /// Replaces the byte stream and keeps the facts.
    pub fn map_io<J>(self, wrap: impl FnOnce(I) -> J) -> Accepted<J> {
        let Self { io, local, peer, client, tls } = self;
        Accepted { io: wrap(io), local, peer, client, tls }
    }

    /// Splits the connection into its bytes and the facts that every request on it shares.
    pub fn into_parts(self) -> (I, Arc<Conn>) {
        let Self { io, local, peer, client, tls } = self;
        (io, Arc::new(Conn::new(local, peer, client, tls)))
    }
}
