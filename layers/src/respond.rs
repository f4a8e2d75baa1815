//! The `respond` layer.
