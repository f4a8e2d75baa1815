//! The `auth` layer.
