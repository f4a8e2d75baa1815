//! The device flow, with its page.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Json, Response};
use serde_json::json;

use super::login::token;
use super::wire::{escape, field, granted, pairs, random, reply, wrong, wrong_fields};
use super::{App, Device, DeviceState, Github, Grant, Inner};

pub(super) async fn device_code(State(github): State<Github>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = pairs(&String::from_utf8_lossy(&body));
    let mut inner = github.inner();
    let Some(app) = inner.apps.get(field(&asked, "client_id")).cloned() else {
        return (StatusCode::NOT_FOUND, Json(json!({ "error": "Not Found" }))).into_response();
    };
    if !app.device_flow {
        let detail = "Device Flow must be explicitly enabled for this App";
        return wrong(&headers, "device_flow_disabled", detail);
    }
    let code = random(20);
    let user_code = random(4).to_uppercase();
    let user_code = format!("{}-{}", &user_code[..4], &user_code[4..]);
    let interval = inner.device_interval;
    let device = Device {
        client_id: app.client_id,
        user_code: user_code.clone(),
        scopes: granted(field(&asked, "scope")),
        interval,
        asked: None,
        state: DeviceState::Pending,
    };
    inner.devices.insert(code.clone(), device);
    let page = format!("{}/login/device", github.url());
    reply(
        &headers,
        json!({
            "device_code": code, "user_code": user_code, "verification_uri": page,
            "expires_in": 899, "interval": interval,
        }),
    )
}

pub(super) fn device_token(inner: &mut Inner, app: &App, headers: &HeaderMap, code: &str) -> Response {
    let device = inner.devices.get_mut(code).filter(|device| device.client_id == app.client_id);
    let Some(device) = device else {
        return wrong(headers, "incorrect_device_code", "The device_code provided is not valid.");
    };
    let too_soon = device.asked.is_some_and(|asked| asked.elapsed().as_secs() < device.interval);
    device.asked = Some(Instant::now());
    if too_soon {
        device.interval += 5;
        let mut answer = wrong_fields("slow_down", "Too many requests have been made in the same timeframe.");
        answer["interval"] = device.interval.into();
        return reply(headers, answer);
    }
    match device.state {
        DeviceState::Pending => {
            let detail = "The authorization request is still pending.";
            wrong(headers, "authorization_pending", detail)
        }
        DeviceState::Expired => wrong(headers, "expired_token", "The device_code has expired."),
        DeviceState::Denied => wrong(headers, "access_denied", "The authorization request was denied."),
        DeviceState::Approved(user) => {
            let grant = Grant {
                client_id: app.client_id.clone(),
                user,
                scopes: device.scopes.clone(),
                redirect_uri: String::new(),
                challenge: None,
            };
            inner.devices.remove(code);
            token(inner, headers, grant)
        }
    }
}

pub(super) async fn device_page(State(github): State<Github>) -> Html<String> {
    let inner = github.inner();
    let buttons: String = inner
        .users
        .values()
        .map(|user| {
            format!("<button name=\"user\" value=\"{0}\">Continue as {0}</button>", escape(&user.login))
        })
        .collect();
    Html(format!(
        "<!doctype html><title>Device Activation</title><form method=\"post\" action=\"/login/device\">\
         <input name=\"user_code\" autofocus>{buttons}<button name=\"cancel\" value=\"1\">Cancel</button></form>"
    ))
}

pub(super) async fn device_decide(State(github): State<Github>, body: Bytes) -> Response {
    let asked = pairs(&String::from_utf8_lossy(&body));
    let mut inner = github.inner();
    let user = inner.users.values().find(|user| user.login == field(&asked, "user")).map(|user| user.id);
    let code = field(&asked, "user_code").trim().to_uppercase();
    let device = inner.devices.values_mut().find(|device| device.user_code == code);
    match (device, user) {
        (Some(device), _) if !field(&asked, "cancel").is_empty() => device.state = DeviceState::Denied,
        (Some(device), Some(user)) => device.state = DeviceState::Approved(user),
        _ => return StatusCode::UNPROCESSABLE_ENTITY.into_response(),
    }
    Html("<!doctype html><title>Done</title><p>Your device is now connected.").into_response()
}
