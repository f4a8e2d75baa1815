//! The `tls` layer.
