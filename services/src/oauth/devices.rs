//! Device codes (RFC 8628): what a device without a browser asks for, and what its user says to that elsewhere.
//!
//! The device has the device code, 256 random bits. Its user types the user code, which is short: how often somebody
//! may try one is limited by who asks here. The store knows both by their hashes. Who the user is, and what a client
//! may ask, is not decided here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::grants::new_id;
use super::opaque;
use super::state::{Identity, Scopes, after, left};
use crate::random;
use crate::store::{Error, Expect, RecordKey, RecordKind, RecordWrite, Result, Store};

/// How long the user has.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// How long a device waits between two questions.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// How much longer who asks too soon waits from then on (RFC 8628, section 3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// What the network may do to the time between two questions.
const JITTER: Duration = Duration::from_secs(1);

/// How long a code that has expired or was used is remembered, so that its device learns why it gets nothing.
const MEMORY: Duration = Duration::from_secs(600);

/// Twenty letters (RFC 8628, section 6.1): no vowels, so no words, and none that looks like a digit.
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// With twenty letters 34 bits: with all codes of a busy deployment open, a guess hits one in a hundred million.
const USER_CODE: usize = 8;

/// The longest text that is read as a code.
const MAX_TYPED: usize = 64;

/// How often others may change the same record meanwhile, or have the same user code.
const ATTEMPTS: usize = 5;

/// What a device asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The client.
    pub client_id: String,
    /// What was known of the client when it asked: kept with the grant.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub client: Value,
    /// The resources (RFC 8707), in canonical form.
    pub resources: Vec<String>,
    /// The scopes.
    pub scopes: Scopes,
}

/// What the user agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who agreed.
    pub identity: Identity,
    /// In which browser session.
    pub session: String,
    /// When they signed in.
    pub authenticated_at: Timestamp,
    /// The scopes: those that were asked for, or fewer.
    pub scopes: Scopes,
}

/// A code of both kinds that was just made.
#[derive(Debug)]
pub struct Codes {
    /// For the device.
    pub device_code: SecretString,
    /// For the user.
    pub user_code: UserCode,
}

/// A user code in the form in which two of them are compared.
#[derive(Clone, PartialEq, Eq)]
pub struct UserCode(String);

/// A request that waits for its user.
#[derive(Debug)]
pub struct Pending {
    id: String,
    /// What is asked for.
    pub request: Request,
}

/// A request that its user has agreed to, to be taken with [`Devices::take`].
#[derive(Debug)]
pub struct Ready {
    id: String,
    version: u64,
    /// The id of the grant that it yields.
    pub grant: String,
    /// What was asked for.
    pub request: Request,
    /// What was agreed to.
    pub approval: Approval,
}

/// The answer to a device that asks.
#[derive(Debug)]
pub enum Poll {
    /// The user has not decided.
    Pending,
    /// Nor that, and the device asks too often.
    TooSoon,
    /// The user has refused.
    Denied,
    /// The user took too long.
    Expired,
    /// The user has agreed.
    Ready(Box<Ready>),
    /// There is no such code of this client, or it was used.
    Unknown,
}

/// A request in the store.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    request: Request,
    /// The hash of the user code: the record's place on the list, as long as it waits.
    user_code: String,
    grant: String,
    until: Timestamp,
    /// In seconds.
    interval: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked_at: Option<Timestamp>,
    state: State,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Pending,
    Approved(Box<Approval>),
    Denied,
    Used,
}

/// The device codes of a deployment.
#[derive(Clone)]
pub struct Devices {
    store: Arc<dyn Store>,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

impl UserCode {
    /// Reads what somebody typed: case, blanks and hyphens don't count.
    pub fn parse(typed: &str) -> Option<Self> {
        if typed.len() > MAX_TYPED {
            return None;
        }
        let letters = typed.chars().filter(|letter| !letter.is_whitespace() && *letter != '-');
        let code: String = letters.map(|letter| letter.to_ascii_uppercase()).collect();
        (code.len() == USER_CODE && code.bytes().all(|letter| ALPHABET.contains(&letter)))
            .then_some(Self(code))
    }

    fn random() -> Self {
        let mut code = String::with_capacity(USER_CODE);
        while code.len() < USER_CODE {
            let bytes = random::bytes::<{ 2 * USER_CODE }>();
            // What is beyond the last multiple of twenty would make some letters likelier than others.
            let fair =
                bytes.into_iter().filter(|byte| *byte < 240).map(|byte| ALPHABET[usize::from(byte) % 20]);
            code.extend(fair.map(char::from).take(USER_CODE - code.len()));
        }
        Self(code)
    }

    /// The code as it is shown: `XXXX-XXXX`.
    pub fn shown(&self) -> String {
        let (left, right) = self.0.split_at(USER_CODE / 2);
        format!("{left}-{right}")
    }

    fn hash(&self) -> String {
        opaque::hash(self.0.as_bytes())
    }
}

impl fmt::Debug for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UserCode").finish_non_exhaustive()
    }
}

impl Devices {
    /// The codes in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Makes codes for a request.
    ///
    /// # Errors
    ///
    /// When they can't be stored.
    pub async fn issue(&self, request: Request, now: Timestamp) -> Result<Codes> {
        let mut user_code = UserCode::random();
        for _ in 0..ATTEMPTS {
            if self.ids(&user_code).await?.is_empty() {
                break;
            }
            user_code = UserCode::random();
        }
        let device_code = opaque::generate();
        let id = opaque::hash(device_code.expose_secret().as_bytes());
        let stored = Stored {
            request,
            user_code: user_code.hash(),
            grant: new_id(),
            until: after(now, LIFETIME),
            interval: INTERVAL.as_secs(),
            asked_at: None,
            state: State::Pending,
        };
        self.store.commit_records(vec![stored.write(&id, Expect::Absent, now)?]).await?;
        Ok(Codes { device_code, user_code })
    }

    /// The request that a user code stands for, if it still waits for its user.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn find(&self, code: &UserCode, now: Timestamp) -> Result<Option<Pending>> {
        let ids = self.ids(code).await?;
        // Two of one code: nobody knows which is meant, so neither is.
        let [id] = ids.as_slice() else { return Ok(None) };
        let Some((_, stored)) = self.read(id).await? else { return Ok(None) };
        let waits = matches!(stored.state, State::Pending) && now < stored.until;
        Ok(waits.then(|| Pending { id: id.clone(), request: stored.request }))
    }

    /// Notes what the user has decided: nothing is a refusal. `false` when there is nothing to decide any more.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn decide(
        &self,
        pending: &Pending,
        approval: Option<Approval>,
        now: Timestamp,
    ) -> Result<bool> {
        let state = approval.map_or(State::Denied, |approval| State::Approved(Box::new(approval)));
        for _ in 0..ATTEMPTS {
            let Some((version, stored)) = self.read(&pending.id).await? else { return Ok(false) };
            if !matches!(stored.state, State::Pending) || now >= stored.until {
                return Ok(false);
            }
            let decided = Stored { state: state.clone(), ..stored };
            // The device may have asked meanwhile.
            if self.replace(&pending.id, version, &decided, now).await? {
                return Ok(true);
            }
        }
        Err(Error::RecordConflict { key: key(&pending.id) })
    }

    /// Tells a device what its user has decided (RFC 8628, section 3.5).
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn poll(&self, device_code: &str, client_id: &str, now: Timestamp) -> Result<Poll> {
        let Some(id) = opaque::hash_of_presented(device_code) else { return Ok(Poll::Unknown) };
        let Some((version, stored)) = self.read(&id).await? else { return Ok(Poll::Unknown) };
        if stored.request.client_id != client_id {
            return Ok(Poll::Unknown);
        }
        Ok(match &stored.state {
            State::Used => Poll::Unknown,
            State::Denied => Poll::Denied,
            _ if now >= stored.until => Poll::Expired,
            State::Pending => self.asked(&id, version, stored, now).await?,
            State::Approved(approval) => Poll::Ready(Box::new(Ready {
                approval: (**approval).clone(),
                id,
                version,
                grant: stored.grant,
                request: stored.request,
            })),
        })
    }

    /// Takes a request that its user has agreed to: exactly one caller on all nodes gets `true`, and may make the
    /// grant.
    ///
    /// # Errors
    ///
    /// When the store fails; then it may or may not be taken, and no grant is to be made.
    pub async fn take(&self, ready: &Ready, now: Timestamp) -> Result<bool> {
        let Some((version, stored)) = self.read(&ready.id).await? else { return Ok(false) };
        if version != ready.version {
            return Ok(false);
        }
        self.replace(&ready.id, version, &Stored { state: State::Used, ..stored }, now).await
    }

    /// Notes that a device has asked, and tells whether that was too soon.
    async fn asked(&self, id: &str, version: u64, stored: Stored, now: Timestamp) -> Result<Poll> {
        let wait = Duration::from_secs(stored.interval).saturating_sub(JITTER);
        let soon = stored.asked_at.is_some_and(|before| now < after(before, wait));
        let slower = if soon { SLOWER.as_secs() } else { 0 };
        // Beyond its own life a wait means nothing.
        let interval = (stored.interval + slower).min(LIFETIME.as_secs());
        // Who asks several times at once has noted it once: the user's decision must not wait for that.
        self.replace(id, version, &Stored { interval, asked_at: Some(now), ..stored }, now).await?;
        Ok(if soon { Poll::TooSoon } else { Poll::Pending })
    }

    /// The requests that wait under a user code: two of them at most.
    async fn ids(&self, user_code: &UserCode) -> Result<Vec<String>> {
        let index = index(&user_code.hash());
        let page = self.store.list_records(RecordKind::Device, Some(&index), None, 2).await?;
        Ok(page.records.into_iter().map(|record| record.key.id).collect())
    }

    async fn read(&self, id: &str) -> Result<Option<(u64, Stored)>> {
        let record = self.store.get_record(&key(id)).await?;
        record.map(|record| Ok((record.version, record.read()?))).transpose()
    }

    /// Whether nobody was faster.
    async fn replace(&self, id: &str, version: u64, stored: &Stored, now: Timestamp) -> Result<bool> {
        let write = stored.write(id, Expect::Version(version), now)?;
        match self.store.commit_records(vec![write]).await {
            Ok(()) => Ok(true),
            Err(Error::RecordConflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Stored {
    fn write(&self, id: &str, expect: Expect, now: Timestamp) -> Result<RecordWrite> {
        // A user code is good for one decision: after that it leads nowhere.
        let waits = matches!(self.state, State::Pending);
        let indexes = waits.then(|| index(&self.user_code)).into_iter().collect();
        let life = left(self.until, now) + MEMORY;
        RecordWrite::put(key(id), self, Some(life), expect, indexes)
    }
}

fn key(id: &str) -> RecordKey {
    RecordKey::new(RecordKind::Device, id)
}

fn index(user_code: &str) -> String {
    format!("user_code:{user_code}")
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    fn devices() -> Devices {
        Devices::new(Arc::new(Embedded::in_memory().expect("memory")))
    }

    fn request() -> Request {
        Request {
            client_id: "tv".into(),
            client: Value::Null,
            resources: vec!["https://app.example".into()],
            scopes: Scopes::from(["mcp".to_owned(), "user".to_owned()]),
        }
    }

    fn approval() -> Approval {
        Approval {
            identity: Identity {
                subject: "1".into(),
                login: "octocat".into(),
                name: None,
                emails: Vec::new(),
                memberships: Vec::new(),
            },
            session: "s".into(),
            authenticated_at: Timestamp::UNIX_EPOCH,
            scopes: Scopes::from(["mcp".to_owned()]),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("a time")
    }

    async fn poll(devices: &Devices, codes: &Codes, seconds: i64) -> &'static str {
        match devices.poll(codes.device_code.expose_secret(), "tv", at(seconds)).await.expect("asked") {
            Poll::Pending => "pending",
            Poll::TooSoon => "too soon",
            Poll::Denied => "denied",
            Poll::Expired => "expired",
            Poll::Ready(_) => "ready",
            Poll::Unknown => "unknown",
        }
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code = UserCode::parse("WDJB-MJHT").expect("a code");
        for typed in ["wdjb-mjht", "WDJBMJHT", " wdjb mjht ", "W-D-J-B\tM J H T", "wdjb\u{a0}mjht"] {
            assert!(UserCode::parse(typed).as_ref() == Some(&code), "{typed:?}");
        }
        assert_eq!(code.shown(), "WDJB-MJHT");
        assert!(!format!("{code:?}").contains("WDJB"));
        let long = format!("{}WDJBMJHT", " ".repeat(MAX_TYPED));
        for typed in ["", "WDJB-MJH", "WDJB-MJHTT", "WDJB-MJHA", "WDJB-MJH1", "WDJB_MJHT", "ẄDJBMJHT", &long]
        {
            assert!(UserCode::parse(typed).is_none(), "{typed:?}");
        }
    }

    #[test]
    fn random_codes_use_the_whole_alphabet() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let code = UserCode::random();
            assert!(UserCode::parse(&code.shown()).as_ref() == Some(&code));
            seen.extend(code.0.into_bytes());
        }
        assert!(seen.iter().eq(ALPHABET), "{seen:?}");
    }

    #[tokio::test]
    async fn who_asks_too_soon_waits_longer_for_good() {
        let devices = devices();
        let codes = devices.issue(request(), at(0)).await.expect("issued");
        for (seconds, answer) in [
            (0, "pending"),
            (5, "pending"),
            (9, "pending"),
            (12, "too soon"),
            (21, "pending"),
            (29, "too soon"),
            (42, "too soon"),
            (61, "pending"),
        ] {
            assert_eq!(poll(&devices, &codes, seconds).await, answer, "after {seconds} s");
        }
    }

    #[tokio::test]
    async fn an_approval_is_taken_once() {
        let devices = devices();
        let codes = devices.issue(request(), at(0)).await.expect("issued");
        let pending = devices.find(&codes.user_code, at(1)).await.expect("read").expect("it waits");
        assert_eq!(pending.request, request());
        assert_eq!(poll(&devices, &codes, 2).await, "pending");
        assert!(devices.decide(&pending, Some(approval()), at(3)).await.expect("decided"));
        assert!(!devices.decide(&pending, None, at(3)).await.expect("read"), "that is settled");
        assert!(devices.find(&codes.user_code, at(3)).await.expect("read").is_none());
        let device_code = codes.device_code.expose_secret();
        let other = devices.poll(device_code, "radio", at(4)).await.expect("asked");
        assert!(matches!(other, Poll::Unknown), "another client's code");
        let ask = async || match devices.poll(device_code, "tv", at(4)).await.expect("asked") {
            Poll::Ready(ready) => ready,
            other => panic!("{other:?}"),
        };
        let (one, two) = (ask().await, ask().await);
        assert_eq!((&one.approval, &one.request), (&approval(), &request()));
        assert!(devices.take(&one, at(5)).await.expect("taken"));
        assert!(!devices.take(&two, at(5)).await.expect("read"));
        assert_eq!(poll(&devices, &codes, 9).await, "unknown");
    }

    #[tokio::test]
    async fn time_and_refusal_end_it() {
        let devices = devices();
        let late = devices.issue(request(), at(0)).await.expect("issued");
        let pending = devices.find(&late.user_code, at(599)).await.expect("read").expect("it waits");
        assert!(devices.find(&late.user_code, at(600)).await.expect("read").is_none());
        assert!(!devices.decide(&pending, Some(approval()), at(600)).await.expect("read"));
        assert_eq!(poll(&devices, &late, 600).await, "expired");
        let refused = devices.issue(request(), at(0)).await.expect("issued");
        let pending = devices.find(&refused.user_code, at(1)).await.expect("read").expect("it waits");
        assert!(devices.decide(&pending, None, at(1)).await.expect("decided"));
        assert_eq!(poll(&devices, &refused, 2).await, "denied");
        let unknown = opaque::generate();
        for code in ["", "short", unknown.expose_secret()] {
            let answer = devices.poll(code, "tv", at(0)).await.expect("asked");
            assert!(matches!(answer, Poll::Unknown), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn two_requests_of_one_code_are_nobodys() {
        let devices = devices();
        let codes = devices.issue(request(), at(0)).await.expect("issued");
        let user_code = codes.user_code.hash();
        let twin = Stored {
            request: request(),
            user_code,
            grant: new_id(),
            until: at(600),
            interval: 5,
            asked_at: None,
            state: State::Pending,
        };
        let write = twin.write("twin", Expect::Absent, at(0)).expect("JSON");
        devices.store.commit_records(vec![write]).await.expect("stored");
        assert!(devices.find(&codes.user_code, at(1)).await.expect("read").is_none());
    }
}
