use serde_json::json;

use super::configured::InvalidClient;
use super::registration::Settings;
use super::store::memory::Memory;
use super::testing::{Ended, Site, json_answer};
use super::*;
use crate::store::embedded::Embedded;
use crate::store::{Expect, Key, Kind, Write};

#[tokio::test]
async fn an_id_tells_where_a_client_is_looked_for() {
    let site = Site::start().await;
    let store = Arc::new(Embedded::in_memory().expect("a store"));
    let kept = Arc::new(Memory::default());
    let registrations = Arc::new(Registrations::new(
        kept,
        Arc::new(Ended::default()),
        Settings::new("https://auth.example/register"),
    ));
    let documents = Arc::new(Documents::new(Arc::new(site.guard())));
    let built_in =
        Client::built_in("portcullis", "portcullis", &["http://localhost/callback"]).expect("valid");
    let clients = Clients::new(store.clone(), registrations.clone(), documents, vec![built_in]);
    let now = Timestamp::UNIX_EPOCH;

    let url = site.url("/client.json");
    let uris = json!(["https://app.example/cb"]);
    site.says(json_answer(&json!({ "client_id": url, "client_name": "App", "redirect_uris": uris })));
    let body = json!({ "redirect_uris": uris, "token_endpoint_auth_method": "none" });
    let registered = registrations.register(body.to_string().as_bytes(), [10, 0, 0, 1].into(), now).await;
    let registered = registered.expect("registered").client_id;
    let (configured, _) = ConfiguredClient::new(body.as_object().expect("an object"), true).expect("valid");
    let write = configured.put("app", Expect::Absent).expect("a good id");
    store.commit(vec![write]).await.expect("stored");
    // Whoever may write documents must not make them pass for clients of another kind.
    let value = serde_json::to_value(&configured).expect("JSON");
    for id in [registered.as_str(), "dyn_other", &url, "portcullis"] {
        let key = Key::new(Kind::Client, id);
        store
            .commit(vec![Write::Put { key, value: value.clone(), expect: Expect::Absent }])
            .await
            .expect("stored");
    }
    for (id, origin, first_party) in [
        ("portcullis", Origin::Configured, true),
        ("app", Origin::Configured, true),
        (&registered, Origin::Registered, false),
        (&url, Origin::Document, false),
    ] {
        let client = clients.find(id, now).await.expect("read").expect(id);
        assert_eq!((client.id.as_str(), client.origin, client.first_party), (id, origin, first_party));
        assert!(client.is_public() && client.may(GrantType::AuthorizationCode));
        assert_eq!(client.document_host().is_some(), origin == Origin::Document);
        assert!(clients.used(&client, now).await.expect("stored"));
    }
    for id in ["", "other", "dyn_other", "http://localhost/x", "https://localhost/", "://"] {
        assert!(clients.find(id, now).await.expect("read").is_none(), "{id:?}");
    }
    let bad = clients.find(&site.url("/other.json"), now).await.expect_err("it names another client");
    assert!(matches!(bad, LookupError::Document(error) if !error.is_temporary()));
    let key = Key::new(Kind::Client, "broken");
    let broken =
        Write::Put { key, value: json!({ "redirect_uris": ["javascript:x"] }), expect: Expect::Absent };
    store.commit(vec![broken]).await.expect("stored");
    assert!(matches!(clients.find("broken", now).await, Err(LookupError::Store(_))));
}

#[test]
fn ids_of_configured_clients_stand_apart() {
    let fields = json!({ "redirect_uris": ["https://app.example/cb"] });
    let (mut client, secret) =
        ConfiguredClient::new(fields.as_object().expect("an object"), false).expect("valid");
    assert!(secret.is_some() && client.renew_secret().is_some());
    for bad in ["", "dyn_x", "https://app.example/c", "a b", "a:b", "a/b", "\u{e4}", &"x".repeat(129)] {
        assert_eq!(client.put(bad, Expect::Absent).expect_err(bad), InvalidClient::Id);
    }
    let Write::Put { key, value, .. } = client.put("My-app_1.0", Expect::Any).expect("good") else {
        panic!("it is put");
    };
    assert_eq!(key, Key::new(Kind::Client, "My-app_1.0"));
    let read: ConfiguredClient = serde_json::from_value(value).expect("read back");
    assert_eq!(read.metadata, client.metadata);
}
