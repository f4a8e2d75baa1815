//! The credentials of an OAuth app.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use crate::config::names::GithubClientId;

/// GitHub's have 40 characters.
const MAX_SECRET: usize = 256;

/// An OAuth app (or the OAuth half of a GitHub App) that is registered at GitHub.
#[derive(Debug, Clone)]
pub struct App {
    client_id: GithubClientId,
    client_secret: SecretString,
}

/// What is sealed of a host's own app: both halves of its credentials.
#[derive(Serialize, Deserialize)]
pub(crate) struct SealedApp {
    pub(crate) client_id: GithubClientId,
    #[serde(serialize_with = "reveal")]
    pub(crate) client_secret: SecretString,
}

fn reveal<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

impl SealedApp {
    /// Reads what was sealed. What is wrong with it is not told, because it is secret.
    pub(crate) fn read(opened: &[u8]) -> Option<Self> {
        serde_json::from_slice(opened).ok()
    }
}

/// Why credentials are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApp {
    /// The secret is empty, too long, or has characters that no secret of GitHub's has.
    #[error("the secret of the GitHub app is empty, longer than {MAX_SECRET} characters or has blanks")]
    Secret,
}

impl App {
    /// An app.
    ///
    /// # Errors
    ///
    /// When the secret can't be one.
    pub fn new(client_id: GithubClientId, client_secret: SecretString) -> Result<Self, InvalidApp> {
        let secret = client_secret.expose_secret();
        if secret.is_empty() || secret.len() > MAX_SECRET || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidApp::Secret);
        }
        Ok(Self { client_id, client_secret })
    }

    /// The public half: also what to remember of a login, to tell at its end whether the app is still the same.
    pub fn client_id(&self) -> &str {
        self.client_id.as_str()
    }

    pub(in crate::oauth) const fn id(&self) -> &GithubClientId {
        &self.client_id
    }

    pub(in crate::oauth) const fn client_secret(&self) -> &SecretString {
        &self.client_secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_checked_and_never_shown() {
        let app = |secret: &str| App::new("Iv1.0123456789abcdef".parse().unwrap(), secret.into());
        let shown = format!("{:?}", app("hush-hush").expect("good"));
        assert!(shown.contains("Iv1.0123456789abcdef") && !shown.contains("hush"), "{shown}");
        for secret in ["", "a b", "a\r\nb", &"x".repeat(257)] {
            assert_eq!(app(secret).expect_err("refused"), InvalidApp::Secret);
        }
    }
}
