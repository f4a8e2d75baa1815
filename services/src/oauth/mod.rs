//! Signing keys, tokens and revocations: what the authorization server and named tokens stand on.
//!
//! - [`keys`]: the keys that sign, kept sealed in the store.
//! - [`rotation`]: when they rotate.
//! - [`claims`]: what a token says.
//! - [`clients`]: who may ask for tokens, and how clients become known and prove who they are.
//! - [`id_token`]: what a client learns of who logged in.
//! - [`identity_token`]: what an upstream is told of who calls, with proof.
//! - [`revocations`]: tokens that ended before their time, on every node.
//! - [`codes`], [`devices`], [`grants`], [`sessions`], [`consents`]: what the authorization server remembers.
//! - [`host`]: which host a request came in at.
//! - [`jwks`]: the keys of other issuers, fetched from where they publish them.
//! - [`github`]: where people sign in; [`upstream_tokens`]: the tokens from there that hosts want to have kept.
//! - [`verifier`]: the verifiers of the `auth` layer, fed by the three.
//! - [`server`]: what the OAuth endpoints read and answer.
//! - [`endpoints`]: the endpoints, over an [`AuthorizationServer`].

mod audiences;
pub mod authorization_server;
pub mod claims;
pub mod clients;
pub mod codes;
pub mod consents;
pub mod devices;
pub mod endpoints;
pub mod github;
pub mod grants;
pub mod host;
pub mod id_token;
pub mod identity_token;
pub mod jwks;
pub mod keys;
mod login;
pub(crate) mod masked;
mod opaque;
pub mod pins;

pub mod revocations;
pub mod revoked_file;
pub mod rotation;
pub mod server;
pub mod sessions;
mod state;
pub mod upstream_tokens;
pub mod verifier;

pub use authorization_server::AuthorizationServer;
pub use claims::{Claims, NamedToken};
pub use codes::Codes;
pub use consents::Consents;
pub use devices::Devices;
pub use github::Github;
pub use grants::Grants;
pub use id_token::{IdClaims, Person, UserInfo};
pub use identity_token::IdentitySigner;
pub use jwks::JwksFetcher;
pub use keys::{Keys, SigningKey};
pub use revocations::Revocations;
pub use revoked_file::RevokedFile;
pub use rotation::Rotation;
pub use sessions::Sessions;
pub use state::{Filter, Identity, Membership, Scopes};
pub use upstream_tokens::UpstreamTokens;
pub use verifier::{Judge, Trust};
