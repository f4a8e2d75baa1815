//! The `access_log` layer.
