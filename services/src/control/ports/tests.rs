use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::control::Context;
use crate::control::testing::{caller, control};
use crate::store::{Key, Kind, Store};

fn admin() -> Context {
    Context::of(caller("root", &["admin"]))
}

fn add(service: &str, more: &Value) -> AddPort {
    let mut fields = json!({ "service_name": service });
    fields.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    serde_json::from_value(fields).expect("valid")
}

/// A control whose node runs none of the services: nothing is bound here.
async fn with_services(names: &[&str]) -> (Arc<Control>, Arc<dyn Store>) {
    let (control, store) = control();
    let put = |name: &&str| Write::Put {
        key: Key::new(Kind::Service, *name),
        value: json!({ "service_name": name, "image": "nginx", "internal_port": 80, "node": "elsewhere" }),
        expect: Expect::Any,
    };
    store.commit(names.iter().map(put).collect()).await.expect("stored");
    (control, store)
}

#[tokio::test]
async fn the_lowest_free_port_is_given_away_once() {
    let (control, _) = with_services(&["web", "db"]).await;
    let mut given = Vec::new();
    for (service, more) in [
        ("web", json!({})),
        ("db", json!({ "host_port": 14_002, "container_port": 5432, "port_name": "sql" })),
        ("web", json!({ "port_name": "second" })),
        ("web", json!({ "port_name": "third" })),
        ("web", json!({ "port_name": "datagrams", "protocol": "udp" })),
    ] {
        let port = control.call(add(service, &more), &admin()).await.expect("added").port;
        given.push((port.id(), port.port_name.to_string(), port.container_port));
    }
    let expected = [
        ("tcp-14000", "tcp-14000", 80),
        ("tcp-14002", "sql", 5432),
        ("tcp-14001", "second", 80),
        ("tcp-14003", "third", 80),
        ("udp-14000", "datagrams", 80),
    ];
    let expected = expected.map(|(id, name, container)| (id.to_owned(), name.to_owned(), container));
    assert_eq!(given, expected);
    let listed = control.call(ListPorts {}, &admin()).await.expect("listed");
    assert_eq!(listed.len(), 5);
    assert!(listed.iter().all(|one| one.state.status == "elsewhere"));
    let of_db = ListServicePorts { service_name: "db".parse().expect("a name") };
    assert_eq!(control.call(of_db, &admin()).await.expect("listed").len(), 1);
    let free = ListFreePorts { protocol: Default::default() };
    assert_eq!(control.call(free, &admin()).await.expect("listed")[0].start, 14_004);
}

#[tokio::test]
async fn many_who_ask_at_once_get_different_ports() {
    let (control, _) = with_services(&["web"]).await;
    let asked = (0..8).map(|at| {
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let more = json!({ "port_name": format!("p{at}") });
            control.call(add("web", &more), &admin()).await.map(|info| info.port.host_port)
        })
    });
    let mut given = BTreeSet::new();
    for one in asked.collect::<Vec<_>>() {
        given.insert(one.await.expect("no panic").expect("a port"));
    }
    assert_eq!(given, (14_000..14_008).collect());
}

#[tokio::test]
async fn one_name_goes_to_one_of_two_who_want_it() {
    let (control, _) = with_services(&["web"]).await;
    let ask = || {
        let control = Arc::clone(&control);
        tokio::spawn(async move { control.call(add("web", &json!({ "port_name": "http" })), &admin()).await })
    };
    let (one, other) = (ask(), ask());
    let outcomes = [one.await.expect("no panic"), other.await.expect("no panic")];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(Error::Conflict(_)))));
}

#[tokio::test]
async fn what_can_not_be_given_is_refused_with_the_reason() {
    let (control, _) = with_services(&["web"]).await;
    control
        .call(add("web", &json!({ "port_name": "http", "host_port": 14_000 })), &admin())
        .await
        .expect("added");
    for (service, more, expected) in [
        ("web", json!({ "host_port": 14_000 }), "tcp port 14000 is the port http of web"),
        ("web", json!({ "port_name": "http" }), "web has a port http already"),
        ("none", json!({}), "there is no"),
        ("web", json!({ "host_port": 80 }), "host_port: 80: is the port of a well-known server"),
        ("web", json!({ "host_port": 8080 }), "host_port: 8080: expected 14000 to 65535"),
        ("web", json!({ "container_port": 0 }), "container_port: 0: expected 1 to 65535"),
        ("web", json!({ "source_token": "short" }), "source_token: expected 16 to 512"),
        ("web", json!({ "protocol": "udp", "source_token": "0123456789abcdef" }), "protocol"),
    ] {
        let error = control.call(add(service, &more), &admin()).await.expect_err("refused");
        assert!(error.to_string().contains(expected), "{more}: {error}");
    }
    let user = Context::of(caller("mona", &["user"]));
    let refused = control.call(add("web", &json!({})), &user).await;
    assert!(matches!(refused, Err(Error::Forbidden { .. })));
}

#[tokio::test]
async fn a_token_goes_in_and_never_comes_out() {
    let (control, store) = with_services(&["web"]).await;
    let token = "a-token-of-some-length";
    let more = json!({ "port_name": "http", "source_token": token });
    let added = control.call(add("web", &more), &admin()).await.expect("added");
    assert!(added.port.require_token);
    let secret = Key::new(Kind::Secret, "port-token:web/http");
    let sealed = store.get(&secret).await.expect("a store").expect("a secret");
    let opened = control.vault.open("port-token:web/http", &sealed.value).expect("opened");
    assert_eq!(secrecy::ExposeSecret::expose_secret(&opened), token.as_bytes());
    let (_, documents) = store.load().await.expect("a store");
    assert!(documents.iter().all(|document| !document.value.to_string().contains(token)));
    let update = |more: Value| {
        let mut fields = json!({ "service_name": "web", "port_name": "http" });
        fields.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        serde_json::from_value::<UpdatePort>(fields).expect("valid")
    };
    let moved = control.call(update(json!({ "host_port": 15_000 })), &admin()).await.expect("moved");
    assert_eq!((moved.port.id().as_str(), moved.port.require_token), ("tcp-15000", true));
    assert!(store.get(&Key::new(Kind::Port, "tcp-14000")).await.expect("a store").is_none());
    let open = control.call(update(json!({ "no_source_token": true })), &admin()).await.expect("opened");
    assert!(!open.port.require_token);
    assert!(store.get(&secret).await.expect("a store").is_none());
}

#[tokio::test]
async fn what_is_removed_can_be_given_again() {
    let (control, store) = with_services(&["web"]).await;
    let more = json!({ "port_name": "http", "source_token": "a-token-of-some-length" });
    control.call(add("web", &more), &admin()).await.expect("added");
    let remove = || RemovePort {
        service_name: "web".parse().expect("a name"),
        port_name: "http".parse().expect("a name"),
    };
    control.call(remove(), &admin()).await.expect("removed");
    assert!(matches!(control.call(remove(), &admin()).await, Err(Error::NotFound { .. })));
    assert!(store.get(&Key::new(Kind::Secret, "port-token:web/http")).await.expect("a store").is_none());
    let again = control.call(add("web", &json!({})), &admin()).await.expect("added");
    assert_eq!(again.port.host_port, 14_000);
}

#[tokio::test]
async fn a_check_says_why_a_port_is_not_free() {
    let (control, _) = with_services(&["web"]).await;
    control.call(add("web", &json!({ "port_name": "http" })), &admin()).await.expect("added");
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let used = other.local_addr().expect("bound").port();
    for (port, expected) in [
        (443, "well-known"),
        (13_000, "14000 to 65535"),
        (14_000, "is the port http of web"),
        (used, "another program"),
    ] {
        let check = json!({ "port": port });
        let checked =
            control.call(serde_json::from_value::<CheckPort>(check).expect("valid"), &admin()).await;
        let checked = checked.expect("checked");
        assert!(!checked.available);
        let reason = checked.reason.expect("a reason");
        assert!(reason.contains(expected), "{port}: {reason}");
    }
}
