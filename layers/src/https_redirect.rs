//! The `https_redirect` layer.
