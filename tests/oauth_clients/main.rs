//! Real clients at a protected host, with nothing but its URL: the MCP SDKs, the Inspector, Authlib, a browser; what
//! the makers of others send; and other proxies. People sign in through a browser, at a stand-in for GitHub.
//!
//! `just client-deps` installs what these tests need.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod authlib;
mod browser;
mod document;
mod features;
mod gateway;
mod inspector;
mod makers;
mod mcp;
mod pages;
mod proxies;
mod site;
