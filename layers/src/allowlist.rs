//! The `allowlist` layer.
