//! Certificates from a real authority.

#[path = "../support/mod.rs"]
mod support;

mod challenges;
mod client;
mod demo;
mod doctor;
mod failures;
mod issuing;
mod nodes;
mod on_demand;
mod renewals;
mod stapling;
mod storm;
mod wildcards;
mod world;

mod authority;
mod newer;
