//! The end of the issuer's session (OpenID Connect RP-Initiated Logout 1.0), and of the sessions on hosts that came of
//! it. What clients were granted stays: who wants to end that revokes it.
//!
//! A client that shows an ID token of the user who is signed in may end the session by itself. For all others a page
//! asks first, for any site can send a browser here.

use bytes::Bytes;
use http::{Method, Response};
use portcullis_layers::Check;
use secrecy::{ExposeSecret, SecretString};

use super::lookup::find_client;
use super::{Asked, internal, unavailable, with_cookies};
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::Origin;
use crate::oauth::id_token::Hint;
use crate::oauth::server::cookies;
use crate::oauth::server::error::{ErrorCode, OAuthError};
use crate::oauth::server::metadata::path;
use crate::oauth::server::pages::{FORM_TOKEN, Form, Logout, Notice};
use crate::oauth::server::params::Params;
use crate::oauth::server::redirect::{logged_out, see_other};
use crate::oauth::sessions::Session;

/// What the form's token is for.
const PURPOSE: &str = "logout";

/// The longest `state` that is sent back.
const MAX_STATE: usize = 2_048;

/// The longest form that is repeated as a query.
const MAX_QUERY: usize = 16 * 1024;

/// What a client asks for (section 2).
struct Wish<'a> {
    hint: Option<Hint>,
    client_id: Option<String>,
    /// Where to go afterwards, once it is known that the client may send browsers there.
    uri: Option<&'a str>,
    /// Whether an administrator vouches for the client, and so for the place.
    trusted: bool,
    state: Option<&'a str>,
}

/// `GET` and `POST`.
pub(super) async fn logout(asked: Asked) -> Response<Bytes> {
    let params = match asked.method {
        Method::GET | Method::HEAD => asked.query(),
        Method::POST => asked.form(),
        _ => return Asked::method_not_allowed("GET, HEAD, POST"),
    };
    if let Err(wait) = asked.server.limits.logouts.count(asked.client, asked.now) {
        return asked.error_page(&OAuthError::too_many(wait));
    }
    let outcome = async { ended(&asked, &params?).await };
    outcome.await.unwrap_or_else(|error| {
        asked.note_refusal(&asked.event("logout", Some(&error)), &error);
        asked.error_page(&error)
    })
}

async fn ended(asked: &Asked, params: &Params) -> Result<Response<Bytes>, OAuthError> {
    let wish = wish(asked, params).await?;
    let cookie = cookies::read(&asked.headers, cookies::SESSION);
    if let Some(location) = again_as_get(asked, cookie.is_some()) {
        return Ok(see_other(&location));
    }
    // Whoever it is: also one whose login may be somebody else's by now.
    let session = match &cookie {
        Some(kept) => asked.server.sessions.find(kept.expose_secret(), asked.now).await,
        None => Ok(None),
    };
    let session = session.map_err(|error| unavailable(&error))?;
    let (Some(secret), Some(session)) = (&cookie, session) else {
        // Nobody is signed in any more, which is what was wanted. Who sent no cookie may have one all the same.
        let stale = cookie.is_some().then(|| cookies::clear(cookies::SESSION));
        // Anybody can register a client and a URI, or publish a document, and show a token that was made for him:
        // such a link must not lead on to any other site where nothing of ours has ended.
        let leads_on = wish.hint.is_some() && wish.trusted;
        let wish = if leads_on { wish } else { Wish { uri: None, ..wish } };
        return Ok(with_cookies(done(asked, &wish), stale));
    };
    let fits = wish.hint.as_ref().is_some_and(|hint| hint.subject == session.identity.subject);
    if !fits && !confirmed(asked, params, secret)? {
        return Ok(question(asked, &wish, &session, secret));
    }
    let server = &asked.server;
    server.end_session(&session.id, asked.now).await.map_err(|error| unavailable(&error))?;
    server.note(&Event {
        client_id: wish.client_id.as_deref(),
        subject: Some(&session.identity.subject),
        username: Some(&session.identity.login),
        ..asked.event("logout", None)
    });
    Ok(with_cookies(done(asked, &wish), [cookies::clear(cookies::SESSION)]))
}

/// Where a form of another site is sent to: browsers keep our cookie from it, but not from a link (`SameSite=Lax`).
fn again_as_get(asked: &Asked, has_cookie: bool) -> Option<String> {
    let body = asked.body.as_deref().filter(|body| body.len() <= MAX_QUERY)?;
    let form = str::from_utf8(body).ok().filter(|_| asked.method == Method::POST && !has_cookie)?;
    Some(format!("{}?{form}", asked.server.issuer.endpoint(path::LOGOUT)))
}

/// Reads and checks the request. Where anything is wrong with it, nothing is done and nobody is sent anywhere.
async fn wish<'a>(asked: &Asked, params: &'a Params) -> Result<Wish<'a>, OAuthError> {
    let invalid = |why: &'static str| OAuthError::new(ErrorCode::InvalidRequest, why);
    let server = &asked.server;
    let hint = match params.get("id_token_hint")? {
        None => None,
        Some(token) => {
            let keys = server.keys().key_set().map_err(|error| internal(&error))?;
            let hint = Hint::read(token, &keys, server.issuer.as_str());
            Some(hint.ok_or_else(|| {
                let error = invalid("id_token_hint is no ID token of this issuer");
                asked.failed(Check::Decode.as_str(), error, Event::default())
            })?)
        }
    };
    let client_id = match (params.get("client_id")?, &hint) {
        (Some(id), Some(hint)) if id != hint.client => {
            return Err(invalid("client_id is not the client of id_token_hint"));
        }
        (Some(id), _) => Some(id.to_owned()),
        (None, Some(hint)) => Some(hint.client.clone()),
        (None, None) => None,
    };
    let state = params.get("state")?;
    if state.is_some_and(|state| state.len() > MAX_STATE || state.chars().any(char::is_control)) {
        return Err(invalid("state is too long, or has control characters"));
    }
    let uri = params.get("post_logout_redirect_uri")?;
    let mut trusted = false;
    if let Some(uri) = uri {
        let id = client_id.as_deref();
        let id = id.ok_or_else(|| invalid("post_logout_redirect_uri needs client_id or id_token_hint"))?;
        let client = find_client(asked, id).await?;
        trusted = client.origin == Origin::Configured;
        if !client.may_log_out_to(uri) {
            let why = "post_logout_redirect_uri is not one that the client has registered";
            return Err(OAuthError::new(ErrorCode::InvalidRedirectUri, why));
        }
    }
    Ok(Wish { hint, client_id, uri, trusted, state })
}

/// Whether this is the form of our own page, sent by who saw it.
fn confirmed(asked: &Asked, params: &Params, secret: &SecretString) -> Result<bool, OAuthError> {
    if asked.method != Method::POST {
        return Ok(false);
    }
    let Some(token) = params.get(FORM_TOKEN)? else { return Ok(false) };
    if cookies::accepts(secret, PURPOSE, token) {
        return Ok(true);
    }
    Err(OAuthError::new(ErrorCode::ExpiredToken, "the form is of another login"))
}

fn question(asked: &Asked, wish: &Wish<'_>, session: &Session, secret: &SecretString) -> Response<Bytes> {
    let token = cookies::form_token(secret, PURPOSE);
    let action = asked.local(path::LOGOUT);
    let fields: Vec<(&str, &str)> = [
        ("client_id", wish.client_id.as_deref()),
        ("post_logout_redirect_uri", wish.uri),
        ("state", wish.state),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let next: Vec<&str> = wish.uri.into_iter().collect();
    let page = Logout {
        user: &session.identity.login,
        form: Form { action: &action, token: &token, fields: &fields },
        next: &next,
    };
    page.response(&asked.server.pages)
}

fn done(asked: &Asked, wish: &Wish<'_>) -> Response<Bytes> {
    match wish.uri {
        Some(uri) => logged_out(uri, wish.state),
        None => Notice::SignedOut.response(&asked.server.pages),
    }
}
