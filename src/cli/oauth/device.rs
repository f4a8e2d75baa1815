//! The device flow (RFC 8628): the user signs in with a browser anywhere.

use std::time::{Duration, Instant};

use http::StatusCode;
use portcullis_services::oauth::authorization_server::CLI_CLIENT;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::discovery::Discovered;
use super::tokens::{self, OAuthError, Tokens};
use super::{LoginError, PATIENCE, discovery};
use crate::cli::client::ClientError;
use crate::cli::output::printable;
use crate::cli::web::Web;

/// The grant type (RFC 8628, section 3.4).
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// How often is asked when the server does not say, and what `slow_down` adds to it (RFC 8628, section 3.5).
const STEP: Duration = Duration::from_secs(5);

/// The longest pause between two questions.
const LONGEST: Duration = Duration::from_secs(60);

/// A device authorization (RFC 8628, section 3.2).
#[derive(Debug, Deserialize)]
struct Device {
    device_code: SecretString,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// Lets the user sign in with a browser elsewhere.
pub(super) async fn flow(web: &Web, found: &Discovered, scopes: &str) -> Result<Tokens, LoginError> {
    let device = begin(web, found, scopes).await?;
    eprintln!(
        "Sign in with a browser anywhere: {}\nand enter the code: {}",
        printable(&device.verification_uri),
        printable(&device.user_code)
    );
    if let Some(complete) = &device.verification_uri_complete {
        eprintln!("or, with the code in it: {}", printable(complete));
    }
    let life = Duration::from_secs(device.expires_in).min(PATIENCE);
    let end = Instant::now() + life;
    let mut interval = device.interval.map_or(STEP, Duration::from_secs).min(LONGEST);
    let form = [
        ("grant_type", GRANT),
        ("device_code", device.device_code.expose_secret()),
        ("resource", &found.resource),
    ];
    loop {
        tokio::time::sleep(interval).await;
        if Instant::now() >= end {
            return Err(LoginError::TooLate);
        }
        match tokens::ask(web, &found.server.token_endpoint, &form).await {
            Ok(tokens) => return Ok(tokens),
            Err(error) => interval = pause(error, interval)?,
        }
    }
}

async fn begin(web: &Web, found: &Discovered, scopes: &str) -> Result<Device, LoginError> {
    let endpoint = found.server.device_authorization_endpoint.as_ref();
    let url = discovery::secure(endpoint.ok_or(LoginError::Lacks("device flow"))?)?;
    let form = [("client_id", CLI_CLIENT), ("scope", scopes), ("resource", &found.resource)];
    let reply = web.post(&url, &form).await?;
    if reply.status != StatusCode::OK {
        return Err(tokens::refusal(&url, &reply));
    }
    serde_json::from_slice(&reply.body).map_err(|error| LoginError::Document {
        url: url.to_string(),
        // Said without what it quotes: that may be the code.
        detail: format!("no device authorization, at column {}", error.column()),
    })
}

/// How long to wait until the next question, if there is to be one (RFC 8628, section 3.5).
fn pause(error: LoginError, interval: Duration) -> Result<Duration, LoginError> {
    match &error {
        LoginError::Refused(OAuthError { error: code, .. }) => match code.as_str() {
            "authorization_pending" => Ok(interval),
            "slow_down" => Ok((interval + STEP).min(LONGEST)),
            _ => Err(error),
        },
        // A server that was away for a moment is asked less often, not given up.
        LoginError::Client(
            ClientError::Timeout(_) | ClientError::Connect { .. } | ClientError::Broken(_),
        ) => Ok((interval * 2).clamp(STEP, LONGEST)),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_as_the_server_asks() {
        let refused =
            |code: &str| LoginError::Refused(OAuthError { error: code.to_owned(), error_description: None });
        let five = Duration::from_secs(5);
        assert_eq!(pause(refused("authorization_pending"), five).unwrap(), five);
        assert_eq!(pause(refused("slow_down"), five).unwrap(), Duration::from_secs(10));
        assert_eq!(pause(refused("slow_down"), LONGEST).unwrap(), LONGEST);
        let away = LoginError::Client(ClientError::Timeout(five));
        assert_eq!(pause(away, five).unwrap(), Duration::from_secs(10));
        for last in ["access_denied", "expired_token", "invalid_grant"] {
            assert!(matches!(pause(refused(last), five), Err(LoginError::Refused(_))), "{last}");
        }
    }
}
