//! Devices without a browser (RFC 8628): they ask for codes, their user agrees in a browser elsewhere, they redeem.
//!
//! Who says yes is who is signed in here, and what the device then has is for the lists of the resources to say, as
//! with any other grant. The page warns, for a code may come from somebody else; and it always asks, whoever the
//! client is.

use bytes::Bytes;
use http::{Method, Response};
use portcullis_layers::HostName;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::answer::{self, Login};
use super::checks::DEVICE_POLL;
use super::client_request::post;
use super::code::{Wish, granted, snapshot};
use super::consent::shown as client_shown;
use super::lookup::find_client;
use super::session::current_session;
use super::token::grant_error;
use super::wanted::{found, wanted};
use super::{Asked, unavailable, upstream};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::{Client, GrantType};
use crate::oauth::devices::{Approval, INTERVAL, LIFETIME, Pending, Poll, Request, UserCode};
use crate::oauth::grants::{self, Issued, NewGrant, Wanted};
use crate::oauth::login::Purpose;
use crate::oauth::server::cookies;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path;
use crate::oauth::server::pages::{
    APPROVE, DECISION, DeviceConfirm, DeviceEntry, FORM_TOKEN, Form, Notice, Rights, USER_CODE,
};
use crate::oauth::server::request::DeviceRequest;
use crate::oauth::server::resource::narrowed;
use crate::oauth::server::scope::Scopes;
use crate::oauth::sessions::Session;

/// What the token of the form is for where a code is typed in.
const ENTRY: &str = "device";

/// The answer to a device (RFC 8628, section 3.2).
#[derive(Serialize)]
struct Answer<'a> {
    device_code: &'a str,
    user_code: &'a str,
    verification_uri: &'a str,
    verification_uri_complete: &'a str,
    expires_in: u64,
    interval: u64,
}

/// Who uses the page.
struct Visitor {
    session: Session,
    /// What only their browser has: the tokens of forms are made of it.
    secret: SecretString,
}

/// `POST /device/code` (RFC 8628, section 3.1).
pub(super) async fn code(asked: Asked) -> Response<Bytes> {
    post(&asked, "device_auth", async |asked, params, client| {
        let server = &asked.server;
        if !client.may(GrantType::DeviceCode) {
            let why = "the client may not use device codes";
            return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
        }
        server.limits.devices.count(asked.client, asked.now).map_err(OAuthError::too_many)?;
        let request = DeviceRequest::parse(params)?;
        let audiences = server.audiences().await.map_err(|error| unavailable(&error))?;
        let (resources, scopes) =
            wanted(asked, &audiences, client, &request.resources, request.scope.as_ref())?;
        let request = Request {
            client_id: client.id.clone(),
            client: snapshot(client),
            resources,
            scopes: scopes.iter().map(str::to_owned).collect(),
        };
        let codes = server.devices.issue(request, asked.now).await.map_err(|error| unavailable(&error))?;
        server.note(&Event { client_id: Some(&client.id), ..asked.event("device_auth", None) });
        let page = server.issuer.endpoint(path::DEVICE);
        let user_code = codes.user_code.shown();
        Ok(answer::json(&Answer {
            device_code: codes.device_code.expose_secret(),
            user_code: &user_code,
            verification_uri: &page,
            verification_uri_complete: &format!("{page}?{USER_CODE}={user_code}"),
            expires_in: LIFETIME.as_secs(),
            interval: INTERVAL.as_secs(),
        }))
    })
    .await
}

/// The device grant of the token endpoint (RFC 8628, section 3.4).
pub(super) async fn redeem(
    asked: &Asked,
    audiences: &Audiences,
    client: &Client,
    device_code: &str,
    resources: &[String],
) -> Result<(Issued, Login), OAuthError> {
    let server = &asked.server;
    let polled = server.devices.poll(device_code, &client.id, asked.now).await;
    let (code, why) = match polled.map_err(|error| unavailable(&error))? {
        Poll::Ready(ready) => {
            let wanted = narrowed(resources, &ready.request.resources)?;
            // Before the code is used up: a host that is away for a while costs nobody a login.
            found(audiences, &wanted)?;
            if server.devices.take(&ready, asked.now).await.map_err(|error| unavailable(&error))? {
                let login =
                    Login { authenticated_at: Some(ready.approval.authenticated_at), ..Login::default() };
                let new = NewGrant {
                    id: ready.grant,
                    subject: ready.approval.identity.subject.clone(),
                    identity: Some(ready.approval.identity),
                    client: grants::Client { id: ready.request.client_id, snapshot: ready.request.client },
                    resources: ready.request.resources,
                    scopes: ready.approval.scopes,
                    session: Some(ready.approval.session),
                    refreshable: client.may(GrantType::RefreshToken),
                };
                let wanted = Wanted { scopes: None, resources: &wanted };
                let issued = server
                    .grants
                    .create(new, wanted, asked.now)
                    .await
                    .map_err(|error| grant_error(&error))?;
                return Ok((issued, login));
            }
            (ErrorCode::InvalidGrant, "the device code was used at the same time")
        }
        Poll::Pending => {
            let why = "the user has not decided yet";
            return Err(waits(asked, client, ErrorCode::AuthorizationPending, why));
        }
        Poll::TooSoon => {
            let why = "wait five seconds longer between two questions";
            return Err(waits(asked, client, ErrorCode::SlowDown, why));
        }
        Poll::Denied => (ErrorCode::AccessDenied, "the user refused"),
        Poll::Expired => (ErrorCode::ExpiredToken, "the user took too long: ask for a new code"),
        Poll::Unknown => (ErrorCode::InvalidGrant, "the device code is not known, or was used before"),
    };
    let about = Event { client_id: Some(&client.id), ..Event::default() };
    Err(asked.failed(DEVICE_POLL, OAuthError::new(code, why), about))
}

/// What a device is told that has to ask again: nothing has failed yet.
fn waits(asked: &Asked, client: &Client, code: ErrorCode, why: &'static str) -> OAuthError {
    if asked.server.limits.polls.count(asked.client, asked.now).is_ok() {
        let detail = format!("{code}: {why}");
        let event = asked.event(DEVICE_POLL, None);
        asked.server.note(&Event { client_id: Some(&client.id), detail: Some(&detail), ..event });
    }
    OAuthError::new(code, why)
}

/// `GET` and `POST /device` (RFC 8628, section 3.3): the page where the user enters the code and decides.
pub(super) async fn page(asked: Asked) -> Response<Bytes> {
    let outcome = match asked.method {
        Method::GET | Method::HEAD => opened(&asked).await,
        Method::POST => posted(&asked).await,
        _ => return Asked::method_not_allowed("GET, POST"),
    };
    outcome.unwrap_or_else(|error| asked.error_page(&error))
}

async fn opened(asked: &Asked) -> Result<Response<Bytes>, OAuthError> {
    let params = asked.query()?;
    let typed = params.get(USER_CODE)?;
    let audiences = asked.server.audiences().await.map_err(|error| unavailable(&error))?;
    match (visitor(asked, &audiences).await?, typed) {
        (None, typed) => sign_in(asked, &audiences, typed.unwrap_or_default(), None).await,
        (Some(visitor), None) => Ok(entry(asked, &visitor, "", None)),
        (Some(visitor), Some(typed)) => entered(asked, &audiences, &visitor, typed).await,
    }
}

async fn posted(asked: &Asked) -> Result<Response<Bytes>, OAuthError> {
    let form = asked.form()?;
    let typed = form.get(USER_CODE)?.unwrap_or_default();
    let audiences = asked.server.audiences().await.map_err(|error| unavailable(&error))?;
    let decision = form.get(DECISION)?;
    let Some(visitor) = visitor(asked, &audiences).await? else {
        // A decision is not to be made by who signs in next.
        return if decision.is_none() { sign_in(asked, &audiences, typed, None).await } else { Err(stale()) };
    };
    let token = form.require(FORM_TOKEN)?;
    let Some(decision) = decision else {
        if !cookies::accepts(&visitor.secret, ENTRY, token) {
            return Err(stale());
        }
        return entered(asked, &audiences, &visitor, typed).await;
    };
    let code = UserCode::parse(typed).ok_or_else(stale)?;
    if !cookies::accepts(&visitor.secret, &decision_on(&code), token) {
        return Err(stale());
    }
    let Some(pending) = find(asked, &visitor, Some(&code)).await? else { return Err(stale()) };
    decided(asked, &audiences, &visitor, &pending, decision == APPROVE).await
}

/// A form that is older than the session, or none of ours.
fn stale() -> OAuthError {
    OAuthError::new(
        ErrorCode::ExpiredToken,
        "the code was used or has expired, or the form is of another login",
    )
}

/// What the token of the form is for that decides on a code: the code of the page and no other.
fn decision_on(code: &UserCode) -> String {
    format!("{ENTRY} {}", code.shown())
}

async fn visitor(asked: &Asked, audiences: &Audiences) -> Result<Option<Visitor>, OAuthError> {
    let session =
        current_session(asked).await?.filter(|session| asked.can_judge(audiences, &[], &session.identity));
    let secret = cookies::read(&asked.headers, cookies::SESSION);
    Ok(session.zip(secret).map(|(session, secret)| Visitor { session, secret }))
}

/// To GitHub, through the app of a host, and back to this page with what was typed, if that can be a code.
async fn sign_in(
    asked: &Asked,
    audiences: &Audiences,
    typed: &str,
    app_of: Option<HostName>,
) -> Result<Response<Bytes>, OAuthError> {
    asked.server.limits.logins.count(asked.client, asked.now).map_err(OAuthError::too_many)?;
    let code = UserCode::parse(typed);
    let app_of = match (app_of, &code) {
        (Some(host), _) => Some(host),
        (None, Some(code)) => host_of(asked, audiences, code).await?,
        (None, None) => None,
    };
    let query = code.map(|code| format!("?{USER_CODE}={}", code.shown()));
    let path = format!("{}{}", path::DEVICE, query.unwrap_or_default());
    upstream::begin(asked, audiences, Purpose::Page { path, app_of }).await
}

/// The host that a code is for, if it has a GitHub app of its own. The look is counted: which app somebody is sent to tells
/// whether there is such a code.
async fn host_of(
    asked: &Asked,
    audiences: &Audiences,
    code: &UserCode,
) -> Result<Option<HostName>, OAuthError> {
    let server = &asked.server;
    server.limits.devices.count(asked.client, asked.now).map_err(OAuthError::too_many)?;
    let pending = server.devices.find(code, asked.now).await.map_err(|error| unavailable(&error))?;
    let Some(pending) = pending else { return Ok(None) };
    let hosts = found(audiences, &pending.request.resources)?;
    Ok(hosts.into_iter().find(|host| host.app().is_some()).and_then(|host| host.host))
}

fn entry(asked: &Asked, visitor: &Visitor, typed: &str, problem: Option<&str>) -> Response<Bytes> {
    let token = cookies::form_token(&visitor.secret, ENTRY);
    let action = asked.local(path::DEVICE);
    let github = asked.server.github.origin();
    let page = DeviceEntry {
        user_code: typed,
        problem,
        form: Form { action: &action, token: &token, fields: &[] },
        next: &[&github],
    };
    page.response(&asked.server.pages)
}

/// A code was typed, or was in the link: it leads to the question, or back.
async fn entered(
    asked: &Asked,
    audiences: &Audiences,
    visitor: &Visitor,
    typed: &str,
) -> Result<Response<Bytes>, OAuthError> {
    let code = UserCode::parse(typed);
    let pending = find(asked, visitor, code.as_ref()).await?;
    let Some((code, pending)) = code.zip(pending) else {
        let problem = "No device waits with this code. It may have been mistyped, used, or have expired.";
        return Ok(entry(asked, visitor, typed, Some(problem)));
    };
    let request = &pending.request;
    let client = find_client(asked, &request.client_id).await?;
    // The first host's app is the one that tells of groups. Another host's would be asked next, and so on for ever.
    let first = found(audiences, &request.resources)?.into_iter().next();
    if !asked.can_judge(audiences, first.as_slice(), &visitor.session.identity) {
        return sign_in(asked, audiences, typed, first.and_then(|host| host.host)).await;
    }
    // Who may have nothing is told so now, not after they agreed.
    let scopes = given(asked, audiences, visitor, request)?;
    let token = cookies::form_token(&visitor.secret, &decision_on(&code));
    let user_code = code.shown();
    let action = asked.local(path::DEVICE);
    let page = DeviceConfirm {
        user_code: &user_code,
        client: client_shown(&client, None),
        rights: Rights { scopes: &scopes, allowed: &[], resources: &request.resources },
        user: &visitor.session.identity.login,
        form: Form { action: &action, token: &token, fields: &[(USER_CODE, &user_code)] },
    };
    Ok(page.response(&asked.server.pages))
}

/// What waits under a code. Each look is counted before it is known to be right, or many at once would be free.
async fn find(
    asked: &Asked,
    visitor: &Visitor,
    code: Option<&UserCode>,
) -> Result<Option<Pending>, OAuthError> {
    let server = &asked.server;
    let (limiter, session) = (&server.limits.devices, &visitor.session.id);
    limiter.count(asked.client, asked.now).map_err(OAuthError::too_many)?;
    limiter.count_name(session, asked.now).map_err(OAuthError::too_many)?;
    let Some(code) = code else { return Ok(None) };
    let found = server.devices.find(code, asked.now).await.map_err(|error| unavailable(&error))?;
    if found.is_some() {
        limiter.forgive(asked.client, session);
    }
    Ok(found)
}

/// The scopes that the lists give to who agrees.
fn given(
    asked: &Asked,
    audiences: &Audiences,
    visitor: &Visitor,
    request: &Request,
) -> Result<Scopes, OAuthError> {
    let scopes: Vec<&str> = request.scopes.iter().map(String::as_str).collect();
    let scopes = Scopes::parse(&scopes.join(" "))?;
    let wish = Wish { client_id: &request.client_id, resources: &request.resources, scopes: &scopes };
    granted(asked, audiences, wish, &visitor.session.identity)
}

async fn decided(
    asked: &Asked,
    audiences: &Audiences,
    visitor: &Visitor,
    pending: &Pending,
    approved: bool,
) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    let (session, request) = (&visitor.session, &pending.request);
    let approval = if approved {
        let client = find_client(asked, &request.client_id).await?;
        let scopes = given(asked, audiences, visitor, request)?;
        if !server.clients.used(&client, asked.now).await.map_err(|error| unavailable(&error))? {
            let why = "the client's registration has ended";
            return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why));
        }
        Some(Approval {
            identity: session.identity.clone(),
            session: session.id.clone(),
            authenticated_at: session.created_at,
            scopes: scopes.iter().map(str::to_owned).collect(),
        })
    } else {
        None
    };
    let settled = server.devices.decide(pending, approval, asked.now).await;
    if !settled.map_err(|error| unavailable(&error))? {
        return Err(stale());
    }
    let refused = OAuthError::new(ErrorCode::AccessDenied, "the user refused");
    server.note(&Event {
        client_id: Some(&request.client_id),
        subject: Some(&session.identity.subject),
        username: Some(&session.identity.login),
        ..asked.event("device_complete", (!approved).then_some(&refused))
    });
    let notice = if approved { Notice::DeviceApproved } else { Notice::DeviceDenied };
    Ok(notice.response(&server.pages))
}
