//! The REST API, as far as sign-ins need it.

use axum::body::Bytes;
use axum::extract::{OriginalUri, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::wire::{field, message, not_found, pairs};
use super::{Fault, Github, User};

pub(super) async fn user(State(github): State<Github>, headers: HeaderMap) -> Response {
    let (user, scopes) = match whose(&github, &headers) {
        Ok(found) => found,
        Err(refused) => return unauthorized(refused),
    };
    let reads_email = has(&scopes, &["user", "read:user", "user:email"]);
    let public = user.emails.iter().find(|(_, primary, _)| *primary && reads_email);
    let url = github.url();
    let body = json!({
        "login": user.login, "id": user.id, "node_id": format!("U_{}", user.id),
        "avatar_url": format!("{url}/u/{}", user.id), "html_url": format!("{url}/{}", user.login),
        "type": "User", "site_admin": false, "name": user.name, "company": null, "blog": "",
        "email": public.map(|(address, ..)| address), "hireable": null, "bio": null,
    });
    ([("x-oauth-scopes", scopes.join(", "))], Json(body)).into_response()
}

pub(super) async fn emails(
    State(github): State<Github>,
    headers: HeaderMap,
    OriginalUri(uri): OriginalUri,
) -> Response {
    match whose(&github, &headers) {
        Ok((_, scopes)) if !has(&scopes, &["user", "user:email"]) => not_found(),
        Ok((user, _)) => {
            let all = user.emails.iter().map(|(address, primary, verified)| {
                let visibility = primary.then_some("private");
                json!({ "email": address, "primary": primary, "verified": verified, "visibility": visibility })
            });
            list(&github, &uri, all.collect())
        }
        Err(refused) => unauthorized(refused),
    }
}

pub(super) async fn orgs(
    State(github): State<Github>,
    headers: HeaderMap,
    OriginalUri(uri): OriginalUri,
) -> Response {
    match whose(&github, &headers) {
        Ok((_, scopes)) if !has(&scopes, &["user", "read:org"]) => forbidden("read:org"),
        Ok((user, _)) => {
            let org = |org: &String| json!({ "login": org, "id": 1, "description": null });
            list(&github, &uri, user.orgs.iter().map(org).collect())
        }
        Err(refused) => unauthorized(refused),
    }
}

pub(super) async fn teams(
    State(github): State<Github>,
    headers: HeaderMap,
    OriginalUri(uri): OriginalUri,
) -> Response {
    match whose(&github, &headers) {
        Ok((_, scopes)) if !has(&scopes, &["read:org"]) => forbidden("read:org"),
        Ok((user, _)) => {
            let team = |(org, slug): &(String, String)| json!({ "id": 1, "name": slug, "slug": slug, "parent": null, "organization": { "login": org } });
            list(&github, &uri, user.teams.iter().map(team).collect())
        }
        Err(refused) => unauthorized(refused),
    }
}

pub(super) async fn revoke(
    State(github): State<Github>,
    Path(client_id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut inner = github.inner();
    let authorized = inner.apps.get(&client_id).is_some_and(|app| {
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", app.client_id, app.client_secret));
        bearer(&headers, "basic") == Some(credentials.as_str())
    });
    if !authorized {
        return unauthorized("Bad credentials");
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(token) = body["access_token"].as_str() else {
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(message("Validation Failed"))).into_response();
    };
    if inner.tokens.get(token).is_none_or(|grant| grant.client_id != client_id) {
        return not_found();
    }
    inner.tokens.remove(token);
    StatusCode::NO_CONTENT.into_response()
}

fn whose(github: &Github, headers: &HeaderMap) -> Result<(User, Vec<String>), &'static str> {
    let token = bearer(headers, "bearer").or_else(|| bearer(headers, "token"));
    let token = token.ok_or("Requires authentication")?;
    let inner = github.inner();
    let grant = inner.tokens.get(token).ok_or("Bad credentials")?;
    Ok((inner.users[&grant.user].clone(), grant.scopes.clone()))
}

/// A page of a list, and links to the others.
fn list(github: &Github, uri: &Uri, all: Vec<Value>) -> Response {
    let asked = pairs(uri.query().unwrap_or_default());
    let per_page = field(&asked, "per_page").parse().unwrap_or(30).clamp(1, 100);
    let page = field(&asked, "page").parse().unwrap_or(1).max(1);
    let path = uri.path();
    let endless = github.inner().faults.get(path.strip_prefix("/api/v3").unwrap_or(path)).cloned();
    let (base, more) = match endless {
        Some(Fault::EndlessPages(base)) => (base, true),
        _ => (github.url(), all.len() > page * per_page),
    };
    let last = all.len().div_ceil(per_page);
    let link =
        |page: usize, rel: &str| format!("<{base}{path}?per_page={per_page}&page={page}>; rel=\"{rel}\"");
    let mut links = Vec::new();
    if page > 1 {
        links.push(link(page - 1, "prev"));
    }
    if more {
        links.extend([link(page + 1, "next"), link(last, "last")]);
    }
    let shown: Vec<_> = all.into_iter().skip((page - 1) * per_page).take(per_page).collect();
    let mut response = Json(shown).into_response();
    if !links.is_empty() {
        response.headers_mut().insert(header::LINK, links.join(", ").parse().unwrap());
    }
    response
}

fn unauthorized(text: &str) -> Response {
    (StatusCode::UNAUTHORIZED, Json(message(text))).into_response()
}

fn forbidden(scope: &str) -> Response {
    let body = message("You need at least read:org scope or user scope to list your organizations.");
    (StatusCode::FORBIDDEN, [("x-accepted-oauth-scopes", scope)], Json(body)).into_response()
}

fn bearer<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (found, value) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then_some(value)
}

fn has(scopes: &[String], any: &[&str]) -> bool {
    scopes.iter().any(|scope| any.contains(&scope.as_str()))
}
