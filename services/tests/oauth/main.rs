//! The authorization server over its router: what clients, browsers and GitHub see of it.

mod counted;
#[path = "../support/github/mod.rs"]
mod standin;
mod world;

mod code;
mod device;
mod documents;
mod introspect;
mod logout;
mod refresh;
mod register;
mod revoke;
mod userinfo;
mod verify;
