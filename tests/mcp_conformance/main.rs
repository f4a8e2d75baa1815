//! The conformance suite of the protocol's makers: at a known-good server that is served as our own is, at our own,
//! and through the gateway. What is expected is written down scenario by scenario: whatever fails, is missing or
//! passes against the expectation fails the test.
//!
//! `just client-deps` installs the suite, in the two versions that are in use.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod bridge;
mod direct;
mod edge;
mod expected;
mod forwarder;
mod own;
mod runs;
mod suite;
