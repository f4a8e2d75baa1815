//! Clients and servers of rmcp, of one era each, with the bridge between them.

#![allow(
    deprecated,
    reason = "sampling and subscriptions of single resources are, but peers still speak of them"
)]

mod clients;
mod servers;
mod support;
