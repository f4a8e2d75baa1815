//! The `hosts` layer.
