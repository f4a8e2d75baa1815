use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;
use crate::oauth::clients::store::memory::Memory;
use crate::oauth::clients::testing::Ended;

const HOUR: i64 = 60 * 60;
const DAYS: i64 = 24 * HOUR;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("valid")
}

fn somewhere() -> IpAddr {
    IpAddr::from([198, 51, 100, 7])
}

struct World {
    store: Arc<Memory>,
    ended: Arc<Ended>,
    registrations: Registrations,
}

fn world(change: impl FnOnce(&mut Settings)) -> World {
    let (store, ended) = (Arc::new(Memory::default()), Arc::new(Ended::default()));
    let mut settings = Settings::new("https://auth.example/register");
    change(&mut settings);
    let registrations = Registrations::new(store.clone(), ended.clone(), settings);
    World { store, ended, registrations }
}

fn body(method: &str) -> Vec<u8> {
    let body = json!({
        "client_id": "mine", "redirect_uris": ["https://app.example/cb"], "client_name": "App",
        "token_endpoint_auth_method": method,
    });
    body.to_string().into_bytes()
}

impl World {
    async fn register(&self, method: &str, now: i64) -> Information {
        self.registrations.register(&body(method), somewhere(), at(now)).await.expect("registered")
    }

    async fn finds(&self, id: &str, now: i64) -> bool {
        self.registrations.find(id, at(now)).await.expect("read").is_some()
    }
}

fn token(information: &Information) -> String {
    information.registration_access_token.expose_secret().to_owned()
}

#[tokio::test]
async fn a_client_gets_what_is_in_effect() {
    let world = world(|_| {});
    let public = serde_json::to_value(world.register("none", 0).await).expect("JSON");
    let id = public["client_id"].as_str().expect("an id");
    let known = public["registration_access_token"].as_str().expect("a token");
    assert_eq!(
        public,
        json!({
            "client_id": id, "client_id_issued_at": 1_000_000,
            "registration_access_token": known,
            "registration_client_uri": format!("https://auth.example/register/{id}"),
            "redirect_uris": ["https://app.example/cb"], "client_name": "App",
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        }),
        "no null, no secret, and not the id that was wished for"
    );
    for text in [id, known] {
        assert!(
            text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        );
    }
    assert!(id.starts_with(PREFIX));

    let confidential = world.register("client_secret_post", 0).await;
    let secret = confidential.client_secret.clone().expect("a secret");
    let debug = format!("{confidential:?} {:?}", world.store);
    assert!(!debug.contains(secret.expose_secret()) && !debug.contains(&token(&confidential)), "{debug}");
    let json = serde_json::to_value(&confidential).expect("JSON");
    assert_eq!(json["client_secret"], secret.expose_secret());
    assert_eq!(json["client_secret_expires_at"], 1_000_000 + 90 * DAYS, "as long as it may yet be used");
    let client =
        world.registrations.find(&confidential.client_id, at(1)).await.expect("read").expect("a client");
    assert!(client.secret.is_some_and(|hashed| hashed.matches(secret.expose_secret())));
    assert!(!client.first_party && !client.any_secret_method);

    let bounded = self::world(|settings| settings.lifetime = Some(Duration::from_secs(100)));
    let json = serde_json::to_value(bounded.register("client_secret_basic", 0).await).expect("JSON");
    assert_eq!(json["client_secret_expires_at"], 1_000_100);
    let endless = self::world(|settings| settings.idle = None);
    let json = serde_json::to_value(endless.register("client_secret_basic", 0).await).expect("JSON");
    assert_eq!(json["client_secret_expires_at"], 0);
}

#[tokio::test]
async fn the_end_of_a_secret_moves_with_its_uses() {
    let world = world(|_| {});
    let client = world.register("client_secret_basic", 0).await;
    assert!(world.registrations.used(&client.client_id, at(HOUR - 1)).await.expect("stored"));
    let known = token(&client);
    let read = world.registrations.read(&client.client_id, Some(&known), at(2 * HOUR)).await.expect("read");
    let end = read.client_secret_expires_at.expect("it has a secret");
    assert_eq!(end, 1_000_000 + HOUR - 1 + 90 * DAYS);
    assert!(world.finds(&client.client_id, end - 1_000_000).await, "not before");
}

#[tokio::test]
async fn who_goes_to_another_host_counts_there() {
    let world = world(|settings| (settings.per_host, settings.per_network) = (2, 6));
    let to = |id: &str, host: &str| {
        json!({ "client_id": id, "redirect_uris": [format!("https://{host}/cb")] }).to_string()
    };
    let somebody = IpAddr::from([192, 0, 2, 1]);
    for _ in 0..2 {
        world.registrations.register(to("", "full.example").as_bytes(), somebody, at(0)).await.expect("room");
    }
    let one = world.register("none", 0).await;
    let known = token(&one);
    let update = async |host: &str, from: IpAddr| {
        let body = to(&one.client_id, host);
        world.registrations.update(&one.client_id, Some(&known), body.as_bytes(), from, at(1)).await
    };
    let error = update("full.example", somewhere()).await.expect_err("no room");
    assert!(matches!(error, RegistrationError::TooMany { .. }), "{error}");
    for _ in 0..20 {
        update("app.example", somewhere()).await.expect("where it is already");
    }
    update("new.example", somewhere()).await.expect("room");
    // To and fro is no way to fill a host for others.
    let mut refused = false;
    for host in ["a.example", "b.example", "c.example", "d.example", "e.example"] {
        refused |= update(host, somewhere()).await.is_err();
    }
    assert!(refused, "the network had its share");
}

#[tokio::test]
async fn what_nobody_uses_is_gone_in_an_hour() {
    let world = world(|_| {});
    let (unused, used) =
        (world.register("none", 0).await.client_id, world.register("none", 0).await.client_id);
    let ttl = |id: &str| world.store.state().values[id].1;
    assert_eq!(ttl(&unused), Duration::from_secs(3600));
    assert!(world.registrations.used(&used, at(1800)).await.expect("stored"));
    assert_eq!(ttl(&used), Duration::from_secs(91 * 24 * 3600));
    assert!(world.finds(&unused, HOUR - 1).await && !world.finds(&unused, HOUR).await);
    assert!(!world.registrations.used(&unused, at(HOUR)).await.expect("read"), "too late");
    assert!(world.finds(&used, HOUR).await);

    let puts = world.store.state().puts;
    for second in [1801, HOUR, DAYS] {
        assert!(world.registrations.used(&used, at(second)).await.expect("stored"));
    }
    assert_eq!(world.store.state().puts, puts, "uses of one day are one");
    assert!(world.registrations.used(&used, at(80 * DAYS)).await.expect("stored"));
    assert!(world.finds(&used, 170 * DAYS).await && !world.finds(&used, 172 * DAYS).await);
    assert!(!world.registrations.used("dyn_unknown", at(0)).await.expect("read"));
}

#[tokio::test]
async fn a_life_time_ends_used_clients_too() {
    let world = world(|settings| settings.lifetime = Some(Duration::from_secs(2 * 3600)));
    let id = world.register("none", 0).await.client_id;
    assert!(world.registrations.used(&id, at(10)).await.expect("stored"));
    assert!(world.finds(&id, 2 * HOUR - 1).await && !world.finds(&id, 2 * HOUR).await);
}

#[tokio::test]
async fn registrations_are_limited_by_network_host_and_in_all() {
    let world = world(|settings| (settings.per_network, settings.per_host, settings.total) = (3, 5, 8));
    let register = async |host: &str, from: [u8; 4]| {
        let body =
            json!({ "redirect_uris": [format!("https://{host}/cb"), format!("https://{host}/other")] });
        match world.registrations.register(body.to_string().as_bytes(), from.into(), at(0)).await {
            Ok(_) => true,
            Err(RegistrationError::TooMany { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    for last in 1..=3 {
        assert!(register("a.example", [198, 51, 100, last]).await);
    }
    for _ in 0..20 {
        assert!(!register("a.example", [198, 51, 100, 4]).await, "this network has had its share");
    }
    assert!(register("a.example", [203, 0, 113, 1]).await && register("a.example", [203, 0, 113, 2]).await);
    assert!(!register("a.example", [203, 0, 113, 3]).await, "this host has had its share");
    assert!(register("b.example", [192, 0, 2, 1]).await);
    assert!(register("b.example", [192, 0, 2, 2]).await && register("b.example", [192, 0, 2, 3]).await);
    assert!(!register("c.example", [10, 0, 0, 1]).await, "all have had their share");
    assert_eq!(world.store.state().values.len(), 8, "what was refused was not stored");
    assert!(world.store.state().counters.values().all(|(_, window)| *window == Duration::from_secs(3600)));
    world.store.state().counters.clear();
    assert!(register("c.example", [198, 51, 100, 1]).await, "another window");
}

#[tokio::test]
async fn the_networks_of_a_site_do_not_use_up_what_all_share() {
    let world = world(|settings| settings.per_network = 2);
    let register = async |from: String| {
        let from = from.parse().expect("an address");
        world.registrations.register(&body("none"), from, at(0)).await.is_ok()
    };
    let mut passed = 0;
    for network in 0..32 {
        passed += usize::from(register(format!("2001:db8:0:{network:x}00::1")).await);
    }
    assert_eq!(passed, 4, "twice what one network may");
    assert!(register("2001:db8:1::1".to_owned()).await, "another site");
}

#[test]
fn counters_are_bounded() {
    let names: std::collections::BTreeSet<_> =
        (0..20_000).map(|n| bucket("host", &format!("{n}.example"), 12)).collect();
    assert!(names.len() <= 4096 && names.len() > 3000, "{}", names.len());
}

#[tokio::test]
async fn a_refused_registration_counts_for_nothing() {
    let world = world(|_| {});
    for body in ["{}", "[]", "{\"redirect_uris\":[\"javascript:x\"]}"] {
        let error =
            world.registrations.register(body.as_bytes(), somewhere(), at(0)).await.expect_err("refused");
        assert!(matches!(error, RegistrationError::Metadata(_)), "{error}");
    }
    let state = world.store.state();
    assert!(state.values.is_empty() && state.counters.is_empty());
}

#[tokio::test]
async fn a_management_token_is_for_one_registration() {
    let world = world(|_| {});
    let (one, two) = (world.register("none", 0).await, world.register("none", 0).await);
    let (registrations, now) = (&world.registrations, at(1));
    let known = token(&one);
    for (id, given) in [
        (one.client_id.as_str(), None),
        (&one.client_id, Some("")),
        (&one.client_id, Some(token(&two).as_str())),
        (&one.client_id, Some(&known[1..])),
        ("dyn_unknown", Some(known.as_str())),
        ("", Some(known.as_str())),
    ] {
        for refused in [
            registrations.read(id, given, now).await.map(drop),
            registrations.update(id, given, &body("none"), somewhere(), now).await.map(drop),
            registrations.deregister(id, given, now).await,
        ] {
            let error = refused.expect_err("refused");
            assert!(matches!(error, RegistrationError::Token), "{id} {given:?}");
        }
    }
    assert!(registrations.read(&one.client_id, Some(&known), at(HOUR)).await.is_err(), "it has ended");
    let read = registrations.read(&one.client_id, Some(&known), now).await.expect("its own");
    assert_eq!(serde_json::to_value(read).expect("JSON"), serde_json::to_value(&one).expect("JSON"));
}

#[tokio::test]
async fn an_update_replaces_what_is_registered() {
    let world = world(|_| {});
    let (registrations, now) = (&world.registrations, at(60));
    let one = world.register("client_secret_basic", 0).await;
    let secret = one.client_secret.as_ref().expect("a secret").expose_secret().to_owned();
    let (id, known) = (one.client_id.as_str(), token(&one));
    let update = async |body: Value| {
        registrations.update(id, Some(&known), body.to_string().as_bytes(), somewhere(), now).await
    };
    let uris = json!(["https://app.example/new"]);
    for bad in [
        json!({ "redirect_uris": uris }),
        json!({ "client_id": "dyn_other", "redirect_uris": uris }),
        json!({ "client_id": id, "client_secret": "other", "redirect_uris": uris }),
        json!({ "client_id": id, "client_secret": 1, "redirect_uris": uris }),
        json!({ "client_id": id, "redirect_uris": ["http://evil.example/"] }),
    ] {
        let error = update(bad.clone()).await.expect_err("refused");
        let mismatch = matches!(error, RegistrationError::Metadata(_) | RegistrationError::Mismatch(_));
        assert!(mismatch, "{bad} {error}");
    }
    let updated = update(json!({ "client_id": id, "client_secret": secret, "redirect_uris": uris }))
        .await
        .expect("updated");
    let json = serde_json::to_value(&updated).expect("JSON");
    assert_eq!((&json["redirect_uris"], json.get("client_name")), (&uris, None), "what is left out is gone");
    assert!(json.get("client_secret").is_none(), "the same secret is good");
    assert_eq!(world.store.state().values[id].1, Duration::from_secs(3540), "an update is no use");

    let public = json!({ "client_id": id, "token_endpoint_auth_method": "none", "redirect_uris": uris });
    assert!(update(public).await.expect("updated").client_secret_expires_at.is_none());
    let again = update(json!({ "client_id": id, "redirect_uris": uris })).await.expect("updated");
    let renewed = again.client_secret.expect("a new secret");
    assert_ne!(renewed.expose_secret(), secret);
    let client = registrations.find(id, now).await.expect("read").expect("a client");
    assert!(
        client
            .secret
            .is_some_and(|hashed| hashed.matches(renewed.expose_secret()) && !hashed.matches(&secret))
    );
}

#[tokio::test]
async fn ending_a_client_ends_its_grants_even_at_the_second_attempt() {
    let world = world(|_| {});
    let one = world.register("none", 0).await;
    let (id, known) = (one.client_id.as_str(), token(&one));
    world.ended.failing.store(true, Ordering::Relaxed);
    let error = world.registrations.deregister(id, Some(&known), at(1)).await.expect_err("not done");
    assert!(matches!(error, RegistrationError::Store(_)), "{error}");
    assert!(!world.finds(id, 1).await, "but no one can use it");
    assert!(!world.registrations.used(id, at(1)).await.expect("read"));
    assert!(world.registrations.read(id, Some(&known), at(1)).await.is_err());
    assert!(world.registrations.list(None, 10, at(1)).await.expect("read").0.is_empty());
    world.ended.failing.store(false, Ordering::Relaxed);
    world.registrations.deregister(id, Some(&known), at(2)).await.expect("done");
    assert_eq!(*world.ended.clients.lock().expect("a lock"), [id]);
    assert!(world.store.state().values.is_empty());
    let gone = world.registrations.deregister(id, Some(&known), at(3)).await.expect_err("gone");
    assert!(matches!(gone, RegistrationError::Token), "{gone}");
    assert!(!world.registrations.end(id, at(3)).await.expect("read"));
}

#[tokio::test]
async fn registrations_are_listed_page_by_page() {
    let world = world(|_| {});
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.register("none", 0).await.client_id);
    }
    ids.sort();
    world.registrations.used(&ids[2], at(10)).await.expect("stored");
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let (page, next) = world.registrations.list(after.as_deref(), 2, at(11)).await.expect("read");
        seen.extend(page);
        let Some(next) = next else { break };
        after = Some(next);
    }
    assert_eq!(seen.iter().map(|one| &one.client_id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    assert_eq!(seen.iter().filter(|one| one.used_at.is_some()).count(), 1);
    assert_eq!(seen[0].expires_at, at(HOUR));
    let (left, _) = world.registrations.list(None, 10, at(HOUR)).await.expect("read");
    assert_eq!(left.len(), 1, "what has ended is not listed");
}
