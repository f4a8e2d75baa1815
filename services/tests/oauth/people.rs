//! What is known of people, how long it holds, and what they are asked.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use portcullis_services::oauth::grants::{self, Client, Grants, NewGrant, Wanted, new_id};
use portcullis_services::oauth::sessions::Sessions;
use portcullis_services::oauth::{Identity, Membership};
use portcullis_services::store::Store;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::register::register;
use crate::standin::{Person, User, field};
use crate::world::{APP, APP_ID, Answer, Authorization, HUBOT, ISSUER, MONA, REDIRECT, World, settings};

const STAFF: &str = "https://staff.example.com";

/// A host for who is in the organisation `acme`.
async fn staff() -> World {
    let world = World::new().await;
    world.put_public_client().await;
    let lists = json!({
        "oauth_user_users": ["Mona", "hubot"],
        "oauth_mcp_users": ["Mona", "hubot"],
        "auth_required_groups": ["acme"],
    });
    world.put_host("staff.example.com", lists).await;
    world
}

fn store(world: &World) -> Arc<dyn Store> {
    Arc::<_>::clone(&world.store) as Arc<dyn Store>
}

/// Mona, whose groups were asked for some days ago.
fn mona(days: u64) -> Identity {
    let ago = Duration::from_secs(days * 86_400);
    Identity {
        subject: MONA.to_string(),
        login: "Mona".to_owned(),
        name: None,
        emails: Vec::new(),
        memberships: vec![Membership {
            app: APP_ID.to_owned(),
            at: Timestamp::now().checked_sub(ago).expect("a time"),
            groups: vec!["acme".to_owned()],
        }],
    }
}

/// Mona has signed in before.
async fn pinned(world: &World) {
    let pins = portcullis_services::oauth::pins::Pins::new(store(world));
    assert!(pins.holds(&mona(0), Timestamp::now()).await.expect("stored"));
}

#[tokio::test]
async fn groups_that_were_learned_long_ago_are_asked_for_anew() {
    let world = staff().await;
    let sessions = Sessions::new(store(&world), settings().sessions);
    pinned(&world).await;
    for (days, known) in [(6, true), (8, false)] {
        let (secret, _) = sessions.create(mona(days), Timestamp::now()).await.expect("a session");
        let browser = world.browser();
        browser.set_cookie("auth.example.com", "__Host-portcullis-session", secret.expose_secret());
        let asked = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", STAFF)]);
        let page = browser.go(&asked.url).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text());
        assert_eq!(page.text().contains("You are signed in as"), known, "{days} days");
        // Where no list asks for groups, none are missed.
        let asked = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
        assert_eq!(browser.go(&asked.url).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_refresh_does_not_believe_old_groups() {
    let world = staff().await;
    let lifetimes = grants::Lifetimes::default();
    let grants = Grants::new(store(&world), Arc::clone(&world.revocations), lifetimes);
    pinned(&world).await;
    for (days, resource, good) in [(6, STAFF, true), (8, STAFF, false), (8, APP, true)] {
        let new = NewGrant {
            id: new_id(),
            subject: MONA.to_string(),
            identity: Some(mona(days)),
            client: Client { id: "web".to_owned(), snapshot: Value::Null },
            resources: vec![resource.to_owned()],
            scopes: ["mcp".to_owned()].into(),
            session: None,
            refreshable: true,
        };
        let issued = grants.create(new, Wanted::default(), Timestamp::now()).await.expect("a grant");
        let refresh = issued.refresh.expect("a token");
        let fields = [
            ("grant_type", "refresh_token"),
            ("client_id", "web"),
            ("refresh_token", refresh.expose_secret()),
        ];
        let answer = world.post("/token", &fields).await;
        if good {
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        } else {
            assert_eq!(answer.error(), "invalid_grant");
            assert!(answer.text().contains("sign in again"), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn who_has_lost_a_login_to_the_account_on_a_list_refreshes_no_more() {
    let world = World::new().await;
    world.put_public_client().await;
    world.put_host("open.example.com", json!({ "oauth_mcp_users": ["hubot", "Mona"] })).await;
    let open = "https://open.example.com";
    let tokens = world.tokens(&world.browser(), "mcp", open).await;
    // Mona is renamed, and her login is hubot's now; an administrator has released it for them.
    world.github.rename(MONA, "mona-old");
    world.github.rename(HUBOT, "Mona");
    let released = portcullis_services::oauth::pins::Pins::new(store(&world)).release("Mona").await;
    released.expect("released");
    let browser = world.browser();
    let answer = world.tokens(&browser, "mcp", open).await;
    assert!(answer["access_token"].is_string(), "{answer}");
    let refresh = tokens["refresh_token"].as_str().expect("a token");
    let fields = [("grant_type", "refresh_token"), ("client_id", "web"), ("refresh_token", refresh)];
    let answer = world.post("/token", &fields).await;
    assert_eq!(answer.error(), "invalid_grant", "{}", answer.text());
}

#[tokio::test]
async fn the_page_tells_what_is_new_from_what_was_allowed() {
    let world = World::new().await;
    world.put_public_client().await;
    let browser = world.browser();
    world.tokens(&browser, "openid mcp", APP).await;
    let asked = Authorization::new("web", REDIRECT, &[("scope", "openid mcp user"), ("resource", APP)]);
    let page = browser.go(&asked.url).await.text();
    let (new, allowed) = page.split_once("What you have allowed before").expect("both are told");
    assert!(new.contains("from now on") && new.contains("<code>user</code>"), "{page}");
    assert!(!new.contains("<code>mcp</code>") && allowed.contains("<code>mcp</code>"), "{page}");
    assert!(!allowed.contains("<code>user</code>"), "{page}");
}

/// The redirect or the page that a bad request of a client ends with.
async fn bad_request(world: &World, client: &str, signed_in: bool, redirect_uri: &str) -> Answer {
    let browser = world.browser();
    if signed_in {
        browser.sign_in().await;
    }
    let asked = Authorization::new(client, redirect_uri, &[("scope", "nothing-of-this"), ("resource", APP)]);
    browser.go(&asked.url).await
}

#[tokio::test]
async fn strangers_clients_send_nobody_on_before_they_were_seen() {
    let world = World::new().await;
    world.put_public_client().await;
    let body =
        json!({ "redirect_uris": [REDIRECT, "http://127.0.0.1/cb"], "token_endpoint_auth_method": "none" });
    let registered = register(&world, body).await.json();
    let stranger = registered["client_id"].as_str().expect("an id");

    let page = bad_request(&world, stranger, false, REDIRECT).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.headers.get("location").is_none());
    let link = format!("href=\"{REDIRECT}?error=invalid_scope");
    assert!(page.text().contains(&link), "{}", page.text());
    assert!(page.text().contains("iss="), "{}", page.text());

    for (client, signed_in, uri) in
        [(stranger, true, REDIRECT), (stranger, false, "http://127.0.0.1:4000/cb"), ("web", false, REDIRECT)]
    {
        let answer = bad_request(&world, client, signed_in, uri).await;
        let expected = format!("{uri}?error=invalid_scope");
        assert!(answer.location().starts_with(&expected), "{client} {uri}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_scope_of_a_hosts_own_may_have_a_list() {
    let world = World::new().await;
    world.put_public_client().await;
    let host = json!({
        "oauth_mcp_users": ["Mona", "hubot"],
        "resource_scopes": ["mcp:read", "mcp:write"],
        "oauth_scope_users": { "mcp:write": ["hubot"] },
    });
    world.put_host("tools.example.com", host).await;
    let tokens = world.tokens(&world.browser(), "mcp:read mcp:write", "https://tools.example.com").await;
    assert_eq!(tokens["scope"], "mcp:read");
}

#[tokio::test]
async fn a_routes_own_people_and_scopes_can_be_had() {
    let world = World::new().await;
    world.put_public_client().await;
    world
        .put_host(
            "parts.example.com",
            json!({
                "oauth_admin_users": [],
                "oauth_mcp_users": ["hubot"],
                "auth_required_users": ["hubot"],
            }),
        )
        .await;
    let auth =
        json!({ "auth_type": "bearer", "allowed_users": ["Mona"], "required_scopes": ["reports:read"] });
    let route = json!({
        "route_id": "reports",
        "path_pattern": "/reports",
        "target_type": "url",
        "target_value": "http://10.0.0.6:80",
        "scope": "proxy",
        "proxy_hostnames": ["parts.example.com"],
        "override_proxy_auth": true,
        "auth_config": auth,
    });
    world.put_route("reports", route).await;
    let parts = "https://parts.example.com";
    let tokens = world.tokens(&world.browser(), "mcp reports:read", parts).await;
    assert_eq!(tokens["scope"], "reports:read", "what the host gives to others only is left out");
    world.github.person(Person::SignedIn("hubot".to_owned()));
    let tokens = world.tokens(&world.browser(), "mcp reports:read", parts).await;
    assert_eq!(tokens["scope"], "mcp");
}

#[tokio::test]
async fn who_is_on_no_list_gets_no_session() {
    let world = World::new().await;
    world.github.add_user(User::new(99, "stranger"));
    world.github.person(Person::SignedIn("stranger".to_owned()));
    let browser = world.browser();
    let page = browser.go(&format!("{ISSUER}/login")).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN, "{}", page.text());
    assert!(browser.cookie("auth.example.com", "__Host-portcullis-session").is_none());
    let sessions = Sessions::new(store(&world), settings().sessions);
    assert_eq!(sessions.count(portcullis_services::oauth::Filter::All).await.expect("read"), 0);
}

#[tokio::test]
async fn who_signs_in_again_keeps_what_hosts_have_given() {
    let world = World::new().await;
    world.put_public_client().await;
    let browser = world.browser();
    let cookie = browser.host_session().await;
    let before = browser.cookie("auth.example.com", "__Host-portcullis-session").expect("a session");
    let asked = Authorization::new(
        "web",
        REDIRECT,
        &[("scope", "openid mcp"), ("resource", APP), ("prompt", "login")],
    );
    browser.code(&asked.url).await;
    let after = browser.cookie("auth.example.com", "__Host-portcullis-session").expect("a session");
    assert_ne!(before, after, "the secret is another one");
    let jti = crate::world::claims(&cookie)["jti"].as_str().expect("an id").to_owned();
    assert!(!world.revocations.revoked().contains(Some(&jti), u64::MAX), "the host's session goes on");
    // And hangs on the session of now.
    let url = format!("{ISSUER}/logout");
    let page = browser.go(&url).await;
    browser.submit(&page, &url, &[("decision", "approve")]).await;
    assert!(world.revocations.revoked().contains(Some(&jti), u64::MAX));
    // What the browser had before is good for nothing.
    browser.set_cookie("auth.example.com", "__Host-portcullis-session", &before);
    let silent =
        Authorization::new("web", REDIRECT, &[("scope", "openid"), ("resource", APP), ("prompt", "none")]);
    assert_eq!(field(&browser.go(&silent.url).await.redirected(), "error"), "login_required");
}
