use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::control::oauth::configured::{CreateOauthClient, RotateOauthClientSecret, UpdateOauthClient};
use crate::control::oauth::testing::{Given, admin, given, person};
use crate::oauth::Filter;
use crate::oauth::authorization_server::Event;
use crate::oauth::clients::auth::Form;
use crate::oauth::clients::{AuthError, Client, Credentials};

const DOCUMENT: &str = "https://client.example/oauth/client.json";

async fn register(given: &Given, name: &str, redirect: &str) -> String {
    let body =
        json!({ "client_name": name, "redirect_uris": [redirect], "token_endpoint_auth_method": "none" });
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let registrations = &given.server.registrations;
    let made = registrations.register(body.to_string().as_bytes(), from, Timestamp::now()).await;
    made.expect("registered").client_id
}

/// Those of a kind.
fn of_kind<'a>(page: &'a Value, kind: &str) -> Vec<&'a Value> {
    page["clients"].as_array().expect("a list").iter().filter(|client| client["kind"] == kind).collect()
}

#[tokio::test]
async fn look_alikes_are_one_entry_and_unused_ones_are_left_out() {
    let given = given().await;
    let mut alike = Vec::new();
    for path in ["a", "b", "c"] {
        alike.push(register(&given, "Look", &format!("https://look.example/{path}")).await);
    }
    register(&given, "Look", "https://other.example/").await;
    let used = given.server.registrations.used(&alike[1], Timestamp::now()).await;
    assert!(used.expect("noted"));
    let issued = given.grant(&alike[1], &person(1, "octocat"), None).await;

    let page = given.ask::<ListOauthClients>(json!({})).await;
    let [merged] = of_kind(&page, "registered")[..] else { panic!("{page}") };
    let ids = merged["client_ids"].as_array().expect("ids").iter();
    let ids: BTreeSet<_> = ids.filter_map(Value::as_str).collect();
    let expected: BTreeSet<_> = alike.iter().map(String::as_str).collect();
    assert_eq!((&merged["count"], ids), (&json!(3), expected));
    assert_eq!((&merged["token_count"], &merged["grant_count"]), (&json!(1), &json!(1)));
    assert_eq!(merged["last_token_issued"], json!(issued.access.issued_at));
    assert!(merged["days_until_expiry"].as_i64() > Some(80), "the one that was used lasts: {merged}");
    let summary = |expired: u64| json!({ "total_clients": 6, "active_clients": 3, "unused_clients": 3, "expired_clients": expired });
    assert_eq!(page["summary"], summary(0));
    // One that is there, one that was deleted, and one that nobody has used for an hour.
    let event = |kind, id| Event { kind, client_id: Some(id), ..Event::default() };
    let registered = ["dyn_deleted", "dyn_ended", &alike[0]].map(|id| event("client_registration", id));
    given.note(&registered).await;
    given.note(&[event("client_deletion", "dyn_deleted")]).await;
    let page = given.ask::<ListOauthClients>(json!({})).await;
    assert_eq!(page["summary"], summary(1));

    let page = given.ask::<ListOauthClients>(json!({ "active_only": false, "per_page": 2, "page": 2 })).await;
    assert_eq!(page["clients"].as_array().map(Vec::len), Some(2));
    let pages = json!({ "total": 4, "page": 2, "per_page": 2, "pages": 2 });
    assert_eq!(page["pagination"], pages);
    let by_name = json!({ "active_only": false, "sort_by": "client_name", "order": "asc" });
    let page = given.ask::<ListOauthClients>(by_name).await;
    let names: Vec<_> =
        page["clients"].as_array().expect("a list").iter().map(|one| &one["client_name"]).collect();
    assert_eq!(names, ["Look", "Look", "portcullis command line", "portcullis command line"]);
}

#[tokio::test]
async fn a_client_with_a_document_is_known_by_its_grants() {
    let given = given().await;
    let who = person(1, "octocat");
    given.proxy("app.example.com").await;
    given.consent(DOCUMENT, &who).await;
    let issued = given.grant(DOCUMENT, &who, None).await;
    let page = given.ask::<ListOauthClients>(json!({})).await;
    let [entry] = of_kind(&page, "document")[..] else { panic!("{page}") };
    assert_eq!((&entry["client_id"], &entry["client_name"]), (&json!(DOCUMENT), &json!("Snapped")));
    let id = json!({ "client_id": entry["path_id"] });
    let shown = given.ask::<ShowOauthClient>(id.clone()).await;
    assert_eq!(
        (&shown["client_id"], &shown["metadata"]["client_name"]),
        (&json!(DOCUMENT), &json!("Snapped"))
    );
    let hosts = json!([{
        "proxy_hostname": "app.example.com", "auth_enabled": true, "auth_mode": "forward", "active_sessions": 1,
    }]);
    assert_eq!(shown["proxy_associations"], hosts);

    let done = given.ask::<DeleteOauthClient>(id.clone()).await;
    assert_eq!(done["also"], json!(["1 grants ended"]));
    assert!(given.is_revoked(&issued));
    let consents = given.server.consents.list(Filter::All, None, 1).await.expect("read");
    assert!(consents.items.is_empty());
    let gone = given.call::<DeleteOauthClient>(id, &admin()).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

async fn authenticate(given: &Given, id: &str, secret: &str) -> Result<Client, AuthError> {
    let form = Form {
        client_id: Some(id),
        client_secret: Some(secret),
        client_assertion_type: None,
        client_assertion: None,
    };
    let credentials = Credentials::read(&HeaderMap::new(), form).expect("credentials");
    given.server.authenticator.authenticate(&credentials, Timestamp::now()).await
}

#[tokio::test]
async fn a_secret_is_shown_once_and_a_new_one_replaces_it() {
    let given = given().await;
    let fields = json!({ "client_id": "ci", "client_name": "CI", "grant_types": ["client_credentials"] });
    let made = given.ask::<CreateOauthClient>(fields.clone()).await;
    let first = made["client_secret"].as_str().expect("a secret").to_owned();
    assert!(authenticate(&given, "ci", &first).await.is_ok());
    let id = json!({ "client_id": "ci" });
    let shown = given.ask::<ShowOauthClient>(id.clone()).await;
    assert_eq!((&shown["kind"], &shown["config_version"]), (&json!("configured"), &json!(1)));
    assert_eq!(shown["metadata"]["grant_types"], json!(["client_credentials"]));
    let (_, documents) = given.control.store.load().await.expect("loaded");
    for text in [shown.to_string(), format!("{documents:?}"), format!("{:?}", given.control)] {
        assert!(!text.contains(&first), "{text}");
    }
    let again = given.call::<CreateOauthClient>(fields, &admin()).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");

    let rotated = given.ask::<RotateOauthClientSecret>(id.clone()).await;
    let second = rotated["client_secret"].as_str().expect("a secret");
    assert!(authenticate(&given, "ci", &first).await.is_err());
    assert!(authenticate(&given, "ci", second).await.is_ok());
    let public = json!({ "client_id": "ci", "token_endpoint_auth_method": "none" });
    let changed = given.ask::<UpdateOauthClient>(public).await;
    assert_eq!(changed.get("client_secret"), None);
    let refused = given.call::<RotateOauthClientSecret>(id.clone(), &admin()).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let post = json!({ "client_id": "ci", "token_endpoint_auth_method": "client_secret_post" });
    let changed = given.ask::<UpdateOauthClient>(post).await;
    let third = changed["client_secret"].as_str().expect("a secret");
    assert!(
        authenticate(&given, "ci", third).await.is_ok() && authenticate(&given, "ci", second).await.is_err()
    );
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_name() {
    let given = given().await;
    let fields = json!({
        "client_id": "web", "client_name": "Web", "redirect_uris": ["https://web.example/cb"],
        "token_endpoint_auth_method": "none", "scope": "read write", "contacts": ["ops@web.example"],
    });
    given.ask::<CreateOauthClient>(fields).await;
    let change = json!({ "client_id": "web", "scope": null, "client_name": "Site", "first_party": true });
    let changed = given.ask::<UpdateOauthClient>(change).await;
    let metadata = &changed["metadata"];
    assert_eq!((&metadata["client_name"], &changed["first_party"]), (&json!("Site"), &json!(true)));
    assert_eq!((metadata.get("scope"), &metadata["contacts"]), (None, &json!(["ops@web.example"])));
    assert_eq!(metadata["redirect_uris"], json!(["https://web.example/cb"]));
    assert_eq!(changed["config_version"], 2);

    for (field, value) in [
        ("redirect_uris", json!(["http://web.example/cb"])),
        ("redirect_uris", json!([])),
        ("token_endpoint_auth_method", json!("private_key_jwt")),
        ("scope", json!("a\"b")),
        ("secret", json!("mine")),
    ] {
        let change = json!({ "client_id": "web", field: value });
        let Err(Error::Invalid(errors)) = given.call::<UpdateOauthClient>(change, &admin()).await else {
            panic!("{field} must be refused")
        };
        assert!([field, "jwks"].contains(&errors[0].field.as_str()), "{errors:?}");
    }
    let stale = Context { if_match: Some(1), ..admin() };
    let change = json!({ "client_id": "web", "client_name": "Late" });
    let refused = given.call::<UpdateOauthClient>(change, &stale).await;
    assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
    let refused = given
        .call::<CreateOauthClient>(
            json!({ "client_id": "dyn_x", "grant_types": ["client_credentials"] }),
            &admin(),
        )
        .await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn deleting_a_client_ends_what_it_was_given() {
    let given = given().await;
    let who = person(1, "octocat");
    let fields = json!({ "client_id": "web", "redirect_uris": ["https://web.example/cb"] });
    given.ask::<CreateOauthClient>(fields).await;
    let registered = register(&given, "Tool", "https://tool.example/").await;
    for id in ["web", &registered] {
        given.consent(id, &who).await;
        let issued = given.grant(id, &who, None).await;
        let other = given.grant("other", &who, None).await;
        let done = given.ask::<DeleteOauthClient>(json!({ "client_id": id })).await;
        assert_eq!(done["also"], json!(["1 grants ended"]), "{id}");
        assert!(given.is_revoked(&issued) && !given.is_revoked(&other), "{id}");
        let client = given.server.clients.find(id, Timestamp::now()).await.expect("looked up");
        assert!(client.is_none(), "{id}");
        let consents = given.server.consents.list(Filter::Client(id), None, 1).await.expect("read");
        assert!(consents.items.is_empty(), "{id}");
        let gone = given.call::<ShowOauthClient>(json!({ "client_id": id }), &admin()).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    }
}

#[tokio::test]
async fn a_part_of_portcullis_can_not_be_changed_or_deleted() {
    let given = given().await;
    let id = json!({ "client_id": crate::oauth::authorization_server::CLI_CLIENT });
    let shown = given.ask::<ShowOauthClient>(id.clone()).await;
    assert_eq!((&shown["kind"], &shown["first_party"]), (&json!("built_in"), &json!(true)));
    let refused = [
        given.call::<DeleteOauthClient>(id.clone(), &admin()).await,
        given.call::<UpdateOauthClient>(id.clone(), &admin()).await,
        given.call::<CreateOauthClient>(id, &admin()).await,
        given.call::<CreateOauthClient>(json!({ "client_id": BROWSER_CLIENT }), &admin()).await,
    ];
    for refused in refused {
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    }
    let registered = register(&given, "Tool", "https://tool.example/").await;
    let change = json!({ "client_id": registered, "client_name": "Mine" });
    let refused = given.call::<UpdateOauthClient>(change, &admin()).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
}

#[tokio::test]
async fn the_use_of_a_client_is_counted_from_its_events() {
    let given = given().await;
    let fields = json!({ "client_id": "web", "redirect_uris": ["https://web.example/cb"] });
    given.ask::<CreateOauthClient>(fields).await;
    let event = |kind, error| Event { kind, error, client_id: Some("web"), ..Event::default() };
    given
        .note(&[
            event("auth_complete", None),
            event("auth_request", Some("invalid_scope")),
            event("token_exchange", None),
            event("token_refresh", None),
            event("token_refresh", Some("invalid_grant")),
            Event { kind: "auth_complete", client_id: Some("other"), ..Event::default() },
        ])
        .await;
    let shown = given.ask::<ShowOauthClient>(json!({ "client_id": "web" })).await;
    let stats = &shown["usage_stats"];
    assert_eq!(
        (&stats["total_authorizations"], &stats["failed_authorizations"], &stats["total_tokens_issued"]),
        (&json!(1), &json!(1), &json!(2)),
        "{stats}"
    );
    assert!(stats["last_authorization"].is_string(), "{stats}");
}
