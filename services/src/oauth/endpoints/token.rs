//! The token endpoint (OAuth 2.1, section 3.2), by grant type.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use portcullis_layers::Principal;
use secrecy::ExposeSecret;

use super::answer::{self, Login};
use super::authorize::{found, wanted};
use super::{Asked, device, unavailable};
use crate::oauth::audiences::{AudienceHost, Audiences, principal};
use crate::oauth::authorization_server::Event;
use crate::oauth::claims::SERVICE;
use crate::oauth::clients::auth::{Form, Refusal};
use crate::oauth::clients::{
    AuthError, Client, ClientUrl, Credentials, GrantType, LookupError, Metadata, Origin,
};
use crate::oauth::codes::{Fresh, Presented};
use crate::oauth::grants::{self, Issued, NewGrant, Wanted, new_id};
use crate::oauth::server::cors;
use crate::oauth::server::error::{ErrorCode, OAuthError, Tried};
use crate::oauth::server::params::Params;
use crate::oauth::server::request::TokenRequest;
use crate::oauth::server::resource::narrowed;
use crate::oauth::server::scope::Scopes;
use crate::oauth::state::Scopes as ScopeSet;

/// `POST`.
pub(super) async fn token(asked: Asked) -> Response<Bytes> {
    served(&asked, &GrantType::ALL).await
}

/// `POST /device/token`: where older clients redeem device codes. RFC 8628 has no such endpoint.
pub(super) async fn device_token(asked: Asked) -> Response<Bytes> {
    served(&asked, &[GrantType::DeviceCode]).await
}

async fn served(asked: &Asked, grants: &[GrantType]) -> Response<Bytes> {
    post(asked, "token_exchange", async |asked, params, client| {
        let request = TokenRequest::parse(params)?;
        let grant = request.grant_type();
        if !grants.contains(&grant) {
            return Err(OAuthError::new(ErrorCode::UnsupportedGrantType, "not served here"));
        }
        if !client.may(grant) {
            let why = "the client may not use this grant type";
            return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
        }
        let audiences = asked.server.audiences().await.map_err(|error| unavailable(&error))?;
        let (issued, login) = match request {
            TokenRequest::AuthorizationCode { code, redirect_uri, code_verifier, resources } => {
                let proof = Proof {
                    code: code.expose_secret(),
                    redirect_uri: redirect_uri.as_deref(),
                    verifier: code_verifier.expose_secret(),
                };
                redeem(asked, &audiences, client, proof, &resources).await?
            }
            TokenRequest::RefreshToken { refresh_token, scope, resources } => {
                let token = refresh_token.expose_secret();
                (
                    refresh(asked, &audiences, client, token, scope.as_ref(), &resources).await?,
                    Login::default(),
                )
            }
            TokenRequest::ClientCredentials { scope, resources } => {
                (own(asked, &audiences, client, scope.as_ref(), &resources).await?, Login::default())
            }
            TokenRequest::DeviceCode { device_code, resources } => {
                device::redeem(asked, &audiences, client, device_code.expose_secret(), &resources).await?
            }
            TokenRequest::JwtBearer { .. } | TokenRequest::TokenExchange(_) => {
                return Err(OAuthError::new(ErrorCode::UnsupportedGrantType, "not served here"));
            }
        };
        // They were looked up before anything was used up.
        let hosts = found(&audiences, &issued.access.resources)?;
        asked.server.note(&Event {
            resources: &issued.access.resources,
            client_id: Some(&client.id),
            subject: Some(&issued.grant.subject),
            username: issued.access.username.as_deref(),
            ..asked.event(
                if grant == GrantType::RefreshToken { "token_refresh" } else { "token_exchange" },
                None,
            )
        });
        answer::of(asked, &issued, &hosts, login)
    })
    .await
}

/// What is the same for all endpoints that clients post a form to, and prove themselves at: CORS, limits, the
/// client, the wording of errors.
pub(super) async fn post(
    asked: &Asked,
    event: &'static str,
    handler: impl AsyncFnOnce(&Asked, &Params, &Client) -> Result<Response<Bytes>, OAuthError>,
) -> Response<Bytes> {
    match asked.method {
        Method::POST => {}
        Method::OPTIONS => return cors::POSTS.preflight(),
        _ => return cors::POSTS.method_not_allowed(),
    }
    let tried = tried(asked);
    let params = asked.form();
    let named = params.as_ref().map(|params| named(asked, params)).unwrap_or_default();
    let outcome = async {
        let params = params?;
        let client = authenticated(asked, &params).await?;
        handler(asked, &params, &client).await
    };
    let mut response = match outcome.await {
        Ok(response) => response,
        Err(error) => failed(asked, event, &named, error).json(tried),
    };
    cors::POSTS.apply(response.headers_mut());
    response
}

/// Counts and notes a failure: what is asked again and again without success is soon too much. Good requests are
/// not concerned, for others may be behind the same address, or say that they are the same client.
fn failed(asked: &Asked, event: &'static str, client_id: &str, error: OAuthError) -> OAuthError {
    if !matches!(error.code(), ErrorCode::AuthorizationPending | ErrorCode::SlowDown) {
        asked.server.note(&asked.event(event, Some(&error)));
    }
    if !matches!(error.code(), ErrorCode::InvalidClient | ErrorCode::InvalidGrant) {
        return error;
    }
    let counted = asked.server.limits.failures.count_client(asked.client, client_id, asked.now);
    counted.err().map_or(error, OAuthError::too_many)
}

/// The client that a request says it is from, whether that is true or not; empty if it says nothing.
fn named(asked: &Asked, params: &Params) -> String {
    let get = |name| params.get(name).ok().flatten();
    let form = Form {
        client_id: get("client_id"),
        client_secret: None,
        client_assertion_type: get("client_assertion_type"),
        client_assertion: get("client_assertion"),
    };
    let read = Credentials::read(&asked.headers, form);
    read.map(|credentials| credentials.client_id().to_owned()).unwrap_or_default()
}

fn tried(asked: &Asked) -> Tried {
    let basic = |value: &HeaderValue| {
        value.as_bytes().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
    };
    let header = asked.headers.get_all(http::header::AUTHORIZATION);
    if header.iter().any(basic) { Tried::Basic } else { Tried::Other }
}

/// The client that a request is from, if it has proved that.
pub(super) async fn authenticated(asked: &Asked, params: &Params) -> Result<Client, OAuthError> {
    let form = Form {
        client_id: params.get("client_id")?,
        client_secret: params.get("client_secret")?,
        client_assertion_type: params.get("client_assertion_type")?,
        client_assertion: params.get("client_assertion")?,
    };
    let credentials = Credentials::read(&asked.headers, form).map_err(|error| refused(&error))?;
    if let Err(wait) = asked.may_look_up(credentials.client_id()) {
        return remembered(asked, params, &credentials).await?.ok_or_else(|| OAuthError::too_many(wait));
    }
    match asked.server.authenticator.authenticate(&credentials, asked.now).await {
        Err(AuthError::Client { reason: Refusal::Lookup(LookupError::Document(error)), .. })
            if error.is_temporary() =>
        {
            remembered(asked, params, &credentials).await?.ok_or_else(|| {
                OAuthError::new(
                    ErrorCode::TemporarilyUnavailable,
                    "the client's metadata document can't be fetched",
                )
            })
        }
        outcome => outcome.map_err(|error| refused(&error)),
    }
}

/// The client of a refresh token, as its document was when the user agreed: that the document's host is away for a
/// while must not end a grant. A client that proves itself by a key needs the keys of now.
async fn remembered(
    asked: &Asked,
    params: &Params,
    credentials: &Credentials,
) -> Result<Option<Client>, OAuthError> {
    let Some(token) = params.get("refresh_token")? else { return Ok(None) };
    let Ok(url) = credentials.client_id().parse::<ClientUrl>() else { return Ok(None) };
    let known =
        asked.server.grants.of_refresh(token, asked.now).await.map_err(|error| unavailable(&error))?;
    let known = known.filter(|grant| grant.client.id == url.as_str());
    let metadata = known.and_then(|grant| serde_json::from_value::<Metadata>(grant.client.snapshot).ok());
    let client = metadata.map(|metadata| Client::of_document(&url, Arc::new(metadata)));
    Ok(client.filter(Client::is_public))
}

fn refused(error: &AuthError) -> OAuthError {
    match error {
        AuthError::Request(why) => OAuthError::new(ErrorCode::InvalidRequest, *why),
        AuthError::Client { reason, .. } => {
            tracing::info!(reason = reason as &dyn std::error::Error, "a client was refused");
            OAuthError::new(ErrorCode::InvalidClient, error.to_string())
        }
        AuthError::Unavailable(source) => {
            tracing::error!(error = &**source as &dyn std::error::Error, "clients can't be looked up");
            OAuthError::new(ErrorCode::TemporarilyUnavailable, "try again in a while")
        }
    }
}

/// What a code is redeemed with.
struct Proof<'a> {
    code: &'a str,
    redirect_uri: Option<&'a str>,
    verifier: &'a str,
}

/// OAuth 2.1, section 4.1.3.
async fn redeem(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    proof: Proof<'_>,
    resources: &[String],
) -> Result<(Issued, Login), OAuthError> {
    let server = &asked.server;
    let invalid = |why: String| OAuthError::new(ErrorCode::InvalidGrant, why);
    let presented = server.codes.find(proof.code, asked.now).await.map_err(|error| unavailable(&error))?;
    let Fresh { authorization, used } = match presented {
        Presented::Fresh(fresh) => *fresh,
        Presented::Replayed { grant } => return Err(replayed(asked, &grant).await),
        Presented::Unknown => return Err(invalid("the code is not known, or has expired".to_owned())),
    };
    if let Err(mismatch) = authorization.check(&client.id, proof.redirect_uri, proof.verifier) {
        // Nobody is to try verifiers on it.
        server.codes.take(proof.code, asked.now).await.map_err(|error| unavailable(&error))?;
        return Err(invalid(mismatch.to_string()));
    }
    let wanted = narrowed(resources, &authorization.resources)?;
    // Before the code is used up: a host that is away for a while costs nobody a login.
    found(audiences, &wanted)?;
    let login = Login {
        nonce: authorization.nonce,
        authenticated_at: Some(authorization.authenticated_at),
        issued_token_type: None,
    };
    let id = authorization.grant.clone();
    let new = NewGrant {
        id: authorization.grant,
        subject: authorization.identity.subject.clone(),
        identity: Some(authorization.identity),
        client: grants::Client { id: authorization.client_id, snapshot: authorization.client },
        resources: authorization.resources,
        scopes: authorization.scopes,
        session: authorization.session,
        refreshable: client.may(GrantType::RefreshToken),
    };
    let wanted = Wanted { scopes: None, resources: &wanted };
    match server.grants.create_with(new, wanted, Some(used), asked.now).await {
        Ok(issued) => Ok((issued, login)),
        Err(grants::Error::Taken) => Err(replayed(asked, &id).await),
        Err(error) => Err(grant_error(&error)),
    }
}

/// Ends what a code has yielded that came twice.
async fn replayed(asked: &Asked, grant: &str) -> OAuthError {
    match asked.server.grants.forbid(grant, asked.now).await {
        Ok(()) => grant_error(&grants::Error::Taken),
        Err(error) => unavailable(&error),
    }
}

/// OAuth 2.1, section 4.3.
async fn refresh(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    token: &str,
    scope: Option<&Scopes>,
    resources: &[String],
) -> Result<Issued, OAuthError> {
    let server = &asked.server;
    let known = server.grants.of_refresh(token, asked.now).await.map_err(|error| unavailable(&error))?;
    let scopes: Option<ScopeSet> = scope.map(|scope| scope.iter().map(str::to_owned).collect());
    let (scopes, resources) = match known {
        Some(grant) if grant.client.id == client.id => {
            let resources = narrowed(resources, &grant.resources)?;
            (Some(still_given(asked, audiences, &grant, scopes, &resources).await?), resources)
        }
        // Whatever it is, `refresh` refuses it in the right way.
        _ => (scopes, Vec::new()),
    };
    let wanted = Wanted { scopes: scopes.as_ref(), resources: &resources };
    let issued = server
        .grants
        .refresh(token, &client.id, wanted, asked.now)
        .await
        .map_err(|error| grant_error(&error))?;
    if client.origin == Origin::Registered {
        let used = server.clients.used(client, asked.now).await.map_err(|error| unavailable(&error))?;
        if !used {
            return Err(OAuthError::new(ErrorCode::InvalidClient, "the client's registration has ended"));
        }
    }
    Ok(issued)
}

/// The scopes that the lists of the wanted resources still give to the person of a grant, of those that are wanted.
/// The grant keeps its own: who is on a list again has them again. Who is on no list of the grant's resources any
/// more gets no further tokens: the grant ends.
async fn still_given(
    asked: &Asked,
    audiences: &Audiences,
    grant: &grants::Grant,
    wanted: Option<ScopeSet>,
    resources: &[String],
) -> Result<ScopeSet, OAuthError> {
    let wanted = wanted.unwrap_or_else(|| grant.scopes.clone());
    // Before the token is rotated, and nothing ends: the host may be away for a while only.
    let hosts = found(audiences, resources)?;
    let Some(identity) = &grant.identity else { return Ok(wanted) };
    let who = principal(identity, asked.server.issuer.as_str());
    let admitting: Vec<&AudienceHost> = hosts.iter().filter(|host| host.admits(&who)).collect();
    if admitting.is_empty() {
        if found(audiences, &grant.resources)?.iter().any(|host| host.admits(&who)) {
            let why = "this account is not on a list of the resource";
            return Err(OAuthError::new(ErrorCode::InvalidTarget, why));
        }
        asked.server.grants.revoke(&grant.id, asked.now).await.map_err(|error| unavailable(&error))?;
        let why = "this account is no longer on a list of the resource";
        return Err(OAuthError::new(ErrorCode::InvalidGrant, why));
    }
    let is_given = |scope: &String| admitting.iter().any(|host| host.gives(&who, scope));
    // What was never granted stays: `refresh` refuses it.
    let given: ScopeSet =
        wanted.iter().filter(|scope| !grant.scopes.contains(*scope) || is_given(scope)).cloned().collect();
    if given.is_empty() && !wanted.is_empty() {
        let why = "this account may have none of these scopes any more";
        return Err(OAuthError::new(ErrorCode::InvalidScope, why));
    }
    Ok(given)
}

/// OAuth 2.1, section 4.2: the client is its own subject, and gets what it is registered for.
async fn own(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    scope: Option<&Scopes>,
    resources: &[String],
) -> Result<Issued, OAuthError> {
    if client.is_public() {
        let why = "a client that can't prove who it is gets no token of its own";
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
    }
    let (resources, scopes) = wanted(asked, audiences, client, resources, scope)?;
    // As lists of users have it. No named token has a slash in its name, so none is mistaken for a client.
    let subject = format!("{SERVICE}client/{}", client.id);
    let who = Principal { subject: subject.as_str().into(), ..Principal::default() };
    let hosts = found(audiences, &resources)?;
    if let Some(closed) = hosts.iter().find(|host| !host.admits(&who)) {
        let why = format!("{subject} is not on the list of {}", closed.resource);
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
    }
    let scopes = scopes.only(|scope| hosts.iter().any(|host| host.gives(&who, scope)));
    let new = NewGrant {
        id: new_id(),
        subject,
        identity: None,
        client: grants::Client { id: client.id.clone(), snapshot: serde_json::Value::Null },
        resources,
        scopes: scopes.iter().map(str::to_owned).collect(),
        session: None,
        refreshable: false,
    };
    asked.server.grants.create(new, Wanted::default(), asked.now).await.map_err(|error| grant_error(&error))
}

/// The code of a grant's error.
pub(super) fn grant_error(error: &grants::Error) -> OAuthError {
    let code = match error {
        grants::Error::Invalid
        | grants::Error::Replayed { .. }
        | grants::Error::SessionEnded
        | grants::Error::Taken => ErrorCode::InvalidGrant,
        grants::Error::Full { retry_after } => return OAuthError::too_many(*retry_after),
        grants::Error::Scope => ErrorCode::InvalidScope,
        grants::Error::Target => ErrorCode::InvalidTarget,
        grants::Error::Store(error) => return unavailable(error),
    };
    OAuthError::new(code, error.to_string())
}
