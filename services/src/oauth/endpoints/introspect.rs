//! Introspection (RFC 7662): what a token is worth at this moment.
//!
//! A client has to prove who it is, and learns about tokens that were issued to it. A client that an administrator
//! has set up with `introspect` is a resource server: it learns about all access tokens of the deployment. Refresh
//! tokens are nobody's business but of the client that has them: a resource server that heard of one that is active
//! would take it for an access token. For the same reason nobody learns of the sessions of browsers on hosts.
//!
//! Who asks here has nothing else to judge a token by. So the lists of the token's resources are asked as at each
//! request to them: `aud` has the resources that still let its user in, `scope` what all of these give, and if
//! there is none the token is not active.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::{Response, StatusCode};
use portcullis_layers::{Check, Principal};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::client_request::post;
use super::{Asked, unavailable};
use crate::oauth::audiences::{AudienceHost, Audiences};
use crate::oauth::authorization_server::{BROWSER_CLIENT, Event};
use crate::oauth::clients::Client;
use crate::oauth::grants;
use crate::oauth::server::error::{ErrorCode, OAuthError, json};
use crate::oauth::server::request::IntrospectRequest;
use crate::oauth::server::resource::Resource;
use crate::oauth::state::{after, seconds};

/// What is said of a token (RFC 7662, section 2.2). Of one that is not good, or not the client's business, nothing
/// but `active`: members without a value are left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Introspection {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// RFC 6749, section 7.1, has no type for refresh tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aud: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
}

/// The times of a token that the layers have no use for.
#[derive(Debug, Default, Deserialize)]
struct Times {
    iat: Option<u64>,
    nbf: Option<u64>,
}

/// `POST`.
pub(super) async fn introspect(asked: Asked) -> Response<Bytes> {
    post(&asked, "token_introspection", async |asked, params, client| {
        if client.is_public() {
            // RFC 7662, section 2.1: against scanning for tokens, the endpoint must know who asks.
            return Err(OAuthError::new(
                ErrorCode::InvalidClient,
                "only a client that can prove who it is may ask",
            ));
        }
        let request = IntrospectRequest::parse(params)?;
        let token = request.token.expose_secret();
        // The form of a token says what it is better than a hint.
        let told = if token.starts_with(grants::PREFIX) {
            refresh(asked, client, token).await?
        } else {
            access(asked, client, token).await?
        };
        asked.server.note(&Event {
            client_id: Some(&client.id),
            subject: told.as_ref().and_then(|told| told.sub.as_deref()),
            username: told.as_ref().and_then(|told| told.username.as_deref()),
            ..asked.event("token_introspection", None)
        });
        Ok(json(StatusCode::OK, &told.unwrap_or_default()))
    })
    .await
}

async fn access(asked: &Asked, client: &Client, token: &str) -> Result<Option<Introspection>, OAuthError> {
    let server = &asked.server;
    let own = Event { client_id: Some(&client.id), ..Event::default() };
    let verified = match server.verifier.verify(token) {
        Ok(verified) => verified,
        Err(fault) => {
            asked.failed_token(&fault, inactive(fault.description()), own);
            return Ok(None);
        }
    };
    let who = verified.principal();
    let owner = who.client_id.as_deref().unwrap_or_default();
    let about = Event { subject: Some(&who.subject), username: who.username.as_deref(), ..own };
    if who.foreign || owner == BROWSER_CLIENT || !(client.introspects || owner == client.id) {
        asked.failed(Check::Token.as_str(), inactive("the token is not the client's business"), about);
        return Ok(None);
    }
    let audiences = server.audiences().await.map_err(|error| unavailable(&error))?;
    let resources = who.audience.iter().map(SmolStr::as_str);
    let scopes = who.scopes.iter().map(SmolStr::as_str);
    let Some(Held { aud, scope }) = Held::of(&audiences, |_| Principal::clone(who), resources, scopes) else {
        asked.failed(Check::User.as_str(), inactive("no resource of the token lets its user in"), about);
        return Ok(None);
    };
    let Times { iat, nbf } = times(token);
    Ok(Some(Introspection {
        active: true,
        scope: Some(scope),
        client_id: Some(owner.to_owned()),
        username: who.username.as_ref().map(ToString::to_string),
        token_type: Some("Bearer"),
        exp: Some(who.expires_at),
        iat,
        nbf,
        sub: Some(who.subject.to_string()),
        aud,
        iss: Some(server.issuer.as_str().to_owned()),
        jti: who.token_id.as_ref().map(ToString::to_string),
    }))
}

async fn refresh(asked: &Asked, client: &Client, token: &str) -> Result<Option<Introspection>, OAuthError> {
    let server = &asked.server;
    let known = server.grants.find_refresh(token, asked.now).await.map_err(|error| unavailable(&error))?;
    let own = Event { client_id: Some(&client.id), ..Event::default() };
    let Some(grant) = known.filter(|grant| grant.client.id == client.id) else {
        let why = "the token has ended, is not known, or is another client's";
        asked.failed(Check::Token.as_str(), inactive(why), own);
        return Ok(None);
    };
    let login = grant.identity.as_ref().map(|identity| identity.login.as_str());
    let about = Event { subject: Some(&grant.subject), username: login, ..own };
    let audiences = server.audiences().await.map_err(|error| unavailable(&error))?;
    let issuer = server.issuer.as_str();
    if let Some(identity) = &grant.identity
        && !asked.owns_login(identity).await?
    {
        let why = "the login of its user may be somebody else's by now";
        asked.failed(Check::User.as_str(), inactive(why), about);
        return Ok(None);
    }
    let who = |host: &AudienceHost| match &grant.identity {
        Some(identity) => asked.principal_at(host, identity),
        None => Principal { subject: grant.subject.as_str().into(), ..Principal::default() },
    };
    let resources = grant.resources.iter().map(String::as_str);
    let scopes = grant.scopes.iter().map(String::as_str);
    let Some(Held { aud, scope }) = Held::of(&audiences, who, resources, scopes) else {
        asked.failed(Check::User.as_str(), inactive("no resource of the grant lets its user in"), about);
        return Ok(None);
    };
    let ends = grant.expires_at.min(after(grant.used_at, server.settings.tokens.idle));
    Ok(Some(Introspection {
        active: true,
        scope: Some(scope),
        client_id: Some(grant.client.id),
        username: grant.identity.map(|identity| identity.login),
        exp: Some(seconds(ends)),
        iat: Some(seconds(grant.used_at)),
        sub: Some(grant.subject),
        aud,
        iss: Some(issuer.to_owned()),
        ..Introspection::default()
    }))
}

/// Why a token is not active. For the log of events: the answer says nothing of it (RFC 7662, section 2.2).
fn inactive(why: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidToken, why)
}

/// What the lists leave of a token.
struct Held {
    aud: Vec<String>,
    scope: String,
}

impl Held {
    /// The resources that let somebody in, and the scopes that all of these give: a right at one of them is none at
    /// another, and nobody can tell here where the token is to be used.
    fn of<'a>(
        audiences: &Audiences,
        who: impl Fn(&AudienceHost) -> Principal,
        resources: impl Iterator<Item = &'a str>,
        scopes: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let mut aud = Vec::new();
        let mut hosts: Vec<(AudienceHost, Principal)> = Vec::new();
        for resource in resources {
            let found = Resource::parse(resource).ok().and_then(|resource| audiences.find(&resource));
            let Some(host) = found else { continue };
            let who = who(&host);
            if host.admits(&who) {
                aud.push(resource.to_owned());
                hosts.push((host, who));
            }
        }
        let given = scopes.filter(|scope| hosts.iter().all(|(host, who)| host.gives(who, scope)));
        (!hosts.is_empty()).then(|| Self { scope: given.collect::<Vec<_>>().join(" "), aud })
    }
}

/// The times of a token whose signature was verified.
fn times(token: &str) -> Times {
    let claims = token.split('.').nth(1).and_then(|claims| BASE64.decode(claims).ok());
    claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or_default()
}
