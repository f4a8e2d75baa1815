//! OCSP stapling: what the responder of a certificate says of it goes into handshakes, so that clients need not ask.
//!
//! Each certificate whose leaf names a responder over plain HTTP (RFC 5280, section 4.2.2.1) and whose chain holds the
//! issuer is asked about (RFC 6960, as RFC 5019 has it). Only what is checked is stapled: signed by the issuer or by who
//! may do so for it, about this very certificate, in force, and good. Handshakes never wait: they take what is there, and
//! without an answer there is no staple. An answer is shown until its time is over, never longer.
//!
//! Each node asks for itself and keeps the answers in memory: they are small, free, and gone stale when a node has been
//! away. Responders are made for many askers; nodes that start together don't ask together for long, because each chooses
//! its moments by chance.
//!
//! - [`Stapler`]: the task.
//! - [`Staples`]: what is known, for whoever reports.
//! - `question`, `request`: what is asked, where, and how it is written.
//! - `fetch`: the call.
//! - `response`: what an answer says; `signer`: whether it may be believed; `der`: the encoding of both.
//! - `entry`: what is known of one certificate, and `schedule`: when to ask again; pure.

mod der;
mod entry;
mod fetch;
mod question;
mod request;
mod response;
mod schedule;
mod signer;
mod stapler;
mod staples;
#[cfg(test)]
mod testing;

pub use stapler::{Served, Stapler};
pub use staples::{Counters, Known, Said, Staples};
