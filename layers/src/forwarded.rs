//! The `forwarded` layer.
