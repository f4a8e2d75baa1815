//! The `resource_metadata` layer.
