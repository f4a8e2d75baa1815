//! Signed statements of who calls, for upstreams (`auth_identity_jwt`): a JWT of our own that an upstream verifies
//! with the keys at `/jwks`. Its type and its short life tell it from an access token, which it never is.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_layers::Principal;
use portcullis_layers::headers::{Attest, Attestation};
use serde::Serialize;

use super::keys::Keys;

/// How long a statement is good, in seconds.
const LIFETIME: u64 = 60;

/// How long it is sent, in seconds: the last request that carries it may take as long to get there.
const FRESH: u64 = 30;

/// What a statement says. Members without a value are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdentityClaims {
    /// The issuer.
    pub iss: String,
    /// The subject; a user of another issuer is `ISSUER/SUBJECT`.
    pub sub: String,
    /// The host's resource.
    pub aud: String,
    /// When it expires, in seconds since 1970.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// The login name, in the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The scopes that hold on this host, parted by blanks.
    pub scope: String,
}

/// Signs statements with the key that signs now.
pub struct IdentitySigner {
    issuer: String,
    keys: ArcSwap<Keys>,
}

impl IdentitySigner {
    /// Signs as this issuer.
    pub fn new(issuer: impl Into<String>, keys: Arc<Keys>) -> Self {
        Self { issuer: issuer.into(), keys: ArcSwap::new(keys) }
    }

    /// Signs with other keys from now on. Statements of the one before are good until they expire.
    pub fn replace_keys(&self, keys: Arc<Keys>) {
        self.keys.store(keys);
    }

    fn claims(&self, principal: &Principal, audience: &str, now: u64) -> IdentityClaims {
        IdentityClaims {
            iss: self.issuer.clone(),
            sub: principal.full_subject().into_owned(),
            aud: audience.to_owned(),
            // Never longer than the token that proved it.
            exp: principal.expires_at.min(now + LIFETIME),
            iat: now,
            username: principal.username.is_some().then(|| principal.full_name().into_owned()),
            email: principal.email.as_ref().map(ToString::to_string),
            groups: principal.groups.iter().map(ToString::to_string).collect(),
            scope: principal.scopes.join(" "),
        }
    }
}

impl Attest for IdentitySigner {
    fn attest(&self, principal: &Principal, audience: &str, now: u64) -> Option<Attestation> {
        let claims = self.claims(principal, audience, now);
        let fresh_until = claims.exp.min(now + FRESH);
        let value = self.keys.load().active().mint_identity(&claims).try_into().ok()?;
        Some(Attestation { value, fresh_until })
    }
}

impl fmt::Debug for IdentitySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySigner").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use portcullis_layers::auth::TokenError;
    use serde_json::{Value, json};

    use super::*;
    use crate::oauth::Trust;
    use crate::store::embedded::Embedded;
    use crate::vault::Vault;

    async fn keys() -> Keys {
        let store = Embedded::in_memory().expect("a store");
        let vault = Vault::new(&"0123456789abcdef0123456789abcdef".into()).expect("a vault");
        let now = Timestamp::now();
        Keys::ensure_active(&store, &vault, None, now, now).await.expect("a key")
    }

    fn principal() -> Principal {
        Principal {
            issuer: "https://auth.example".into(),
            subject: "7".into(),
            username: Some("alice".into()),
            email: Some("alice@example.com".into()),
            groups: vec!["ops".into()],
            scopes: vec!["read".into(), "write".into()],
            expires_at: 10_000,
            ..Principal::default()
        }
    }

    fn part(token: &str, index: usize) -> Value {
        use base64::Engine;
        let part = token.split('.').nth(index).expect("three parts");
        let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn a_statement_says_who_calls_and_is_no_access_token() {
        let keys = Arc::new(keys().await);
        let signer = IdentitySigner::new("https://auth.example", Arc::clone(&keys));
        let stated = signer.attest(&principal(), "https://app.example", 1_000).expect("stated");
        assert_eq!(stated.fresh_until, 1_030);
        let token = stated.value.to_str().expect("ASCII");
        let header = json!({ "alg": "RS256", "typ": "identity+jwt", "kid": keys.active().id() });
        assert_eq!(part(token, 0), header);
        assert_eq!(
            part(token, 1),
            json!({
                "iss": "https://auth.example", "sub": "7", "aud": "https://app.example", "exp": 1_060, "iat": 1_000,
                "username": "alice", "email": "alice@example.com", "groups": ["ops"], "scope": "read write",
            })
        );
        let verifier = Trust::new("https://auth.example", &keys, 1).expect("keys").verifier([]);
        assert!(matches!(verifier.verify_at(token, 1_000), Err(TokenError::Type(_))));
    }

    #[tokio::test]
    async fn a_statement_ends_with_the_token_and_names_users_of_other_issuers_with_them() {
        let signer = IdentitySigner::new("https://auth.example", Arc::new(keys().await));
        let foreign = Principal {
            issuer: "https://idp.example".into(),
            foreign: true,
            email: None,
            expires_at: 1_010,
            groups: Vec::new(),
            ..principal()
        };
        let claims = signer.claims(&foreign, "https://app.example", 1_000);
        assert_eq!((claims.exp, claims.sub.as_str()), (1_010, "https://idp.example/7"));
        assert_eq!(claims.username.as_deref(), Some("https://idp.example/alice"));
        let json = serde_json::to_value(&claims).expect("JSON");
        assert!(json.get("email").is_none() && json.get("groups").is_none(), "{json}");
        let stated = signer.attest(&foreign, "https://app.example", 1_000).expect("stated");
        assert_eq!(stated.fresh_until, 1_010);
    }

    #[tokio::test]
    async fn after_a_rotation_the_new_key_signs() {
        let (one, other) = (Arc::new(keys().await), Arc::new(keys().await));
        let signer = IdentitySigner::new("https://auth.example", Arc::clone(&one));
        signer.replace_keys(Arc::clone(&other));
        let stated = signer.attest(&principal(), "https://app.example", 1_000).expect("stated");
        let header = part(stated.value.to_str().expect("ASCII"), 0);
        assert_eq!(header["kid"], other.active().id());
    }
}
