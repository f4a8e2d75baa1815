//! What an access token says (RFC 7519, RFC 9068).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::random;

/// The prefix of the subject of named tokens. No login name has a colon, so none can pass for one.
pub const SERVICE: &str = "service:";

/// The longest life of a token. Revocations are kept as long, so a longer life could outlast its own end.
pub const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// As many groups as a token tells of: it travels with each request.
const MAX_GROUPS: usize = 64;

/// The longest name of a group that lists can have.
const MAX_GROUP: usize = 128;

/// The claims of an access token. Members without a value are left out: clients refuse `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer.
    pub iss: String,
    /// For people the numeric id at GitHub, for named tokens `service:NAME`.
    pub sub: String,
    /// The resources that the token is for.
    pub aud: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// Its id, by which it can be revoked.
    pub jti: String,
    /// Its scopes, parted by blanks.
    pub scope: String,
    /// The client that it was made for.
    pub client_id: String,
    /// The same, under the name that older resource servers read.
    pub azp: String,
    /// The login name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Organisations and teams, as far as a list of the token's resources asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// For named tokens: the address that certificates are ordered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_email: Option<String>,
}

/// What a named token is made from.
#[derive(Debug, Clone)]
pub struct NamedToken {
    /// The name: the subject is `service:NAME`.
    pub name: String,
    /// The resources that the token is for.
    pub audience: Vec<String>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// The address that certificates are ordered with.
    pub cert_email: Option<String>,
    /// How long it lives.
    pub lifetime: Duration,
}

/// Why no token can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaims {
    /// A name that could not stand on a list of users.
    #[error("token name {0:?} must have 1 to 128 letters, digits, '.', '_' or '-'")]
    Name(String),
    /// A token for no resource would be good nowhere, or everywhere.
    #[error("a token needs a resource that it is for")]
    NoAudience,
    /// Not a `scope-token` (RFC 6749, section 3.3).
    #[error("scope {0:?} is empty or has a character that scopes can't have")]
    Scope(String),
    /// Zero, or more than 366 days.
    #[error("a life time of {0:?} is not between one second and 366 days")]
    Lifetime(Duration),
}

impl Claims {
    /// A token for a subject. What is known of a person beyond that is set in the fields.
    ///
    /// # Errors
    ///
    /// See [`InvalidClaims`].
    pub fn new(
        issuer: &str,
        subject: &str,
        client: &str,
        audience: &[String],
        scopes: &[String],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, InvalidClaims> {
        if audience.is_empty() || audience.iter().any(String::is_empty) {
            return Err(InvalidClaims::NoAudience);
        }
        if let Some(scope) = scopes.iter().find(|scope| !is_scope(scope)) {
            return Err(InvalidClaims::Scope(scope.clone()));
        }
        if lifetime.as_secs() == 0 || lifetime > MAX_LIFETIME {
            return Err(InvalidClaims::Lifetime(lifetime));
        }
        let iat = u64::try_from(now.as_second()).unwrap_or(0);
        Ok(Self {
            iss: issuer.to_owned(),
            sub: subject.to_owned(),
            aud: audience.to_vec(),
            exp: iat + lifetime.as_secs(),
            iat,
            jti: token_id(),
            scope: scopes.join(" "),
            client_id: client.to_owned(),
            azp: client.to_owned(),
            username: None,
            email: None,
            name: None,
            groups: Vec::new(),
            cert_email: None,
        })
    }

    /// Says which groups somebody is in: in lower case, each once, 64 at most, none longer than 128 bytes.
    /// What is left out gives no right.
    #[must_use]
    pub fn with_groups(self, groups: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let fits = |group: &String| !group.is_empty() && group.len() <= MAX_GROUP;
        let groups: BTreeSet<String> =
            groups.into_iter().map(|group| group.as_ref().to_ascii_lowercase()).filter(fits).collect();
        Self { groups: groups.into_iter().take(MAX_GROUPS).collect(), ..self }
    }

    /// A named token.
    ///
    /// # Errors
    ///
    /// See [`InvalidClaims`].
    pub fn named(issuer: &str, token: &NamedToken, now: Timestamp) -> Result<Self, InvalidClaims> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if token.name.is_empty() || token.name.len() > 128 || !token.name.bytes().all(fine) {
            return Err(InvalidClaims::Name(token.name.clone()));
        }
        let subject = format!("{SERVICE}{}", token.name);
        let claims =
            Self::new(issuer, &subject, &subject, &token.audience, &token.scopes, token.lifetime, now)?;
        Ok(Self { username: Some(subject), cert_email: token.cert_email.clone(), ..claims })
    }
}

/// The id of a new token.
pub(super) fn token_id() -> String {
    random::name("")
}

fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|b| matches!(b, b'!' | b'#'..=b'[' | b']'..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> NamedToken {
        NamedToken {
            name: "ci".into(),
            audience: vec!["https://app.example".into()],
            scopes: vec!["admin".into(), "mcp:read".into()],
            cert_email: None,
            lifetime: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_named_token_speaks_for_its_service_identity() {
        let now = Timestamp::from_second(1_000).expect("valid");
        let claims = Claims::named("https://auth.example", &token(), now).expect("valid");
        let json = serde_json::to_value(&claims).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({
                "iss": "https://auth.example", "sub": "service:ci", "aud": ["https://app.example"],
                "exp": 1_060, "iat": 1_000, "jti": claims.jti, "scope": "admin mcp:read",
                "client_id": "service:ci", "azp": "service:ci", "username": "service:ci",
            })
        );
        let other = Claims::named("https://auth.example", &token(), now).expect("valid");
        assert_ne!(claims.jti, other.jti);
    }

    #[test]
    fn groups_are_bounded_and_left_out_when_there_are_none() {
        let now = Timestamp::from_second(1_000).expect("valid");
        let claims = || Claims::named("https://auth.example", &token(), now).expect("valid");
        assert!(serde_json::to_value(claims()).expect("JSON").get("groups").is_none());
        let some = claims().with_groups(["Acme/Platform", "acme", "ACME", "", &"x".repeat(129)]);
        assert_eq!(
            serde_json::to_value(some).expect("JSON")["groups"],
            serde_json::json!(["acme", "acme/platform"])
        );
        let many = claims().with_groups((0..100).map(|n| format!("team-{n:03}")));
        assert_eq!((many.groups.len(), many.groups[63].as_str()), (64, "team-063"));
    }

    #[test]
    fn what_could_not_be_judged_later_is_refused() {
        for bad in [
            NamedToken { name: String::new(), ..token() },
            NamedToken { name: "a b".into(), ..token() },
            NamedToken { name: "*".into(), ..token() },
            NamedToken { name: "x".repeat(129), ..token() },
            NamedToken { audience: vec![], ..token() },
            NamedToken { audience: vec![String::new()], ..token() },
            NamedToken { scopes: vec![String::new()], ..token() },
            NamedToken { scopes: vec!["a b".into()], ..token() },
            NamedToken { scopes: vec!["a\"".into()], ..token() },
            NamedToken { lifetime: Duration::ZERO, ..token() },
            NamedToken { lifetime: MAX_LIFETIME + Duration::from_secs(1), ..token() },
        ] {
            assert!(Claims::named("https://auth.example", &bad, Timestamp::UNIX_EPOCH).is_err(), "{bad:?}");
        }
    }
}
