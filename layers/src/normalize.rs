//! The `normalize` layer.
