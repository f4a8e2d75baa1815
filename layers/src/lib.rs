#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod accept;
#[cfg(feature = "access-log")]
pub mod access_log;
#[cfg(feature = "allowlist")]
pub mod allowlist;
#[cfg(feature = "auth")]
pub mod auth;
pub mod body;
pub mod context;
pub mod deadline;
pub mod drain;
#[cfg(feature = "forward")]
pub mod forward;
#[cfg(feature = "forwarded")]
pub mod forwarded;
pub mod future;
#[cfg(feature = "headers")]
pub mod headers;
#[cfg(feature = "hosts")]
pub mod hosts;
#[cfg(feature = "https-redirect")]
pub mod https_redirect;
pub mod names;
#[cfg(feature = "normalize")]
pub mod normalize;
pub mod per_worker;
pub mod prefixed;
#[cfg(feature = "proxy-protocol")]
pub mod proxy_protocol;
pub mod rejection;
#[cfg(feature = "resource-metadata")]
pub mod resource_metadata;
#[cfg(feature = "respond")]
pub mod respond;
#[cfg(feature = "route")]
pub mod route;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "strict")]
pub mod strict;
#[cfg(feature = "tls")]
pub mod tls;

pub use accept::Accepted;
pub use body::{Body, BoxError, HttpService, Request, Response};
pub use context::{ClientAddr, Conn, Facts, Principal, RequestContext, RequestId, RouteMatch, TlsInfo};
pub use names::HostName;
pub use rejection::Rejection;
