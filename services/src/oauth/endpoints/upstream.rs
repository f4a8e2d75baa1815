//! To GitHub and back: where people sign in.

use bytes::Bytes;
use http::{Method, Response};
use secrecy::{ExposeSecret, SecretString};

use super::authorize::{find_client, found, target_of};
use super::code::{Signed, answer};
use super::{Asked, host_session, internal, unavailable, with_cookies};
use crate::oauth::audiences::Audiences;
use crate::oauth::authorization_server::Event;
use crate::oauth::github::{self, App, AppError, Authorize, Exchange, Pkce, Refusal};
use crate::oauth::login::{Purpose, Step};
use crate::oauth::pins::is_listed;
use crate::oauth::server::cookies::{self, Transaction};
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path;
use crate::oauth::server::redirect::see_other;
use crate::oauth::sessions::Session;
use crate::oauth::state::Identity;
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
        Purpose::Page { .. } => None,
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
    if asked.method != Method::GET {
        return Asked::method_not_allowed("GET");
    }
    match returned(&asked).await {
        Ok(response) => response,
        Err(error) => {
            asked.server.note(&asked.event("auth_callback", Some(&error)));
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
        identify(asked, &app, &code, &verifier.into(), groups).await
    };
    let outcome = match outcome.await {
        Ok(identity) => pinned(asked, &identity).await.map(|()| identity),
        Err(error) => Err(error),
    };
    let identity = match outcome {
        Ok(identity) => identity,
        Err(error) => return Ok(with_cookies(failed(asked, &purpose, &error), [end])),
    };
    let (secret, session) =
        server.sessions.create(identity, asked.now).await.map_err(|error| unavailable(&error))?;
    server.note(&Event {
        subject: Some(&session.identity.subject),
        username: Some(&session.identity.login),
        ..asked.event("github_auth_success", None)
    });
    end_previous(asked).await;
    let age = Some(server.settings.sessions.absolute);
    let cookies = [cookies::set(cookies::SESSION, &secret, age), end];
    let response = go_on(asked, purpose, &session).await;
    Ok(with_cookies(response, cookies))
}

/// Redeems a code and asks who it is. GitHub's token is ended as soon as that is known.
async fn identify(
    asked: &Asked,
    app: &App,
    code: &SecretString,
    verifier: &SecretString,
    groups: bool,
) -> Result<Identity, OAuthError> {
    let server = &asked.server;
    let callback = server.issuer.endpoint(path::CALLBACK);
    let exchange = Exchange { app, code, verifier, redirect_uri: &callback };
    let token = server.github.exchange(&exchange).await.map_err(|error| refused(&error))?;
    let identity = server.github.identity(&token, groups).await;
    if let Err(error) = server.github.revoke(app, &token).await {
        tracing::info!(error = &error as &dyn std::error::Error, "a token of GitHub's was not ended");
    }
    let identity = identity.map_err(|error| refused(&error))?;
    Ok(Identity {
        subject: identity.id.to_string(),
        login: identity.login.to_string(),
        name: identity.name.clone(),
        emails: identity.email().map(str::to_owned).into_iter().collect(),
        groups: identity.groups().map(ToString::to_string).collect(),
        groups_by: groups.then(|| app.client_id().to_owned()),
    })
}

impl Asked {
    /// Whether the login of an account is its own as far as lists are concerned: GitHub gives logins that became free
    /// to others.
    pub(super) async fn owns_login(&self, identity: &Identity) -> Result<bool, OAuthError> {
        let server = &self.server;
        let view = server.mirror.latest().await.map_err(|error| unavailable(&error))?;
        Ok(!is_listed(&server.site, &view.config, &identity.login)
            || server.pins.holds(identity, self.now).await.map_err(|error| unavailable(&error))?)
    }
}

/// Refuses an account whose login is on a list for another one.
async fn pinned(asked: &Asked, identity: &Identity) -> Result<(), OAuthError> {
    if asked.owns_login(identity).await? {
        return Ok(());
    }
    let why = "this login is on a list for the account that had it before: an administrator can release it";
    Err(OAuthError::new(ErrorCode::AccessDenied, why))
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

/// The session that the browser had before is good no more: a login always begins anew.
async fn end_previous(asked: &Asked) {
    let Some(secret) = cookies::read(&asked.headers, cookies::SESSION) else { return };
    let server = &asked.server;
    let previous = match server.sessions.find(secret.expose_secret(), asked.now).await {
        Ok(Some(previous)) => previous,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a session that was replaced is still there"
            );
            return;
        }
    };
    // What clients were granted lives on; hosts get a new session of the new one when they ask.
    if let Err(error) = server.end_session(&previous.id, asked.now).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a session that was replaced is still there"
        );
    }
}

async fn go_on(asked: &Asked, purpose: Purpose, session: &Session) -> Response<Bytes> {
    let audiences = match asked.server.audiences().await {
        Ok(audiences) => audiences,
        Err(error) => return failed(asked, &purpose, &unavailable(&error)),
    };
    match purpose {
        Purpose::Client { ask, approved } => {
            let target = target_of(asked, &ask);
            let signed = if approved { Signed::Agreed(session) } else { Signed::Before(session) };
            let outcome = async {
                let client = find_client(asked, &ask.client_id).await?;
                answer(asked, &audiences, &client, *ask, signed, false).await
            };
            outcome.await.unwrap_or_else(|error| target.error(&error))
        }
        Purpose::Host { host, path, state } => {
            let back = host_session::ticket(asked, &audiences, session, host, path, state).await;
            back.unwrap_or_else(|error| asked.error_page(&error))
        }
        Purpose::Page { path } => see_other(&asked.server.issuer.endpoint(&path)),
    }
}

/// A client is told; all others see a page.
fn failed(asked: &Asked, purpose: &Purpose, error: &OAuthError) -> Response<Bytes> {
    asked.server.note(&asked.event("auth_callback", Some(error)));
    match purpose {
        Purpose::Client { ask, .. } => target_of(asked, ask).error(error),
        Purpose::Host { .. } | Purpose::Page { .. } => asked.error_page(error),
    }
}
