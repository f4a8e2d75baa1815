//! The `strict` layer.
