//! The control plane of portcullis: the configuration model, the stores, the operations and the
//! surfaces that read them. Nothing here stands on the path of a proxied request but built-in targets.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
#![warn(unreachable_pub, missing_debug_implementations)]

pub mod applied;
pub mod config;
pub mod logs;
pub mod mirror;
pub mod store;
pub mod vault;

#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "oauth")]
pub mod oauth;
