//! To GitHub and back: where people sign in.

use bytes::Bytes;
use http::Response;
use secrecy::{ExposeSecret, SecretString};

use super::code::{Signed, answer};
use super::lookup::find_client;
use super::upstream_token::{self, SignedIn};
use super::wanted::found;
use super::{Asked, host_session, internal, unavailable, with_cookies};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::{BROWSER_CLIENT, Event};
use crate::oauth::github::{self, App, AppError, Authorize, Exchange, Pkce, Refusal};
use crate::oauth::login::{Purpose, Step};
use crate::oauth::server::cookies::{self, Transaction};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path;
use crate::oauth::server::redirect::see_other;
use crate::oauth::sessions::Session;
use crate::oauth::state::{Identity, Membership};
use portcullis_layers::HostName;

/// Sends the browser to GitHub. What happens after that is kept for it.
pub(super) async fn begin(
    asked: &Asked,
    audiences: &Audiences,
    purpose: Purpose,
) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    let app_of = host_of(audiences, &purpose)?;
    let app = app(asked, app_of.as_ref()).await?;
    let groups = audiences.need_groups();
    let browser = Transaction::start();
    let pkce = Pkce::generate().map_err(|error| internal(&error))?;
    let ask = match &purpose {
        Purpose::Client { ask, .. } => Some(ask),
        Purpose::Host { .. } | Purpose::Page { .. } => None,
    };
    let callback = server.issuer.endpoint(path::CALLBACK);
    let location = server.github.authorize_url(&Authorize {
        app: &app,
        redirect_uri: &callback,
        state: browser.id(),
        groups,
        code_challenge: &pkce.challenge,
        login: ask.and_then(|ask| ask.login_hint.as_deref()),
        choose_account: ask.is_some_and(|ask| ask.choose_account),
    });
    let step = Step::Upstream {
        app: app.client_id().to_owned(),
        verifier: pkce.verifier.expose_secret().to_owned(),
        purpose,
        app_of,
        groups,
    };
    server.logins.keep(&browser, step, asked.now).await?;
    Ok(with_cookies(see_other(&location), browser.cookies(&asked.headers, server.logins.lifetime())))
}

/// The host whose app is asked: that of the first resource, never one that the request names otherwise.
fn host_of(audiences: &Audiences, purpose: &Purpose) -> Result<Option<HostName>, OAuthError> {
    Ok(match purpose {
        Purpose::Client { ask, .. } => {
            found(audiences, &ask.resources)?.into_iter().find_map(|found| found.host)
        }
        Purpose::Host { host, .. } => Some(host.clone()),
        Purpose::Page { app_of, .. } => app_of.clone(),
    })
}

async fn app(asked: &Asked, host: Option<&HostName>) -> Result<App, OAuthError> {
    let apps = &asked.server.apps;
    let app = match host {
        None => apps.global(),
        Some(host) => {
            let view = asked.server.mirror.latest().await.map_err(|error| unavailable(&error))?;
            apps.of_host(&view.config, host).await
        }
    };
    app.map_err(|error| match error {
        AppError::Store(error) => unavailable(&error),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "nobody can sign in");
            OAuthError::new(
                ErrorCode::ServerError,
                "no GitHub app is set up here: an administrator has to do that",
            )
        }
    })
}

/// `GET`: back from GitHub.
pub(super) async fn callback(asked: Asked) -> Response<Bytes> {
    if !asked.is_get() {
        return Asked::method_not_allowed("GET, HEAD");
    }
    match returned(&asked).await {
        Ok(response) => response,
        Err(error) => {
            asked.note(&asked.event("auth_callback", Some(&error)));
            asked.error_page(&error)
        }
    }
}

async fn returned(asked: &Asked) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    let params = asked.query()?;
    let foreign = || {
        OAuthError::new(
            ErrorCode::ExpiredToken,
            "this login was finished already, or began in another browser",
        )
    };
    let browser = Transaction::find(&asked.headers, params.require("state")?).ok_or_else(foreign)?;
    let Step::Upstream { purpose, verifier, app_of, app: began_with, groups } =
        server.logins.take(&browser, asked.now).await?
    else {
        return Err(foreign());
    };
    let end = browser.end();
    let outcome = async {
        if let Some(code) = params.get("error")? {
            return Err(refused(&github::Error::Refused(Refusal::of_code(code))));
        }
        let code = SecretString::from(params.require("code")?);
        let app = app(asked, app_of.as_ref()).await?;
        if app.client_id() != began_with {
            return Err(OAuthError::new(
                ErrorCode::ServerError,
                "the GitHub app was changed meanwhile: sign in again",
            ));
        }
        identify(asked, app, &code, &verifier.into(), groups).await
    };
    let signed_in = match outcome.await {
        Ok(signed_in) => signed_in,
        Err(error) => return Ok(with_cookies(failed(asked, &purpose, &error), [end])),
    };
    let begun = async {
        asked.admit(&signed_in.identity).await?;
        begin_session(asked, signed_in.identity.clone()).await
    };
    let (secret, session) = match begun.await {
        Ok(begun) => begun,
        Err(error) => {
            upstream_token::give_back(asked, &signed_in).await;
            return Ok(with_cookies(failed(asked, &purpose, &error), [end]));
        }
    };
    upstream_token::settle(asked, &signed_in, app_of.as_ref(), &session).await;
    server.note(&Event {
        subject: Some(&session.identity.subject),
        username: Some(&session.identity.login),
        ..asked.event("github_auth_success", None)
    });
    let age = Some(server.settings.sessions.absolute);
    let cookies = [cookies::set(cookies::SESSION, &secret, age), end];
    let response = go_on(asked, purpose, &session).await;
    Ok(with_cookies(response, cookies))
}

/// Redeems a code and asks who it is. The token that comes with the answer has to be ended, or kept.
async fn identify(
    asked: &Asked,
    app: App,
    code: &SecretString,
    verifier: &SecretString,
    groups: bool,
) -> Result<SignedIn, OAuthError> {
    let server = &asked.server;
    let callback = server.issuer.endpoint(path::CALLBACK);
    let exchange = Exchange { app: &app, code, verifier, redirect_uri: &callback };
    let token = server.github.exchange(&exchange).await.map_err(|error| refused(&error))?;
    let identity = match server.github.identity(&token, groups).await {
        Ok(identity) => identity,
        Err(error) => {
            upstream_token::end(asked, &app, &token).await;
            return Err(refused(&error));
        }
    };
    let identity = Identity {
        subject: identity.id.to_string(),
        login: identity.login.to_string(),
        name: identity.name.clone(),
        emails: identity.email().map(str::to_owned).into_iter().collect(),
        memberships: groups
            .then(|| Membership {
                app: app.client_id().to_owned(),
                at: asked.now,
                groups: identity.groups().map(ToString::to_string).collect(),
            })
            .into_iter()
            .collect(),
    };
    Ok(SignedIn { identity, app, token })
}

/// What GitHub's refusal means for who wanted to sign in.
pub(super) fn refused(error: &github::Error) -> OAuthError {
    tracing::warn!(error = error as &dyn std::error::Error, "a login failed at GitHub");
    let code = match error {
        github::Error::Refused(Refusal::AccessDenied) => ErrorCode::AccessDenied,
        github::Error::Refused(refusal) if refusal.is_users() => ErrorCode::AccessDenied,
        github::Error::Refused(_) => ErrorCode::ServerError,
        _ => ErrorCode::TemporarilyUnavailable,
    };
    OAuthError::new(code, error.to_string())
}

/// The session of who has signed in: the one that they had in this browser, under another secret, for what they have
/// on hosts hangs on it; else a new one, and that of whoever was there before ends.
async fn begin_session(asked: &Asked, identity: Identity) -> Result<(SecretString, Session), OAuthError> {
    let server = &asked.server;
    let previous = cookies::read(&asked.headers, cookies::SESSION);
    let Some(previous) = previous else {
        return server.sessions.create(identity, asked.now).await.map_err(|error| unavailable(&error));
    };
    let renewed = server.sessions.renew(previous.expose_secret(), &identity, asked.now).await;
    if let Some(renewed) = renewed.map_err(|error| unavailable(&error))? {
        return Ok(renewed);
    }
    let created = server.sessions.create(identity, asked.now).await.map_err(|error| unavailable(&error))?;
    let ended = async {
        match server.sessions.find(previous.expose_secret(), asked.now).await? {
            // What clients were granted lives on.
            Some(previous) => server.end_session(&previous.id, asked.now).await.map(drop),
            None => Ok(()),
        }
    };
    if let Err(error) = ended.await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "a session that was replaced is still there");
    }
    Ok(created)
}

async fn go_on(asked: &Asked, purpose: Purpose, session: &Session) -> Response<Bytes> {
    let audiences = match asked.server.audiences().await {
        Ok(audiences) => audiences,
        Err(error) => return failed(asked, &purpose, &unavailable(&error)),
    };
    match purpose {
        Purpose::Client { ask, approved } => {
            let target = ask.target(asked.server.issuer.as_str());
            let signed = if approved { Signed::Agreed(session) } else { Signed::Before(session) };
            let of = ask.clone();
            let outcome = async {
                let client = find_client(asked, &ask.client_id).await?;
                answer(asked, &audiences, &client, *ask, signed, false).await
            };
            outcome.await.unwrap_or_else(|error| {
                let event = asked.event("auth_complete", Some(&error));
                let client_id = Some(of.client_id.as_str());
                asked.note_refusal(&Event { client_id, resources: &of.resources, ..event }, &error);
                target.error(&error)
            })
        }
        Purpose::Host { host, path, state } => {
            let back = host_session::ticket(asked, &audiences, session, host.clone(), path, state).await;
            back.unwrap_or_else(|error| {
                let client_id = Some(BROWSER_CLIENT);
                let event = asked.event("auth_complete", Some(&error));
                asked.note_refusal(&Event { host: Some(host.as_str()), client_id, ..event }, &error);
                asked.error_page(&error)
            })
        }
        Purpose::Page { path, .. } => see_other(&asked.server.issuer.endpoint(&path)),
    }
}

/// A client is told; all others see a page.
fn failed(asked: &Asked, purpose: &Purpose, error: &OAuthError) -> Response<Bytes> {
    let event = asked.event("auth_callback", Some(error));
    asked.server.note(&match purpose {
        Purpose::Client { ask, .. } => {
            Event { client_id: Some(&ask.client_id), resources: &ask.resources, ..event }
        }
        Purpose::Host { host, .. } => Event { host: Some(host.as_str()), ..event },
        Purpose::Page { .. } => event,
    });
    match purpose {
        Purpose::Client { ask, .. } => ask.target(asked.server.issuer.as_str()).error(error),
        Purpose::Host { .. } | Purpose::Page { .. } => asked.error_page(error),
    }
}
