use serde_json::json;

use super::*;
use crate::oauth::clients::metadata::{Metadata, Source};
use crate::oauth::clients::testing::{Site, answer, json_answer};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("valid")
}

fn client(id: &str, origin: Origin) -> Client {
    let fields = json!({
        "redirect_uris": ["https://app.example/"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks_uri": "https://app.example/keys.json",
    });
    let fields = fields.as_object().expect("an object");
    let metadata = Metadata::read(fields, Source::Registration).expect("valid");
    Client {
        id: id.to_owned(),
        origin,
        metadata: Arc::new(metadata),
        first_party: false,
        introspects: false,
        secret: None,
        any_secret_method: false,
    }
}

fn stranger(id: &str) -> Client {
    client(id, Origin::Registered)
}

async fn keys() -> (ClientKeys, Site) {
    let site = Site::start().await;
    site.says(answer("404 Not Found", "", ""));
    (ClientKeys::new(Arc::new(site.guard())), site)
}

/// Asks for keys that are not there, at a place of their own.
async fn fails(keys: &ClientKeys, site: &Site, client: &Client, path: &str, second: i64) -> &'static str {
    let uri = site.url(path).parse().expect("a URL");
    match &*keys.get(client, &uri, Timestamp::MIN, at(second)).await.expect_err("there are none") {
        CacheError::Fetch(_) => "fetched",
        CacheError::Invalid(_) => "invalid",
        CacheError::Busy => "busy",
    }
}

#[tokio::test]
async fn one_client_does_not_make_us_fetch_without_end_wherever_its_keys_are() {
    let (keys, site) = keys().await;
    let one = stranger("one");
    for n in 0..6 {
        assert_eq!(fails(&keys, &site, &one, &format!("/{n}"), 0).await, "fetched");
    }
    for n in 6..12 {
        assert_eq!(fails(&keys, &site, &one, &format!("/{n}"), 0).await, "busy", "{n}");
    }
    assert_eq!(site.requests().len(), 6);
    assert_eq!(fails(&keys, &site, &stranger("two"), "/6", 0).await, "fetched", "others are not concerned");
    // One in ten seconds is allowed again.
    assert_eq!(fails(&keys, &site, &one, "/7", 10).await, "fetched");
    assert_eq!(fails(&keys, &site, &one, "/8", 10).await, "busy");
    assert_eq!(site.requests().len(), 8);
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_while() {
    let (keys, site) = keys().await;
    let one = stranger("one");
    for second in [0, 1, 9] {
        assert_eq!(fails(&keys, &site, &one, "/keys", second).await, "fetched");
    }
    assert_eq!(site.requests().len(), 1);
    fails(&keys, &site, &one, "/keys", 10).await;
    assert_eq!(site.requests().len(), 2);
    // What is no key set is not asked for again at once, either.
    site.says(json_answer(&json!({ "keys": "none" })));
    for second in [20, 21, 29] {
        assert_eq!(fails(&keys, &site, &one, "/keys", second).await, "invalid");
    }
    assert_eq!(site.requests().len(), 3);
}

#[tokio::test]
async fn strangers_together_have_a_limit_that_is_not_the_administrators() {
    let (keys, site) = keys().await;
    // Each has less than its own, so it is the one of all.
    let mut fetched = 0;
    while fails(&keys, &site, &stranger(&format!("c{fetched}")), &format!("/{fetched}"), 0).await == "fetched"
    {
        fetched += 1;
        assert!(fetched < 1000, "there is no limit");
    }
    assert_eq!((fetched, site.requests().len()), (300, 300));
    let described = client("https://client.example/c.json", Origin::Document);
    assert_eq!(fails(&keys, &site, &described, "/described", 0).await, "busy");
    let ours = client("ours", Origin::Configured);
    assert_eq!(fails(&keys, &site, &ours, "/ours", 0).await, "fetched");
    assert_eq!(fails(&keys, &site, &described, "/described", 1).await, "fetched", "five in a second");
}

#[tokio::test]
async fn what_is_fresh_still_counts_when_nothing_more_is_fetched() {
    let (keys, site) = keys().await;
    let one = stranger("one");
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    site.says(json_answer(&json!({ "keys": [key] })));
    let uri: HttpsUrl = site.url("/keys").parse().expect("a URL");
    let get = async |since, second| keys.get(&one, &uri, since, at(second)).await;
    for _ in 0..6 {
        // Newer than what there is each time.
        let found = get(at(60), 0).await.expect("fetched");
        assert_eq!(found.len(), 1);
    }
    assert_eq!(site.requests().len(), 6);
    assert_eq!(get(at(60), 0).await.expect("the fresh ones").len(), 1);
    assert_eq!(site.requests().len(), 6);
    // They are of no use once they are stale, whatever the limit says.
    site.says(answer("404 Not Found", "", ""));
    for n in 0..6 {
        assert_eq!(fails(&keys, &site, &one, &format!("/{n}"), 600).await, "fetched");
    }
    assert_eq!(fails(&keys, &site, &one, "/keys", 600).await, "busy");
}
