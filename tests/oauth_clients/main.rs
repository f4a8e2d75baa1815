//! Real clients at a protected host, with nothing but its URL: the MCP SDKs, Authlib, a browser, nginx. People sign
//! in through a browser, at a stand-in for GitHub.
//!
//! `just client-deps` installs what these tests need.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod authlib;
mod browser;
mod document;
mod mcp;
mod nginx;
mod pages;
mod site;
