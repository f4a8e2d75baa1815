//! Names below a wildcard host get certificates when somebody asks for them: those that a rule allows, and not too many.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::acme_front::{AcmeFront, Window, certificate_id};
use crate::support::client::{get, plain};
use crate::support::eventually;
use crate::support::pebble::Pebble;
use crate::support::upstream::Upstream;
use crate::world::{Place, World, ask, connect, leaf, secure};

const HOME: [u8; 4] = [127, 0, 0, 1];

impl World {
    /// A wildcard host below which names get certificates on demand.
    fn wildcard(&self, host: &str, rule: &Value) {
        let mut fields = json!({ "on_demand_certificates": true });
        fields.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        self.daemon.proxy(host, "builtin:echo", &fields);
    }

    /// One handshake that trusts nothing but this Pebble, from an address of this machine. What became of it.
    async fn visit(&self, host: &str, from: impl Into<IpAddr>) -> Result<(), String> {
        let root = self.pebble.root(0).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
        let stream = socket.connect(self.daemon.https).await.unwrap();
        secure(stream, host, &root).await.map(drop).map_err(|error| error.to_string())
    }

    /// One handshake that is served with the fallback, at once.
    async fn miss(&self, host: &str) {
        let error = self.visit(host, HOME).await.expect_err("the fallback is not trusted");
        assert!(error.contains("invalid peer certificate"), "{host}: {error}");
    }

    /// Waits until a name is served with a certificate of its own.
    async fn gets_its_own(&self, host: &str) {
        let name = format!("proxy-{}", host.replace('.', "-"));
        let status = self.until(&name, "issued", |status| status["in_progress"] == false).await;
        assert_eq!(status["status"], "active", "{status}");
        let root = self.pebble.root(0).await;
        let leaf =
            eventually("it serves", || async { leaf(self.daemon.https, host, &root).await.ok() }).await;
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len();
        assert_eq!(names, 1, "it is good for one name");
    }

    /// Waits until a host is served with the fallback. For names that may have a certificate this asks for one.
    async fn is_claimed(&self, host: &str) {
        eventually("it is served", || async {
            let error = self.visit(host, HOME).await.unwrap_err();
            error.contains("invalid peer certificate").then_some(())
        })
        .await;
    }

    /// What was decided about names that had no certificate, where it was decided of any.
    async fn verdicts(&self) -> Vec<(String, u64)> {
        let text = plain(self.daemon.metrics(), get("localhost", "/metrics")).await.body;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let start = "portcullis_certificates_on_demand_total{verdict=\"";
        let counts = text.lines().filter_map(|line| line.strip_prefix(start)?.split_once("\"} "));
        let counts: Vec<_> = counts.map(|(verdict, count)| (verdict, count.parse().unwrap())).collect();
        assert_eq!(counts.len(), 7, "{text}");
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        counts.map(|(verdict, count)| (verdict.to_owned(), count)).collect()
    }

    /// The names of certificates that were made on demand.
    fn made(&self) -> Vec<String> {
        let all = self.daemon.run(&["cert", "list"]);
        let names = all.as_array().unwrap().iter().map(|one| one["cert_name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("proxy-t-")).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_name_gets_a_certificate_after_one_handshake_and_others_never_trigger_anything() {
    let world = World::start_with(|_| (), with_metrics).await;
    world.wildcard("*.tenants.example.com", &json!({ "on_demand_names": ["t-*"] }));
    world.is_claimed("other.tenants.example.com").await;
    assert_eq!(world.made(), Vec::<String>::new());
    world.miss("t-1.tenants.example.com").await;
    world.gets_its_own("t-1.tenants.example.com").await;
    // What was refused before it came before it: only this one was ordered.
    assert_eq!((world.pebble.orders(), world.pebble.issued()), (3, 3));
    assert_eq!(world.made(), ["proxy-t-1-tenants-example-com"]);
    // Requests are served with it, and for it.
    let root = world.pebble.root(0).await;
    let mut stream = connect(world.daemon.https, "t-1.tenants.example.com", &root).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: t-1.tenants.example.com\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let shown = world.daemon.run(&["cert", "show", "proxy-t-1-tenants-example-com"]);
    assert_eq!((&shown["on_demand"], &shown["automatic"]), (&json!(true), &json!(true)), "{shown}");
    // And the others go on as before: of what is asked for one after the other only what is allowed is ordered.
    world.miss("another.tenants.example.com").await;
    world.miss("t-2.tenants.example.com").await;
    world.gets_its_own("t-2.tenants.example.com").await;
    assert_eq!(world.pebble.orders(), 4);
    // What an admin has made for such a name serves it, and is not made twice.
    world.daemon.run(&["cert", "create", "own", "t-9.tenants.example.com", "--wait"]);
    world.trusted("t-9.tenants.example.com").await;
    assert_eq!(world.made(), ["t-1", "t-2"].map(|name| format!("proxy-{name}-tenants-example-com")));
    // Names that no pattern allows are not judged; this one may have been looked at before it was served.
    let mut verdicts = world.verdicts().await;
    verdicts.retain(|(verdict, _)| verdict != "held");
    assert_eq!(verdicts, [("made".to_owned(), 2)]);
}

fn with_metrics(command: &mut Command) {
    command.env("PORTCULLIS_METRICS_ADDR", "127.0.0.1:0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_none_never_triggers_anything() {
    let world = World::start_with(|_| (), with_metrics).await;
    let rule = |more: Value| {
        let mut rule = json!({ "on_demand_names": ["*"] });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    world.wildcard("*.on.example.com", &rule(json!({})));
    world.wildcard("*.off.example.com", &rule(json!({ "enabled": false })));
    world.wildcard("*.http.example.com", &rule(json!({ "enable_https": false })));
    let host = |host: &str, fields: Value| drop(world.daemon.proxy(host, "builtin:echo", &fields));
    host("off.on.example.com", json!({ "enabled": false }));
    host("http.on.example.com", json!({ "enable_https": false }));
    // The last one: when it is served, all are in force.
    host("*.plain.example.com", json!({}));
    world.is_claimed("t.plain.example.com").await;
    for (name, expected) in [
        ("t.off.example.com", "invalid peer certificate"),
        ("off.on.example.com", "invalid peer certificate"),
        ("http.on.example.com", "invalid peer certificate"),
        ("t.plain.example.com", "invalid peer certificate"),
        ("t.http.example.com", "UnrecognisedName"),
        ("b.a.on.example.com", "UnrecognisedName"),
        ("on.example.com", "UnrecognisedName"),
        ("t.example.org", "UnrecognisedName"),
        // Without a server name.
        ("192.0.2.1", "invalid peer certificate"),
    ] {
        let error = world.visit(name, HOME).await.unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert_eq!(world.verdicts().await, []);
    // What is asked for afterwards is all there is.
    world.miss("t-1.on.example.com").await;
    world.gets_its_own("t-1.on.example.com").await;
    assert_eq!(world.verdicts().await, [("made".to_owned(), 1)]);
    assert_eq!((world.pebble.orders(), world.made().len()), (3, 1));
    assert_eq!(world.daemon.run(&["cert", "list"]).as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_used_is_renewed_and_one_that_leads_elsewhere_harms_nobody() {
    let place = Place::new();
    let pebble = Pebble::start(place.settings()).await;
    let front = AcmeFront::before(&pebble).await;
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let window = |days: u32| Window {
        start: now + days * day,
        end: now + (days + 1) * day,
        retry_after: Duration::from_secs(1),
    };
    front.suggest(window(40));
    let daemon = place.serve(&front.directory(), &pebble.authority_file(), |command| {
        command.env("PORTCULLIS_ACME_AUTOMATIC", "false").env("RENEWAL_CHECK_INTERVAL", "1");
    });
    let world = World { daemon, pebble, place };
    world.wildcard("*.tenants.example.com", &json!({ "on_demand_names": ["t-*"] }));
    world.is_claimed("t-1.tenants.example.com").await;
    world.gets_its_own("t-1.tenants.example.com").await;
    let name = "proxy-t-1-tenants-example-com";
    let chain = || world.daemon.run(&["cert", "show", name])["fullchain_pem"].as_str().unwrap().to_owned();
    let before = chain();
    front.suggest_for(&certificate_id(&before), Window { start: now - 2 * day, end: now - day, ..window(0) });
    eventually("its successor", || async { (chain() != before).then_some(()) }).await;
    // One whose owner has not pointed it here.
    world.pebble.names().fail("t-2.tenants.example.com").await;
    world.miss("t-2.tenants.example.com").await;
    let lost = "proxy-t-2-tenants-example-com";
    let failed = world.until(lost, "failed", |status| status["failures"] == 1).await;
    assert_eq!(failed["status"], "failed", "{failed}");
    let health = ask(&world.daemon, &["system", "health"]);
    assert!(!health.to_string().contains(lost), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_allows_or_refuses() {
    let world = World::start().await;
    let upstream = Upstream::start("door").await;
    let by = |path: &str| json!({ "on_demand_ask": format!("{}{path}", upstream.url()) });
    world.wildcard("*.no.example.com", &by("/status/403"));
    world.wildcard("*.yes.example.com", &by("/may"));
    world.is_claimed("t-1.yes.example.com").await;
    world.gets_its_own("t-1.yes.example.com").await;
    world.miss("t-1.no.example.com").await;
    world.miss("t-2.yes.example.com").await;
    world.gets_its_own("t-2.yes.example.com").await;
    assert_eq!(world.made(), ["proxy-t-1-yes-example-com", "proxy-t-2-yes-example-com"]);
    assert_eq!(world.pebble.orders(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_names_stays_within_the_budget_of_the_domain() {
    let world = World::start_with(
        |_| (),
        |command| {
            command.env("PORTCULLIS_ACME_ON_DEMAND", "2").env("PORTCULLIS_ACME_ON_DEMAND_PER_NETWORK", "100");
            with_metrics(command);
        },
    )
    .await;
    world.wildcard("*.more.example.com", &json!({ "on_demand_names": ["*"] }));
    world.wildcard("*.tenants.example.com", &json!({ "on_demand_names": ["*"] }));
    world.is_claimed("t-0.tenants.example.com").await;
    for n in 1..30 {
        // Both count at the authority for example.com.
        let wildcard = if n % 2 == 0 { "more" } else { "tenants" };
        world.miss(&format!("t-{n}.{wildcard}.example.com")).await;
    }
    eventually("all others were refused", || async {
        (world.daemon.logged().matches("too many names of this domain").count() == 28).then_some(())
    })
    .await;
    assert_eq!(world.verdicts().await, [("made".to_owned(), 2), ("domain_limit".to_owned(), 28)]);
    eventually("two are issued", || async { (world.pebble.issued() == 4).then_some(()) }).await;
    assert_eq!((world.pebble.orders(), world.made().len()), (4, 2));
    // The budget is in the store: a start forgets nothing.
    let World { daemon, pebble, place } = world;
    drop(daemon);
    let daemon = place.serve(&pebble.directory(), &pebble.authority_file(), |command| {
        // And a week has a limit of its own.
        command.env("PORTCULLIS_ACME_ON_DEMAND", "9").env("PORTCULLIS_ACME_ON_DEMAND_PER_WEEK", "2");
    });
    let world = World { daemon, pebble, place };
    world.miss("t-99.tenants.example.com").await;
    world.daemon.wait_for_log("too many names of this domain");
    assert_eq!((world.pebble.orders(), world.made().len()), (4, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_network_gets_its_share_and_another_one_still_its_own() {
    let world = World::start_with(
        |_| (),
        |command| {
            command.env("PORTCULLIS_ACME_ON_DEMAND_PER_NETWORK", "3");
        },
    )
    .await;
    world.wildcard("*.tenants.example.com", &json!({ "on_demand_names": ["*"] }));
    world.is_claimed("t-0.tenants.example.com").await;
    for n in 1..20 {
        world.miss(&format!("t-{n}.tenants.example.com")).await;
    }
    let neighbour = [127, 0, 0, 77];
    let error = world.visit("t-last.tenants.example.com", neighbour).await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");
    world.gets_its_own("t-last.tenants.example.com").await;
    eventually("three of the others", || async { (world.pebble.issued() == 6).then_some(()) }).await;
    assert_eq!((world.pebble.orders(), world.made().len()), (6, 4));
}
