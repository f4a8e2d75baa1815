//! The `proxy_protocol` layer.
