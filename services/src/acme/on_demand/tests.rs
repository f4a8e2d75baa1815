use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{PoolSettings, Tunnels};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::policy::{LETS_ENCRYPT, OnDemand, testing};
use super::asked::is_asked_for;
use super::*;
use crate::config::certificate::{CertStatus, Source};
use crate::store::embedded::Embedded;
use crate::store::{Key, Kind};

fn host(name: &str) -> HostName {
    name.parse().expect("valid")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

/// A judge over a store with one wildcard.
async fn judge(names: usize, fields: Value) -> Judge {
    let mirror = Mirror::new(Arc::new(Embedded::in_memory().expect("a store")));
    let mut value = json!({
        "proxy_hostname": "*.tenants.example.com", "target_url": "http://10.0.0.1", "on_demand_certificates": true,
    });
    value.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let key = Key::new(Kind::Proxy, "*.tenants.example.com");
    mirror.store().commit(vec![Write::Put { key, value, expect: Expect::Absent }]).await.expect("stored");
    let client = Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default());
    let policy = Policy {
        on_demand: OnDemand { names, per_week: 40, per_network: 5 },
        ..testing::policy(LETS_ENCRYPT)
    };
    Judge::new(mirror, Arc::new(policy), client)
}

async fn certificates(judge: &Judge) -> Vec<Arc<Certificate>> {
    judge.mirror.latest().await.expect("read").config.certificates.values().cloned().collect()
}

#[tokio::test]
async fn a_name_that_is_allowed_gets_a_document_and_is_known_as_asked_for() {
    let judge = judge(2, json!({ "on_demand_names": ["t-*"] })).await;
    let store = &**judge.mirror.store();
    let verdict = async |name: &str| judge.judge(&host(name), at(1)).await.expect("judged");
    let refused = [
        "other.tenants.example.com",
        "a.t-1.tenants.example.com",
        "t-1.example.com",
        // No public authority issues for such a name (RFC 1123, section 2.1).
        "t-_.tenants.example.com",
        "192.0.2.1",
    ];
    for refused in refused {
        assert_eq!(verdict(refused).await, Verdict::Refused, "{refused}");
        assert!(!is_asked_for(store, &host(refused)).await.expect("read"));
    }
    assert!(certificates(&judge).await.is_empty());
    assert_eq!(verdict("t-1.tenants.example.com").await, Verdict::Made);
    assert_eq!(verdict("t-1.tenants.example.com").await, Verdict::Held);
    assert!(is_asked_for(store, &host("t-1.tenants.example.com")).await.expect("read"));
    let made = &certificates(&judge).await[0];
    assert_eq!(made.cert_name.as_str(), "proxy-t-1-tenants-example-com");
    assert_eq!(made.domains, [HostPattern::from(host("t-1.tenants.example.com"))]);
    assert!(made.on_demand && made.automatic && made.fullchain_pem.is_none());
    assert_eq!(verdict("t-2.tenants.example.com").await, Verdict::Made);
    assert_eq!(verdict("t-3.tenants.example.com").await, Verdict::Exhausted);
    assert_eq!(certificates(&judge).await.len(), 2);
}

/// Puts a certificate into the store.
async fn put(judge: &Judge, certificate: &Certificate) {
    let write = Write::Put { key: certificate.key(), value: certificate.stored(), expect: Expect::Any };
    judge.mirror.store().commit(vec![write]).await.expect("stored");
}

#[tokio::test]
async fn a_wildcards_own_certificate_serves_all_names_once_there_is_one() {
    let judge = judge(9, json!({ "on_demand_names": ["*"] })).await;
    let pattern: HostPattern = "*.tenants.example.com".parse().expect("valid");
    let pending = Certificate::wanted("wild".parse().expect("valid"), vec![pattern]);
    let chain = |end| Certificate {
        status: CertStatus::Active,
        fullchain_pem: Some("PEM".to_owned()),
        expires_at: Some(at(end)),
        ..pending.clone()
    };
    let other = chain(100);
    let other = Certificate { issued_for: vec!["*.example.com".parse().expect("valid")], ..other };
    let failed = Certificate { status: CertStatus::Failed, ..pending.clone() };
    let replacing = Certificate { status: CertStatus::Replacing, ..chain(100) };
    for (name, wildcard, expected) in [
        ("a", &pending, Verdict::Made),
        ("b", &failed, Verdict::Made),
        ("c", &chain(1), Verdict::Made),
        ("d", &other, Verdict::Made),
        ("e", &chain(100), Verdict::Held),
        ("f", &replacing, Verdict::Held),
    ] {
        put(&judge, wildcard).await;
        let name = host(&format!("{name}.tenants.example.com"));
        assert_eq!(judge.judge(&name, at(1)).await.expect("judged"), expected, "{name}");
    }
}

#[tokio::test]
async fn what_somebody_looks_after_himself_is_not_made_twice() {
    let judge = judge(9, json!({ "on_demand_names": ["*"] })).await;
    let wanted = |name: &str| {
        let pattern = format!("{name}.tenants.example.com").parse().expect("valid");
        Certificate::wanted(format!("own-{name}").parse().expect("valid"), vec![pattern])
    };
    let upload = |name: &str, end| Certificate {
        status: CertStatus::Active,
        source: Source::Upload,
        fullchain_pem: Some("PEM".to_owned()),
        expires_at: Some(at(end)),
        ..wanted(name)
    };
    // That of a host that is gone is not issued any more.
    let left = Certificate { automatic: true, ..wanted("left") };
    for (name, own, expected) in [
        ("ordered", wanted("ordered"), Verdict::Held),
        ("uploaded", upload("uploaded", 100), Verdict::Held),
        ("ended", upload("ended", 1), Verdict::Made),
        ("left", left, Verdict::Made),
    ] {
        put(&judge, &own).await;
        let name = host(&format!("{name}.tenants.example.com"));
        assert_eq!(judge.judge(&name, at(1)).await.expect("judged"), expected, "{name}");
    }
}

#[tokio::test]
async fn two_who_are_asked_at_once_use_one_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let ask = format!("http://127.0.0.1:{}/may", listener.local_addr().expect("bound").port());
    let judge = judge(2, json!({ "on_demand_ask": ask })).await;
    // Answers two at a time: both have looked at the store before.
    tokio::spawn(async move {
        loop {
            let mut pair = Vec::new();
            while pair.len() < 2 {
                let (mut io, _) = listener.accept().await.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(io.read_u8().await.expect("a head"));
                }
                pair.push(io);
            }
            for mut io in pair {
                let yes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                io.write_all(yes).await.expect("written");
            }
        }
    });
    let both = async |name: &str| {
        let name = host(&format!("{name}.tenants.example.com"));
        let (one, other) = tokio::join!(judge.judge(&name, at(1)), judge.judge(&name, at(1)));
        let mut verdicts = [one.expect("judged"), other.expect("judged")];
        verdicts.sort_by_key(|verdict| *verdict != Verdict::Made);
        verdicts
    };
    assert_eq!(both("a").await, [Verdict::Made, Verdict::Held]);
    assert_eq!(certificates(&judge).await.len(), 1);
    let (one, other) = (host("b.tenants.example.com"), host("c.tenants.example.com"));
    let (one, other) = tokio::join!(judge.judge(&one, at(1)), judge.judge(&other, at(1)));
    let mut verdicts = [one.expect("judged"), other.expect("judged")];
    verdicts.sort_by_key(|verdict| *verdict != Verdict::Made);
    assert_eq!(verdicts, [Verdict::Made, Verdict::Exhausted], "one of two places was left");
}

#[tokio::test]
async fn a_public_authority_is_not_asked_for_names_that_it_can_not_know() {
    let judge = judge(2, json!({ "proxy_hostname": "*.localhost", "on_demand_names": ["*"] })).await;
    let verdict = judge.judge(&host("a.localhost"), at(1)).await.expect("judged");
    assert_eq!(verdict, Verdict::Refused);
}

/// A server that allows names by their first letter: `y` by 200, `e` by another status that is a success, and `l` by
/// hanging up. What it was asked.
async fn door() -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match io.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let line = head.lines().next().unwrap_or_default().to_owned();
            let letter = line.split_once("domain=").and_then(|(_, name)| name.chars().next());
            let answer = match letter {
                Some('y') => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                Some('e') => "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
                Some('l') => "",
                _ => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            };
            if sender.send(line).is_err() || io.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    (port, asked)
}

#[tokio::test]
async fn who_is_asked_has_the_last_word_and_silence_is_a_refusal() {
    let (port, mut asked) = door().await;
    let ask = format!("http://127.0.0.1:{port}/may/i");
    let judge = judge(9, json!({ "on_demand_ask": ask, "on_demand_names": ["y*", "e*", "l*", "n*"] })).await;
    for (name, expected) in [
        ("yes", Verdict::Made),
        ("empty", Verdict::Refused),
        ("lost", Verdict::Refused),
        ("no", Verdict::Refused),
        ("other", Verdict::Refused),
    ] {
        let name = host(&format!("{name}.tenants.example.com"));
        assert_eq!(judge.judge(&name, at(1)).await.expect("judged"), expected, "{name}");
    }
    let mut questions = Vec::new();
    while let Ok(question) = asked.try_recv() {
        questions.push(question);
    }
    questions.dedup();
    let expected = ["yes", "empty", "lost", "no"]
        .map(|name| format!("GET /may/i?domain={name}.tenants.example.com HTTP/1.1"));
    assert_eq!(questions, expected, "the names' patterns come first");
    let nobody = self::judge(9, json!({ "on_demand_ask": "http://127.0.0.1:1" })).await;
    let name = host("yes.tenants.example.com");
    assert_eq!(nobody.judge(&name, at(1)).await.expect("judged"), Verdict::Refused);
}

/// What is told, in words.
fn told(requests: &mut Requests) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(one) = requests.0.try_recv() {
        told.push(match one {
            Told::Missed(name) => format!("missed {name}"),
            Told::Used(name, _) => format!("used {name}"),
        });
    }
    told
}

#[tokio::test]
async fn a_network_asks_for_so_many_names_and_each_name_is_told_once() {
    let (demand, mut requests) = Demand::new(3);
    let client = |last| IpAddr::from([192, 0, 2, last]);
    let miss = |n: usize, last, second| {
        demand.missed_at(&host(&format!("n{n}.example.com")), client(last), at(second));
    };
    for _ in 0..10 {
        miss(0, 1, 0);
    }
    for n in 1..10 {
        miss(n, 1, 0);
    }
    let missed = |n: usize| format!("missed n{n}.example.com");
    assert_eq!(told(&mut requests), [missed(0), missed(1), missed(2)]);
    assert_eq!(demand.counters().network_limit.load(Ordering::Relaxed), 7);
    miss(0, 1, 599);
    assert!(told(&mut requests).is_empty(), "it was seen lately");
    miss(0, 1, 4000);
    assert_eq!(told(&mut requests), [missed(0)]);
}

#[tokio::test]
async fn a_flood_fills_no_more_than_the_queue() {
    let (demand, mut requests) = Demand::new(u32::MAX);
    for n in 0..10_000 {
        demand.missed_at(&host(&format!("n{n}.example.com")), IpAddr::from([192, 0, 2, 1]), at(0));
    }
    assert!(demand.missed_names().len() <= MAX_WAITING);
    assert_eq!(told(&mut requests).len(), MAX_WAITING);
    assert_eq!(demand.counters().busy.load(Ordering::Relaxed), 10_000 - MAX_WAITING as u64);
}

#[tokio::test]
async fn who_finds_no_place_in_the_queue_has_used_up_nothing() {
    let (demand, mut requests) = Demand::new(1);
    let miss = |name: &str| demand.missed_at(&host(name), IpAddr::from([192, 0, 2, 1]), at(0));
    while demand.shared.sender.try_send(Told::Missed(host("before.example.com"))).is_ok() {}
    miss("a.example.com");
    assert_eq!(told(&mut requests).len(), MAX_WAITING);
    miss("a.example.com");
    assert_eq!(told(&mut requests), ["missed a.example.com"]);
    miss("b.example.com");
    assert!(told(&mut requests).is_empty(), "now its share is gone");
}

#[tokio::test]
async fn however_many_names_are_used_each_is_noted_once_a_day() {
    let (demand, mut requests) = Demand::new(1);
    let names: Vec<_> = (0..10_000).map(|n| (host(&format!("n{n}.example.com")), Arc::default())).collect();
    let mut round = |second| {
        let mut count = 0;
        for (name, noted) in &names {
            demand.used_at(name, noted, at(second));
            demand.used_at(name, noted, at(second));
            count += told(&mut requests).len();
        }
        count
    };
    assert_eq!([0, 1, 86_399, 86_400, 86_401].map(&mut round), [10_000, 0, 0, 10_000, 0]);
    // Where there is no room it is for the next handshake.
    for (name, noted) in &names {
        demand.used_at(name, noted, at(2 * 86_400));
    }
    let first = told(&mut requests).len();
    for (name, noted) in names.iter().take(2 * MAX_WAITING) {
        demand.used_at(name, noted, at(2 * 86_400));
    }
    assert_eq!((first, told(&mut requests).len()), (MAX_WAITING, MAX_WAITING));
    // What could not be kept is tried again soon.
    let (name, noted) = &names[0];
    demand.retry(&Told::Used(name.clone(), Arc::clone(noted)));
    let then = after(Timestamp::now(), AGAIN);
    demand.used_at(name, noted, Timestamp::now());
    assert!(told(&mut requests).is_empty());
    demand.used_at(name, noted, after(then, AGAIN));
    assert_eq!(told(&mut requests).len(), 1);
}

#[tokio::test]
async fn what_was_decided_is_counted() {
    let judge = judge(1, json!({ "on_demand_names": ["t-*"] })).await;
    let (demand, _requests) = Demand::new(1);
    for name in ["t-1", "t-1", "t-2", "other"] {
        judge.take(&Told::Missed(host(&format!("{name}.tenants.example.com"))), &demand).await;
    }
    let counters = demand.counters();
    let counts =
        [&counters.made, &counters.held, &counters.domain_limit, &counters.refused, &counters.failed];
    assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [1, 1, 1, 1, 0]);
}
