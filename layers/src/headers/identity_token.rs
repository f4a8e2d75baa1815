//! A signed statement of who calls, for upstreams that want proof instead of our word.
//!
//! A signature takes longer than everything else that is done for a request. So a statement serves all
//! requests of a caller on one worker for a while.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use smol_str::SmolStr;

use crate::context::Principal;
use crate::header_prefix::HeaderPrefix;
use crate::per_worker::PerWorker;

/// How many statements a worker keeps for a host.
const KEPT_AT_MOST: usize = 1024;

/// Signs statements of who calls: a plug point. It decides at once and in memory.
pub trait Attest: Send + Sync + 'static {
    /// States who a principal is, for one audience. `now` is in seconds since 1970. `None`: it can't be said.
    fn attest(&self, principal: &Principal, audience: &str, now: u64) -> Option<Attestation>;
}

/// A statement.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// The statement, as it is sent.
    pub value: HeaderValue,
    /// Until when further requests may carry it, in seconds since 1970.
    pub fresh_until: u64,
}

/// Sends the upstream a statement of who calls, in the header `Identity` behind the host's prefix:
/// `X-Auth-Identity`. Without a principal there is none, whatever the client has sent.
pub struct IdentityToken {
    name: HeaderName,
    audience: SmolStr,
    attest: Arc<dyn Attest>,
    hasher: RandomState,
    kept: PerWorker<HashMap<u64, Kept>>,
}

struct Kept {
    principal: Arc<Principal>,
    attestation: Attestation,
}

impl IdentityToken {
    /// Statements for an audience, the resource that the host is.
    pub fn new(
        prefix: &HeaderPrefix,
        audience: impl Into<SmolStr>,
        attest: Arc<dyn Attest>,
        workers: usize,
    ) -> Self {
        Self {
            name: prefix.header("Identity"),
            audience: audience.into(),
            attest,
            hasher: RandomState::new(),
            kept: PerWorker::new(workers, HashMap::new),
        }
    }

    pub(super) fn write(&self, principal: Option<&Arc<Principal>>, headers: &mut HeaderMap) {
        // A clock before 1970 makes statements that nobody takes.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match principal.and_then(|principal| self.value(principal, now)) {
            Some(value) => headers.insert(self.name.clone(), value),
            None => headers.remove(&self.name),
        };
    }

    fn value(&self, principal: &Arc<Principal>, now: u64) -> Option<HeaderValue> {
        let key = self.hasher.hash_one((&principal.issuer, &principal.subject, &principal.token_id));
        self.kept.with(|kept| {
            if let Some(one) = kept.get(&key)
                && now < one.attestation.fresh_until
                && (Arc::ptr_eq(&one.principal, principal) || one.principal == *principal)
            {
                return Some(one.attestation.value.clone());
            }
            let mut attestation = self.attest.attest(principal, &self.audience, now)?;
            attestation.value.set_sensitive(true);
            if kept.len() >= KEPT_AT_MOST {
                kept.retain(|_, one| now < one.attestation.fresh_until);
                if kept.len() >= KEPT_AT_MOST {
                    kept.clear();
                }
            }
            let value = attestation.value.clone();
            kept.insert(key, Kept { principal: Arc::clone(principal), attestation });
            Some(value)
        })
    }
}

impl fmt::Debug for IdentityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityToken").field("audience", &self.audience).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// States the name and how many statements came before; nothing of `mallory`.
    #[derive(Default)]
    struct Counted(AtomicU64);

    impl Attest for Counted {
        fn attest(&self, principal: &Principal, audience: &str, now: u64) -> Option<Attestation> {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            let name = principal.username.as_ref().filter(|name| *name != "mallory")?;
            let value = format!("{name} {audience} {number}").try_into().expect("valid");
            Some(Attestation { value, fresh_until: now + 30 })
        }
    }

    fn token() -> (IdentityToken, Arc<Counted>) {
        let counted = Arc::new(Counted::default());
        let attest = Arc::clone(&counted) as Arc<dyn Attest>;
        (IdentityToken::new(&HeaderPrefix::default(), "https://a.example", attest, 2), counted)
    }

    fn principal(subject: &str, scope: &str) -> Arc<Principal> {
        Arc::new(Principal {
            subject: subject.into(),
            username: Some("alice".into()),
            scopes: vec![scope.into()],
            ..Principal::default()
        })
    }

    #[test]
    fn a_statement_serves_a_caller_for_a_while() {
        let (token, counted) = token();
        let value = |principal, now| token.value(&principal, now).expect("stated");
        let alice = principal("1", "read");
        assert_eq!(value(Arc::clone(&alice), 100), "alice https://a.example 0");
        assert!(value(Arc::clone(&alice), 100).is_sensitive());
        assert_eq!(value(alice, 129), "alice https://a.example 0");
        assert_eq!(value(principal("1", "read"), 129), "alice https://a.example 0", "the same in all fields");
        assert_eq!(value(principal("1", "write"), 129), "alice https://a.example 1", "other scopes");
        assert_eq!(value(principal("1", "write"), 159), "alice https://a.example 2", "no longer fresh");
        assert_eq!(value(principal("2", "write"), 159), "alice https://a.example 3", "somebody else");
        assert_eq!(counted.0.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (token, _) = token();
        for number in 0..3 * KEPT_AT_MOST {
            token.value(&principal(&number.to_string(), "read"), 100).expect("stated");
            token.kept.for_each(|kept| assert!(kept.len() <= KEPT_AT_MOST));
        }
    }

    #[test]
    fn nobody_else_says_who_calls() {
        let (token, _) = token();
        let mallory = Arc::new(Principal { username: Some("mallory".into()), ..Principal::default() });
        for (principal, sent) in [(None, false), (Some(&mallory), false), (Some(&principal("1", "")), true)] {
            let mut headers = HeaderMap::new();
            headers.append("x-auth-identity", HeaderValue::from_static("forged"));
            headers.append("x-auth-identity", HeaderValue::from_static("forged"));
            token.write(principal, &mut headers);
            let left: Vec<_> = headers.get_all("x-auth-identity").iter().collect();
            assert_eq!(left.len(), usize::from(sent));
            assert!(left.iter().all(|value| *value != "forged"));
        }
    }
}
