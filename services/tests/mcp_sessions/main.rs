//! MCP sessions at several nodes that share a store: over the service itself, message by message.

mod balanced;
mod bounds;
mod client;
mod fixture;
mod kept;
mod many;
mod nodes;
mod outage;
mod owners;
mod price;
#[path = "../support/redis.rs"]
#[expect(dead_code, reason = "the tests of the store use all of it")]
mod redis;
mod resuming;
mod standing;
mod travelling;
