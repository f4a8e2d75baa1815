//! What tools do to the world, by the verbs that their operations begin with: clients show it, and people are asked
//! before anything that is there is changed or taken away.

use http::Method;
use rmcp::model::ToolAnnotations;

use crate::control::Endpoint;

/// What a tool does to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    Looks,
    /// It adds something, or changes nothing that anybody depends on.
    Adds,
    /// It replaces, opens or switches something, which can be put back by whoever knows how it was.
    Changes,
    /// What it takes away does not come back.
    TakesAway,
}

/// Verbs, and what they do. A new one has to be put here.
const VERBS: [(&str, Effect); 40] = [
    ("explain", Effect::Looks),
    ("validate", Effect::Looks),
    ("check", Effect::Looks),
    ("add", Effect::Adds),
    ("auto", Effect::Adds),
    ("create", Effect::Adds),
    ("export", Effect::Adds),
    ("generate", Effect::Adds),
    ("oauth", Effect::Adds),
    ("register", Effect::Adds),
    ("rebuild", Effect::Changes),
    ("renew", Effect::Adds),
    ("reset", Effect::Adds),
    ("use", Effect::Adds),
    ("write", Effect::Adds),
    ("approve", Effect::Changes),
    ("attach", Effect::Changes),
    ("convert", Effect::Changes),
    ("disable", Effect::Changes),
    ("enable", Effect::Changes),
    ("restart", Effect::Changes),
    ("set", Effect::Changes),
    ("start", Effect::Changes),
    ("stop", Effect::Changes),
    ("update", Effect::Changes),
    ("upload", Effect::Changes),
    ("accept", Effect::TakesAway),
    ("cleanup", Effect::TakesAway),
    ("clear", Effect::TakesAway),
    ("delete", Effect::TakesAway),
    ("end", Effect::TakesAway),
    ("forget", Effect::TakesAway),
    ("import", Effect::TakesAway),
    ("release", Effect::TakesAway),
    ("remove", Effect::TakesAway),
    ("retire", Effect::TakesAway),
    ("revoke", Effect::TakesAway),
    ("rotate", Effect::TakesAway),
    ("unregister", Effect::TakesAway),
    ("withdraw", Effect::TakesAway),
];

/// Operations that do something else than their verbs say.
const OTHERS: [(&str, Effect); 4] = [
    // It may let callers in.
    ("add_mcp_rule", Effect::Changes),
    // Nobody is served otherwise by these.
    ("set_log_level", Effect::Adds),
    ("set_token_email", Effect::Adds),
    // It clears the rules, too.
    ("disable_proxy_auth", Effect::TakesAway),
];

/// What an operation does, as far as it is said here or by its method.
fn known(operation: &str, http: &Endpoint) -> Option<Effect> {
    if !http.writes() {
        return Some(Effect::Looks);
    }
    let verb = operation.split('_').next().unwrap_or_default();
    let named = OTHERS.iter().find(|(name, _)| *name == operation);
    Some(named.or_else(|| VERBS.iter().find(|(name, _)| *name == verb))?.1)
}

impl Effect {
    /// What an operation does.
    pub(super) fn of(operation: &str, http: &Endpoint) -> Self {
        known(operation, http).unwrap_or(Self::TakesAway)
    }

    /// Whether people are asked before.
    pub(super) const fn is_asked_about(self) -> bool {
        matches!(self, Self::Changes | Self::TakesAway)
    }

    /// What clients are told of it. What may do more than add is destructive in the words of the protocol.
    pub(super) fn hints(self, http: &Endpoint) -> ToolAnnotations {
        let idempotent = matches!(http.method, Method::GET | Method::PUT | Method::DELETE);
        ToolAnnotations::new()
            .read_only(self == Self::Looks)
            .destructive(self.is_asked_about())
            .idempotent(idempotent || self == Self::Looks)
            .open_world(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Operation, Surface, register};

    #[derive(Default)]
    struct All(Vec<(&'static str, Option<Effect>)>);

    impl Surface for All {
        fn add<O: Operation>(&mut self) {
            self.0.push((O::NAME, known(O::NAME, &O::HTTP)));
        }
    }

    #[test]
    fn it_is_said_of_each_operation_what_it_does() {
        let mut all = All::default();
        register(&mut all);
        for (name, effect) in &all.0 {
            assert!(effect.is_some(), "{name}: its verb is not among those whose effect is known");
        }
        for (name, _) in OTHERS {
            assert!(all.0.iter().any(|(known, _)| *known == name), "there is no {name}");
        }
        let effect = |wanted: &str| all.0.iter().find(|(name, _)| *name == wanted).expect(wanted).1;
        for name in ["delete_proxy", "import_config", "rotate_token", "rotate_signing_keys", "accept_store"] {
            assert_eq!(effect(name), Some(Effect::TakesAway), "{name}");
        }
        for name in ["update_proxy", "set_mcp_policy", "set_route_auth", "disable_proxy", "approve_mcp_tools"]
        {
            assert_eq!(effect(name), Some(Effect::Changes), "{name}");
        }
        for name in ["create_proxy", "create_certificate", "set_log_level"] {
            assert_eq!(effect(name), Some(Effect::Adds), "{name}");
        }
        for name in ["list_proxies", "explain_mcp_call", "validate_config"] {
            assert_eq!(effect(name), Some(Effect::Looks), "{name}");
        }
    }
}
