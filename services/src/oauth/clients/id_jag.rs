//! Identity assertions (draft-ietf-oauth-identity-assertion-authz-grant): what an identity provider says about a
//! user to a client, for us. A client presents it at the token endpoint (RFC 7523, section 2.1).
//!
//! Only issuers that the administrator has named are believed, each with its own keys. What the user may do here
//! is not judged in this place.

use std::borrow::Cow;

use jiff::Timestamp;
use portcullis_layers::auth::KeySet;
use serde::Deserialize;
use serde_json::Value;

use super::assertion::{
    AssertionError, Assertions, Audience, Header, Parts, Publisher, Source, Validity, check_id, split,
};
use super::ssrf::HttpsUrl;

/// What `typ` has to be. RFC 7515, section 4.1.9, has the prefix left out, and lets it stand.
const TYPES: [&str; 2] = ["oauth-id-jag+jwt", "application/oauth-id-jag+jwt"];

/// The most issuers.
const MAX_ISSUERS: usize = 64;

/// The longest name of an issuer, and of a user: both together fit on a list of users.
const MAX_NAME: usize = 250;

/// An issuer whose assertions about users are taken.
#[derive(Debug, Clone)]
pub struct AssertionIssuer {
    issuer: String,
    keys: Keys,
}

#[derive(Debug, Clone)]
enum Keys {
    Inline(KeySet),
    At(HttpsUrl),
}

/// An issuer, as the settings have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    issuer: String,
    #[serde(default)]
    jwks: Option<Value>,
    #[serde(default)]
    jwks_uri: Option<String>,
}

/// Why a list of issuers can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidIssuers {
    /// No JSON array of objects with `issuer`, and `jwks` or `jwks_uri`.
    #[error("expected a JSON array of objects with issuer, and jwks or jwks_uri: {0}")]
    Json(#[source] serde_json::Error),
    /// Too many.
    #[error("there are more than {MAX_ISSUERS} issuers")]
    TooMany,
    /// Not the URL of an issuer (RFC 8414, section 2).
    #[error("issuer {0:?} is no https URL of at most {MAX_NAME} characters, without query, '*' and '%'")]
    Issuer(String),
    /// It is there before, or it is this deployment.
    #[error("issuer {0:?} is listed twice, or is this deployment itself")]
    Taken(String),
    /// Both, or neither.
    #[error("issuer {0:?} must have either jwks or jwks_uri")]
    Source(String),
    /// They are no keys.
    #[error("the jwks of issuer {issuer:?} can't be used: {source}")]
    Keys {
        /// Whose.
        issuer: String,
        /// Why.
        source: portcullis_layers::auth::JwksError,
    },
    /// Not a URL that keys can be fetched from.
    #[error("the jwks_uri of issuer {0:?} is no https URL")]
    Uri(String),
}

impl AssertionIssuer {
    /// Reads a list of issuers: a JSON array of `{"issuer": URL, "jwks_uri": URL}` or `{"issuer": URL, "jwks": KEYS}`.
    /// `own` is this deployment, whose own tokens are no assertions.
    ///
    /// # Errors
    ///
    /// See [`InvalidIssuers`].
    pub fn read_list(json: &str, own: &str) -> Result<Vec<Self>, InvalidIssuers> {
        let listed: Vec<Listed> = serde_json::from_str(json).map_err(InvalidIssuers::Json)?;
        if listed.len() > MAX_ISSUERS {
            return Err(InvalidIssuers::TooMany);
        }
        let mut issuers: Vec<Self> = Vec::new();
        for one in listed {
            let issuer = Self::read(one)?;
            let name = issuer.name();
            if name == own || issuers.iter().any(|known| known.name() == name) {
                return Err(InvalidIssuers::Taken(issuer.issuer));
            }
            issuers.push(issuer);
        }
        Ok(issuers)
    }

    fn read(listed: Listed) -> Result<Self, InvalidIssuers> {
        let Listed { issuer, jwks, jwks_uri } = listed;
        let is_url = issuer.len() <= MAX_NAME && issuer.parse::<HttpsUrl>().is_ok();
        if !is_url || issuer.contains(['?', '*', '%']) || issuer.ends_with("//") {
            return Err(InvalidIssuers::Issuer(issuer));
        }
        let keys = match (jwks, jwks_uri) {
            (Some(jwks), None) => match KeySet::from_jwks(&jwks.to_string()) {
                Ok(keys) => Keys::Inline(keys),
                Err(source) => return Err(InvalidIssuers::Keys { issuer, source }),
            },
            (None, Some(uri)) => match uri.parse() {
                Ok(uri) => Keys::At(uri),
                Err(_) => return Err(InvalidIssuers::Uri(issuer)),
            },
            _ => return Err(InvalidIssuers::Source(issuer)),
        };
        Ok(Self { issuer, keys })
    }

    /// As lists of users have it.
    fn name(&self) -> &str {
        self.issuer.strip_suffix('/').unwrap_or(&self.issuer)
    }
}

/// What a good assertion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdJag {
    /// The issuer, without a slash at its end.
    pub issuer: String,
    /// The user, as the issuer names them.
    pub user: String,
    /// The resources that it is for, if it is not for all.
    pub resources: Option<Vec<String>>,
    /// The scopes that it is for, if it is not for all.
    pub scope: Option<String>,
}

impl IdJag {
    /// The user as lists of users name them: `ISSUER/USER`.
    pub fn subject(&self) -> String {
        format!("{}/{}", self.issuer, self.user)
    }
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    aud: Audience,
    #[serde(borrow)]
    client_id: Cow<'a, str>,
    #[serde(borrow)]
    jti: Cow<'a, str>,
    exp: f64,
    iat: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    resource: Option<Audience>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    cnf: Option<Value>,
}

impl Assertions {
    /// Verifies what a trusted issuer says about a user to the client that presents it, which was authenticated, for
    /// `own`, which is our issuer. It is good once.
    ///
    /// # Errors
    ///
    /// See [`AssertionError`].
    pub async fn verify_id_jag(
        &self,
        trusted: &[AssertionIssuer],
        own: &str,
        client_id: &str,
        assertion: &str,
        now: Timestamp,
    ) -> Result<IdJag, AssertionError> {
        let Parts { header, payload, message, signature } = split(assertion)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| AssertionError::Malformed)?;
        let claims: Claims<'_> = serde_json::from_slice(&payload).map_err(|_| AssertionError::Malformed)?;
        header.check(&TYPES, false)?;
        let issuer = trusted.iter().find(|known| known.issuer == claims.iss);
        let issuer = issuer.ok_or(AssertionError::Issuer)?;
        if claims.client_id != client_id {
            return Err(AssertionError::Client);
        }
        if !claims.aud.is_only(|audience| audience == own) {
            return Err(AssertionError::Audience);
        }
        if claims.cnf.is_some() {
            return Err(AssertionError::Bound);
        }
        check_user(&claims.sub)?;
        check_id(&claims.jti)?;
        let validity = Validity { exp: claims.exp, nbf: claims.nbf, iat: Some(claims.iat) };
        let left = validity.check(now)?;
        let keys = match &issuer.keys {
            Keys::Inline(keys) => Source::Inline(keys),
            Keys::At(uri) => Source::At(Publisher::Issuer, uri),
        };
        self.check_signature(keys, &header, message, &signature, now).await?;
        self.use_up("id-jag", &issuer.issuer, &claims.jti, left).await?;
        Ok(IdJag {
            issuer: issuer.name().to_owned(),
            user: claims.sub.into_owned(),
            resources: claims.resource.map(Audience::into_vec),
            scope: claims.scope,
        })
    }
}

/// What can't stand behind the issuer on a list of users. With a slash, a user of `https://a` could pass for one of
/// `https://a/b`; `*` means everybody there.
fn check_user(user: &str) -> Result<(), AssertionError> {
    let fine = |c: char| !(c.is_whitespace() || c.is_control() || matches!(c, '/' | '*' | '%'));
    if user.is_empty() || user.len() > MAX_NAME || !user.chars().all(fine) {
        return Err(AssertionError::User);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
