//! The authorization server of a daemon: clients, browsers, hosts, and people who sign in at a stand-in for GitHub.

#[path = "../support/mod.rs"]
mod support;
mod world;

mod browsers;
mod codes;
mod forward_auth;
mod nodes;
mod refreshes;
