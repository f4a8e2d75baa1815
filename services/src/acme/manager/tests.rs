use portcullis_layers::HostName;
use portcullis_layers::deadline::Ticker;
use portcullis_layers::forward::{PoolSettings, Tunnels};
use secrecy::SecretString;
use serde_json::json;
use tokio::runtime::Handle;

use super::super::policy::{LETS_ENCRYPT, testing};
use super::*;
use crate::acme::on_demand;
use crate::config::Entity;
use crate::config::certificate::CertStatus;
use crate::store::embedded::Embedded;
use crate::store::{Key, Kind};

async fn hand(manager: &Manager) -> Hand {
    Hand {
        lease: manager.acquire().await.expect("stored").expect("free"),
        known: BTreeMap::new(),
        busy: BTreeSet::new(),
        running: JoinSet::new(),
        asking: 0,
        told: BTreeMap::new(),
        idle: BTreeMap::new(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn demanded(label: &str, chain: bool) -> Certificate {
    let domain = format!("{label}.example.com").parse().expect("valid");
    Certificate {
        automatic: true,
        on_demand: true,
        fullchain_pem: chain.then(|| "PEM".to_owned()),
        status: if chain { CertStatus::Active } else { CertStatus::Failed },
        issued_at: chain.then(|| at(0)),
        expires_at: chain.then(|| at(90 * 86_400)),
        ..Certificate::wanted(label.parse().expect("valid"), vec![domain])
    }
}

/// A manager over a store with a wildcard host, and these certificates.
async fn manager(certificates: &[Certificate]) -> Arc<Manager> {
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
    let value = json!({
        "proxy_hostname": "*.example.com", "target_url": "http://10.0.0.1",
        "on_demand_certificates": true, "on_demand_names": ["*"],
    });
    let host = Write::Put { key: Key::new(Kind::Proxy, "*.example.com"), value, expect: Expect::Absent };
    let put = |one: &Certificate| Write::Put { key: one.key(), value: one.stored(), expect: Expect::Absent };
    let writes = std::iter::once(host).chain(certificates.iter().map(put));
    store.commit(writes.collect()).await.expect("stored");
    let key = SecretString::from("0123456789abcdef0123456789abcdef");
    Arc::new(Manager::new(Parts {
        mirror: Mirror::new(Arc::clone(&store)),
        vault: Arc::new(Vault::new(&key).expect("long enough")),
        client: Client::new(1, Ticker::new(1), Tunnels::new(1), PoolSettings::default()),
        policy: Arc::new(testing::policy(LETS_ENCRYPT)),
        challenges: Challenges::new(store, Handle::current()),
        dns: None,
    }))
}

#[tokio::test]
async fn a_name_that_nobody_asks_for_any_more_is_not_renewed() {
    let manager = manager(&[demanded("a", true)]).await;
    let config = Arc::clone(&manager.mirror.latest().await.expect("read").config);
    let mut hand = hand(&manager).await;
    let mut rests = async |now| {
        let certificate = &config.certificates["a"];
        manager.rests_until(&mut hand, certificate, &Needs::of(&config), now).await.expect("read")
    };
    let again = rests(at(0)).await.expect("nobody has asked");
    assert!(again > at(0));
    let name: HostName = "a.example.com".parse().expect("valid");
    on_demand::note(&**manager.mirror.store(), &name).await.expect("stored");
    assert_eq!(rests(at(1)).await, Some(again), "the store is not asked at each look");
    assert_eq!(rests(again).await, None);
}

#[tokio::test]
async fn what_a_host_of_its_own_needs_is_renewed_in_any_case() {
    let manager = manager(&[demanded("a", true)]).await;
    let value = json!({ "proxy_hostname": "a.example.com", "target_url": "http://10.0.0.1" });
    let own = Write::Put { key: Key::new(Kind::Proxy, "a.example.com"), value, expect: Expect::Absent };
    manager.mirror.store().commit(vec![own]).await.expect("stored");
    let config = Arc::clone(&manager.mirror.latest().await.expect("read").config);
    let mut hand = hand(&manager).await;
    let rests = manager.rests_until(&mut hand, &config.certificates["a"], &Needs::of(&config), at(0)).await;
    assert_eq!(rests.expect("read"), None);
}

#[tokio::test]
async fn a_name_that_can_not_be_validated_is_forgotten_and_may_come_again() {
    let manager = manager(&[demanded("once", false), demanded("often", false), demanded("held", true)]).await;
    let mut hand = hand(&manager).await;
    let store = &**manager.mirror.store();
    for (name, failures) in [("once", 1), ("often", 3), ("held", 3)] {
        let (name, issuance) = (name.parse().expect("valid"), Issuance { failures, ..Issuance::default() });
        let expect = state::write(store, &name, &issuance, Expect::Absent).await.expect("stored");
        hand.known.insert(name, (issuance, expect));
    }
    let view = manager.mirror.latest().await.expect("read");
    assert!(manager.tidy(&view, &mut hand, at(1)).await.expect("stored"));
    let view = manager.mirror.latest().await.expect("read");
    let left: Vec<_> = view.config.certificates.keys().map(CertName::as_str).collect();
    assert_eq!(left, ["held", "once"]);
    let gone: CertName = "often".parse().expect("valid");
    assert!(!hand.known.contains_key(&gone), "it begins anew");
    assert_eq!(state::read(store, &gone).await.expect("read").1, Expect::Absent);
    assert!(!manager.tidy(&view, &mut hand, at(1)).await.expect("read"));
    // Strangers' names make no node unwell.
    assert!(alerts::problems(&view.config, at(1)).is_empty());
}
