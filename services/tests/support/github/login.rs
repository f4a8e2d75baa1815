//! The authorization page and the token endpoint.

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Json, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;

use super::wire::{escape, field, granted, not_found, pairs, random, redirect, reply, wrong};
use super::{App, Github, Grant, Inner, Person, device};

pub(super) async fn authorize(State(github): State<Github>, uri: Uri) -> Response {
    let asked = pairs(uri.query().unwrap_or_default());
    let mut inner = github.inner();
    let Some(app) = inner.apps.get(field(&asked, "client_id")).cloned() else { return not_found() };
    let redirect_uri = match field(&asked, "redirect_uri") {
        "" => app.callback.as_str(),
        uri if app.allows(uri) => uri,
        _ => {
            let detail = "The redirect_uri MUST match the registered callback URL for this application.";
            return refuse(&app.callback, "redirect_uri_mismatch", detail, &asked);
        }
    };
    if app.suspended {
        return refuse(redirect_uri, "application_suspended", "Your application has been suspended.", &asked);
    }
    match inner.person.clone() {
        Person::SignedIn(login) => {
            let user = inner.users.values().find(|user| user.login == login).expect("a known user").id;
            approve(&mut inner, &app, user, redirect_uri, &asked)
        }
        Person::Refuses => refuse(redirect_uri, "access_denied", DENIED, &asked),
        Person::AtThePage => {
            let form = random(16);
            inner.forms.push(form.clone());
            let suggested = field(&asked, "login").to_owned();
            let mut logins: Vec<_> = inner.users.values().map(|user| user.login.clone()).collect();
            logins.sort_by_key(|login| !login.eq_ignore_ascii_case(&suggested));
            Html(page(&app.client_id, &asked, &form, &logins)).into_response()
        }
    }
}

const DENIED: &str = "The user has denied your application access.";

fn page(app: &str, asked: &[(String, String)], form: &str, logins: &[String]) -> String {
    let hidden = |name: &str, value: &str| {
        format!("<input type=\"hidden\" name=\"{}\" value=\"{}\">", escape(name), escape(value))
    };
    let fields: String = asked.iter().map(|(name, value)| hidden(name, value)).collect();
    let buttons: String = logins
        .iter()
        .map(|login| format!("<button name=\"user\" value=\"{0}\">Authorize as {0}</button>", escape(login)))
        .collect();
    format!(
        "<!doctype html><title>Authorize {app}</title><h1>Authorize {app}</h1>\
         <form method=\"post\" action=\"/login/oauth/authorize\">{fields}{}{buttons}\
         <button name=\"cancel\" value=\"1\">Cancel</button></form>",
        hidden("authenticity_token", form),
        app = escape(app),
    )
}

pub(super) async fn decide(State(github): State<Github>, body: Bytes) -> Response {
    let asked = pairs(&String::from_utf8_lossy(&body));
    let mut inner = github.inner();
    let known = inner.forms.iter().position(|form| form == field(&asked, "authenticity_token"));
    let Some(known) = known else { return StatusCode::UNPROCESSABLE_ENTITY.into_response() };
    inner.forms.remove(known);
    let Some(app) = inner.apps.get(field(&asked, "client_id")).cloned() else { return not_found() };
    let redirect_uri = match field(&asked, "redirect_uri") {
        uri if app.allows(uri) => uri,
        _ => app.callback.as_str(),
    };
    if !field(&asked, "cancel").is_empty() {
        return refuse(redirect_uri, "access_denied", DENIED, &asked);
    }
    let user = inner.users.values().find(|user| user.login == field(&asked, "user"));
    let Some(user) = user.map(|user| user.id) else {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    };
    approve(&mut inner, &app, user, redirect_uri, &asked)
}

fn approve(
    inner: &mut Inner,
    app: &App,
    user: u64,
    redirect_uri: &str,
    asked: &[(String, String)],
) -> Response {
    let code = random(10);
    let challenge = field(asked, "code_challenge");
    let grant = Grant {
        client_id: app.client_id.clone(),
        user,
        scopes: granted(field(asked, "scope")),
        redirect_uri: redirect_uri.to_owned(),
        challenge: (!challenge.is_empty() && field(asked, "code_challenge_method") == "S256")
            .then(|| challenge.to_owned()),
    };
    inner.secrets.extend([code.clone(), field(asked, "state").to_owned()]);
    inner.codes.insert(code.clone(), grant);
    redirect(redirect_uri, &[("code", &code), ("state", field(asked, "state"))])
}

fn refuse(redirect_uri: &str, error: &str, description: &str, asked: &[(String, String)]) -> Response {
    let more = format!("https://docs.github.com/apps/troubleshooting/#{}", error.replace('_', "-"));
    let state = field(asked, "state");
    redirect(
        redirect_uri,
        &[("error", error), ("error_description", description), ("error_uri", &more), ("state", state)],
    )
}

pub(super) async fn access_token(State(github): State<Github>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = pairs(&String::from_utf8_lossy(&body));
    let mut inner = github.inner();
    let Some(app) = inner.apps.get(field(&asked, "client_id")).cloned() else {
        return (StatusCode::NOT_FOUND, Json(json!({ "error": "Not Found" }))).into_response();
    };
    if app.suspended {
        return wrong(&headers, "application_suspended", "Your application has been suspended.");
    }
    match field(&asked, "grant_type") {
        device::GRANT_TYPE => return device::access_token(&mut inner, &app, &headers, &asked),
        _ if !field(&asked, "device_code").is_empty() => {
            let detail = "The grant type must be urn:ietf:params:oauth:grant-type:device_code.";
            return wrong(&headers, "unsupported_grant_type", detail);
        }
        _ => {}
    }
    if app.client_secret != field(&asked, "client_secret") {
        let detail = "The client_id and/or client_secret passed are incorrect.";
        return wrong(&headers, "incorrect_client_credentials", detail);
    }
    let bad_code = || wrong(&headers, "bad_verification_code", "The code passed is incorrect or expired.");
    // One attempt, whatever comes of it.
    let grant = inner.codes.remove(field(&asked, "code")).filter(|grant| grant.client_id == app.client_id);
    let Some(grant) = grant else { return bad_code() };
    let redirect_uri = field(&asked, "redirect_uri");
    if !redirect_uri.is_empty() && redirect_uri != grant.redirect_uri {
        let detail = "The redirect_uri MUST match the registered callback URL for this application.";
        return wrong(&headers, "redirect_uri_mismatch", detail);
    }
    inner.secrets.push(field(&asked, "code_verifier").to_owned());
    if let Some(challenge) = &grant.challenge {
        let hash = digest(&SHA256, field(&asked, "code_verifier").as_bytes());
        if *challenge != BASE64_URL_SAFE_NO_PAD.encode(hash) {
            return bad_code();
        }
    }
    token(&mut inner, &headers, grant)
}

pub(super) fn token(inner: &mut Inner, headers: &HeaderMap, grant: Grant) -> Response {
    let user = &inner.users[&grant.user];
    if !user.emails.iter().any(|(_, primary, verified)| *primary && *verified) {
        let detail = "The user must have a verified primary email.";
        return wrong(headers, "unverified_user_email", detail);
    }
    let token = format!("gho_{}", random(18));
    let scope = grant.scopes.join(",");
    inner.secrets.push(token.clone());
    inner.tokens.insert(token.clone(), grant);
    reply(headers, json!({ "access_token": token, "scope": scope, "token_type": "bearer" }))
}
