//! Signing keys, tokens and revocations: what the authorization server and named tokens stand on.
//!
//! - [`keys`]: the keys that sign, kept sealed in the store, and their rotation.
//! - [`claims`]: what a token says.
//! - [`minter`]: named tokens, for the operations.
//! - [`revocations`]: tokens that ended before their time, on every node.
//! - [`jwks`]: the keys of other issuers, fetched from where they publish them.
//! - [`verifier`]: the verifiers of the `auth` layer, fed by the three.
//!
//! The OAuth endpoints are not here yet.

pub mod claims;
pub mod jwks;
pub mod keys;
pub mod minter;
pub mod revocations;
pub mod verifier;

pub use claims::{Claims, NamedToken};
pub use jwks::JwksFetcher;
pub use keys::{Keys, SigningKey};
pub use minter::Minter;
pub use revocations::Revocations;
pub use verifier::Trust;
