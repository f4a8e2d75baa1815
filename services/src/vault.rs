//! Sealed secrets over the store.
