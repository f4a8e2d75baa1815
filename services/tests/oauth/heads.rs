//! `HEAD` is answered wherever `GET` is (RFC 9110, section 9.1), with the head that `GET` would get.

use http::{Method, StatusCode};

use crate::world::{APP, Authorization, ISSUER, REDIRECT, World};

#[tokio::test]
async fn a_head_is_that_of_the_page_or_the_redirect() {
    let world = World::new().await;
    world.put_public_client().await;
    let asked = Authorization::new("web", REDIRECT, &[("scope", "mcp"), ("resource", APP)]);
    let elsewhere = asked.url.replace(ISSUER, APP);
    let silent = format!("{}&prompt=none", asked.url);
    for url in [
        asked.url.as_str(),
        silent.as_str(),
        elsewhere.as_str(),
        &format!("{ISSUER}/login"),
        &format!("{ISSUER}/callback?state=x&code=y"),
        &format!("{ISSUER}/device"),
        &format!("{ISSUER}/logout"),
        &format!("{APP}/.portcullis/session?ticket=x"),
    ] {
        let get = world.browser().send(Method::GET, url, None).await;
        let head = world.browser().send(Method::HEAD, url, None).await;
        assert_ne!(get.status, StatusCode::METHOD_NOT_ALLOWED, "{url}");
        assert_eq!(head.status, get.status, "{url}");
        assert!(head.body.is_empty(), "{url}: {}", head.text());
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{url}");
        let place = |location: &str| location.split('?').next().map(str::to_owned);
        assert_eq!(place(head.location()), place(get.location()), "{url}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{url}");
    }
}

#[tokio::test]
async fn what_is_for_forms_has_no_head() {
    let world = World::new().await;
    for (url, allowed) in
        [(format!("{ISSUER}/consent"), "POST"), (format!("{APP}/.portcullis/logout"), "POST")]
    {
        let head = world.browser().send(Method::HEAD, &url, None).await;
        assert_eq!((head.status, head.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, allowed), "{url}");
    }
    let put = world.browser().send(Method::PUT, &format!("{ISSUER}/login"), None).await;
    assert_eq!((put.status, put.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
}
