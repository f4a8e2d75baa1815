//! Real peers for tests.

pub(crate) mod redis;
