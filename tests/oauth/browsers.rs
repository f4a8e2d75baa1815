//! Browsers on protected hosts: one login for all of them, and a session on each.

use http::{Method, StatusCode};
use serde_json::json;

use super::world::{HOST, ISSUER, World};
use crate::support::eventually;
use crate::support::github::Person;

const COOKIE: &str = "__Host-unified_auth_token";

async fn world() -> World {
    let world = World::new().await;
    let fields = json!({ "auth_mode": "redirect", "resource_endpoint": null, "resource_scopes": null });
    world.daemon.change(HOST, fields.clone()).await;
    world.protect("wiki.localhost", fields).await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_login_opens_every_host_that_lists_the_user() {
    let world = world().await;
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(HOST, "/inbox?page=2"), "").await;
    let page = world.sign_in(&mut visitor, page, "alice").await;
    assert_eq!(page.url, world.url(HOST, "/inbox?page=2"));
    let seen = page.answer();
    assert_eq!(seen.status, StatusCode::OK, "{}", page.text());
    assert_eq!(seen.seen("x-auth-user"), ["alice"]);
    assert_eq!(seen.seen("cookie"), [""; 0], "no cookie of ours is for an upstream");
    assert!(visitor.cookie(HOST, COOKIE).is_some());
    // The other host asks nothing: the issuer knows the browser.
    let page = visitor.open(&world.url("wiki.localhost", "/"), "").await;
    assert_eq!((page.answer().status, page.url), (StatusCode::OK, world.url("wiki.localhost", "/")));
    // The cookie of one host is none of another, and no bearer token.
    let token = visitor.cookie(HOST, COOKIE).unwrap().to_owned();
    assert_eq!(world.get_as(HOST, "/", &token).await.status, StatusCode::UNAUTHORIZED);
    let mut other = world.visitor();
    let header = format!("{COOKIE}={token}");
    let url = world.url("wiki.localhost", "/");
    let stolen = other.send(Method::GET, &url, &[("cookie", &header)], String::new()).await;
    assert_eq!(stolen.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_on_the_list_sees_a_page_and_no_host() {
    let world = world().await;
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(HOST, "/"), "").await;
    let page = world.sign_in(&mut visitor, page, "bob").await;
    assert_eq!(page.answer().status, StatusCode::FORBIDDEN, "{}", page.text());
    assert!(page.text().contains("this account is on no list of this deployment"), "{}", page.text());
    assert!(visitor.cookie(HOST, COOKIE).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_good_once_in_the_browser_that_asked() {
    let world = world().await;
    world.github.person(Person::SignedIn("alice".to_owned()));
    let ticket = world.url(HOST, "/.portcullis/session");
    let mut visitor = world.visitor();
    let stopped = visitor.open(&world.url(HOST, "/"), &ticket).await;
    assert!(stopped.url.starts_with(&ticket), "{}", stopped.url);
    // Somebody who is made to open it gets no session of alice's.
    let mut victim = world.visitor();
    let page = victim.open(&stopped.url, "").await;
    assert_eq!(page.answer().status, StatusCode::BAD_REQUEST);
    assert!(victim.cookie(HOST, COOKIE).is_none());
    let late = visitor.open(&stopped.url, "").await;
    assert_eq!(late.answer().status, StatusCode::BAD_REQUEST, "a ticket that was shown elsewhere is used");
    // And nobody is sent to a host that is none of ours.
    for url in [
        "https://evil.example/",
        "https://auth.localhost:8443/",
        "http://app.localhost:8443/",
        "javascript:1",
    ] {
        let page = visitor.open(&world.at_issuer(&format!("/login?state=x&return_url={url}")), "").await;
        assert_eq!(page.answer().status, StatusCode::BAD_REQUEST, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_get_a_challenge_and_other_sites_nothing() {
    let world = world().await;
    let mut visitor = world.visitor();
    let url = world.url(HOST, "/");
    let program = visitor.send(Method::GET, &url, &[("accept", "application/json")], String::new()).await;
    assert_eq!(program.status, StatusCode::UNAUTHORIZED);
    assert!(program.header("www-authenticate").starts_with("Bearer "));
    let page = visitor.open(&url, "").await;
    world.sign_in(&mut visitor, page, "alice").await;
    let post = async |visitor: &mut crate::support::visitor::Visitor, headers: &[(&str, &str)]| {
        visitor.send(Method::POST, &world.url(HOST, "/delete"), headers, "a=1".to_owned()).await.status
    };
    assert_eq!(post(&mut visitor, &[("origin", "https://app.localhost:8443")]).await, StatusCode::OK);
    assert_eq!(post(&mut visitor, &[("origin", "https://wiki.localhost:8443")]).await, StatusCode::FORBIDDEN);
    assert_eq!(post(&mut visitor, &[("sec-fetch-site", "same-site")]).await, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_where_it_is_ended_and_with_the_list() {
    let world = world().await;
    let mut visitor = world.visitor();
    let page = visitor.open(&world.url(HOST, "/"), "").await;
    world.sign_in(&mut visitor, page, "alice").await;
    visitor.open(&world.url("wiki.localhost", "/"), "").await;
    let kept = visitor.clone();
    let out = visitor.send(Method::POST, &world.url(HOST, "/.portcullis/logout"), &[], String::new()).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    assert!(
        visitor.cookie(HOST, COOKIE).is_none()
            && visitor.cookie(ISSUER, "__Host-portcullis-session").is_some()
    );
    // The token that the cookie held is no good any more, whoever has kept it.
    let mut kept = kept;
    let accept = [("accept", "application/json")];
    let answer = kept.send(Method::GET, &world.url(HOST, "/"), &accept, String::new()).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let wiki = world.url("wiki.localhost", "/");
    assert_eq!(kept.send(Method::GET, &wiki, &accept, String::new()).await.status, StatusCode::OK);
    world.daemon.change("wiki.localhost", json!({ "auth_required_users": ["bob"] })).await;
    eventually("the list is in force", async || {
        let mut kept = kept.clone();
        let answer = kept.send(Method::GET, &wiki, &accept, String::new()).await;
        (answer.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
}
