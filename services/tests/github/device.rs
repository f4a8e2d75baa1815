//! The device flow of the stand-in, as GitHub has it on the wire.
//!
//! Portcullis has a device flow of its own (RFC 8628), whose users sign in at GitHub by the code flow in their
//! browser; it does not call GitHub's, and has no use for it: whoever signs in has a browser, and it is that browser
//! that GitHub sends back, so the callback has to be reached from there, as the page of our own device flow has. The
//! endpoints are here so that the stand-in is whole: at GitHub a device has what anybody has who signs in. The tests
//! of the server (`oauth/github_device.rs`) see to it that what GitHub gives to devices opens nothing here.

use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use portcullis_layers::Body;
use portcullis_layers::forward::{Forward, Target};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::standin::{self, User, field, pairs};
use super::{CALLBACK, ID, MONA, SECRET, http_client};

const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";

/// GitHub, with an app that devices may use.
struct Devices {
    server: standin::Github,
    forward: Forward,
}

impl Devices {
    async fn new() -> Self {
        let server = standin::Github::start().await;
        server.add_app(standin::App::new(ID, SECRET, CALLBACK).with_device_flow());
        server.add_app(standin::App::new("Iv1.other", "other-secret", CALLBACK).with_device_flow());
        server.add_app(standin::App::new("Iv1.closed", "closed-secret", CALLBACK));
        server.add_user(User::new(MONA, "Mona"));
        let target = Target::new(server.url().parse().expect("a URL"));
        let forward = Forward::new(&http_client(), target, CancellationToken::new()).expect("a target");
        Self { server, forward }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        form: &str,
    ) -> (StatusCode, String, String) {
        let request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        let request = request.body(Body::from(form.to_owned())).expect("a request");
        let response = self.forward.send(request).await.expect("an answer");
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.map(|kind| kind.to_str().expect("text").to_owned()).unwrap_or_default();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).expect("text"))
    }

    /// A device's question. Refusals have status 200, too.
    async fn ask(&self, path: &str, form: &str) -> Value {
        let (status, kind, body) = self.send(Method::POST, path, "application/json", form).await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"), "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    async fn begin(&self) -> Value {
        self.ask("/login/device/code", &format!("client_id={ID}&scope=read:user")).await
    }

    async fn poll(&self, begun: &Value) -> Value {
        let code = begun["device_code"].as_str().expect("a code");
        self.poll_with(&format!("client_id={ID}&device_code={code}&grant_type={GRANT}")).await
    }

    async fn poll_with(&self, form: &str) -> Value {
        self.ask("/login/oauth/access_token", form).await
    }

    /// Sends the form of a page with further fields.
    async fn submit(&self, page: &str, more: &str) -> String {
        let (_, rest) = page.split_once("name=\"authenticity_token\" value=\"").expect("a form");
        let (form, _) = rest.split_once('"').expect("a value");
        let form = format!("authenticity_token={form}&{more}");
        let (status, _, page) = self.send(Method::POST, "/login/device", "text/html", &form).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page
    }

    async fn enter(&self, user_code: &str) -> String {
        let (_, _, page) = self.send(Method::GET, "/login/device", "text/html", "").await;
        self.submit(&page, &format!("user_code={user_code}")).await
    }

    /// What the user does with a code.
    async fn decide(&self, begun: &Value, decision: &str) -> String {
        let code = begun["user_code"].as_str().expect("a code");
        let page = self.enter(&code.to_lowercase()).await;
        assert!(page.contains(&format!("Authorize {ID}")) && page.contains("read:user"), "{page}");
        self.submit(&page, &format!("user_code={code}&{decision}")).await
    }

    fn wait(&self, seconds: u64) {
        self.server.advance(Duration::from_secs(seconds));
    }
}

/// The code of a refusal, which says more than that.
fn error(answer: &Value) -> &str {
    assert!(answer["access_token"].is_null(), "{answer}");
    for member in ["error_description", "error_uri"] {
        assert!(answer[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {answer}");
    }
    answer["error"].as_str().expect("an error")
}

#[tokio::test]
async fn a_device_has_its_token_once_its_user_has_agreed() {
    let devices = Devices::new().await;
    let begun = devices.begin().await;
    assert_eq!((&begun["interval"], &begun["expires_in"]), (&json!(5), &json!(900)));
    assert_eq!(begun["verification_uri"], format!("{}/login/device", devices.server.url()));
    let user_code = begun["user_code"].as_str().expect("a code");
    assert!(user_code.len() == 9 && user_code.as_bytes()[4] == b'-', "{user_code}");
    assert_eq!(error(&devices.poll(&begun).await), "authorization_pending");
    devices.wait(5);
    assert_eq!(error(&devices.poll(&begun).await), "authorization_pending");
    devices.decide(&begun, "user=Mona").await;
    devices.wait(5);
    let given = devices.poll(&begun).await;
    assert_eq!((&given["token_type"], &given["scope"]), (&json!("bearer"), &json!("read:user")));
    let token = given["access_token"].as_str().expect("a token");
    assert!(token.starts_with("gho_"));
    assert_eq!(devices.server.tokens(), [token]);
    devices.wait(5);
    assert_eq!(error(&devices.poll(&begun).await), "incorrect_device_code", "it is good once");
}

#[tokio::test]
async fn who_asks_too_soon_has_to_wait_longer_each_time() {
    let devices = Devices::new().await;
    let begun = devices.begin().await;
    devices.poll(&begun).await;
    for interval in [10, 15, 20] {
        let answer = devices.poll(&begun).await;
        assert_eq!((error(&answer), &answer["interval"]), ("slow_down", &json!(interval)));
    }
    devices.wait(20);
    let answer = devices.poll(&begun).await;
    assert_eq!((error(&answer), &answer["interval"]), ("authorization_pending", &Value::Null));
    // Another device is not concerned.
    let other = devices.begin().await;
    assert_eq!(error(&devices.poll(&other).await), "authorization_pending");
}

#[tokio::test]
async fn a_device_learns_that_it_gets_nothing() {
    let devices = Devices::new().await;
    let denied = devices.begin().await;
    devices.decide(&denied, "cancel=1").await;
    assert_eq!(error(&devices.poll(&denied).await), "access_denied");
    let page = devices.enter(denied["user_code"].as_str().expect("a code")).await;
    assert!(page.contains("wrong, used or expired"), "{page}");

    let late = devices.begin().await;
    devices.wait(900);
    assert_eq!(error(&devices.poll(&late).await), "expired_token");
    let page = devices.enter(late["user_code"].as_str().expect("a code")).await;
    assert!(page.contains("wrong, used or expired"), "{page}");

    let begun = devices.begin().await;
    let code = begun["device_code"].as_str().expect("a code");
    for (form, refusal) in [
        (format!("client_id={ID}&device_code=x&grant_type={GRANT}"), "incorrect_device_code"),
        (format!("client_id=Iv1.other&device_code={code}&grant_type={GRANT}"), "incorrect_device_code"),
        (format!("client_id={ID}&device_code={code}"), "unsupported_grant_type"),
        (format!("client_id={ID}&device_code={code}&grant_type=device_code"), "unsupported_grant_type"),
        (format!("client_id=Iv1.closed&device_code={code}&grant_type={GRANT}"), "device_flow_disabled"),
    ] {
        assert_eq!(error(&devices.poll_with(&form).await), refusal, "{form}");
    }
    let closed = devices.ask("/login/device/code", "client_id=Iv1.closed").await;
    assert_eq!(error(&closed), "device_flow_disabled");
    let (status, ..) =
        devices.send(Method::POST, "/login/device/code", "application/json", "client_id=Iv1.none").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(devices.server.tokens().is_empty());
}

#[tokio::test]
async fn answers_are_in_the_form_that_is_accepted() {
    let devices = Devices::new().await;
    let form = format!("client_id={ID}");
    for accept in ["application/x-www-form-urlencoded", "*/*", ""] {
        let (status, kind, body) = devices.send(Method::POST, "/login/device/code", accept, &form).await;
        assert_eq!(status, StatusCode::OK);
        assert!(kind.starts_with("application/x-www-form-urlencoded"), "{accept}: {kind}");
        let fields = pairs(&body);
        assert_eq!((field(&fields, "interval"), field(&fields, "device_code").len()), ("5", 40), "{body}");
    }
    let poll = format!("client_id={ID}&device_code=x&grant_type={GRANT}");
    let path = "/login/oauth/access_token";
    let (status, kind, body) = devices.send(Method::POST, path, "application/xml", &poll).await;
    assert_eq!(status, StatusCode::OK);
    assert!(kind.starts_with("application/xml"), "{kind}");
    assert!(body.starts_with("<OAuth>") && body.contains("<error>incorrect_device_code</error>"), "{body}");
    let (status, _, body) = devices.send(Method::POST, path, "", &poll).await;
    assert_eq!((status, field(&pairs(&body), "error")), (StatusCode::OK, "incorrect_device_code"));
}

/// What a device has is a token like any other.
#[tokio::test]
async fn what_a_device_has_is_good_at_the_api() {
    let devices = Devices::new().await;
    let begun = devices.begin().await;
    devices.decide(&begun, "user=Mona").await;
    let given = devices.poll(&begun).await;
    let bearer = format!("Bearer {}", given["access_token"].as_str().expect("a token"));
    let request =
        Request::get("/user").header(header::AUTHORIZATION, bearer).header(header::USER_AGENT, "device");
    let request = request.body(Body::from(String::new())).expect("a request");
    let response = devices.forward.send(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-oauth-scopes"], "read:user");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let user: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(user["login"], "Mona");
}
