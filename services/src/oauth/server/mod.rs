//! What the authorization server reads and answers: pure, with no state and no store.
//!
//! - [`params`], [`request`]: parameters, and what each endpoint is asked.
//! - [`resource`], [`scope`]: what a token is for (RFC 8707), and what it may do there.
//! - [`error`], [`redirect`]: answers to clients, as JSON and through the browser.
//! - [`pages`], [`cookies`]: answers to people.
//! - [`metadata`], [`cors`]: what is published, and who may read it.

pub mod cookies;
pub mod cors;
pub mod error;
pub mod metadata;
pub mod pages;
pub mod params;
pub mod redirect;
pub mod request;
pub mod resource;
pub mod scope;

pub use error::{ErrorCode, OAuthError};
pub use metadata::{Issuer, ServerMetadata};
pub use params::Params;
pub use redirect::RedirectTarget;
pub use scope::Scopes;
