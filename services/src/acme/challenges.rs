//! What answers an authority that validates a name, on any node.
//!
//! The node that runs an order knows its challenges in memory, and puts them up in the store as items that end by
//! themselves. Another node that is asked for one looks there, but only while an order is under way, a few times at
//! once at most, and never on the thread that serves requests; and each client network may ask so often in vain. So
//! strangers who ask for tokens of their own invention cost next to nothing.
//!
//! A token belongs to one order, so what a node knows of it is right. A name has another answer in each order: there the
//! store goes before what a node knows itself, which may be left over from an order that another node has replaced.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::{BoxFuture, FutureExt, ready};
use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::acme_challenge::{Busy, KeyAuthorizations, Lookup};
use portcullis_layers::tls::AlpnChallenges;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use smol_str::SmolStr;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::limiter::Limiter;
use crate::random;
use crate::store::{self, ItemKey, Store};

/// An order that takes longer than this is begun anew.
const LIFETIME: Duration = Duration::from_secs(3600);

/// An authority asks from a handful of places at once.
const LOOKS: usize = 32;

/// How long a look at the store may take, and how long it may wait for its turn: an authority waits ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);
const TURN: Duration = Duration::from_secs(2);

/// How often a client network may have the store asked in vain, and in what time. An authority hardly ever does, but
/// behind a load balancer that does not say who calls it has one address with all strangers.
const MISSES: u32 = 600;
const WINDOW: Duration = Duration::from_secs(60);

const HTTP: &str = "acme-http";
const ALPN: &str = "acme-alpn";

/// The challenges that are pending. A clone is a reference count.
#[derive(Clone)]
pub struct Challenges {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    /// Where the store is asked: not where requests are served.
    control: Handle,
    own: Mutex<HashMap<(&'static str, String), Own>>,
    /// What this node answers although no authority asks for it.
    tried: Mutex<HashMap<(&'static str, String), SmolStr>>,
    /// Whether any node has an order under way.
    pending: AtomicBool,
    looks: Semaphore,
    misses: Limiter,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").field("pending", &self.shared.pending).finish_non_exhaustive()
    }
}

/// What this node has put up itself.
struct Own {
    authorization: SmolStr,
    until: Instant,
}

/// A challenge that is put up until this is taken down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Posted {
    kind: &'static str,
    id: String,
}

impl Challenges {
    /// Challenges of this deployment; the store is asked on this runtime.
    pub fn new(store: Arc<dyn Store>, control: Handle) -> Self {
        let (own, tried) = (Mutex::default(), Mutex::default());
        let (pending, looks) = (AtomicBool::new(false), Semaphore::new(LOOKS));
        let misses = Limiter::new(MISSES, WINDOW);
        Self { shared: Arc::new(Shared { store, control, own, tried, pending, looks, misses }) }
    }

    /// Says whether orders are under way on any node: only then the store is asked.
    pub fn expect(&self, pending: bool) {
        self.shared.pending.store(pending, Ordering::Relaxed);
    }

    /// Puts up the answer to an HTTP-01 challenge.
    pub(super) async fn post_http(&self, token: &str, authorization: &str) -> store::Result<Posted> {
        self.post(HTTP, token, authorization).await
    }

    /// Puts up the answer to a TLS-ALPN-01 challenge.
    pub(super) async fn post_alpn(&self, name: &str, authorization: &str) -> store::Result<Posted> {
        self.post(ALPN, name, authorization).await
    }

    async fn post(&self, kind: &'static str, id: &str, authorization: &str) -> store::Result<Posted> {
        let posted = Posted { kind, id: id.to_owned() };
        self.keep((kind, id.to_owned()), authorization, Instant::now());
        let kept = self.shared.store.put_item(&item(kind, id), authorization.as_bytes(), LIFETIME).await;
        if kept.is_err() {
            // Nobody will take it down.
            self.own().remove(&(kind, id.to_owned()));
        }
        kept.map(|()| posted)
    }

    /// Forgets what this node has put up itself: its orders are gone on with elsewhere. What is in the store stays there,
    /// because whoever goes on may need it, and ends by itself.
    pub(super) fn forget_own(&self) {
        self.own().clear();
    }

    fn keep(&self, key: (&'static str, String), authorization: &str, now: Instant) {
        let mut own = self.own();
        // Those of attempts that were cut off.
        own.retain(|_, one| now < one.until);
        own.insert(key, Own { authorization: authorization.into(), until: now + LIFETIME });
    }

    /// Takes a challenge down. What can't be taken down ends by itself.
    pub(super) async fn remove(&self, posted: Posted) {
        let Posted { kind, id } = posted;
        if let Err(error) = self.shared.store.take_item(&item(kind, &id)).await {
            warn!(%error, "an answered challenge stays in the store until it ends");
        }
        self.own().remove(&(kind, id));
    }

    /// Puts up answers that nobody but this node knows, in its memory only, until the value is dropped. What an authority
    /// asks for goes before them.
    pub(super) fn try_out(&self, name: &str) -> Trial {
        let token = random::name("portcullis-doctor-");
        let authorization: SmolStr = format!("{token}.{}", random::name("")).into();
        let answers = [(HTTP, token.clone()), (ALPN, name.to_owned())];
        self.tried().extend(answers.iter().map(|answer| (answer.clone(), authorization.clone())));
        Trial { challenges: self.clone(), token, authorization, answers }
    }

    fn tried(&self) -> MutexGuard<'_, HashMap<(&'static str, String), SmolStr>> {
        self.shared.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, HashMap<(&'static str, String), Own>> {
        self.shared.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node knows itself.
    fn here(&self, kind: &'static str, id: &str) -> Option<SmolStr> {
        let key = (kind, id.to_owned());
        let own = self.own().get(&key).map(|found| found.authorization.clone());
        own.or_else(|| self.tried().get(&key).cloned())
    }

    fn find(&self, kind: &'static str, id: &str, client: Option<IpAddr>) -> BoxFuture<'static, Lookup> {
        let here = self.here(kind, id);
        let is_settled = kind == HTTP && here.is_some();
        if is_settled || !self.shared.pending.load(Ordering::Relaxed) {
            return ready(Ok(here)).boxed();
        }
        // Counted before it is known whether it is in vain: many may wait for their turn.
        if self.shared.misses.count(client, Timestamp::now()).is_err() {
            return ready(here.map(Some).ok_or(Busy)).boxed();
        }
        let (shared, key) = (Arc::clone(&self.shared), item(kind, id));
        let look = self.shared.control.spawn(async move {
            let found = shared.look(&key).await;
            if !matches!(found, Ok(None)) {
                shared.misses.forgive_network(client);
            }
            found
        });
        async move {
            match (look.await.unwrap_or(Err(Busy)), here) {
                (Ok(Some(found)), _) | (_, Some(found)) => Ok(Some(found)),
                (nothing, None) => nothing,
            }
        }
        .boxed()
    }
}

impl Shared {
    /// What is in the store.
    async fn look(&self, key: &ItemKey) -> Lookup {
        let Ok(Ok(_turn)) = timeout(TURN, self.looks.acquire()).await else { return Err(Busy) };
        match timeout(PATIENCE, self.store.get_item(key)).await {
            Ok(Ok(found)) => Ok(found.and_then(|bytes| Some(std::str::from_utf8(&bytes).ok()?.into()))),
            Ok(Err(error)) => {
                warn!(%error, "pending challenges of other nodes can't be read");
                Err(Busy)
            }
            Err(_) => Err(Busy),
        }
    }
}

/// Answers that are put up to see whether they arrive.
#[derive(Debug)]
pub(super) struct Trial {
    challenges: Challenges,
    token: String,
    authorization: SmolStr,
    answers: [(&'static str, String); 2],
}

impl Trial {
    /// The token to ask for by HTTP.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// What is answered.
    pub(super) fn authorization(&self) -> &str {
        &self.authorization
    }

    /// Whether an authority is asking for the name by TLS at this moment, and gets its own answer.
    pub(super) async fn is_hidden(&self) -> bool {
        let (kind, name) = &self.answers[1];
        let is_own = self.challenges.own().contains_key(&self.answers[1]);
        is_own
            || self.challenges.shared.pending.load(Ordering::Relaxed)
                && matches!(self.challenges.shared.look(&item(kind, name)).await, Ok(Some(_)))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let mut tried = self.challenges.tried();
        for answer in &self.answers {
            // Somebody else may try the same name.
            if tried.get(answer) == Some(&self.authorization) {
                tried.remove(answer);
            }
        }
    }
}

fn item(kind: &'static str, id: &str) -> ItemKey {
    ItemKey { kind, id: id.to_owned() }
}

impl KeyAuthorizations for Challenges {
    fn key_authorization(&self, token: &str, client: Option<IpAddr>) -> BoxFuture<'static, Lookup> {
        self.find(HTTP, token, client)
    }
}

impl AlpnChallenges for Challenges {
    fn challenge(&self, name: &HostName, client: IpAddr) -> BoxFuture<'static, Option<Arc<CertifiedKey>>> {
        let (name, found) = (name.clone(), self.find(ALPN, name.as_str(), Some(client)));
        async move { certificate(&name, &found.await.ok()??).map(Arc::new) }.boxed()
    }
}

/// The certificate that shows an authority the hash of its key authorization (RFC 8737, section 3).
fn certificate(name: &HostName, authorization: &str) -> Option<CertifiedKey> {
    let hash = digest::digest(&digest::SHA256, authorization.as_bytes());
    let mut params = CertificateParams::new(vec![name.as_str().to_owned()]).ok()?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(hash.as_ref())];
    let key = KeyPair::generate().ok()?;
    let chain = vec![params.self_signed(&key).ok()?.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
    let key = rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(key).ok()?;
    Some(CertifiedKey::new(chain, key))
}

/// The value of the TXT record that answers a DNS-01 challenge (RFC 8555, section 8.4).
pub(super) fn dns_value(authorization: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, authorization.as_bytes()))
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::store::embedded::Embedded;

    const AUTHORITY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// Two nodes with one store.
    fn nodes() -> (Challenges, Challenges) {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
        (
            Challenges::new(Arc::clone(&store), Handle::current()),
            Challenges::new(Arc::clone(&store), Handle::current()),
        )
    }

    async fn asked(node: &Challenges, token: &str) -> Lookup {
        node.key_authorization(token, Some(AUTHORITY)).await
    }

    /// The hash that a node shows for a name.
    async fn shown(node: &Challenges, name: &str) -> Option<Vec<u8>> {
        let name: HostName = name.parse().expect("valid");
        let certified = node.challenge(&name, AUTHORITY).await?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certified.cert[0]).expect("parses");
        let identifier = |extension: &&x509_parser::extensions::X509Extension<'_>| {
            extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31"
        };
        let extension = parsed.extensions().iter().find(identifier).expect("the ACME identifier");
        assert!(extension.critical);
        // Behind it stands its length.
        Some(extension.value[2..].to_vec())
    }

    fn hash(authorization: &str) -> Option<Vec<u8>> {
        Some(digest::digest(&digest::SHA256, authorization.as_bytes()).as_ref().to_vec())
    }

    #[tokio::test]
    async fn any_node_answers_while_an_order_is_under_way() {
        let (one, two) = nodes();
        let posted = one.post_http("token", "token.thumb").await.expect("stored");
        assert_eq!(asked(&one, "token").await, Ok(Some("token.thumb".into())));
        assert_eq!(asked(&two, "token").await, Ok(None), "nothing is under way as far as it knows");
        two.expect(true);
        assert_eq!(asked(&two, "token").await, Ok(Some("token.thumb".into())));
        assert_eq!(asked(&two, "other").await, Ok(None));
        one.remove(posted).await;
        assert_eq!(asked(&one, "token").await, Ok(None));
        assert_eq!(asked(&two, "token").await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_tried_out_is_answered_here_until_it_is_dropped() {
        let (one, two) = nodes();
        two.expect(true);
        let trial = one.try_out("a.example");
        let (token, expected) = (trial.token().to_owned(), trial.authorization().to_owned());
        assert!((22..=128).contains(&token.len()), "it looks like an authority's: {token}");
        assert_eq!(asked(&one, &token).await, Ok(Some(expected.as_str().into())));
        assert_eq!(shown(&one, "a.example").await, hash(&expected));
        assert_eq!(asked(&two, &token).await, Ok(None));
        assert!(!trial.is_hidden().await);
        let posted = one.post_alpn("a.example", "token.thumb").await.expect("stored");
        assert!(trial.is_hidden().await, "an authority's goes first");
        one.remove(posted).await;
        drop(trial);
        assert_eq!(asked(&one, &token).await, Ok(None));
        assert_eq!(shown(&one, "a.example").await, None);
    }

    #[tokio::test]
    async fn what_another_node_waits_for_goes_before_what_is_tried_out_here() {
        let (one, two) = nodes();
        let trial = two.try_out("a.example");
        let posted = one.post_alpn("a.example", "token.thumb").await.expect("stored");
        two.expect(true);
        assert_eq!(shown(&two, "a.example").await, hash("token.thumb"));
        assert!(trial.is_hidden().await);
        one.remove(posted).await;
        assert_eq!(shown(&two, "a.example").await, hash(trial.authorization()));
        assert!(!trial.is_hidden().await);
    }

    #[tokio::test]
    async fn an_answer_of_an_order_that_another_node_has_replaced_is_not_given() {
        let (one, two) = nodes();
        // Its order was cut off, and nobody took the answer down.
        let _left = one.post_alpn("a.example", "old.thumb").await.expect("stored");
        let posted = two.post_alpn("a.example", "new.thumb").await.expect("stored");
        one.expect(true);
        assert_eq!(shown(&one, "a.example").await, hash("new.thumb"));
        one.forget_own();
        two.remove(posted).await;
        assert_eq!(shown(&one, "a.example").await, None);
    }

    #[tokio::test]
    async fn strangers_are_slowed_down_and_an_authority_is_not() {
        let (one, two) = nodes();
        two.expect(true);
        let stranger: IpAddr = [198, 51, 100, 1].into();
        let mut asked_for = 0;
        // While it asks, it gains a little.
        while two.key_authorization(&asked_for.to_string(), Some(stranger)).await == Ok(None) {
            asked_for += 1;
            assert!(asked_for < 10 * MISSES, "nothing stops it");
        }
        assert!(asked_for >= MISSES, "{asked_for}");
        let _posted = one.post_http("token", "token.thumb").await.expect("stored");
        // What is there costs nothing, however often it is asked for.
        for _ in 0..2 * MISSES {
            assert_eq!(asked(&two, "token").await, Ok(Some("token.thumb".into())));
        }
    }

    #[tokio::test]
    async fn who_finds_all_places_taken_waits_for_a_turn() {
        let (one, two) = nodes();
        two.expect(true);
        let _posted = one.post_http("token", "token.thumb").await.expect("stored");
        let all = u32::try_from(LOOKS).expect("a few");
        let taken = two.shared.looks.acquire_many(all).await.expect("open");
        let look = two.key_authorization("token", Some(AUTHORITY));
        // It comes to where it waits.
        tokio::task::yield_now().await;
        drop(taken);
        assert_eq!(look.await, Ok(Some("token.thumb".into())));
    }

    #[tokio::test]
    async fn the_certificate_of_a_challenge_names_the_host_and_carries_the_hash() {
        let (node, _) = nodes();
        let posted = node.post_alpn("a.example", "token.thumb").await.expect("stored");
        assert_eq!(shown(&node, "a.example").await, hash("token.thumb"));
        let name: HostName = "a.example".parse().expect("valid");
        let certified = node.challenge(&name, AUTHORITY).await.expect("pending");
        let (_, parsed) = x509_parser::parse_x509_certificate(&certified.cert[0]).expect("parses");
        let names = parsed.subject_alternative_name().expect("parses").expect("there");
        assert_eq!(names.value.general_names, [x509_parser::extensions::GeneralName::DNSName("a.example")]);
        node.remove(posted).await;
        assert_eq!(shown(&node, "a.example").await, None);
        assert_eq!(shown(&node, "b.example").await, None);
    }
}
