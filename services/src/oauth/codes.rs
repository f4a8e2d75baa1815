//! Authorization codes (RFC 6749, section 4.1.2; OAuth 2.1, section 4.1): bound to all that they were
//! asked with, valid for a minute, and taken once.
//!
//! A code is found by its hash. When it is taken, only the id of its grant is left, for ten minutes:
//! who presents the code again is told which grant has to end (OAuth 2.1, section 4.1.3). It is taken in
//! one step with what it yields, so one caller on all nodes gets tokens, and who comes later finds the
//! grant that has to end. The redirect and its parameters are not checked here, and no token is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::opaque;
use super::server::request::pkce::Challenge;
use super::state::{Identity, Scopes, after};
use crate::store::{Error, Expect, RecordKey, RecordKind, RecordWrite, Result, Store};

/// How long a code is good. RFC 6749, section 4.1.2, allows ten minutes; a redirect takes seconds.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// How long a code that was taken is remembered.
pub const REPLAY_MEMORY: Duration = Duration::from_secs(600);

/// How often others may win before we give up. Each round has a winner, and after it the code is taken.
const ATTEMPTS: usize = 4;

/// What a code stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The grant that the code yields: see [`new_id`](super::grants::new_id).
    pub grant: String,
    /// The client that asked.
    pub client_id: String,
    /// What was known of the client when it asked: kept with the grant.
    pub client: Value,
    /// Where the code was sent, byte for byte.
    pub redirect_uri: String,
    /// The resources that were asked for (RFC 8707), in canonical form.
    pub resources: Vec<String>,
    /// The scopes that were agreed to.
    pub scopes: Scopes,
    /// The S256 challenge (RFC 7636, section 4.2).
    pub code_challenge: Challenge,
    /// Who agreed.
    pub identity: Identity,
    /// When they signed in.
    pub authenticated_at: Timestamp,
    /// In which browser session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What the ID token shall repeat (OpenID Connect Core, section 3.1.2.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

/// Why a code is not for the one who presents it. All of it is `invalid_grant` (RFC 6749, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It was made for another client.
    #[error("the code was issued to another client")]
    Client,
    /// It was sent elsewhere.
    #[error("redirect_uri is not the one of the authorization request")]
    RedirectUri,
    /// The verifier does not fit the challenge, or is none.
    #[error("code_verifier does not fit the code_challenge")]
    Verifier,
}

impl Authorization {
    /// Whether the code is for this client, redirect URI and proof (RFC 7636, section 4.6).
    ///
    /// OAuth 2.1 clients leave `redirect_uri` out of the token request, older ones repeat it.
    ///
    /// # Errors
    ///
    /// The first [`Mismatch`].
    pub fn check(
        &self,
        client_id: &str,
        redirect_uri: Option<&str>,
        code_verifier: &str,
    ) -> std::result::Result<(), Mismatch> {
        if self.client_id != client_id {
            return Err(Mismatch::Client);
        }
        if redirect_uri.is_some_and(|uri| uri != self.redirect_uri) {
            return Err(Mismatch::RedirectUri);
        }
        if self.code_challenge.is_met_by(code_verifier) { Ok(()) } else { Err(Mismatch::Verifier) }
    }
}

/// A code that was presented.
#[derive(Debug)]
pub enum Presented {
    /// Nobody has used it.
    Fresh(Box<Fresh>),
    /// Somebody took it before: see [`Taken::Replayed`].
    Replayed {
        /// The id of the grant.
        grant: String,
    },
    /// There is no such code (any more).
    Unknown,
}

/// A code that nobody has used.
#[derive(Debug)]
pub struct Fresh {
    /// What it stands for.
    pub authorization: Authorization,
    /// Takes it, unless somebody was faster: for [`Grants::create_with`](super::grants::Grants::create_with).
    pub used: RecordWrite,
}

/// What became of a code that was presented.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was good, and is no more.
    First(Box<Authorization>),
    /// Somebody took it before: this grant has to end, whether it exists by now or not. See
    /// [`Grants::forbid`](super::grants::Grants::forbid).
    Replayed {
        /// The id of the grant.
        grant: String,
    },
    /// There is no such code (any more).
    Unknown,
}

/// A code in the store.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Fresh { until: Timestamp, authorization: Box<Authorization> },
    Used { grant: String },
}

/// The codes of a deployment.
#[derive(Clone)]
pub struct Codes {
    store: Arc<dyn Store>,
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codes").finish_non_exhaustive()
    }
}

impl Codes {
    /// The codes in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Makes a code.
    ///
    /// # Errors
    ///
    /// When it can't be stored.
    pub async fn issue(&self, authorization: Authorization, now: Timestamp) -> Result<SecretString> {
        let code = opaque::generate();
        let key = RecordKey::new(RecordKind::Code, opaque::hash(code.expose_secret().as_bytes()));
        let stored = Stored::Fresh { until: after(now, LIFETIME), authorization: Box::new(authorization) };
        let write = RecordWrite::put(key, &stored, Some(LIFETIME), Expect::Absent, Vec::new())?;
        self.store.commit_records(vec![write]).await?;
        Ok(code)
    }

    /// Looks at a code that was presented. It stays good until [`Fresh::used`] is committed, or [`Self::take`]
    /// is called: that has to be done when [`Authorization::check`] fails, or somebody could try verifiers on it.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn find(&self, code: &str, now: Timestamp) -> Result<Presented> {
        let Some(hash) = opaque::hash_of_presented(code) else { return Ok(Presented::Unknown) };
        let key = RecordKey::new(RecordKind::Code, hash);
        let Some(record) = self.store.get_record(&key).await? else { return Ok(Presented::Unknown) };
        let (until, authorization) = match record.read()? {
            Stored::Fresh { until, authorization } => (until, *authorization),
            Stored::Used { grant } => return Ok(Presented::Replayed { grant }),
        };
        if now >= until {
            return Ok(Presented::Unknown);
        }
        let used = Stored::Used { grant: authorization.grant.clone() };
        let expect = Expect::Version(record.version);
        let used = RecordWrite::put(key, &used, Some(REPLAY_MEMORY), expect, Vec::new())?;
        Ok(Presented::Fresh(Box::new(Fresh { authorization, used })))
    }

    /// Takes a code: exactly one caller on all nodes gets what it stands for.
    ///
    /// # Errors
    ///
    /// When the store fails; then the code may or may not be taken, and is not to be honoured.
    pub async fn take(&self, code: &str, now: Timestamp) -> Result<Taken> {
        for _ in 0..ATTEMPTS {
            let Fresh { authorization, used } = match self.find(code, now).await? {
                Presented::Fresh(fresh) => *fresh,
                Presented::Replayed { grant } => return Ok(Taken::Replayed { grant }),
                Presented::Unknown => return Ok(Taken::Unknown),
            };
            match self.store.commit_records(vec![used]).await {
                Ok(()) => return Ok(Taken::First(Box::new(authorization))),
                Err(Error::RecordConflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Taken::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn authorization() -> Authorization {
        Authorization {
            grant: "g".into(),
            client_id: "c".into(),
            client: Value::Null,
            redirect_uri: "https://c.example/cb".into(),
            resources: vec!["https://app.example".into()],
            scopes: Scopes::new(),
            // RFC 7636, appendix B.
            code_challenge: Challenge::parse(Some(CHALLENGE), Some("S256")).expect("valid"),
            identity: Identity {
                subject: "1".into(),
                login: "octocat".into(),
                name: None,
                emails: Vec::new(),
                memberships: Vec::new(),
            },
            authenticated_at: Timestamp::UNIX_EPOCH,
            session: None,
            nonce: None,
        }
    }

    #[test]
    fn a_code_is_for_its_client_redirect_and_verifier_only() {
        const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let authorization = authorization();
        let check = |client, uri, verifier| authorization.check(client, uri, verifier);
        assert_eq!(check("c", Some("https://c.example/cb"), VERIFIER), Ok(()));
        assert_eq!(check("c", None, VERIFIER), Ok(()));
        assert_eq!(check("C", None, VERIFIER), Err(Mismatch::Client));
        for uri in ["", "https://c.example/cb/", "https://c.example/CB", "https://c.example/cb?"] {
            assert_eq!(check("c", Some(uri), VERIFIER), Err(Mismatch::RedirectUri), "{uri}");
        }
        for verifier in ["", CHALLENGE, &VERIFIER[1..], &VERIFIER.to_lowercase(), &"x".repeat(129)] {
            assert_eq!(check("c", None, verifier), Err(Mismatch::Verifier), "{verifier}");
        }
    }
}
