//! The `serve` layer over raw connections: framing, deadlines, HTTP/2.
#![cfg(feature = "serve")]

mod deadlines;
mod framing;
mod http2;
mod support;
