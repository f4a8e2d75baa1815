//! Dynamic registration (RFC 7591) and its management (RFC 7592), open to the world and not to be flooded.
//!
//! A registration is kept for an hour unless a user signs in with it: then it lasts as long as it is
//! used. Registrations are limited for the whole deployment, for each host that they redirect to, and for
//! the network that they come from, so that one network can't use up what a host may have.
//! Secrets and management tokens are stored as hashes.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::cache::later;
use super::metadata::{self, InvalidMetadata, MAX_BODY, Metadata, Source};
use super::redirect::{self, Place};
use super::secret::{Hashed, digest_of};
use super::store::{ClientStore, Kept};
use super::{Client, Origin, new_secret};
use crate::network::{network, site};
use crate::random;
use crate::store::{self, Expect, Key, Kind};

/// What the ids of registered clients begin with; no URL does.
pub const PREFIX: &str = "dyn_";

/// What one subscriber may have of IPv4: the whole of a small network.
const SMALL_NETWORK: u8 = 24;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer than any deployment.
const NEVER: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// How many networks' shares a site has, which may have 256 networks: else it could use up what all share.
const OF_SITE: u64 = 2;

/// How often a change that another node was faster with is tried again.
const ATTEMPTS: usize = 5;

/// How long a registration that is being ended is kept, so that ending it can be repeated.
const ENDING: Duration = DAY;

/// How registrations are kept and limited.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The URL of the registration endpoint, without a slash at its end.
    pub endpoint: String,
    /// How long a registration that nobody has used is kept.
    pub unused: Duration,
    /// How long one is kept after its last use; none: for ever.
    pub idle: Option<Duration>,
    /// How long one is kept at most, used or not.
    pub lifetime: Option<Duration>,
    /// What the limits are counted over.
    pub window: Duration,
    /// How many registrations there may be in a window.
    pub total: u64,
    /// How many with the same redirect host.
    pub per_host: u64,
    /// How many from the same network.
    pub per_network: u64,
}

impl Settings {
    /// The usual settings: unused ones go within an hour, others after 90 days without use.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            unused: Duration::from_secs(60 * 60),
            idle: Some(90 * DAY),
            lifetime: None,
            window: Duration::from_secs(60 * 60),
            // With the longest body and every unused one kept: 32 MiB.
            total: 2000,
            per_host: 500,
            per_network: 100,
        }
    }
}

/// Ends what a client that goes was given.
#[async_trait]
pub trait EndGrants: Send + Sync + fmt::Debug + 'static {
    /// Ends all grants of a client, and the tokens that came of them. May be called again.
    async fn end_grants(&self, client_id: &str) -> store::Result<()>;
}

/// Registers clients.
#[derive(Debug)]
pub struct Registrations {
    store: Arc<dyn ClientStore>,
    grants: Arc<dyn EndGrants>,
    settings: Settings,
}

/// What is kept of a registration.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    metadata: Metadata,
    issued_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Hashed>,
    token: Hashed,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ending: bool,
}

/// A registration as administrators see it.
#[derive(Debug, Clone, Serialize)]
pub struct Registered {
    /// Its id.
    pub client_id: String,
    /// What the client says about itself.
    #[serde(flatten)]
    pub metadata: Metadata,
    /// When it was registered.
    pub issued_at: Timestamp,
    /// When it was last used, give or take a day; none if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
    /// When it ends if it is not used.
    pub expires_at: Timestamp,
}

/// What the client gets back (RFC 7591, section 3.2.1; RFC 7592, section 3).
#[derive(Debug, Serialize)]
pub struct Information {
    /// Its id.
    pub client_id: String,
    /// Its secret, this once.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reveal_some")]
    pub client_secret: Option<SecretString>,
    /// When it was registered, in seconds since 1970.
    pub client_id_issued_at: i64,
    /// When its secret ends if it is not used any more, in seconds since 1970; zero for never. A registration that
    /// nobody ever signs in with ends as a whole long before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_expires_at: Option<i64>,
    /// What manages the registration.
    #[serde(serialize_with = "reveal")]
    pub registration_access_token: SecretString,
    /// Where it is managed.
    pub registration_client_uri: String,
    /// What is in effect.
    #[serde(flatten)]
    pub metadata: Metadata,
}

/// Why a registration is refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// What the client says.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// The body of an update names another client, or another secret.
    #[error("{0} is not the registered one")]
    Mismatch(&'static str),
    /// A limit.
    #[error("too many clients were registered, try again later")]
    TooMany {
        /// When the limit is counted anew, at the latest.
        retry_after: Duration,
    },
    /// No token, or not that of this registration.
    #[error("the registration access token is missing or not valid for this client")]
    Token,
    /// The store.
    #[error("registrations can not be stored at the moment")]
    Store(#[from] store::Error),
}

impl Registrations {
    /// Registrations in this store.
    pub fn new(store: Arc<dyn ClientStore>, grants: Arc<dyn EndGrants>, settings: Settings) -> Self {
        Self { store, grants, settings }
    }

    /// Registers a client (RFC 7591, section 3). A `client_id` in the body is ignored.
    ///
    /// # Errors
    ///
    /// See [`RegistrationError`].
    pub async fn register(
        &self,
        body: &[u8],
        from: IpAddr,
        now: Timestamp,
    ) -> Result<Information, RegistrationError> {
        let fields = metadata::object(body, MAX_BODY)?;
        let metadata = Metadata::read(&fields, Source::Registration)?;
        self.count_sender(from).await?;
        self.count_hosts(redirect::places(&metadata.redirect_uris)).await?;
        self.count("total".to_owned(), self.settings.total).await?;
        let id = random::name(PREFIX);
        let token = random::secret("pcm_");
        let secret = new_secret(&metadata);
        let record = Record {
            metadata,
            issued_at: now,
            used_at: None,
            secret: secret.as_ref().map(hash),
            token: hash(&token),
            ending: false,
        };
        self.put(&id, &record, Expect::Absent, now).await?;
        Ok(self.information(id, record, secret, token))
    }

    /// What is registered (RFC 7592, section 2.1). The secret is not shown again: only its hash is known.
    ///
    /// # Errors
    ///
    /// See [`RegistrationError`].
    pub async fn read(
        &self,
        id: &str,
        token: Option<&str>,
        now: Timestamp,
    ) -> Result<Information, RegistrationError> {
        let (_, record, token) = self.authorized(id, token, now).await?;
        Ok(self.information(id.to_owned(), record, None, token))
    }

    /// Replaces what is registered (RFC 7592, section 2.2). A client that now needs a secret and had none gets one.
    /// Hosts that it redirects to from now on count as with a new registration.
    ///
    /// # Errors
    ///
    /// See [`RegistrationError`].
    pub async fn update(
        &self,
        id: &str,
        token: Option<&str>,
        body: &[u8],
        from: IpAddr,
        now: Timestamp,
    ) -> Result<Information, RegistrationError> {
        let (version, mut record, token) = self.authorized(id, token, now).await?;
        let fields = metadata::object(body, MAX_BODY)?;
        same(&fields, "client_id", |given| given == id)?;
        if fields.get("client_id").is_none_or(Value::is_null) {
            return Err(RegistrationError::Mismatch("client_id"));
        }
        same(&fields, "client_secret", |given| record.secret.as_ref().is_some_and(|one| one.matches(given)))?;
        let metadata = Metadata::read(&fields, Source::Registration)?;
        let known = redirect::places(&record.metadata.redirect_uris);
        let new: BTreeSet<&Place> =
            redirect::places(&metadata.redirect_uris).difference(&known).copied().collect();
        if !new.is_empty() {
            // The network, too: else one registration that goes to and fro uses up what a host may have.
            self.count_sender(from).await?;
            self.count_hosts(new).await?;
        }
        record.metadata = metadata;
        let mut secret = None;
        if !record.metadata.token_endpoint_auth_method.has_secret() {
            record.secret = None;
        } else if record.secret.is_none() {
            secret = new_secret(&record.metadata);
            record.secret = secret.as_ref().map(hash);
        }
        self.put(id, &record, Expect::Version(version), now).await?;
        Ok(self.information(id.to_owned(), record, secret, token))
    }

    /// Ends a registration with all that was granted to it (RFC 7592, section 2.3).
    ///
    /// # Errors
    ///
    /// See [`RegistrationError`]. When the store fails in between the client is gone, and the call can be repeated.
    pub async fn deregister(
        &self,
        id: &str,
        token: Option<&str>,
        now: Timestamp,
    ) -> Result<(), RegistrationError> {
        let kept = self.kept(id, now).await?;
        authorize(kept.as_ref().map(|(_, record)| record), token)?;
        self.end(id, now).await?;
        Ok(())
    }

    /// Ends a registration, for administrators. Whether there was one.
    ///
    /// # Errors
    ///
    /// When the store fails; the call can be repeated.
    pub async fn end(&self, id: &str, now: Timestamp) -> store::Result<bool> {
        for _ in 0..ATTEMPTS {
            let Some((version, mut record)) = self.kept(id, now).await? else { return Ok(false) };
            // Nobody may use it while its grants are looked for, and the token has to hold if that fails.
            if !record.ending {
                record.ending = true;
                let value = to_value(&record);
                match self.store.put(id, value, Expect::Version(version), ENDING).await {
                    Err(store::Error::Conflict { .. }) => continue,
                    outcome => outcome?,
                }
            }
            self.grants.end_grants(id).await?;
            self.store.delete(id).await?;
            return Ok(true);
        }
        Err(contended(id))
    }

    /// The client of an id, if it is registered.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn find(&self, id: &str, now: Timestamp) -> store::Result<Option<Client>> {
        let kept = self.kept(id, now).await?.filter(|(_, record)| !record.ending);
        Ok(kept.map(|(_, record)| Client {
            id: id.to_owned(),
            origin: Origin::Registered,
            metadata: Arc::new(record.metadata),
            secret: record.secret,
            any_secret_method: false,
            first_party: false,
            introspects: false,
        }))
    }

    /// Notes that a user has signed in with a client: call it when a code is issued, and when a token
    /// is refreshed. `false` when the registration has ended meanwhile.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn used(&self, id: &str, now: Timestamp) -> store::Result<bool> {
        for _ in 0..ATTEMPTS {
            let Some((version, mut record)) = self.kept(id, now).await? else { return Ok(false) };
            if record.ending {
                return Ok(false);
            }
            if record.used_at.is_some_and(|used| now < later(used, self.resolution())) {
                return Ok(true);
            }
            record.used_at = Some(now);
            match self.put(id, &record, Expect::Version(version), now).await {
                Err(store::Error::Conflict { .. }) => {}
                outcome => return outcome.map(|()| true),
            }
        }
        Err(contended(id))
    }

    /// A registration as administrators see it.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn get(&self, id: &str, now: Timestamp) -> store::Result<Option<Registered>> {
        let kept = self.kept(id, now).await?.filter(|(_, record)| !record.ending);
        Ok(kept.map(|(_, record)| self.registered(id.to_owned(), record)))
    }

    /// Registrations behind `after`, those that nobody used among them, and where the next page begins.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> store::Result<(Vec<Registered>, Option<String>)> {
        let (page, next) = self.store.list(after, limit).await?;
        let mut registered = Vec::with_capacity(page.len());
        for kept in page {
            let (_, record) = from_kept(&kept)?;
            if now < self.expires_at(&record) && !record.ending {
                registered.push(self.registered(kept.id, record));
            }
        }
        Ok((registered, next))
    }

    fn registered(&self, client_id: String, record: Record) -> Registered {
        let expires_at = self.expires_at(&record);
        let Record { metadata, issued_at, used_at, .. } = record;
        Registered { client_id, metadata, issued_at, used_at, expires_at }
    }

    /// Counts what a network does, before anything that others share: who is stopped here uses up nothing of that.
    async fn count_sender(&self, from: IpAddr) -> Result<(), RegistrationError> {
        let most = self.settings.per_network;
        self.count(bucket("network", &network(from, SMALL_NETWORK).to_string(), 16), most).await?;
        match site(from) {
            Some(site) => {
                self.count(bucket("site", &site.to_string(), 16), most.saturating_mul(OF_SITE)).await
            }
            None => Ok(()),
        }
    }

    /// Counts one more client of each of these hosts.
    async fn count_hosts(&self, places: BTreeSet<&Place>) -> Result<(), RegistrationError> {
        let hosts: BTreeSet<_> =
            places.into_iter().map(|place| bucket("host", &place.to_string(), 12)).collect();
        for host in hosts {
            self.count(host, self.settings.per_host).await?;
        }
        Ok(())
    }

    async fn count(&self, counter: String, most: u64) -> Result<(), RegistrationError> {
        let window = self.settings.window;
        if self.store.count(&counter, window).await? > most {
            return Err(RegistrationError::TooMany { retry_after: window });
        }
        Ok(())
    }

    async fn authorized(
        &self,
        id: &str,
        token: Option<&str>,
        now: Timestamp,
    ) -> Result<(u64, Record, SecretString), RegistrationError> {
        let kept = self.kept(id, now).await?.filter(|(_, record)| !record.ending);
        let token = authorize(kept.as_ref().map(|(_, record)| record), token)?;
        let (version, record) = kept.ok_or(RegistrationError::Token)?;
        Ok((version, record, token.into()))
    }

    /// What is kept and has not ended, going by the clock of this node as well as the store's.
    async fn kept(&self, id: &str, now: Timestamp) -> store::Result<Option<(u64, Record)>> {
        if !id.starts_with(PREFIX) || id.len() > 64 {
            return Ok(None);
        }
        let kept = self.store.get(id).await?.as_ref().map(from_kept).transpose()?;
        Ok(kept.filter(|(_, record)| record.ending || now < self.expires_at(record)))
    }

    async fn put(&self, id: &str, record: &Record, expect: Expect, now: Timestamp) -> store::Result<()> {
        let left = self.expires_at(record).duration_since(now);
        let ttl = Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1));
        self.store.put(id, to_value(record), expect, ttl).await
    }

    /// How often it is noted that a client is used: once a day is enough to tell what is idle for months.
    fn resolution(&self) -> Duration {
        self.settings.idle.map_or(DAY, |idle| DAY.min(idle))
    }

    fn expires_at(&self, record: &Record) -> Timestamp {
        let settings = &self.settings;
        let idle = match record.used_at {
            // A use that was not noted since counts, too.
            Some(used) => later(used, settings.idle.unwrap_or(NEVER) + self.resolution()),
            None => later(record.issued_at, settings.unused),
        };
        settings.lifetime.map_or(idle, |lifetime| idle.min(later(record.issued_at, lifetime)))
    }

    /// When a secret ends, as its client is told: clients may forget it then, so it is not said of one that may yet be
    /// used that it ends with the hour that an unused registration has.
    fn secret_ends(&self, record: &Record) -> i64 {
        let Settings { idle, lifetime, .. } = self.settings;
        let idle = idle.map(|idle| later(record.used_at.unwrap_or(record.issued_at), idle));
        let ends = idle.into_iter().chain(lifetime.map(|lifetime| later(record.issued_at, lifetime))).min();
        ends.map_or(0, Timestamp::as_second)
    }

    fn information(
        &self,
        id: String,
        record: Record,
        secret: Option<SecretString>,
        token: SecretString,
    ) -> Information {
        let ends = self.secret_ends(&record);
        Information {
            registration_client_uri: format!("{}/{id}", self.settings.endpoint),
            client_id: id,
            client_secret: secret,
            client_id_issued_at: record.issued_at.as_second(),
            client_secret_expires_at: record.secret.map(|_| ends),
            registration_access_token: token,
            metadata: record.metadata,
        }
    }
}

/// A member of an update that must be what is registered, if it is given.
fn same(
    fields: &Map<String, Value>,
    member: &'static str,
    fits: impl FnOnce(&str) -> bool,
) -> Result<(), RegistrationError> {
    match fields.get(member).filter(|value| !value.is_null()) {
        None => Ok(()),
        Some(given) if given.as_str().is_some_and(fits) => Ok(()),
        Some(_) => Err(RegistrationError::Mismatch(member)),
    }
}

/// An unknown client and a wrong token look alike (RFC 7592, section 2.1).
fn authorize<'a>(record: Option<&Record>, token: Option<&'a str>) -> Result<&'a str, RegistrationError> {
    match (record, token) {
        (Some(record), Some(token)) if record.token.matches(token) => Ok(token),
        _ => Err(RegistrationError::Token),
    }
}

fn hash(secret: &SecretString) -> Hashed {
    Hashed::of(secret.expose_secret())
}

/// One of a bounded number of counters: strangers choose what is counted, and each counter takes room. Who
/// finds another name for the counter of a host could as well use the host's own.
fn bucket(what: &str, name: &str, bits: u32) -> String {
    let hash = digest_of(&[what, name]);
    let number =
        hash.bytes().take(8).fold(0_u64, |sum, byte| sum.wrapping_mul(131).wrapping_add(byte.into()));
    format!("{what}/{:x}", number & ((1 << bits) - 1))
}

fn to_value(record: &Record) -> Value {
    serde_json::to_value(record).expect("texts and times serialise")
}

fn from_kept(kept: &Kept) -> store::Result<(u64, Record)> {
    let record = Record::deserialize(&kept.value).map_err(|error| store::Error::Corrupt {
        place: format!("registration {}", kept.id),
        source: Box::new(error),
    })?;
    Ok((kept.version, record))
}

fn contended(id: &str) -> store::Error {
    store::Error::Conflict { key: Key::new(Kind::Client, id) }
}

fn reveal<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

fn reveal_some<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => reveal(secret, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests;
