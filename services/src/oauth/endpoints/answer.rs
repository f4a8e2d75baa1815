//! The answer of the token endpoint (RFC 6749, section 5.1), with an ID token where one was asked for.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use http::{HeaderValue, header::HeaderName};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::{Asked, internal};
use crate::oauth::audiences::AudienceHost;
use crate::oauth::claims::Claims;
use crate::oauth::grants::Issued;
use crate::oauth::id_token::{IdClaims, Person};
use crate::oauth::server::error::OAuthError;
use crate::oauth::server::scope::{OPENID, Scopes};
use crate::oauth::state::{Identity, left, seconds};

/// The scopes for what is known of a person (OpenID Connect Core 1.0, section 5.4).
const EMAIL: &str = "email";
const PROFILE: &str = "profile";

/// How long an ID token is good: it only has to reach the client.
const ID_TOKEN: Duration = Duration::from_secs(600);

/// What goes with tokens: it is for nobody else to keep (RFC 6749, section 5.1).
const HEADERS: [(HeaderName, &str); 3] =
    [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")];

/// A successful answer. Members without a value are left out: clients refuse `null`.
#[derive(Serialize)]
struct Answer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
}

/// What only the login itself knows of.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub(super) nonce: Option<String>,
    pub(super) authenticated_at: Option<Timestamp>,
    pub(super) issued_token_type: Option<&'static str>,
}

/// Signs what was issued.
pub(super) fn of(
    asked: &Asked,
    issued: &Issued,
    hosts: &[AudienceHost],
    login: Login,
) -> Result<Response<Bytes>, OAuthError> {
    let keys = asked.server.keys();
    let token = sign(asked, issued, hosts)?;
    let access = &issued.access;
    // Nobody signs in by exchanging tokens.
    let signed_in = access.scopes.contains(OPENID) && login.issued_token_type.is_none();
    let id_token = match (&issued.grant.identity, signed_in) {
        (Some(identity), true) => {
            let scopes: Vec<&str> = access.scopes.iter().map(String::as_str).collect();
            let scopes = Scopes::parse(&scopes.join(" "))?;
            let claims = IdClaims::new(
                asked.server.issuer.as_str(),
                &access.subject,
                &access.client_id,
                ID_TOKEN,
                asked.now,
            )
            .map_err(|error| internal(&error))?;
            let claims = IdClaims {
                auth_time: login.authenticated_at.map(seconds),
                nonce: login.nonce,
                person: person(identity).within(&scopes),
                ..claims
            };
            Some(keys.mint_id(&claims.beside(token.expose_secret())))
        }
        _ => None,
    };
    let scopes: Vec<&str> = access.scopes.iter().map(String::as_str).collect();
    Ok(json(&Answer {
        access_token: token.expose_secret(),
        token_type: "Bearer",
        expires_in: left(access.expires_at, asked.now).as_secs(),
        refresh_token: issued.refresh.as_ref().map(ExposeSecret::expose_secret),
        scope: scopes.join(" "),
        id_token,
        issued_token_type: login.issued_token_type,
    }))
}

/// Signs an access token. It says no more of a person than its scopes do, but for what its resources need: of the
/// groups those that a list asks for, and where a list or the upstream needs it the e-mail address and the name.
pub(super) fn sign(
    asked: &Asked,
    issued: &Issued,
    hosts: &[AudienceHost],
) -> Result<SecretString, OAuthError> {
    let identity = issued.grant.identity.as_ref();
    let claims =
        issued.access.claims(asked.server.issuer.as_str(), identity).map_err(|error| internal(&error))?;
    let scopes = &issued.access.scopes;
    let tells_email = scopes.contains(EMAIL) || hosts.iter().any(AudienceHost::needs_email);
    let tells_name = scopes.contains(PROFILE) || hosts.iter().any(AudienceHost::announces);
    let claims = Claims {
        email: claims.email.filter(|_| tells_email),
        name: claims.name.filter(|_| tells_name),
        ..claims
    };
    let groups = identity.into_iter().flat_map(|identity| {
        hosts.iter().flat_map(|host| {
            let known = asked.groups_at(host, identity);
            host.groups().filter(|group| known.contains(group))
        })
    });
    let claims = claims.with_groups(groups);
    Ok(asked.server.keys().mint(&claims).into())
}

/// What is known of a person.
pub(super) fn person(identity: &Identity) -> Person {
    let email = identity.emails.first().cloned();
    Person {
        preferred_username: Some(identity.login.clone()),
        name: identity.name.clone(),
        email_verified: email.is_some().then_some(true),
        email,
    }
}

/// An answer that nobody may keep.
pub(super) fn json(value: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(value).expect("texts and numbers serialise");
    let mut response = Response::new(Bytes::from(body));
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
