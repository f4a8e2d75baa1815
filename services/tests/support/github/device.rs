//! The device flow: a device asks for a code, its user enters it at a page, and the device asks for the token until
//! the user has decided. All answers to devices have status 200, refusals too.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Json, Response};
use serde_json::json;

use super::login::token;
use super::wire::{escape, field, granted, pairs, random, reply, wrong, wrong_fields};
use super::{App, Github, Grant, Inner};

/// What a device has to say that it asks with.
pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// How long the codes are good.
const LIFE: Duration = Duration::from_secs(900);

/// How long a device has to wait between two questions,
const INTERVAL: u64 = 5;

/// and how much longer each time that it did not.
const MORE: u64 = 5;

/// A device flow. Times are those of [`Inner::now`].
#[derive(Clone, Debug)]
pub(super) struct Device {
    client_id: String,
    user_code: String,
    scopes: Vec<String>,
    interval: u64,
    ends: Duration,
    asked: Option<Duration>,
    decision: Decision,
}

/// What the user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    None,
    /// The user with this id agreed.
    Approved(u64),
    Denied,
}

impl Device {
    /// Whether its code can be entered at the page: once, and in time.
    fn waits_for(&self, user_code: &str, now: Duration) -> bool {
        self.user_code == user_code && self.decision == Decision::None && now < self.ends
    }
}

/// `POST /login/device/code`.
pub(super) async fn begin(State(github): State<Github>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = pairs(&String::from_utf8_lossy(&body));
    let mut inner = github.inner();
    let Some(app) = inner.apps.get(field(&asked, "client_id")).cloned() else {
        return (StatusCode::NOT_FOUND, Json(json!({ "error": "Not Found" }))).into_response();
    };
    if !app.device_flow {
        return disabled(&headers);
    }
    let code = random(20);
    let user_code = random(4).to_uppercase();
    let user_code = format!("{}-{}", &user_code[..4], &user_code[4..]);
    let device = Device {
        client_id: app.client_id,
        user_code: user_code.clone(),
        scopes: granted(field(&asked, "scope")),
        interval: INTERVAL,
        ends: inner.now() + LIFE,
        asked: None,
        decision: Decision::None,
    };
    inner.secrets.push(code.clone());
    inner.devices.insert(code.clone(), device);
    reply(
        &headers,
        json!({
            "device_code": code,
            "user_code": user_code,
            "verification_uri": format!("{}/login/device", github.url()),
            "expires_in": LIFE.as_secs(),
            "interval": INTERVAL,
        }),
    )
}

/// `POST /login/oauth/access_token` of a device. It needs no secret of the app's.
pub(super) fn access_token(
    inner: &mut Inner,
    app: &App,
    headers: &HeaderMap,
    asked: &[(String, String)],
) -> Response {
    if !app.device_flow {
        return disabled(headers);
    }
    let code = field(asked, "device_code");
    let now = inner.now();
    let device = inner.devices.get_mut(code).filter(|device| device.client_id == app.client_id);
    let Some(device) = device else {
        return wrong(headers, "incorrect_device_code", "The device_code provided is not valid.");
    };
    if now >= device.ends {
        return wrong(headers, "expired_token", "This 'device_code' has expired.");
    }
    let pause = Duration::from_secs(device.interval);
    let too_soon = device.asked.is_some_and(|last| now < last + pause);
    device.asked = Some(now);
    if too_soon {
        device.interval += MORE;
        let mut answer = wrong_fields("slow_down", "Too many requests have been made in the same timeframe.");
        answer["interval"] = device.interval.into();
        return reply(headers, answer);
    }
    let user = match device.decision {
        Decision::None => {
            let detail = "The authorization request is still pending.";
            return wrong(headers, "authorization_pending", detail);
        }
        Decision::Denied => {
            return wrong(headers, "access_denied", "The authorization request was denied.");
        }
        Decision::Approved(user) => user,
    };
    let grant = Grant {
        client_id: app.client_id.clone(),
        user,
        scopes: device.scopes.clone(),
        redirect_uri: String::new(),
        challenge: None,
    };
    // It is good once.
    inner.devices.remove(code);
    token(inner, headers, grant)
}

fn disabled(headers: &HeaderMap) -> Response {
    wrong(headers, "device_flow_disabled", "Device Flow must be explicitly enabled for this App")
}

/// The page where the code is entered.
pub(super) async fn page(State(github): State<Github>) -> Html<String> {
    Html(enter(&mut github.inner(), ""))
}

/// The code that was entered, or what the user decides about it.
pub(super) async fn submit(State(github): State<Github>, body: Bytes) -> Response {
    let asked = pairs(&String::from_utf8_lossy(&body));
    let mut inner = github.inner();
    let known = inner.forms.iter().position(|form| form == field(&asked, "authenticity_token"));
    let Some(known) = known else { return StatusCode::UNPROCESSABLE_ENTITY.into_response() };
    inner.forms.remove(known);
    let code = field(&asked, "user_code").trim().to_uppercase();
    let user = inner.users.values().find(|user| user.login == field(&asked, "user")).map(|user| user.id);
    let cancelled = !field(&asked, "cancel").is_empty();
    let now = inner.now();
    let Some(device) = inner.devices.values_mut().find(|device| device.waits_for(&code, now)) else {
        return Html(enter(&mut inner, "<p>The code is wrong, used or expired.")).into_response();
    };
    device.decision = match user {
        _ if cancelled => Decision::Denied,
        Some(user) => Decision::Approved(user),
        None => {
            let (app, scopes) = (device.client_id.clone(), device.scopes.join(", "));
            return Html(confirm(&mut inner, &app, &scopes, &code)).into_response();
        }
    };
    Html("<!doctype html><title>Done</title><p>You can go back to your device.").into_response()
}

/// A form that is good once, as all of GitHub's.
fn form(inner: &mut Inner, contents: &str) -> String {
    let form = random(16);
    inner.forms.push(form.clone());
    format!(
        "<form method=\"post\" action=\"/login/device\">\
         <input type=\"hidden\" name=\"authenticity_token\" value=\"{form}\">{contents}</form>"
    )
}

fn enter(inner: &mut Inner, message: &str) -> String {
    let form = form(inner, "<input name=\"user_code\" autofocus><button>Continue</button>");
    format!("<!doctype html><title>Device Activation</title>{message}{form}")
}

fn confirm(inner: &mut Inner, app: &str, scopes: &str, code: &str) -> String {
    let buttons: String = inner
        .users
        .values()
        .map(|user| {
            format!("<button name=\"user\" value=\"{0}\">Authorize as {0}</button>", escape(&user.login))
        })
        .collect();
    let hidden = format!("<input type=\"hidden\" name=\"user_code\" value=\"{}\">", escape(code));
    let cancel = "<button name=\"cancel\" value=\"1\">Cancel</button>";
    let form = form(inner, &format!("{hidden}{buttons}{cancel}"));
    let (app, scopes) = (escape(app), escape(scopes));
    format!("<!doctype html><title>Authorize {app}</title><h1>Authorize {app}</h1><p>{scopes}{form}")
}
