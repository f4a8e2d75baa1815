//! Browsers on protected hosts: they sign in at the issuer, and get a session of their own on the host.
//!
//! The `auth` layer of the host sends a browser to `/login` with where it wants to come back to, and a state that it
//! keeps in a cookie. Here its user signs in, or has done so before; the lists of the host are asked; then the browser
//! takes a ticket back to the host, which is good once, there, for that browser, within a minute. The ticket stands for
//! the host's cookie, an access token that is good for nothing but this host's browser session.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ORIGIN, REFERRER_POLICY};
use http::uri::Uri;
use http::{HeaderValue, Method, Response, StatusCode};
use portcullis_layers::HostName;
use portcullis_layers::auth::STATE_COOKIE;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::answer::sign;
use super::session::current_session;
use super::token::grant_error;
use super::{Asked, internal, unavailable, upstream, with_cookies};
use crate::config::auth::AuthMode;
use crate::oauth::audiences::{AudienceHost, Audiences};
use crate::oauth::authorization_server::{BROWSER_CLIENT, Event};
use crate::oauth::grants::{Client, NewGrant, Wanted, new_id};
use crate::oauth::host::OAuthHost;
use crate::oauth::login::Purpose;
use crate::oauth::opaque;
use crate::oauth::server::cookies;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path::{self, HOST_SESSION};
use crate::oauth::server::pages::Notice;
use crate::oauth::server::redirect::see_other;
use crate::oauth::sessions::Session;
use crate::oauth::state::{Scopes, left};
use crate::store::ItemKey;

/// How long a ticket is good: a redirect takes seconds.
const TICKET: Duration = Duration::from_secs(60);

/// What a ticket stands for. Kept sealed.
#[derive(Serialize, Deserialize)]
struct Ticket {
    host: HostName,
    path: String,
    state: String,
    token: String,
    /// How long the cookie lives, in seconds.
    age: u64,
}

/// `GET /login?return_url=…&state=…`, or without both to sign in here only.
pub(super) async fn login(asked: Asked) -> Response<Bytes> {
    if !asked.is_get() {
        return Asked::method_not_allowed("GET, HEAD");
    }
    begun(&asked).await.unwrap_or_else(|error| asked.error_page(&error))
}

async fn begun(asked: &Asked) -> Result<Response<Bytes>, OAuthError> {
    asked.server.limits.logins.count(asked.client, asked.now).map_err(OAuthError::too_many)?;
    let params = asked.query()?;
    let audiences = asked.server.audiences().await.map_err(|error| unavailable(&error))?;
    let session =
        current_session(asked).await?.filter(|session| asked.can_judge(&audiences, &[], &session.identity));
    let Some(url) = params.get("return_url")? else {
        return match session {
            Some(session) => {
                let user = &session.identity.login;
                Ok(Notice::SignedIn { user }.response(&asked.server.pages))
            }
            None => {
                let purpose = Purpose::Page { path: path::LOGIN.to_owned(), app_of: None };
                upstream::begin(asked, &audiences, purpose).await
            }
        };
    };
    let (host, path) = destination(asked, &audiences, url)?;
    let of_host = audiences.of_host(&host);
    let session =
        session.filter(|session| asked.can_judge(&audiences, of_host.as_slice(), &session.identity));
    let session = asked.with_upstream_token(session, of_host.as_ref()).await?;
    let state = params.require("state")?;
    if opaque::hash_of_presented(state).is_none() {
        return Err(OAuthError::new(ErrorCode::InvalidRequest, "state is none of ours"));
    }
    match session {
        Some(session) => ticket(asked, &audiences, &session, host, path, state.to_owned()).await,
        None => {
            let purpose = Purpose::Host { host, path, state: state.to_owned() };
            upstream::begin(asked, &audiences, purpose).await
        }
    }
}

/// The host that a URL is on, if it sends its browsers here, and the path to come back to.
fn destination(asked: &Asked, audiences: &Audiences, url: &str) -> Result<(HostName, String), OAuthError> {
    let nowhere =
        || OAuthError::new(ErrorCode::InvalidRequest, "return_url is not on a host that signs in here");
    let uri: Uri = url.parse().map_err(|_| nowhere())?;
    let authority = uri.authority().ok_or_else(nowhere)?.as_str();
    let host = authority.strip_suffix(asked.server.site.port_suffix.as_str()).ok_or_else(nowhere)?;
    let host: HostName = host.parse().map_err(|_| nowhere())?;
    let found = audiences.of_host(&host).ok_or_else(nowhere)?;
    if uri.scheme_str() != Some("https")
        || !found.proxy.is_some_and(|proxy| proxy.auth_mode == AuthMode::Redirect)
    {
        return Err(nowhere());
    }
    // A path that begins with two slashes would be another host's.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with("//") || !path.starts_with('/') { "/" } else { path };
    Ok((host, path.to_owned()))
}

/// Sends the browser back to a host, with a ticket for a session there, if the host's lists let its user in.
pub(super) async fn ticket(
    asked: &Asked,
    audiences: &Audiences,
    session: &Session,
    host: HostName,
    path: String,
    state: String,
) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    let gone = || OAuthError::new(ErrorCode::InvalidTarget, "the host is gone");
    let found = audiences.of_host(&host).ok_or_else(gone)?;
    let who = asked.principal_at(&found, &session.identity);
    if !found.admits(&who) {
        let why = format!("{} is not on the list of {host}", session.identity.login);
        let error = OAuthError::new(ErrorCode::AccessDenied, why);
        server.note(&Event {
            host: Some(host.as_str()),
            client_id: Some(BROWSER_CLIENT),
            subject: Some(&session.identity.subject),
            username: Some(&session.identity.login),
            ..asked.event("user_check", Some(&error))
        });
        return Err(error);
    }
    let origin = server.site.origin(host.as_str());
    let token = host_token(asked, session, &found, &origin).await?;
    let ticket = opaque::generate();
    let age = left(token.1, asked.now).as_secs();
    let kept = Ticket { host: host.clone(), path, state, token: token.0.expose_secret().to_owned(), age };
    let key = key(ticket.expose_secret());
    let json = secrecy::zeroize::Zeroizing::new(serde_json::to_vec(&kept).expect("texts serialise"));
    let sealed = server.vault.seal(&key.id, &json).map_err(|error| internal(&error))?;
    let sealed = serde_json::to_vec(&sealed).expect("a JSON value serialises");
    server.mirror.store().put_item(&key, &sealed, TICKET).await.map_err(|error| unavailable(&error))?;
    server.note(&Event {
        host: Some(host.as_str()),
        client_id: Some(BROWSER_CLIENT),
        subject: Some(&session.identity.subject),
        username: Some(&session.identity.login),
        ..asked.event("auth_complete", None)
    });
    Ok(see_other(&format!("{origin}{HOST_SESSION}?ticket={}", ticket.expose_secret())))
}

/// The token of a host's cookie, and when it ends. It carries all scopes that the lists give at the moment: each
/// request asks them again.
async fn host_token(
    asked: &Asked,
    session: &Session,
    host: &AudienceHost,
    origin: &str,
) -> Result<(SecretString, jiff::Timestamp), OAuthError> {
    let server = &asked.server;
    let who = asked.principal_at(host, &session.identity);
    let usual = host.usual_scopes().into_iter().chain(["admin", "user", "mcp"].map(str::to_owned));
    let scopes: Scopes = usual.filter(|scope| host.gives(&who, scope)).collect();
    let new = NewGrant {
        id: new_id(),
        subject: session.identity.subject.clone(),
        identity: Some(session.identity.clone()),
        client: Client { id: BROWSER_CLIENT.to_owned(), snapshot: serde_json::Value::Null },
        resources: vec![format!("{origin}{HOST_SESSION}")],
        scopes,
        session: Some(session.id.clone()),
        refreshable: false,
    };
    let issued = server
        .host_grants
        .create(new, Wanted::default(), asked.now)
        .await
        .map_err(|error| grant_error(&error))?;
    let token = sign(asked, &issued, std::slice::from_ref(host))?;
    if !cookies::holds(&token) {
        server.host_grants.revoke(&issued.grant.id, asked.now).await.map_err(|error| unavailable(&error))?;
        // A cookie that browsers drop would send them here again and again.
        let why = "this account has more groups and scopes on this host than a cookie can hold";
        return Err(OAuthError::new(ErrorCode::ServerError, why));
    }
    Ok((token, issued.access.expires_at))
}

/// `GET`, on the host: takes the ticket, sets the host's cookie.
pub(super) async fn begin(asked: Asked) -> Response<Bytes> {
    if !asked.is_get() {
        return Asked::method_not_allowed("GET, HEAD");
    }
    taken(&asked).await.unwrap_or_else(|error| asked.error_page(&error))
}

async fn taken(asked: &Asked) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    let params = asked.query()?;
    let bad = || {
        OAuthError::new(ErrorCode::ExpiredToken, "the ticket was used, is too old, or is for another browser")
    };
    let ticket = params.require("ticket")?;
    let (Some(at), Some(_)) = (&asked.host, opaque::hash_of_presented(ticket)) else { return Err(bad()) };
    let key = key(ticket);
    let item = server.mirror.store().take_item(&key).await.map_err(|error| unavailable(&error))?;
    let sealed = serde_json::from_slice(&item.ok_or_else(bad)?).map_err(|_| bad())?;
    let opened = server.vault.open(&key.id, &sealed).map_err(|error| internal(&error))?;
    let kept: Ticket = serde_json::from_slice(opened.expose_secret()).map_err(|_| bad())?;
    let state = cookies::read(&asked.headers, STATE_COOKIE).ok_or_else(bad)?;
    let host = &at.name;
    if kept.host != *host || !opaque::same(state.expose_secret(), &kept.state) {
        return Err(bad());
    }
    let cookie = cookies::set_token(&at.proxy.session_cookie(), &kept.token, Duration::from_secs(kept.age));
    let location = format!("{}{}", server.site.origin(host.as_str()), kept.path);
    Ok(with_cookies(see_other(&location), [cookie]))
}

/// `POST`, on the host: ends its session in this browser. A form of another site can't do that.
pub(super) async fn end(asked: Asked) -> Response<Bytes> {
    if asked.method != Method::POST {
        return Asked::method_not_allowed("POST");
    }
    ended(&asked).await.unwrap_or_else(|error| asked.error_page(&error))
}

async fn ended(asked: &Asked) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    let Some(OAuthHost { name: host, proxy, .. }) = &asked.host else {
        return Err(OAuthError::new(ErrorCode::InvalidRequest, "there is no such host"));
    };
    let origin = server.site.origin(host.as_str());
    let own = asked.headers.get(ORIGIN).is_none_or(|value| value.as_bytes() == origin.as_bytes());
    let site = asked.headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    if !own || !site {
        return Err(OAuthError::new(ErrorCode::InvalidRequest, "only this host itself may ask for that"));
    }
    let name = proxy.session_cookie();
    if let Some(token) = cookies::read_token(&asked.headers, &name)
        && let Ok(verified) = server.verifier.verify(token.expose_secret())
        && verified.principal().audience.iter().any(|one| one.as_str() == format!("{origin}{HOST_SESSION}"))
        && let Some(jti) = &verified.principal().token_id
    {
        let until = i64::try_from(verified.principal().expires_at).unwrap_or(i64::MAX);
        let until = jiff::Timestamp::from_second(until).unwrap_or(asked.now);
        server.host_grants.revoke_access(jti, until).await.map_err(|error| unavailable(&error))?;
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(with_cookies(response, [cookies::clear(&name)]))
}

/// The store knows a ticket by its hash only.
fn key(ticket: &str) -> ItemKey {
    ItemKey { kind: "ticket", id: opaque::hash(ticket.as_bytes()) }
}
