//! The clients of the authorization server, however they became known.
//!
//! - [`client_id`]: an id, and how it stands in a path.
//! - [`entry`]: what lists say of a client; `known.rs` finds what is kept of one.
//! - [`list`]: all of them, look-alikes merged (`alike.rs`).
//! - [`details`]: one in full; [`tokens`]: what it was given.
//! - [`delete`]: the end of one.

mod alike;
pub mod client_id;
pub mod delete;
pub mod details;
pub mod entry;
mod known;
pub mod list;
pub mod tokens;

pub use self::client_id::ClientId;
pub use self::delete::DeleteOauthClient;
pub(super) use self::details::details;
pub use self::details::{ClientDetails, ShowOauthClient};
pub(super) use self::known::{name_of, read};
pub use self::list::ListOauthClients;
pub use self::tokens::TokensOfOauthClient;
use crate::control::{Context, Error, Surface};
use crate::oauth::AuthorizationServer;
use crate::oauth::authorization_server::BROWSER_CLIENT;

/// Adds the operations of clients.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthClients>();
    surface.add::<ShowOauthClient>();
    surface.add::<TokensOfOauthClient>();
    surface.add::<DeleteOauthClient>();
}

/// Whether no administrator can change or delete a client.
pub(super) fn is_built_in(server: &AuthorizationServer, id: &str) -> bool {
    id == BROWSER_CLIENT || server.clients.built_in().iter().any(|client| client.id == id)
}

/// Whether a caller's `If-Match` holds.
pub(super) fn check_match(ctx: &Context, id: &str, version: Option<u64>) -> Result<(), Error> {
    match (ctx.if_match, version) {
        (Some(expected), Some(actual)) if expected != actual => {
            Err(Error::Stale { what: "OAuth client", id: id.to_owned(), expected, actual })
        }
        _ => Ok(()),
    }
}

pub(super) fn not_found(id: &str) -> Error {
    Error::NotFound { what: "OAuth client", id: id.to_owned() }
}

#[cfg(test)]
mod tests;
