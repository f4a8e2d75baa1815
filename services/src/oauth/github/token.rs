//! The token that GitHub gives for a user: used at once, and then ended, unless a host wants it kept.

use secrecy::{ExposeSecret, SecretString};
use smol_str::SmolStr;

use super::answer::Fields;
use super::error::Error;

const WHAT: &str = "a request for a token";

/// Longer than all kinds of tokens that GitHub has.
const MAX_TOKEN: usize = 1024;

/// A user's token for GitHub's API. Neither `Debug` nor any error shows it.
#[derive(Debug, Clone)]
pub struct Token {
    secret: SecretString,
    scopes: Vec<SmolStr>,
}

impl Token {
    /// The scopes that the user granted, which may be fewer than were asked for. A GitHub App has none.
    pub fn scopes(&self) -> &[SmolStr] {
        &self.scopes
    }

    /// One that was kept.
    pub(crate) fn kept(secret: SecretString, scopes: &[String]) -> Self {
        Self { secret, scopes: scopes.iter().map(SmolStr::new).collect() }
    }

    pub(in crate::oauth) fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Of a good answer (RFC 6749, section 5.1), in which GitHub separates scopes with commas.
    pub(super) fn of(fields: &Fields) -> Result<Self, Error> {
        let secret = fields
            .text("access_token")
            .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN)
            .filter(|token| token.bytes().all(|b| b.is_ascii_graphic()));
        let is_bearer = fields.text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"));
        let (Some(secret), true) = (secret, is_bearer) else {
            return Err(Error::Malformed { what: WHAT });
        };
        let scopes = fields.text("scope").unwrap_or_default();
        let scopes = scopes.split([',', ' ']).filter(|scope| !scope.is_empty()).map(SmolStr::new).collect();
        Ok(Self { secret: secret.into(), scopes })
    }
}
