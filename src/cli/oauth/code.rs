//! The authorization code flow with PKCE over a loopback port (OAuth 2.1, section 4.1; RFC 8252).

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use portcullis_services::oauth::authorization_server::CLI_CLIENT;

use super::browser::Browser;
use super::callback::{Callback, Expected};
use super::discovery::Discovered;
use super::tokens::{self, Tokens};
use super::{LoginError, PATIENCE};
use crate::cli::web::{Web, with_query};

/// Lets the user sign in with a browser on this machine.
pub(super) async fn flow(
    web: &Web,
    found: &Discovered,
    scopes: &str,
    browser: Option<&Browser>,
) -> Result<Tokens, LoginError> {
    let server = &found.server;
    let endpoint =
        server.authorization_endpoint.as_ref().ok_or(LoginError::Lacks("authorization endpoint"))?;
    if !server.code_challenge_methods_supported.iter().any(|method| method == "S256") {
        return Err(LoginError::Lacks("PKCE with S256"));
    }
    let callback = Callback::open().await.map_err(LoginError::Listen)?;
    let redirect_uri = callback.redirect_uri();
    let (state, verifier) = (random(), random());
    let challenge = challenge(&verifier);
    let url = with_query(
        endpoint,
        &[
            ("response_type", "code"),
            ("client_id", CLI_CLIENT),
            ("redirect_uri", &redirect_uri),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &found.resource),
            ("scope", scopes),
        ],
    );
    eprintln!("Sign in with a browser on this machine:\n{url}");
    if let Some(browser) = browser {
        browser.open(&url);
    }
    let expected = Expected {
        state,
        issuer: server.issuer.clone(),
        names_itself: server.authorization_response_iss_parameter_supported,
    };
    let code = tokio::time::timeout(PATIENCE, callback.wait(expected)).await;
    let code = code.map_err(|_| LoginError::TooLate)??;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", &redirect_uri),
        ("code_verifier", &verifier),
        ("resource", &found.resource),
    ];
    tokens::ask(web, &server.token_endpoint, &form).await
}

/// 256 bits that nobody guesses.
fn random() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system has randomness");
    BASE64.encode(bytes)
}

/// RFC 7636, section 4.2.
fn challenge(verifier: &str) -> String {
    BASE64.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_rfc() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        let (one, two) = (random(), random());
        assert!(one != two && one.len() == 43, "{one}");
    }
}
