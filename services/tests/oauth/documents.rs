//! Clients that are known by a URL: whoever names one makes this server call a host.

use std::net::IpAddr;

use http::{Method, StatusCode};

use crate::world::{Answer, Authorization, CLIENT, ISSUER, World, form, header};

/// What a network may have at once.
const AT_ONCE: usize = 30;

/// Nothing is fetched from there, but that is known only after the limit was asked.
fn url(number: usize) -> String {
    format!("https://127.0.0.1/client/{number}")
}

async fn redeem(world: &World, from: IpAddr, client: &str) -> Answer {
    let fields = [("grant_type", "authorization_code"), ("client_id", client), ("code", "x")];
    let kind = header("content-type", "application/x-www-form-urlencoded");
    world.request(from, Method::POST, &format!("{ISSUER}/token"), kind, form(&fields)).await
}

async fn log_out(world: &World, from: IpAddr, client: &str) -> Answer {
    let query =
        form(&[("client_id", client), ("post_logout_redirect_uri", "https://client.example.com/bye")]);
    let url = format!("{ISSUER}/logout?{query}");
    world.request(from, Method::GET, &url, http::HeaderMap::new(), String::new()).await
}

#[tokio::test]
async fn one_network_does_not_make_us_fetch_without_end() {
    let world = World::new().await;
    let mut fetched = 0;
    while redeem(&world, CLIENT, &url(fetched)).await.status != StatusCode::TOO_MANY_REQUESTS {
        fetched += 1;
        assert!(fetched < 2 * AT_ONCE, "there is no limit");
    }
    assert!(fetched >= AT_ONCE, "{fetched}");
    let refused = redeem(&world, CLIENT, &url(fetched + 1)).await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable")
    );
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(log_out(&world, CLIENT, &url(fetched + 2)).await.status, StatusCode::TOO_MANY_REQUESTS);
    // A failure is nothing known, so asking for the same again counts as well. Others are not concerned.
    assert_eq!(redeem(&world, CLIENT, &url(0)).await.status, StatusCode::TOO_MANY_REQUESTS);
    let elsewhere = IpAddr::from([192, 0, 2, 99]);
    assert_eq!(redeem(&world, elsewhere, &url(0)).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn nobody_learns_which_names_and_addresses_there_are() {
    let world = World::new().await;
    let mut pages = Vec::new();
    for client in [
        "https://127.0.0.1/client",
        "https://10.0.0.1/client",
        "https://localhost/client",
        "https://no-such-name.invalid/client",
        "https://localhost:8443/client",
    ] {
        let asked = Authorization::new(client, "https://client.example.com/callback", &[]);
        let page = world.browser().go(&asked.url).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{client}");
        pages.push(page.text());
    }
    assert!(
        pages[0].contains("it can&#39;t be fetched") || pages[0].contains("it can't be fetched"),
        "{}",
        pages[0]
    );
    pages.dedup();
    assert_eq!(pages.len(), 1, "they differ: {pages:#?}");
}

#[tokio::test]
async fn one_network_does_not_log_out_without_end() {
    let world = World::new().await;
    let mut passed = 0;
    while log_out(&world, CLIENT, "nobody").await.status != StatusCode::TOO_MANY_REQUESTS {
        passed += 1;
        assert!(passed < 120, "there is no limit");
    }
    assert!(passed >= 60, "{passed}");
    let refused = log_out(&world, CLIENT, "nobody").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.header("content-type").starts_with("text/html"), "it is a page");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|wait| wait > 0), "{refused:?}");
    let elsewhere = IpAddr::from([192, 0, 2, 99]);
    assert_eq!(log_out(&world, elsewhere, "nobody").await.status, StatusCode::BAD_REQUEST);
}
