//! The authorization server of a daemon: clients, browsers, hosts, and people who sign in at a stand-in for GitHub.

#[path = "../support/mod.rs"]
mod support;
mod world;

mod apps;
mod assertions;
mod browsers;
mod clocks;
mod codes;
mod events;
mod figures;
mod forward_auth;
mod hosts;
mod lifetimes;
mod nodes;
mod refreshes;
mod registration;
mod rotation;
mod round_trips;
mod secrets;
mod streams;
mod upstream_tokens;
