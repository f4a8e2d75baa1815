//! The leaf against real upstreams on real sockets: well-behaved ones, dying ones, hostile ones.

mod balancing;
mod bodies;
mod failures;
mod pooling;
mod support;
mod tls;
mod tunnels;
