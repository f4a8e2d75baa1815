//! `oauth status`: who is logged in, by the token's own words and by the gateway's.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::Method;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use crate::cli::client::{Client, Gateway};
use crate::cli::output::Format;
use crate::cli::profile::Profiles;
use crate::cli::{Failure, print_text};

/// Where the gateway says what a token is to it.
const INFO: &str = "/tokens/info";

/// Shows it. The exit code says whether the gateway agrees.
pub(super) async fn run(client: Client, name: &str, path: &Path, format: Format) -> Result<(), Failure> {
    // As it is now: the token may just have been renewed.
    let profiles = Profiles::read(path)?;
    let session = profiles.profiles.get(name).and_then(|profile| profile.session.as_ref());
    let used = |token: &SecretString| {
        client.token.as_ref().is_some_and(|own| own.expose_secret() == token.expose_secret())
    };
    let session = session.filter(|session| used(&session.access_token));
    let mut said = Map::new();
    let mut say = |name: &str, value: Value| {
        if !value.is_null() {
            said.insert(name.to_owned(), value);
        }
    };
    say("profile", json!(name));
    say(
        "gateway",
        match &client.gateway {
            Gateway::Socket(socket) => json!(socket),
            Gateway::Url(url) => json!(url.to_string()),
        },
    );
    let kind = match (&client.gateway, &client.token, session) {
        (_, _, Some(_)) => "login",
        (_, Some(_), None) => "token",
        (Gateway::Socket(_), None, None) => "admin socket",
        (Gateway::Url(_), None, None) => "nobody",
    };
    say("logged_in_by", json!(kind));
    let claims = client.token.as_ref().and_then(|token| claims(token.expose_secret())).unwrap_or_default();
    let claim = |name: &str| claims.get(name).cloned().unwrap_or_default();
    let username = [claim("username"), claim("preferred_username")].into_iter().find(Value::is_string);
    say("username", username.unwrap_or_default());
    say("subject", claim("sub"));
    say("client_id", claim("client_id"));
    say("issuer", claim("iss"));
    say("audience", claim("aud"));
    let scopes = claim("scope").as_str().map(|scope| json!(scope.split(' ').collect::<Vec<_>>()));
    say("scopes", scopes.unwrap_or_default());
    let expires = claim("exp").as_i64().and_then(|at| Timestamp::from_second(at).ok());
    say("expires_at", json!(expires));
    say("renews_itself", json!(session.map(|session| session.refresh_token.is_some())));

    // Without a token the gateway is asked all the same: the socket needs none.
    let outcome = match client.send(Method::GET, INFO, None).await {
        Ok(answer) if answer.status.is_success() => {
            let info = answer.json();
            say("gateway_agrees", json!(true));
            say("gateway_says", info);
            Ok(())
        }
        Ok(answer) => {
            say("gateway_agrees", json!(false));
            Err(Failure::Refused(answer))
        }
        Err(error) => Err(error.into()),
    };
    print_text(&format.render(&Value::Object(said)).map_err(|error| Failure::Render(error.to_string()))?);
    outcome
}

/// What a JWT says of itself. Nobody has verified it: it is for the eyes of its owner only.
pub(super) fn claims(token: &str) -> Option<Map<String, Value>> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        let token = format!("e30.{}.sig", BASE64.encode(r#"{"sub":"42"}"#));
        assert_eq!(claims(&token).unwrap()["sub"], "42");
        for other in ["", "opaque", "a.b.c", "e30.W10.x"] {
            assert!(claims(other).is_none(), "{other}");
        }
    }
}
