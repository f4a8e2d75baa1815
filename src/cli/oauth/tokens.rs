//! The token endpoint (RFC 6749, section 5) and the revocation endpoint (RFC 7009), as a public client asks them.

use std::fmt;
use std::time::Duration;

use http::{StatusCode, Uri};
use jiff::Timestamp;
use portcullis_services::oauth::authorization_server::CLI_CLIENT;
use secrecy::SecretString;
use serde::Deserialize;

use super::{LoginError, discovery};
use crate::cli::output::printable;
use crate::cli::web::{Reply, Web};

/// How long a token is taken to live when its server does not say.
const LIFE: u64 = 300;

/// What a token endpoint gave.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(super) access_token: SecretString,
    pub(super) refresh_token: Option<SecretString>,
    pub(super) expires_at: Timestamp,
    pub(super) scope: Option<String>,
}

/// An error as OAuth has it (RFC 6749, section 5.2).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct OAuthError {
    pub(super) error: String,
    #[serde(default)]
    pub(super) error_description: Option<String>,
}

impl fmt::Display for OAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.error))?;
        match &self.error_description {
            Some(why) => write!(f, " ({})", printable(why)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OAuthError {}

#[derive(Deserialize)]
struct Answer {
    access_token: SecretString,
    token_type: String,
    expires_in: Option<u64>,
    refresh_token: Option<SecretString>,
    scope: Option<String>,
}

/// Asks for tokens. The client says who it is; it has no secret.
pub(super) async fn ask(web: &Web, endpoint: &str, form: &[(&str, &str)]) -> Result<Tokens, LoginError> {
    let url = discovery::secure(endpoint)?;
    let form = [form, &[("client_id", CLI_CLIENT)]].concat();
    let now = Timestamp::now();
    let reply = web.post(&url, &form).await?;
    if reply.status != StatusCode::OK {
        return Err(refusal(&url, &reply));
    }
    let wrong = |detail: &str| LoginError::Document { url: url.to_string(), detail: detail.to_owned() };
    // What is wrong with it is not said: it may quote the token.
    let answer: Answer =
        serde_json::from_slice(&reply.body).map_err(|_| wrong("the answer has no access token"))?;
    if !answer.token_type.eq_ignore_ascii_case("Bearer") {
        return Err(wrong("the token is no bearer token"));
    }
    // A century is as good as for ever, and no sum of it overflows.
    let life = Duration::from_secs(answer.expires_in.unwrap_or(LIFE).min(100 * 365 * 86_400));
    Ok(Tokens {
        access_token: answer.access_token,
        refresh_token: answer.refresh_token,
        expires_at: now.checked_add(life).unwrap_or(Timestamp::MAX),
        scope: answer.scope,
    })
}

/// Ends a refresh token, and with it the login (RFC 7009, section 2.1).
pub(super) async fn revoke(web: &Web, endpoint: &str, refresh_token: &str) -> Result<(), LoginError> {
    let url = discovery::secure(endpoint)?;
    let form = [("token", refresh_token), ("token_type_hint", "refresh_token"), ("client_id", CLI_CLIENT)];
    let reply = web.post(&url, &form).await?;
    if reply.status.is_success() { Ok(()) } else { Err(refusal(&url, &reply)) }
}

/// An answer of an OAuth endpoint that is not the one hoped for.
pub(super) fn refusal(url: &Uri, reply: &Reply) -> LoginError {
    match serde_json::from_slice::<OAuthError>(&reply.body) {
        Ok(error) => LoginError::Refused(error),
        Err(_) => LoginError::Document {
            url: url.to_string(),
            detail: format!("it answered {}", reply.status.as_u16()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reaches_no_terminal_as_a_command() {
        let error = OAuthError {
            error: "access_denied\u{1b}[2J".to_owned(),
            error_description: Some("no".to_owned()),
        };
        assert_eq!(error.to_string(), "access_denied\u{fffd}[2J (no)");
    }
}
