//! What the front adds to the authority.

use std::time::{Duration, SystemTime};

use instant_acme::{Account, CertificateIdentifier, ChallengeType, Error, NewOrder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::challenges::Http;
use crate::client::{Trusting, account, issue, names, problem, trusted};
use crate::support::acme_front::{AcmeFront, Ordered, Window, certificate_id};
use crate::support::pebble::{Pebble, Settings};

const DAY: Duration = Duration::from_secs(86_400);

struct World {
    http: Http,
    pebble: Pebble,
    front: AcmeFront,
    client: Trusting,
    account: Account,
}

impl World {
    async fn new() -> Self {
        let http = Http::start().await;
        let pebble = Pebble::start(Settings { http: http.port, ..Settings::default() }).await;
        let front = AcmeFront::before(&pebble).await;
        let client = Trusting::new(pebble.authority());
        let (account, _) = account(&client, front.directory(), None).await.unwrap();
        Self { http, pebble, front, client, account }
    }

    async fn issue(&self, new: &NewOrder<'_>) -> Result<String, Error> {
        issue(&self.account, new, ChallengeType::Http01, async |challenge| self.http.prove(challenge)).await
    }
}

/// The id of the certificate as the client makes it.
fn identifier(chain: &str) -> CertificateIdentifier<'static> {
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    CertificateIdentifier::try_from(&der).unwrap().into_owned()
}

#[tokio::test]
async fn an_order_goes_through_as_it_is() {
    let world = World::new().await;
    let order = names(&["www.example.test"]);
    let issued = world.issue(&NewOrder::new(&order)).await.unwrap();
    assert!(trusted(&issued, &world.pebble.root(0).await, "www.example.test"));
    let [Ordered { names, replaces: None, profile: None, .. }] = &world.front.orders()[..] else {
        panic!("{:?}", world.front.orders())
    };
    assert_eq!(names, &["www.example.test"]);
    assert_eq!(world.front.requests("newAccount"), 1);
}

#[tokio::test]
async fn renewal_is_suggested_and_replaces_once() {
    let world = World::new().await;
    let order = names(&["www.example.test"]);
    let first = world.issue(&NewOrder::new(&order)).await.unwrap();
    let id = identifier(&first);
    assert_eq!(id.to_string(), certificate_id(&first));

    // The last third of ninety days.
    let (info, again) = world.account.renewal_info(&id).await.unwrap();
    let start = SystemTime::from(info.suggested_window.start).duration_since(SystemTime::now()).unwrap();
    assert!(start > 59 * DAY && start <= 60 * DAY, "{start:?}");
    assert!(again > Duration::from_secs(21_500), "{again:?}");

    // Moved: for all, and for one.
    let now = SystemTime::now();
    let window = Window { start: now, end: now + DAY, retry_after: Duration::from_secs(60) };
    world.front.suggest(window);
    let (info, again) = world.account.renewal_info(&id).await.unwrap();
    assert_eq!(SystemTime::from(info.suggested_window.start), now);
    assert_eq!(SystemTime::from(info.suggested_window.end), now + DAY);
    assert!(again <= Duration::from_secs(60), "{again:?}");
    let window = Window { start: now + DAY, end: now + 2 * DAY, ..window };
    world.front.suggest_for(&id.to_string(), window);
    let (info, _) = world.account.renewal_info(&id).await.unwrap();
    assert_eq!(SystemTime::from(info.suggested_window.start), now + DAY);
    assert_eq!(world.front.asked(), vec![id.to_string(); 3]);

    let new = NewOrder::new(&order).replaces(id.clone());
    world.issue(&new).await.unwrap();
    assert_eq!(world.front.replacements(), 1);
    assert_eq!(world.front.orders()[1].replaces, Some(id.to_string()));
    assert_eq!(problem(world.issue(&new).await), "alreadyReplaced");

    world.front.has_renewal_information(false);
    let (other, _) = account(&world.client, world.front.directory(), None).await.unwrap();
    assert!(matches!(other.renewal_info(&id).await, Err(Error::Unsupported(_))));
}

#[tokio::test]
async fn nothing_is_suggested_for_strangers() {
    let world = World::new().await;
    let issued = world.issue(&NewOrder::new(&names(&["www.example.test"]))).await.unwrap();
    let id = identifier(&issued);
    let other = CertificateIdentifier { authority_key_identifier: "AAAA".into(), serial: id.serial };
    // Without `Retry-After` the client does not come to the problem.
    assert!(world.account.renewal_info(&other).await.is_err());
    assert_eq!(world.front.asked(), [other.to_string()]);
}

#[tokio::test]
async fn profiles_are_offered_and_others_refused() {
    let world = World::new().await;
    let order = names(&["www.example.test"]);
    let short = NewOrder::new(&order).profile("shortlived");
    assert_eq!(problem(world.account.new_order(&short).await), "invalidProfile");
    world.front.offer(&[("classic", "as ever"), ("shortlived", "six days")]);
    let (other, _) = account(&world.client, world.front.directory(), None).await.unwrap();
    let offered: Vec<_> = other.profiles().map(|profile| profile.name.to_owned()).collect();
    assert!(offered.contains(&"shortlived".to_owned()), "{offered:?}");
    let mut made = world.account.new_order(&short).await.unwrap();
    assert_eq!(made.state().profile.as_deref(), Some("shortlived"));
    assert_eq!(made.refresh().await.unwrap().profile.as_deref(), Some("shortlived"));
    assert_eq!(world.front.orders()[0].profile.as_deref(), Some("shortlived"));
}

#[tokio::test]
async fn limits_pass() {
    let world = World::new().await;
    let order = names(&["www.example.test"]);
    let new = NewOrder::new(&order);
    world.front.limit("newOrder", 1, Duration::from_secs(120));
    assert_eq!(problem(world.account.new_order(&new).await), "rateLimited");
    assert_eq!(world.client.retry_after.lock().unwrap().as_deref(), Some("120"));
    assert_eq!(world.pebble.orders(), 0);
    // A bad nonce is tried again by the client.
    let bad = json!({"type": "urn:ietf:params:acme:error:badNonce", "status": 400});
    world.front.answer_next("newOrder", 2, bad, None);
    world.account.new_order(&new).await.unwrap();
    assert_eq!((world.front.requests("newOrder"), world.pebble.orders()), (4, 1));
}

#[tokio::test]
async fn the_front_goes_and_pebble_stays() {
    let mut world = World::new().await;
    let order = names(&["www.example.test"]);
    world.front.go_down();
    crate::support::eventually("nobody listens", async || {
        matches!(world.account.new_order(&NewOrder::new(&order)).await, Err(Error::Other(_))).then_some(())
    })
    .await;
    world.front.come_back().await;
    world.issue(&NewOrder::new(&order)).await.unwrap();
}
