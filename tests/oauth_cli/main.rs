//! `login`, `logout`, `oauth status` and `oauth doctor` of the built binary, against a daemon whose people sign in at
//! a stand-in for GitHub, and against hosts that are wrong in one way each.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod broken;
mod doctor;
mod gateways;
mod health;
mod login;
mod site;
mod told;
