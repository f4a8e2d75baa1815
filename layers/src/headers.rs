//! The `headers` layer.
