//! The page that asks whether a client may act for the user, and what the user decides.

use bytes::Bytes;
use http::{Method, Response};

use super::code::{Signed, answer};
use super::lookup::find_client;
use super::session::current_session;
use super::{Asked, unavailable, upstream, with_cookies};
use crate::oauth::authorization_server::{AuthorizationServer, Event};
use crate::oauth::clients::{Client, Origin};
use crate::oauth::login::{Ask, Purpose, Step};
use crate::oauth::server::cookies::Transaction;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path;
use crate::oauth::server::pages::{self, APPROVE, ClientKind, Consent, DECISION, FORM_TOKEN, Form, Rights};
use crate::oauth::server::params::Params;
use crate::oauth::sessions::Session;

/// What the form's token is for.
const PURPOSE: &str = "consent";

/// The field that names the transaction.
const TRANSACTION: &str = "transaction";

/// Shows the page: for the user of a session, or before anybody has signed in. `allowed` are the scopes that the user
/// has allowed before.
pub(super) async fn show(
    asked: &Asked,
    client: &Client,
    ask: Ask,
    session: Option<&Session>,
    allowed: &[String],
) -> Result<Response<Bytes>, OAuthError> {
    let server = &asked.server;
    let browser = Transaction::start();
    let token = browser.form_token(PURPOSE);
    let github = server.github.origin();
    let action = asked.local(path::CONSENT);
    let page = Consent {
        client: shown(client, Some(&ask.redirect_uri)),
        rights: Rights { scopes: &ask.scopes, allowed, resources: &ask.resources },
        user: session.map(|session| session.identity.login.as_str()),
        form: Form { action: &action, token: &token, fields: &[(TRANSACTION, browser.id())] },
        next: &[&github],
    };
    let response = page.response(&server.pages);
    let step = Step::Consent { session: session.map(|session| session.id.clone()), ask: Box::new(ask) };
    server.logins.keep(&browser, step, asked.now).await?;
    Ok(with_cookies(response, browser.cookies(&asked.headers, server.logins.lifetime())))
}

/// A client as the pages show it.
pub(super) fn shown<'a>(client: &'a Client, redirect_uri: Option<&'a str>) -> pages::Client<'a> {
    pages::Client {
        name: client.metadata.client_name.as_deref(),
        id: &client.id,
        kind: match client.origin {
            Origin::Configured => ClientKind::Registered,
            Origin::Document => ClientKind::Document,
            Origin::Registered => ClientKind::Dynamic,
        },
        redirect_uri,
    }
}

/// `POST`: the decision.
pub(super) async fn consent(asked: Asked) -> Response<Bytes> {
    if asked.method != Method::POST {
        return Asked::method_not_allowed("POST");
    }
    let form = match asked.form() {
        Ok(form) => form,
        Err(error) => return asked.error_page(&error),
    };
    match decided(&asked, &form).await {
        Ok(response) => response,
        Err(error) => asked.error_page(&error),
    }
}

async fn decided(asked: &Asked, form: &Params) -> Result<Response<Bytes>, OAuthError> {
    let server: &AuthorizationServer = &asked.server;
    let browser = Transaction::find(&asked.headers, form.require(TRANSACTION)?).ok_or_else(not_here)?;
    // Before the transaction is taken: a form from elsewhere must not end it.
    if !browser.accepts(PURPOSE, form.require(FORM_TOKEN)?) {
        return Err(not_here());
    }
    let Step::Consent { ask, session } = server.logins.take(&browser, asked.now).await? else {
        return Err(not_here());
    };
    let target = ask.target(asked.server.issuer.as_str());
    let end = browser.end();
    if form.get(DECISION)? != Some(APPROVE) {
        let error = OAuthError::new(ErrorCode::AccessDenied, "the user refused");
        server.note(&Event {
            resources: &ask.resources,
            client_id: Some(&ask.client_id),
            ..asked.event("auth_complete", Some(&error))
        });
        return Ok(with_cookies(target.error(&error), [end]));
    }
    let client = find_client(asked, &ask.client_id).await?;
    let audiences = server.audiences().await.map_err(|error| unavailable(&error))?;
    // The user of the page has to be the one who is signed in now; else somebody has to sign in.
    let current = current_session(asked).await?;
    let same = current.filter(|current| session.as_ref() == Some(&current.id));
    let response = match same {
        Some(session) => {
            let resources = ask.resources.clone();
            let outcome = answer(asked, &audiences, &client, *ask, Signed::Agreed(&session), false).await;
            outcome.unwrap_or_else(|error| {
                let event = asked.event("auth_complete", Some(&error));
                let client_id = Some(client.id.as_str());
                asked.note_refusal(&Event { resources: &resources, client_id, ..event }, &error);
                target.error(&error)
            })
        }
        None => {
            let purpose = Purpose::Client { ask, approved: true };
            upstream::begin(asked, &audiences, purpose).await.unwrap_or_else(|error| target.error(&error))
        }
    };
    Ok(with_cookies(response, [end]))
}

fn not_here() -> OAuthError {
    OAuthError::new(ErrorCode::ExpiredToken, "the question was answered already, or asked in another browser")
}
