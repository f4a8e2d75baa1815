//! The `serve` layer.
