//! When signing keys rotate: by age, or because somebody asks.
//!
//! A rotation has three steps. The next key is published, a while later it signs, and the old one goes when
//! the last token that it signed has expired. Each step is one commit under a lease, so that of all nodes one
//! does it; which step is due follows from what the store holds, so that any node can go on where another one
//! has ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::claims::token_id;
use super::keys::{self, Error, Keys, Record, SigningKey, State};
use super::state::{after, left};
use crate::applied::Applied;
use crate::config::view::View;
use crate::mirror::Mirror;
use crate::store::{self, Document, Expect, Kind, Lease, Store, Write};
use crate::vault::Vault;

/// How long a key is published before it signs. Nodes learn of it within a second, at worst with their next full
/// look at the store, a minute later; others keep our key set for some minutes.
pub const LEAD: Duration = Duration::from_secs(300);

/// How long an old key verifies beyond the life of its last token: a node may learn late that it signs no longer,
/// and clocks differ.
const MARGIN: Duration = Duration::from_secs(300);

/// The lease of whoever changes keys.
const LEASE: &str = "signing_keys";

/// Making a key takes a second on a busy machine.
const LEASE_TIME: Duration = Duration::from_secs(30);

/// How soon to look again when another node holds the lease, or the store is away.
const AGAIN: Duration = Duration::from_secs(5);

/// The longest time without a look.
const LOOK: Duration = Duration::from_secs(3600);

/// A look has at most this many steps to do: more mean that something undoes them.
const STEPS: usize = 8;

/// What tells which step is due.
const DATES: [Kind; 3] = [Kind::Setting, Kind::Key, Kind::Token];

/// What the steps are made of, too.
const KINDS: [Kind; 4] = [Kind::Setting, Kind::Key, Kind::Secret, Kind::Token];

/// When keys rotate, and how long what they signed is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How old a key that signs may get.
    pub age: Option<Duration>,
    /// How long tokens live at most that are no named ones.
    pub longest_token: Duration,
}

impl Policy {
    /// When the next key is published.
    pub fn rotates_at(&self, active: &Record) -> Option<Timestamp> {
        self.age.map(|age| after(active.created_at, age))
    }

    /// Until when tokens may live that a key has signed by now.
    fn signed_until(&self, documents: &[Document], kid: &str, now: Timestamp) -> Timestamp {
        let others = after(after(now, self.longest_token), MARGIN);
        last_named(documents, Some(kid)).map_or(others, |named| others.max(named))
    }
}

/// Until when tokens may live that any key has signed by now.
///
/// # Errors
///
/// When the store fails.
pub async fn signed_until(
    store: &dyn Store,
    longest_token: Duration,
    now: Timestamp,
) -> store::Result<Timestamp> {
    let others = after(after(now, longest_token), MARGIN);
    Ok(last_named(&store.list(Kind::Token).await?, None).map_or(others, |named| others.max(named)))
}

/// When the last of the named tokens ends that a key has signed; those that name no key may be of any.
fn last_named(documents: &[Document], kid: Option<&str>) -> Option<Timestamp> {
    let tokens = documents.iter().filter(|document| document.key.kind == Kind::Token);
    let signed = tokens.map(|token| &token.value).filter(|token| {
        let signer = token.get("key_id").and_then(|kid| kid.as_str());
        kid.is_none() || signer.is_none() || signer == kid
    });
    signed.filter_map(|token| token.get("expires_at")?.as_str()?.parse().ok()).max()
}

/// A step that is due.
#[derive(Debug)]
enum Step {
    /// Publish the next key.
    Publish,
    /// Let the next key sign.
    Activate(Record),
    /// Let an old key verify for longer: a token was noted while another key took its place.
    Extend(Record, Timestamp),
    /// Forget the old keys whose tokens have ended.
    Remove,
}

/// The step that is due, or when to look again.
fn plan(documents: &[Document], policy: Policy, now: Timestamp) -> Result<Result<Step, Timestamp>, Error> {
    let mut look = after(now, LOOK);
    let Some((pointer, _)) = keys::pointer(documents)? else { return Ok(Err(look)) };
    let records = keys::records(documents)?;
    for record in records.iter().filter(|record| record.state == State::Retiring) {
        let named = last_named(documents, Some(record.id()));
        if let Some(named) = named.filter(|named| record.retire_at.is_some_and(|at| at < *named)) {
            return Ok(Ok(Step::Extend(record.clone(), named)));
        }
        match record.retire_at {
            Some(at) if at <= now => return Ok(Ok(Step::Remove)),
            Some(at) => look = look.min(at),
            None => {}
        }
    }
    if let Some(next) = records.iter().find(|record| record.state == State::Next) {
        let at = next.signs_at.unwrap_or(now);
        if at <= now {
            return Ok(Ok(Step::Activate(next.clone())));
        }
        return Ok(Err(look.min(at)));
    }
    let active = records.iter().find(|record| record.id() == pointer.kid);
    if let Some(at) = active.and_then(|active| policy.rotates_at(active)) {
        if at <= now {
            return Ok(Ok(Step::Publish));
        }
        look = look.min(at);
    }
    Ok(Err(look))
}

/// Rotates the keys of a deployment.
#[derive(Debug)]
pub struct Rotation {
    mirror: Mirror,
    vault: Arc<Vault>,
    policy: Policy,
    holder: String,
}

impl Rotation {
    /// Rotates the keys in a store by these rules.
    pub fn new(mirror: Mirror, vault: Arc<Vault>, policy: Policy) -> Self {
        Self { mirror, vault, policy, holder: token_id() }
    }

    /// Does what is due; tells when to look again.
    ///
    /// # Errors
    ///
    /// When the store fails, or holds what are no keys.
    pub async fn look(&self, now: Timestamp) -> Result<Timestamp, Error> {
        let view = self.mirror.latest().await?;
        if let Err(later) = plan(&view.documents(&DATES), self.policy, now)? {
            return Ok(later);
        }
        let Some(lease) = self.acquire().await? else { return Ok(after(now, AGAIN)) };
        let outcome = self.work(lease, now).await;
        self.release().await;
        match outcome {
            // Somebody was faster, who may have left something to do.
            Err(Error::Store(store::Error::Conflict { .. } | store::Error::Fenced { .. })) => {
                Ok(after(now, AGAIN))
            }
            outcome => outcome,
        }
    }

    async fn work(&self, lease: Lease, now: Timestamp) -> Result<Timestamp, Error> {
        let store = self.mirror.store();
        for _ in 0..STEPS {
            let documents = self.mirror.load().await?.documents(&KINDS);
            let mut writes = match plan(&documents, self.policy, now)? {
                Err(later) => return Ok(later),
                Ok(Step::Publish) => {
                    info!("the signing key has its age: the next one is published");
                    generate().await.publish(&self.vault, after(now, LEAD), now)?
                }
                Ok(Step::Activate(next)) => {
                    info!(kid = next.id(), "another key signs from now on");
                    self.activate(next, &documents, now)?
                }
                Ok(Step::Extend(record, until)) => {
                    vec![Record { retire_at: Some(until), ..record }.put(Expect::Present)]
                }
                Ok(Step::Remove) => {
                    // It has preconditions of its own.
                    let removed = Keys::retire(&**store, now).await?;
                    info!(removed, "old signing keys are forgotten");
                    continue;
                }
            };
            writes.push(Write::Fence { lease: LEASE.to_owned(), number: lease.number });
            store.commit(writes).await?;
        }
        Ok(after(now, AGAIN))
    }

    fn activate(&self, next: Record, documents: &[Document], now: Timestamp) -> Result<Vec<Write>, Error> {
        let old = keys::pointer(documents)?.map(|(pointer, _)| pointer.kid).unwrap_or_default();
        keys::activate(next, documents, &self.vault, self.policy.signed_until(documents, &old, now))
    }

    /// The steps of a rotation that somebody asks for: another key is to sign from `signs_at` on. Where the next
    /// one is published already, it is that, and no later than it was to be.
    ///
    /// # Errors
    ///
    /// When the store holds what are no keys.
    pub async fn requested(
        &self,
        view: &View,
        signs_at: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Write>, Error> {
        let documents = view.documents(&KINDS);
        let next = keys::records(&documents)?.into_iter().find(|record| record.state == State::Next);
        match next {
            Some(next) if signs_at <= now => self.activate(next, &documents, now),
            Some(next) => {
                let earlier = next.signs_at.map_or(signs_at, |at| at.min(signs_at));
                Ok(vec![Record { signs_at: Some(earlier), ..next }.put(Expect::Present)])
            }
            None if signs_at <= now => {
                let old = keys::pointer(&documents)?.map(|(pointer, _)| pointer.kid).unwrap_or_default();
                let until = self.policy.signed_until(&documents, &old, now);
                keys::replace(&generate().await, &documents, &self.vault, until, now)
            }
            None => generate().await.publish(&self.vault, signs_at, now),
        }
    }

    /// Takes the lease of whoever changes keys: the step that proves it belongs to the commit.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn fence(&self) -> store::Result<Option<Write>> {
        let lease = self.acquire().await?;
        Ok(lease.map(|lease| Write::Fence { lease: LEASE.to_owned(), number: lease.number }))
    }

    async fn acquire(&self) -> store::Result<Option<Lease>> {
        self.mirror.store().acquire(LEASE, &self.holder, LEASE_TIME).await
    }

    /// Gives the lease back.
    pub async fn release(&self) {
        if let Err(error) = self.mirror.store().release(LEASE, &self.holder).await {
            warn!(%error, "the lease of the signing keys ends by its time only");
        }
    }

    /// Does what is due until it is told to stop; looks again whenever the configuration changes.
    pub async fn run(self, mut applied: watch::Receiver<Applied>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let serves = {
                let applied = applied.borrow_and_update();
                applied.replaced.is_none() && !applied.from_copy
            };
            let now = Timestamp::now();
            // A store that nobody has accepted yet is not written to.
            let wait = if !serves {
                LOOK
            } else {
                match self.look(now).await {
                    Ok(later) => {
                        failing = false;
                        left(later, Timestamp::now())
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            warn!(%error, "signing keys can't be rotated");
                        }
                        AGAIN
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = applied.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Takes a good part of a second, and the caller's thread serves others.
async fn generate() -> SigningKey {
    tokio::task::spawn_blocking(SigningKey::generate).await.expect("generating does not panic")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::Key;
    use crate::store::embedded::Embedded;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn vault() -> Arc<Vault> {
        Arc::new(Vault::new(&"0123456789abcdef0123456789abcdef".into()).expect("long enough"))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    struct Deployment {
        mirror: Mirror,
    }

    impl Deployment {
        /// With a key that was made at the beginning of time.
        async fn new() -> Self {
            let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("a store"));
            Keys::ensure_active(&*store, &vault(), None, at(0), at(0)).await.expect("a key");
            Self { mirror: Mirror::new(store) }
        }

        /// A node that rotates after ten days; tokens live an hour.
        fn node(&self) -> Rotation {
            let policy = Policy {
                age: Some(Duration::from_secs(10 * 86_400)),
                longest_token: Duration::from_secs(3600),
            };
            Rotation::new(Mirror::new(Arc::clone(self.mirror.store())), vault(), policy)
        }

        async fn keys(&self, now: i64) -> Keys {
            let documents = Keys::documents(&**self.mirror.store()).await.expect("a store");
            Keys::load(&documents, &vault(), at(now)).expect("good").expect("keys")
        }

        async fn put(&self, kind: Kind, id: &str, value: Value) {
            let write = Write::Put { key: Key::new(kind, id), value, expect: Expect::Any };
            self.mirror.store().commit(vec![write]).await.expect("stored");
        }

        async fn secrets(&self) -> usize {
            self.mirror.store().list(Kind::Secret).await.expect("a store").len()
        }
    }

    fn states(keys: &Keys) -> Vec<State> {
        let mut states: Vec<_> = keys.records().iter().map(|record| record.state).collect();
        states.sort_by_key(|state| *state as u8);
        states
    }

    #[tokio::test]
    async fn a_key_of_age_makes_way_in_three_steps() {
        let deployment = Deployment::new().await;
        let node = deployment.node();
        let first = deployment.keys(0).await.active().id().to_owned();
        assert_eq!(node.look(at(0)).await.expect("looked"), at(HOUR), "there is nothing to do");
        assert_eq!(node.look(at(10 * DAY - 60)).await.expect("looked"), at(10 * DAY));
        assert_eq!(states(&deployment.keys(0).await), [State::Active]);

        let due = 10 * DAY;
        let signs = due + 300;
        assert_eq!(node.look(at(due)).await.expect("published"), at(signs));
        let keys = deployment.keys(due).await;
        assert_eq!((keys.active().id(), &states(&keys)[..]), (&*first, &[State::Next, State::Active][..]));
        assert_eq!(keys.jwks()["keys"].as_array().map(Vec::len), Some(2), "both are published");
        assert_eq!(keys.key_set().expect("keys").ids().count(), 2, "and known to verifiers");
        assert_eq!(node.look(at(signs - 1)).await.expect("looked"), at(signs));

        assert!(node.look(at(signs)).await.expect("activated") > at(signs));
        let keys = deployment.keys(signs).await;
        assert_ne!(keys.active().id(), first);
        assert_eq!(states(&keys), [State::Active, State::Retiring]);
        assert_eq!(keys.jwks()["keys"].as_array().map(Vec::len), Some(2));
        assert_eq!(deployment.secrets().await, 1, "the old private half is gone at once");

        let ended = signs + HOUR + 300;
        node.look(at(ended - 1)).await.expect("looked");
        assert_eq!(deployment.keys(0).await.records().len(), 2);
        node.look(at(ended)).await.expect("removed");
        assert_eq!(states(&deployment.keys(0).await), [State::Active]);
        // And so on.
        let look = node.look(at(due + 10 * DAY - 60)).await.expect("looked");
        assert_eq!(look, at(due + 10 * DAY));
    }

    #[tokio::test]
    async fn an_old_key_verifies_until_the_last_named_token_has_ended() {
        let deployment = Deployment::new().await;
        let node = deployment.node();
        let first = deployment.keys(0).await.active().id().to_owned();
        let token = |kid: &str, end: i64| json!({ "key_id": kid, "expires_at": at(end).to_string() });
        deployment.put(Kind::Token, "ci", token(&first, 90 * DAY)).await;
        deployment.put(Kind::Token, "other", token("another key", 99 * DAY)).await;
        node.look(at(10 * DAY)).await.expect("published");
        node.look(at(10 * DAY + 300)).await.expect("activated");
        let until = async |now| {
            let keys = deployment.keys(now).await;
            keys.records().iter().find(|record| record.id() == first).and_then(|record| record.retire_at)
        };
        assert_eq!(until(0).await, Some(at(90 * DAY)));
        // It was signed before, and noted while the other key took its place.
        deployment.put(Kind::Token, "late", token(&first, 95 * DAY)).await;
        node.look(at(10 * DAY + 301)).await.expect("looked");
        assert_eq!(until(0).await, Some(at(95 * DAY)));
        node.look(at(95 * DAY)).await.expect("removed");
        assert_eq!(until(0).await, None);
    }

    #[tokio::test]
    async fn of_several_nodes_one_rotates() {
        let deployment = Deployment::new().await;
        let (one, two) = (deployment.node(), deployment.node());
        let (a, b) = tokio::join!(one.look(at(10 * DAY)), two.look(at(10 * DAY)));
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(states(&deployment.keys(0).await), [State::Next, State::Active]);
        // A node that has the lease and does not go on holds up nobody for ever, and nobody meanwhile.
        let _held = one.acquire().await.expect("a store").expect("free");
        assert_eq!(two.look(at(11 * DAY)).await.expect("waits"), after(at(11 * DAY), AGAIN));
        assert_eq!(states(&deployment.keys(0).await), [State::Next, State::Active]);
        one.release().await;
        two.look(at(11 * DAY)).await.expect("activated");
        assert_eq!(states(&deployment.keys(0).await), [State::Active, State::Retiring]);
    }

    #[tokio::test]
    async fn a_key_that_can_not_sign_does_not_take_the_place_of_one_that_can() {
        let deployment = Deployment::new().await;
        let node = deployment.node();
        node.look(at(10 * DAY)).await.expect("published");
        let keys = deployment.keys(0).await;
        let next = keys.records().iter().find(|record| record.state == State::Next).expect("the next");
        let gone = Vault::delete(&format!("signing_key:{}", next.id()), Expect::Present);
        deployment.mirror.store().commit(vec![gone]).await.expect("removed");
        let refused = node.look(at(11 * DAY)).await.expect_err("no private half");
        assert!(matches!(refused, Error::NoPrivateHalf { .. }), "{refused:?}");
        assert_eq!(deployment.keys(0).await.active().id(), keys.active().id());
    }

    #[tokio::test]
    async fn whoever_asks_gets_another_key_when_they_want_it() {
        let deployment = Deployment::new().await;
        let node = deployment.node();
        let ask = async |signs_at: i64, now: i64| {
            let view = deployment.mirror.load().await.expect("a store");
            let writes = node.requested(&view, at(signs_at), at(now)).await.expect("steps");
            deployment.mirror.store().commit(writes).await.expect("stored");
            deployment.keys(now).await
        };
        let signs_at = |keys: &Keys| keys.records().iter().find_map(|record| record.signs_at);
        let first = deployment.keys(0).await.active().id().to_owned();
        let keys = ask(500, 100).await;
        assert_eq!((keys.active().id(), signs_at(&keys)), (&*first, Some(at(500))));
        assert_eq!(signs_at(&ask(900, 100).await), Some(at(500)), "no later than it was to be");
        let keys = ask(300, 100).await;
        assert_eq!((keys.records().len(), signs_at(&keys)), (2, Some(at(300))), "and it is the same key");
        let keys = ask(200, 200).await;
        assert_ne!(keys.active().id(), first);
        assert_eq!(states(&keys), [State::Active, State::Retiring]);
        let second = keys.active().id().to_owned();
        let keys = ask(250, 250).await;
        assert_ne!(keys.active().id(), second);
        assert_eq!(states(&keys), [State::Active, State::Retiring, State::Retiring]);
    }
}
