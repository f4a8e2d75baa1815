//! GitHub has a device flow, too, and anybody can have one of its tokens. Portcullis never calls it
//! (`github/device.rs` says why), and what comes from there opens nothing here, even if it was given to our own app.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::standin::{App, pairs};
use crate::world::{APP, APP_ID, APP_SECRET, Answer, CLIENT, ISSUER, World, header};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A world in which devices may use our app at GitHub.
async fn world() -> World {
    let world = World::new().await;
    let app = App::new(APP_ID, APP_SECRET, &format!("{ISSUER}/callback"));
    world.github.add_app(app.with_device_flow());
    world.put_public_client().await;
    world
}

async fn ask_github(world: &World, path: &str, fields: &[(&str, &str)]) -> Value {
    let answer = world.post_to_github(path, fields).await;
    assert_eq!(answer.status, StatusCode::OK);
    let fields = pairs(&answer.text());
    Value::Object(fields.into_iter().map(|(name, value)| (name, json!(value))).collect())
}

/// The codes, and the token of Mona's that a device of our app has.
async fn device_token(world: &World) -> (Value, String) {
    let begun =
        ask_github(world, "/login/device/code", &[("client_id", APP_ID), ("scope", "read:user")]).await;
    let code = begun["user_code"].as_str().expect("a code").to_owned();
    let page = world.at_github(&format!("{}/login/device", world.github.url())).await;
    let submit = async |page: Answer, more: &[(&str, &str)]| {
        let hidden = page.fields();
        let mut fields: Vec<(&str, &str)> =
            hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        fields.extend(more);
        world.post_to_github("/login/device", &fields).await
    };
    let page = submit(page, &[("user_code", &code)]).await;
    assert_eq!(submit(page, &[("user", "Mona")]).await.status, StatusCode::OK);
    let fields = [
        ("client_id", APP_ID),
        ("device_code", begun["device_code"].as_str().expect("a code")),
        ("grant_type", GRANT),
    ];
    let given = ask_github(world, "/login/oauth/access_token", &fields).await;
    let token = given["access_token"].as_str().unwrap_or_else(|| panic!("no token: {given}")).to_owned();
    (begun, token)
}

#[tokio::test]
async fn a_token_of_githubs_device_flow_opens_nothing_here() {
    let world = world().await;
    let watcher = world.put_resource_server("rs").await;
    let (_, token) = device_token(&world).await;
    assert_eq!(world.github.tokens(), std::slice::from_ref(&token), "it is good at GitHub");

    assert_eq!(world.verify(&format!("{APP}/"), &token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.get_with("/userinfo", &token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.introspect(&watcher, &token).await, json!({ "active": false }));
    let refused = world.refresh(&token, &[]).await;
    assert_eq!((refused.status, refused.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"));
    let bearer = header("authorization", &format!("Bearer {token}"));
    let page = world.request(CLIENT, Method::GET, &format!("{ISSUER}/device"), bearer, String::new()).await;
    assert!(!page.text().contains("Mona"), "nobody is signed in by it: {}", page.text());
    // Whoever has it can't end it here, either: it is none of ours.
    let ended = world.post("/revoke", &[("client_id", "web"), ("token", &token)]).await;
    assert_eq!((ended.status, world.github.tokens().len()), (StatusCode::OK, 1));
}

#[tokio::test]
async fn the_codes_of_one_device_flow_are_none_of_the_other() {
    let world = world().await;
    let (begun, _) = device_token(&world).await;
    let theirs = begun["device_code"].as_str().expect("a code");
    let fields = [("grant_type", GRANT), ("client_id", "web"), ("device_code", theirs)];
    let refused = world.post("/token", &fields).await;
    assert_eq!((refused.status, refused.error().as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"));

    let ours = world.post("/device/code", &[("client_id", "web"), ("scope", "mcp"), ("resource", APP)]).await;
    assert_eq!(ours.status, StatusCode::OK, "{}", ours.text());
    let ours = ours.json();
    let code = ours["device_code"].as_str().expect("a code");
    let fields = [("client_id", APP_ID), ("device_code", code), ("grant_type", GRANT)];
    let refused = ask_github(&world, "/login/oauth/access_token", &fields).await;
    assert_eq!(refused["error"], "incorrect_device_code");
}
