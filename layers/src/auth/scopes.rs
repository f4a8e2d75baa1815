//! Which scopes of a token hold on a host.
//!
//! A token may be made for several hosts, and lists change while it lives. So at each request its
//! scopes are cut down to what this host's lists give this user now: a right on one host is none on
//! another, and a name taken off a list loses its rights at once.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::context::Principal;
use crate::users::Users;

/// May change configuration; implies [`USER`] and [`MCP`].
pub const ADMIN: &str = "admin";
/// May read configuration.
pub const USER: &str = "user";
/// May use the MCP server.
pub const MCP: &str = "mcp";

/// Asks for a refresh token (OpenID Connect Core 1.0, section 11). It is no right at any resource, so none asks for it.
pub const OFFLINE_ACCESS: &str = "offline_access";

/// What a host's lists give to whom.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// Who has [`ADMIN`], and with it [`USER`] and [`MCP`].
    pub admin: Users,
    /// Who has [`USER`].
    pub user: Users,
    /// Who has [`MCP`].
    pub mcp: Users,
    /// Who may have the host's own scopes: the users that its allowlist lets in.
    pub allowed: Users,
    /// The scopes that the host publishes as its own, e.g. `mcp:read`. No list implies them: the token must carry them.
    pub free: Vec<OwnScope>,
}

/// A scope of a host's own.
#[derive(Debug, Clone)]
pub struct OwnScope {
    /// Its name.
    pub name: SmolStr,
    /// Who of those that the host lets in may have it; none: all of them.
    pub users: Option<Users>,
}

impl Grants {
    /// Whether the lists let this principal have a scope, if the token carries it.
    pub fn give(&self, principal: &Principal, scope: &str) -> bool {
        match scope {
            ADMIN => self.admin.contains(principal),
            USER => self.user.contains(principal) || self.admin.contains(principal),
            MCP => self.mcp.contains(principal) || self.admin.contains(principal),
            free => {
                let own = self.free.iter().find(|own| own.name == free);
                let listed =
                    |own: &OwnScope| own.users.as_ref().is_none_or(|users| users.contains(principal));
                own.is_some_and(listed) && self.allowed.contains(principal)
            }
        }
    }
}

/// The principal with those of the token's scopes that the lists give it. Copies only when one is cut.
pub fn effective(principal: &Arc<Principal>, grants: &Grants) -> Arc<Principal> {
    if principal.scopes.iter().all(|scope| grants.give(principal, scope)) {
        return Arc::clone(principal);
    }
    let mut cut = Principal::clone(principal);
    cut.scopes.retain(|scope| grants.give(principal, scope));
    Arc::new(cut)
}

/// Adds what the scopes imply.
pub(super) fn add_implied(scopes: &mut Vec<SmolStr>) {
    if scopes.iter().any(|scope| scope == ADMIN) {
        for implied in [USER, MCP] {
            if !scopes.iter().any(|scope| scope == implied) {
                scopes.push(SmolStr::new_static(implied));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Users {
        Users::parse(entries).expect("valid")
    }

    #[test]
    fn scopes_are_cut_down_to_what_the_lists_give() {
        let grants = Grants {
            admin: list(&["root"]),
            user: list(&["alice", "service:ci"]),
            mcp: list(&["bob"]),
            allowed: list(&["root", "alice", "bob", "service:ci"]),
            free: vec![
                OwnScope { name: "mcp:read".into(), users: None },
                OwnScope { name: "mcp:write".into(), users: Some(list(&["bob", "mallory"])) },
            ],
        };
        for (user, token, effective_scopes) in [
            ("root", "admin", "admin user mcp"),
            ("root", "user", "user"),
            ("root", "mcp mcp:read", "mcp mcp:read"),
            ("alice", "admin user mcp", "user"),
            ("alice", "admin", "user"),
            ("alice", "mcp", ""),
            ("alice", "mcp:read other:read", "mcp:read"),
            ("bob", "admin mcp:write", "mcp:write mcp"),
            ("alice", "mcp:read mcp:write", "mcp:read"),
            ("root", "admin mcp:write", "admin user mcp"),
            ("service:ci", "admin mcp:read", "mcp:read user"),
            ("mallory", "admin user mcp mcp:read mcp:write", ""),
            ("root", "offline_access Admin", ""),
            ("root", "", ""),
        ] {
            let subject = if user.starts_with("service:") { user } else { "1" };
            let mut principal = Principal {
                subject: subject.into(),
                username: Some(user.into()),
                scopes: token.split_whitespace().map(SmolStr::new).collect(),
                ..Principal::default()
            };
            add_implied(&mut principal.scopes);
            let principal = effective(&Arc::new(principal), &grants);
            assert_eq!(principal.scopes.join(" "), effective_scopes, "{user} {token}");
        }
    }

    #[test]
    fn nothing_is_copied_when_nothing_is_cut() {
        let principal = Arc::new(Principal { scopes: vec!["user".into()], ..Principal::default() });
        let grants = Grants { user: Users::everyone(), ..Grants::default() };
        assert!(Arc::ptr_eq(&effective(&principal, &grants), &principal));
    }
}
