//! The tokens of a login: kept in a profile, renewed before they end, revoked at logout.

use std::path::Path;
use std::time::Duration;

use http::Uri;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use super::discovery::same_origin;
use super::tokens::{self, Tokens};
use super::{LoginError, discovery};
use crate::cli::Failure;
use crate::cli::client::{Client, Gateway};
use crate::cli::profile::{Profile, Profiles};
use crate::cli::web::Web;

/// A token that ends so soon is renewed first: it has to last for the call and for clocks that differ.
const MARGIN: Duration = Duration::from_secs(60);

/// A login.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Session {
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    /// What the tokens are for.
    pub(crate) resource: String,
    pub(crate) token_endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revocation_endpoint: Option<String>,
    pub(crate) scope: String,
    pub(crate) expires_at: Timestamp,
    #[serde(serialize_with = "reveal")]
    pub(crate) access_token: SecretString,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "reveal_some")]
    pub(crate) refresh_token: Option<SecretString>,
}

/// The owner's own file is where tokens are written down.
fn reveal<S: Serializer>(token: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose_secret())
}

#[allow(clippy::ref_option, reason = "serde asks for a reference to the field")]
fn reveal_some<S: Serializer>(token: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default())
}

impl Session {
    /// Whether its tokens are for a gateway. No other gets to see them.
    pub(crate) fn is_for(&self, gateway: &Gateway) -> bool {
        let Gateway::Url(url) = gateway else { return false };
        self.resource.parse::<Uri>().is_ok_and(|resource| same_origin(&resource, url))
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.refresh_token.is_some() && self.expires_at.duration_since(now) < signed(MARGIN)
    }

    fn renewed(&mut self, tokens: Tokens) {
        self.access_token = tokens.access_token;
        self.expires_at = tokens.expires_at;
        // RFC 6749, section 6: without a new one the old one stays good.
        if let Some(refresh_token) = tokens.refresh_token {
            self.refresh_token = Some(refresh_token);
        }
        if let Some(scope) = tokens.scope {
            self.scope = scope;
        }
    }
}

fn signed(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}

/// The token to call a gateway with, if its profile has a login: renewed when it is about to end.
pub(crate) async fn token(
    client: &Client,
    profile: Option<&Profile>,
    name: &str,
    path: &Path,
) -> Result<Option<SecretString>, Failure> {
    let Some(session) = profile.and_then(|profile| profile.session.as_ref()) else { return Ok(None) };
    if !session.is_for(&client.gateway) {
        return Ok(None);
    }
    if !session.is_due(Timestamp::now()) {
        return Ok(Some(session.access_token.clone()));
    }
    renew(&client.web(), name, path).await
}

/// Renews a login. Of several commands that want to, one does, and the others find what it has written.
async fn renew(web: &Web, name: &str, path: &Path) -> Result<Option<SecretString>, Failure> {
    let _lock = Profiles::lock(path).await?;
    let mut profiles = Profiles::read(path)?;
    let Some(profile) = profiles.profiles.get_mut(name) else { return Ok(None) };
    let Some(session) = profile.session.as_mut() else { return Ok(None) };
    let now = Timestamp::now();
    let Some(refresh_token) = session.refresh_token.clone().filter(|_| session.is_due(now)) else {
        return Ok(Some(session.access_token.clone()));
    };
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token.expose_secret()),
        ("resource", &session.resource),
    ];
    match tokens::ask(web, &session.token_endpoint, &form).await {
        Ok(tokens) => {
            session.renewed(tokens);
            let token = session.access_token.clone();
            profiles.write(path)?;
            Ok(Some(token))
        }
        // These say that no later attempt will do better (RFC 6749, section 5.2).
        Err(LoginError::Refused(error))
            if ["invalid_grant", "invalid_client", "unauthorized_client"].contains(&error.error.as_str()) =>
        {
            profile.session = None;
            profiles.write(path)?;
            Err(LoginError::Ended(error).into())
        }
        Err(_) if session.expires_at > now => Ok(Some(session.access_token.clone())),
        Err(error) => Err(error.into()),
    }
}

/// Ends a login at the gateway. `Ok(false)`: it has nothing that could be ended there.
pub(crate) async fn revoke(web: &Web, session: &Session) -> Result<bool, LoginError> {
    let (Some(endpoint), Some(token)) = (&session.revocation_endpoint, &session.refresh_token) else {
        return Ok(false);
    };
    discovery::secure(endpoint)?;
    tokens::revoke(web, endpoint, token.expose_secret()).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use portcullis_services::oauth::authorization_server::CLI_CLIENT;

    use super::*;

    fn session(left: i64, refresh_token: Option<&str>) -> Session {
        Session {
            issuer: "https://auth.example".to_owned(),
            client_id: CLI_CLIENT.to_owned(),
            resource: "https://gateway.example".to_owned(),
            token_endpoint: "https://auth.example/token".to_owned(),
            revocation_endpoint: None,
            scope: "admin".to_owned(),
            expires_at: Timestamp::from_second(1_000 + left).unwrap(),
            access_token: "at".into(),
            refresh_token: refresh_token.map(Into::into),
        }
    }

    #[test]
    fn a_token_is_renewed_within_its_last_minute_if_it_can_be() {
        let now = Timestamp::from_second(1_000).unwrap();
        assert!(session(59, Some("rt")).is_due(now) && session(-5, Some("rt")).is_due(now));
        assert!(!session(61, Some("rt")).is_due(now));
        assert!(!session(59, None).is_due(now));
    }

    #[test]
    fn no_other_gateway_sees_the_token() {
        let session = session(100, None);
        let gateway = |url: &str| Gateway::Url(url.parse().unwrap());
        assert!(session.is_for(&gateway("https://gateway.example:443")));
        for other in ["http://gateway.example", "https://gateway.example:8443", "https://evil.example"] {
            assert!(!session.is_for(&gateway(other)), "{other}");
        }
        assert!(!session.is_for(&Gateway::Socket("data/admin.sock".into())));
    }

    #[test]
    fn an_answer_without_a_refresh_token_keeps_the_old_one() {
        let mut session = session(10, Some("rt"));
        let tokens = |refresh: Option<&str>| Tokens {
            access_token: "at2".into(),
            refresh_token: refresh.map(Into::into),
            expires_at: Timestamp::from_second(5_000).unwrap(),
            scope: None,
        };
        session.renewed(tokens(None));
        assert_eq!(session.refresh_token.as_ref().unwrap().expose_secret(), "rt");
        session.renewed(tokens(Some("rt2")));
        assert_eq!(session.refresh_token.as_ref().unwrap().expose_secret(), "rt2");
        assert_eq!((session.access_token.expose_secret(), session.scope.as_str()), ("at2", "admin"));
    }

    #[test]
    fn tokens_are_never_shown() {
        let text = format!("{:?}", session(10, Some("very-secret")));
        assert!(!text.contains("very-secret") && !text.contains("\"at\""), "{text}");
    }
}
