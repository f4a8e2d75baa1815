//! The authorization server as administrators see it: what was given to whom, and how to end it.
//!
//! - [`clients`]: who may ask for tokens, however they became known; `tallies.rs` counts what they have.
//! - [`configured`]: the clients that administrators set up.
//! - [`keys`]: what signs, and until when; [`Minter`] makes named tokens with them.
//! - [`tokens`], [`grants`]: what was given; never a token itself.
//! - [`sessions`], [`consents`]: who has signed in, and what they agreed to.
//! - [`logins`]: which accounts the logins on lists mean.
//! - [`upstream_tokens`]: for whom GitHub's tokens are kept; never a token itself.
//! - [`events`]: what happened; [`metrics`], [`health`] and [`proxies`] sum it up.
//! - [`endpoints`]: where the protocol's own endpoints are served.
//!
//! Everything here is for admins, but a user's own events and consents. Records are read page by page, and no list
//! looks at more of them than [`paging`] says.

pub mod clients;
pub mod configured;
pub mod consents;
pub mod endpoints;
pub mod events;
pub mod grants;
pub mod health;
pub mod keys;
pub mod logins;
pub mod metrics;
mod minter;
mod noted;
pub mod paging;
pub mod proxies;
pub mod sessions;
mod tallies;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod upstream_tokens;

use std::sync::Arc;

use portcullis_layers::HostName;

pub use self::minter::Minter;
use super::{Access, Caller, Context, Control, Error, Surface};
use crate::oauth::AuthorizationServer;

/// Adds the operations of the authorization server.
pub fn register(surface: &mut impl Surface) {
    keys::register(surface);
    clients::register(surface);
    configured::register(surface);
    tokens::register(surface);
    grants::register(surface);
    sessions::register(surface);
    consents::register(surface);
    metrics::register(surface);
    health::register(surface);
    proxies::register(surface);
    events::register(surface);
    logins::register(surface);
    upstream_tokens::register(surface);
    endpoints::register(surface);
}

impl Control {
    /// The same control, for a node with an authorization server.
    #[must_use]
    pub fn with_oauth(mut self, server: Arc<AuthorizationServer>) -> Self {
        self.oauth = Some(server);
        self
    }

    fn oauth(&self) -> Result<&AuthorizationServer, Error> {
        self.oauth.as_deref().ok_or(Error::NoAuthorizationServer)
    }
}

/// Whose records a caller may see: none for those of all, which is for admins.
fn own_subject(ctx: &Context) -> Result<Option<&str>, Error> {
    if ctx.caller.may(Access::Admin) {
        return Ok(None);
    }
    match &ctx.caller {
        // A subject of another issuer may be the same text as one of ours, and is somebody else.
        Caller::Principal(principal) if !principal.foreign => Ok(Some(principal.subject.as_str())),
        Caller::Anonymous => Err(Error::Unauthenticated),
        _ => Err(Error::Forbidden { scopes: Access::Admin.scopes().to_vec() }),
    }
}

/// The host of a resource.
fn host_of(resource: &str) -> Option<HostName> {
    resource.parse::<http::Uri>().ok()?.host()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::Operation;
    use crate::control::oauth::metrics::OauthMetrics;
    use crate::control::testing::{caller, control};

    /// Collects who may what.
    #[derive(Default)]
    struct Gates(Vec<(&'static str, Access)>);

    impl Surface for Gates {
        fn add<O: Operation>(&mut self) {
            self.0.push((O::NAME, O::SCOPE));
        }
    }

    #[test]
    fn everything_is_for_admins_but_what_users_have_of_their_own() {
        let mut gates = Gates::default();
        register(&mut gates);
        let open: Vec<_> = gates.0.iter().filter(|(_, access)| *access != Access::Admin).collect();
        let own = ["list_oauth_consents", "withdraw_oauth_consents", "oauth_events_of_user"];
        assert_eq!(open, own.map(|name| (name, Access::User)).iter().collect::<Vec<_>>());
        assert!(gates.0.len() > 20);
    }

    #[tokio::test]
    async fn a_node_without_an_authorization_server_says_so() {
        let (control, _) = control();
        let ctx = Context::of(caller("root", &["admin"]));
        let metrics: OauthMetrics = serde_json::from_value(json!({})).expect("an input");
        let refused = control.call(metrics, &ctx).await.expect_err("refused");
        assert_eq!((refused.status().as_u16(), refused.code()), (503, "no_authorization_server"));
    }
}
