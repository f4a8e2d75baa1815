//! The `forward` layer.
