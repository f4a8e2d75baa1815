//! The control plane of portcullis: the configuration model, the stores, the operations and the
//! surfaces that read them. Nothing here stands on the path of a proxied request but built-in targets.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![warn(unreachable_pub, missing_debug_implementations)]

#[cfg(feature = "acme")]
pub mod acme;
pub mod applied;
pub mod config;
pub mod credentials;
// Some limits are for logins alone.
#[cfg(any(feature = "oauth", feature = "acme"))]
#[cfg_attr(not(feature = "oauth"), expect(dead_code, reason = "logins use all of it"))]
mod limiter;
pub mod logs;
pub mod mcp_tools;
pub mod mirror;
#[cfg(any(feature = "oauth", feature = "acme"))]
mod network;
pub mod outbound;
#[cfg(any(feature = "oauth", feature = "acme"))]
mod random;
#[cfg(feature = "acme")]
pub mod stapling;
pub mod store;
pub mod upstreams;
pub mod vault;

#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(feature = "mcp")]
pub mod mcp;
#[cfg(feature = "oauth")]
pub mod oauth;
