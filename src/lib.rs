//! The daemon: composes the reusable layers and the control plane into one program.
//!
//! - [`portcullis_layers`] are the layers, [`portcullis_services`] the control plane; only this crate knows both.
//! - [`edge`] and [`stack`] are the stacks, in order; [`snapshot`] builds them from configuration and [`live`]
//!   swaps them; [`reconcile`] follows the store.
//! - [`daemon`] wires it all together and owns the order in which it ends.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![warn(unreachable_pub, missing_debug_implementations)]

pub use portcullis_layers as layers;
pub use portcullis_services as services;

mod authorization;
pub mod bootstrap;
mod builtin;
pub mod cli;
mod cors;
pub mod daemon;
pub mod demo;
mod echo;
pub mod edge;
mod forward_auth;
mod gates;
pub mod listen;
pub mod live;
pub mod local;
mod mcp_upstream;
pub mod metrics;
mod oauth_paths;
mod observe;
pub mod on_demand;
pub mod ports;
mod prepare;
mod recent;
pub mod reconcile;
pub mod runtime;
mod scheme;
pub mod self_signed;
pub mod settings;
mod setup;
pub mod snapshot;
pub mod stack;
pub mod succession;
pub mod tool_memories;
mod upstream_credentials;
pub mod verifiers;
mod wrap;
