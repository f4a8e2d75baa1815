//! The tokens that upstreams are called with, in memory: requests never wait for the store.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use portcullis_layers::HostName;
use secrecy::SecretString;

use super::ends::app_of;
use super::id_of;
use crate::config::{HostPattern, Proxy};

/// How many tokens are held; beyond it the oldest go.
pub(super) const MAX_HELD: usize = 1 << 16;

/// The tokens of hosts whose upstreams get them. A clone is a reference count.
#[derive(Clone, Default)]
pub struct HeldTokens {
    held: Arc<RwLock<Held>>,
    /// The client id of the deployment's own app.
    global: Option<Arc<str>>,
}

/// A token in memory.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) secret: SecretString,
    /// The client id of the app that it was given to.
    pub(super) app: String,
    pub(super) kept_at: Timestamp,
    /// Until when it is kept without another login.
    pub(super) until: Timestamp,
}

/// What is held for a request.
#[derive(Debug, Clone)]
pub enum Found {
    /// The user's token.
    Token(SecretString),
    /// The user has none.
    None,
    /// The tokens of the host have not been read so far.
    Unread,
}

/// The tokens of one host, as its requests ask for them.
#[derive(Debug, Clone)]
pub struct HostTokens {
    tokens: HeldTokens,
    pattern: HostPattern,
    app: Option<Arc<str>>,
}

#[derive(Default)]
struct Held {
    /// Hosts whose tokens are all here.
    hosts: BTreeSet<HostPattern>,
    /// By id.
    tokens: HashMap<String, Token>,
    /// Those that this node itself has changed since somebody began to read, who may have read what was before.
    changed: Option<HashSet<String>>,
}

impl fmt::Debug for HeldTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldTokens").field("hosts", &self.read().hosts).finish_non_exhaustive()
    }
}

impl HeldTokens {
    /// None so far.
    pub(crate) fn new(global: Option<Arc<str>>) -> Self {
        Self { held: Arc::default(), global }
    }

    /// Those of a host as it is set up now.
    pub fn of_host(&self, proxy: &Proxy) -> HostTokens {
        let app = app_of(proxy, self.global.as_deref()).map(Arc::from);
        HostTokens { tokens: self.clone(), pattern: proxy.proxy_hostname.clone(), app }
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a token that this node has just kept, if it is of a host that is read or about to be.
    pub(super) fn put(&self, host: &HostName, id: &str, token: Token) {
        let mut held = self.write();
        let reading = held.changed.as_mut().map(|changed| changed.insert(id.to_owned())).is_some();
        if reading || held.hosts.iter().any(|pattern| pattern.covers(host)) {
            held.insert(id.to_owned(), token);
        }
    }

    /// Forgets a token that this node has just ended.
    pub(super) fn remove(&self, id: &str) {
        let mut held = self.write();
        held.tokens.remove(id);
        if let Some(changed) = &mut held.changed {
            changed.insert(id.to_owned());
        }
    }

    /// Somebody begins to read the store; there is one reader.
    pub(super) fn begin(&self) {
        self.write().changed = Some(HashSet::new());
    }

    /// All tokens of these hosts were read.
    pub(super) fn replace(&self, hosts: BTreeSet<HostPattern>, tokens: HashMap<String, Token>) {
        let mut held = self.write();
        let changed = held.changed.take().unwrap_or_default();
        let mut before = std::mem::replace(&mut held.tokens, tokens);
        for id in changed {
            match before.remove(&id) {
                Some(token) => held.insert(id, token),
                None => drop(held.tokens.remove(&id)),
            }
        }
        held.hosts = hosts;
    }

    /// These tokens were read once more; some have gone.
    pub(super) fn update(&self, tokens: Vec<(String, Option<Token>)>) {
        let mut held = self.write();
        let changed = held.changed.take().unwrap_or_default();
        for (id, token) in tokens.into_iter().filter(|(id, _)| !changed.contains(id)) {
            match token {
                Some(token) => held.insert(id, token),
                None => drop(held.tokens.remove(&id)),
            }
        }
    }

    /// No host wants any.
    pub(super) fn clear(&self) {
        *self.write() = Held::default();
    }
}

impl Held {
    fn insert(&mut self, id: String, token: Token) {
        if self.tokens.len() >= MAX_HELD && !self.tokens.contains_key(&id) {
            let oldest = self.tokens.iter().min_by_key(|(_, token)| token.kept_at);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.tokens.remove(&oldest);
            }
        }
        self.tokens.insert(id, token);
    }
}

impl HostTokens {
    /// That of a user, by the subject of the user's tokens.
    pub fn find(&self, host: &HostName, subject: &str, now: Timestamp) -> Found {
        let held = self.tokens.read();
        if !held.hosts.contains(&self.pattern) {
            return Found::Unread;
        }
        let token = held.tokens.get(&id_of(host, subject));
        let is_good = |token: &&Token| self.app.as_deref() == Some(&*token.app) && now < token.until;
        token.filter(is_good).map_or(Found::None, |token| Found::Token(token.secret.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::ExposeSecret;

    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().expect("a host")
    }

    fn token(secret: &str, kept_at: Timestamp) -> Token {
        let until = kept_at + Duration::from_secs(60);
        Token { secret: secret.into(), app: "Iv1.app".to_owned(), kept_at, until }
    }

    fn found(tokens: &HostTokens, subject: &str) -> String {
        match tokens.find(&host("a.example"), subject, Timestamp::now()) {
            Found::Token(secret) => secret.expose_secret().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_changes_while_somebody_reads_is_not_undone() {
        let held = HeldTokens::new(Some("Iv1.app".into()));
        let fields = serde_json::json!({ "proxy_hostname": "a.example", "target_url": "http://10.0.0.5" });
        let proxy: Proxy = serde_json::from_value(fields).expect("a proxy");
        let tokens = held.of_host(&proxy);
        let hosts = || BTreeSet::from([proxy.proxy_hostname.clone()]);
        let (a, now) = (host("a.example"), Timestamp::now());
        let ids = ["1", "2", "3"].map(|subject| id_of(&a, subject));
        assert_eq!(found(&tokens, "1"), "Unread");
        held.put(&a, &ids[0], token("early", now));
        held.begin();
        // Read before the others were changed.
        let read = |text: &str| {
            HashMap::from([(ids[0].clone(), token(text, now)), (ids[2].clone(), token(text, now))])
        };
        held.put(&a, &ids[1], token("new", now));
        held.remove(&ids[2]);
        held.replace(hosts(), read("read"));
        assert_eq!(["1", "2", "3"].map(|subject| found(&tokens, subject)), ["read", "new", "None"]);
        held.begin();
        held.remove(&ids[0]);
        held.update(vec![(ids[0].clone(), Some(token("read", now))), (ids[1].clone(), None)]);
        assert_eq!(["1", "2"].map(|subject| found(&tokens, subject)), ["None", "None"]);
        held.put(&a, &ids[0], token("again", now));
        held.put(&host("b.example"), &id_of(&host("b.example"), "1"), token("elsewhere", now));
        assert_eq!((found(&tokens, "1").as_str(), held.read().tokens.len()), ("again", 1));
        // Of another app, and too old.
        let other = HeldTokens { global: Some("Iv1.other".into()), ..held.clone() };
        assert_eq!(found(&other.of_host(&proxy), "1"), "None");
        let late = tokens.find(&a, "1", now + Duration::from_secs(61));
        assert!(matches!(late, Found::None));
        assert!(!format!("{held:?} {tokens:?}").contains("again"));
        held.clear();
        assert_eq!(found(&tokens, "1"), "Unread");
    }
}
