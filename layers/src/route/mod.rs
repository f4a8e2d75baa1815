//! The `route` layer.
