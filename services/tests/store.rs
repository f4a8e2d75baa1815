//! Both stores against one suite, and each against what only it can suffer.

#[path = "../src/store/conformance.rs"]
mod conformance;
mod support;

#[path = "store/embedded.rs"]
mod embedded;
#[path = "store/redis.rs"]
mod redis_store;
#[path = "store/state.rs"]
mod state;
