//! What a client learns of who logged in: the ID token (OpenID Connect Core 1.0, section 2) and the answer
//! of the UserInfo endpoint (section 5.3).
//!
//! An ID token is for the client, an access token for a resource: the one has the client id as its
//! audience and the type `JWT`, the other a resource and `at+jwt`.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
use jiff::Timestamp;
use portcullis_layers::auth::KeySet;
use serde::{Deserialize, Serialize};

use super::claims::{InvalidClaims, MAX_LIFETIME};
use super::server::Scopes;

/// The longest ID token that is read back: about twice the longest that is made.
const MAX_HINT: usize = 8 * 1024;

/// The claims of an ID token. Members without a value are left out: clients refuse `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdClaims {
    /// The issuer.
    pub iss: String,
    /// The subject, as in the access token: the numeric id at GitHub.
    pub sub: String,
    /// The client.
    pub aud: String,
    /// When it expires, in seconds since 1970.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// When the user logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
    /// What the client sent along, so that it knows the token for the answer to its own request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Which access token came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_hash: Option<String>,
    /// Who the user is, as far as the scopes say.
    #[serde(flatten)]
    pub person: Person,
}

/// Who a user is (OpenID Connect Core 1.0, section 5.1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The login name. It may pass to somebody else, unlike the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<String>,
    /// The display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether that was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
}

/// The answer of the UserInfo endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// The subject, as in the ID token.
    pub sub: String,
    /// Who that is, as far as the scopes say.
    #[serde(flatten)]
    pub person: Person,
}

impl IdClaims {
    /// An ID token for a client. What is known beyond that is set in the fields.
    ///
    /// # Errors
    ///
    /// When there is no client, or the life time is none.
    pub fn new(
        issuer: &str,
        subject: &str,
        client: &str,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, InvalidClaims> {
        if client.is_empty() {
            return Err(InvalidClaims::NoAudience);
        }
        if lifetime.as_secs() == 0 || lifetime > MAX_LIFETIME {
            return Err(InvalidClaims::Lifetime(lifetime));
        }
        let iat = u64::try_from(now.as_second()).unwrap_or(0);
        Ok(Self {
            iss: issuer.to_owned(),
            sub: subject.to_owned(),
            aud: client.to_owned(),
            exp: iat + lifetime.as_secs(),
            iat,
            auth_time: None,
            nonce: None,
            at_hash: None,
            person: Person::default(),
        })
    }

    /// Binds it to the access token that it comes with (OpenID Connect Core 1.0, section 3.1.3.6).
    #[must_use]
    pub fn beside(self, access_token: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, access_token.as_bytes());
        let left_half = &hash.as_ref()[..digest::SHA256_OUTPUT_LEN / 2];
        Self { at_hash: Some(BASE64_URL.encode(left_half)), ..self }
    }
}

/// Who logged in, and to which client, in the words of an ID token of ours that a client sends back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The subject.
    pub subject: String,
    /// The client.
    pub client: String,
}

#[derive(Deserialize)]
struct HintHeader {
    alg: String,
    typ: String,
    #[serde(default)]
    kid: Option<String>,
}

impl Hint {
    /// Reads an `id_token_hint` (OpenID Connect RP-Initiated Logout 1.0, section 2): signed by us, as long ago as
    /// our keys reach back. That it has expired is no fault.
    pub fn read(token: &str, keys: &KeySet, issuer: &str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.').filter(|_| token.len() <= MAX_HINT)?;
        let (header, payload) = message.split_once('.')?;
        let decode = |part: &str| BASE64_URL.decode(part).ok();
        let header: HintHeader = serde_json::from_slice(&decode(header)?).ok()?;
        // An access token names no client as its audience, and is for others to send.
        if header.typ != "JWT" {
            return None;
        }
        keys.verify(&header.alg, header.kid.as_deref(), message.as_bytes(), &decode(signature)?).ok()?;
        let claims: IdClaims = serde_json::from_slice(&decode(payload)?).ok()?;
        (claims.iss == issuer).then_some(Self { subject: claims.sub, client: claims.aud })
    }
}

impl Person {
    /// What the scopes `profile` and `email` let a client know (OpenID Connect Core 1.0, section 5.4).
    #[must_use]
    pub fn within(self, scopes: &Scopes) -> Self {
        let profile = scopes.contains("profile");
        let email = scopes.contains("email") && self.email.is_some();
        Self {
            preferred_username: self.preferred_username.filter(|_| profile),
            name: self.name.filter(|_| profile),
            email: self.email.filter(|_| email),
            email_verified: self.email_verified.filter(|_| email),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oauth::{Claims, Keys, SigningKey};

    const ISSUER: &str = "https://auth.example";
    const HOUR: Duration = Duration::from_secs(3_600);

    fn person() -> Person {
        Person {
            preferred_username: Some("octocat".into()),
            name: Some("Octo Cat".into()),
            email: Some("octo@example.com".into()),
            email_verified: Some(true),
        }
    }

    #[test]
    fn it_says_who_logged_in_and_for_whom() {
        let now = Timestamp::from_second(1_000).expect("valid");
        let claims = IdClaims::new(ISSUER, "583231", "client_1", HOUR, now).expect("valid");
        assert_eq!(
            serde_json::to_value(&claims).expect("JSON"),
            json!({ "iss": ISSUER, "sub": "583231", "aud": "client_1", "exp": 4_600, "iat": 1_000 })
        );
        let claims = IdClaims { nonce: Some("n".into()), auth_time: Some(900), person: person(), ..claims };
        assert_eq!(
            serde_json::to_value(&claims).expect("JSON"),
            json!({
                "iss": ISSUER, "sub": "583231", "aud": "client_1", "exp": 4_600, "iat": 1_000, "auth_time": 900,
                "nonce": "n", "preferred_username": "octocat", "name": "Octo Cat", "email": "octo@example.com",
                "email_verified": true,
            })
        );
    }

    #[test]
    fn it_is_bound_to_the_access_token() {
        // The value of the example in OpenID Connect Core 1.0, appendix A.3.
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        let claims = IdClaims::new(ISSUER, "1", "c", HOUR, Timestamp::UNIX_EPOCH).expect("valid");
        assert_eq!(claims.beside(token).at_hash.as_deref(), Some("77QmUPtjPfzWtF2AnpK9RQ"));
    }

    #[test]
    fn a_client_learns_what_the_scopes_say() {
        for (scopes, members) in [
            ("openid", json!({ "sub": "1" })),
            ("openid profile", json!({ "sub": "1", "preferred_username": "octocat", "name": "Octo Cat" })),
            ("email", json!({ "sub": "1", "email": "octo@example.com", "email_verified": true })),
        ] {
            let person = person().within(&Scopes::parse(scopes).expect(scopes));
            let answer = UserInfo { sub: "1".into(), person };
            assert_eq!(serde_json::to_value(answer).expect("JSON"), members, "{scopes}");
        }
        let nameless = Person { email: None, ..person() }.within(&Scopes::parse("email").expect("valid"));
        assert_eq!(nameless, Person::default());
    }

    #[test]
    fn it_is_signed_and_no_access_token() {
        let key = SigningKey::generate();
        let claims = IdClaims::new(ISSUER, "1", "client_1", HOUR, Timestamp::now()).expect("valid");
        let token = key.mint_id(&claims);
        let part = |at: usize| {
            let part = token.split('.').nth(at).expect("three parts");
            serde_json::from_slice::<Value>(&BASE64_URL.decode(part).expect("base64")).expect("JSON")
        };
        assert_eq!(part(0), json!({ "alg": "RS256", "typ": "JWT", "kid": key.id() }));
        assert_eq!(part(1), serde_json::to_value(&claims).expect("JSON"));
    }

    #[cfg(feature = "embedded")]
    async fn keys() -> Keys {
        let store = crate::store::embedded::Embedded::in_memory().expect("memory");
        let vault = crate::vault::Vault::new(&"0123456789abcdef0123456789abcdef".into()).expect("a key");
        let now = Timestamp::UNIX_EPOCH;
        Keys::ensure_active(&store, &vault, None, now, now).await.expect("keys")
    }

    #[cfg(feature = "embedded")]
    #[tokio::test]
    async fn an_id_token_comes_back_as_a_hint_and_nothing_else_does() {
        let key = keys().await;
        let set = |keys: &Keys| keys.key_set().expect("keys");
        let long_ago = Timestamp::from_second(1_000).expect("valid");
        let claims = IdClaims::new(ISSUER, "1", "c", HOUR, long_ago).expect("valid");
        let token = key.mint_id(&claims);
        let hint = Hint { subject: "1".into(), client: "c".into() };
        assert_eq!(Hint::read(&token, &set(&key), ISSUER), Some(hint), "though it has expired");
        assert_eq!(Hint::read(&token, &set(&key), "https://other.example"), None);
        assert_eq!(Hint::read(&token, &set(&keys().await), ISSUER), None);
        let audience = ["c".to_owned()];
        let access = Claims::new(ISSUER, "1", "c", &audience, &[], HOUR, long_ago).expect("valid");
        assert_eq!(Hint::read(&key.mint(&access), &set(&key), ISSUER), None, "an access token");
        let (signed, _) = token.rsplit_once('.').expect("a JWT");
        for bad in ["", ".", "..", "a.b.c", signed, &format!("{signed}."), &format!("{signed}.AAAA")] {
            assert_eq!(Hint::read(bad, &set(&key), ISSUER), None, "{bad}");
        }
    }

    #[test]
    fn what_no_client_could_use_is_not_made() {
        let new =
            |client: &str, lifetime| IdClaims::new(ISSUER, "1", client, lifetime, Timestamp::UNIX_EPOCH);
        assert!(new("", HOUR).is_err());
        assert!(new("c", Duration::ZERO).is_err());
        assert!(new("c", MAX_LIFETIME + HOUR).is_err());
    }
}
