//! Certificates by ACME (RFC 8555): each host that wants HTTPS gets one by itself, and keeps it.
//!
//! What is wanted are documents: a certificate whose source is `acme`. [`Manager`] makes it so on one node at a time,
//! under a lease: it compares what is wanted with what is held, and runs one order for each difference. What is under
//! way is a record, so that another node, or the next start, goes on where this one ended.
//!
//! - [`policy`]: what the deployment wants: authorities in their order, keys, limits.
//! - [`manager`]: the lease, the loop, the workers.
//! - `manager::attempt`, `progress`: one attempt, at one authority after the other, and what it notes.
//! - [`needs`], [`plan`]: what hosts need, what is to be done, and when; pure.
//! - `order`: one order, from its first request to the chain.
//! - [`state`]: what is known of a certificate's issuing beside its document.
//! - [`challenges`]: what answers an authority, on any node; [`dns`]: what it finds in the DNS.
//! - [`on_demand`]: names that somebody asks for first.
//! - `account`, `http`, `key`: the account at an authority, calls to it, keys and requests for certificates.
//! - [`failure`]: why it did not work, and what to look at.
//! - [`doctor`]: what an authority meets with, looked at from here.
//! - [`renewal`], [`alerts`]: when it is time for the next one, and when it is too late; pure.

mod account;
pub mod alerts;
pub(crate) mod budget;
pub mod challenges;
pub mod dns;
pub mod doctor;
pub mod failure;
mod http;
mod key;
pub mod manager;
pub mod needs;
pub mod on_demand;
mod order;
pub mod plan;
pub mod policy;
pub(crate) mod progress;
pub mod renewal;
pub mod state;

pub use challenges::Challenges;
pub use doctor::Doctor;
pub use manager::{Counters, Manager};
pub use policy::{Authority, ExternalAccount, Policy, Poll};
pub use state::Issuance;
