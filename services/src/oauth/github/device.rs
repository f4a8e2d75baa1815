//! GitHub's device flow (RFC 8628): the user enters a code at GitHub's own page.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{App, Error, Github, Refusal, Token, scopes};
use crate::config::names::SecureUrl;

const WHAT: &str = "a request for a device code";

/// RFC 8628, section 3.2: 5 seconds where nothing is said.
const USUAL_INTERVAL: u64 = 5;

/// Nobody waits longer between two questions, or for all of them.
const LONGEST_INTERVAL: u64 = 60;
const LONGEST_LIFE: u64 = 60 * 60;

/// A device flow that has begun.
#[derive(Debug, Clone)]
pub struct DeviceCode {
    /// What to ask with.
    pub device_code: SecretString,
    /// What the user enters,
    pub user_code: String,
    /// and where.
    pub verification_uri: SecureUrl,
    /// How long to wait between two questions.
    pub interval: Duration,
    /// How long the codes are good.
    pub expires_in: Duration,
}

/// How a device flow stands.
#[derive(Debug)]
pub enum Poll {
    /// The user has not answered yet.
    Pending,
    /// The same, and from now on there must be this long between two questions.
    SlowDown(Duration),
    /// The user agreed.
    Granted(Token),
}

impl Github {
    /// Begins a device flow.
    ///
    /// # Errors
    ///
    /// When GitHub refuses, or there is no answer of use.
    pub async fn begin_device(&self, app: &App, groups: bool) -> Result<DeviceCode, Error> {
        let scope = scopes(groups).join(" ");
        let fields =
            self.login("/login/device/code", &[("client_id", app.client_id()), ("scope", &scope)]).await?;
        fields.refusal()?;
        let text = |name: &str, longest: usize| {
            let text = fields.text(name).filter(|text| !text.is_empty() && text.len() <= longest);
            text.filter(|text| text.bytes().all(|b| b.is_ascii_graphic()))
                .ok_or(Error::Malformed { what: WHAT })
        };
        let life = fields.number("expires_in").ok_or(Error::Malformed { what: WHAT })?;
        Ok(DeviceCode {
            device_code: text("device_code", 256)?.into(),
            user_code: text("user_code", 32)?.to_owned(),
            verification_uri: text("verification_uri", 512)?
                .parse()
                .map_err(|_| Error::Malformed { what: WHAT })?,
            interval: interval(fields.number("interval")),
            expires_in: Duration::from_secs(life.clamp(1, LONGEST_LIFE)),
        })
    }

    /// Asks once how a device flow stands. It does not wait.
    ///
    /// # Errors
    ///
    /// When the flow has ended without a token, or there is no answer of use.
    pub async fn poll_device(&self, app: &App, device_code: &SecretString) -> Result<Poll, Error> {
        let fields = self
            .login(
                "/login/oauth/access_token",
                &[
                    ("client_id", app.client_id()),
                    ("device_code", device_code.expose_secret()),
                    ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
                ],
            )
            .await?;
        match fields.refusal() {
            Ok(()) => Token::of(&fields).map(Poll::Granted),
            Err(Error::Refused(Refusal::Other(code))) if code == "authorization_pending" => Ok(Poll::Pending),
            Err(Error::Refused(Refusal::Other(code))) if code == "slow_down" => {
                Ok(Poll::SlowDown(interval(fields.number("interval"))))
            }
            Err(error) => Err(error),
        }
    }
}

fn interval(seconds: Option<u64>) -> Duration {
    Duration::from_secs(seconds.unwrap_or(USUAL_INTERVAL).clamp(1, LONGEST_INTERVAL))
}
