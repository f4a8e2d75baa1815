//! What the state of the authorization server has in common: people, filters, times.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Scopes (RFC 6749, section 3.3), each once.
pub type Scopes = BTreeSet<String>;

/// A person as the identity provider knew them at login. It is a copy: what they may do is decided by
/// the lists at each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The numeric id at GitHub: logins get renamed and given to others.
    pub subject: String,
    /// The login name.
    pub login: String,
    /// The display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The e-mail addresses that were verified, the primary one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<String>,
    /// What is known of their groups, by the GitHub app that was told: organisations choose which apps may know of
    /// their members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memberships: Vec<Membership>,
}

/// The groups of a person, as a GitHub app was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The client id of the app.
    pub app: String,
    /// When.
    pub at: Timestamp,
    /// Organisations and teams, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// How many apps' knowledge of a person is kept.
const MAX_MEMBERSHIPS: usize = 8;

impl Identity {
    /// What an app was told, if it was.
    pub fn told(&self, app: &str) -> Option<&Membership> {
        self.memberships.iter().find(|membership| membership.app == app)
    }

    /// The same person, with what other apps were told at earlier logins.
    #[must_use]
    pub fn with_earlier(mut self, earlier: &Self) -> Self {
        let others = earlier.memberships.iter().filter(|membership| self.told(&membership.app).is_none());
        let others: Vec<Membership> = others.cloned().collect();
        self.memberships.extend(others);
        self.memberships.sort_by_key(|membership| std::cmp::Reverse(membership.at));
        self.memberships.truncate(MAX_MEMBERSHIPS);
        self
    }
}

/// Whose records are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter<'a> {
    /// Everybody's.
    All,
    /// Those of a client.
    Client(&'a str),
    /// Those of a grant.
    Grant(&'a str),
    /// Those for a resource.
    Resource(&'a str),
    /// Those of a browser session.
    Session(&'a str),
    /// Those of a person or a service.
    Subject(&'a str),
}

impl Filter<'_> {
    /// The name of the index; none for the list of a whole kind.
    pub(super) fn index(self) -> Option<String> {
        let (what, id) = match self {
            Self::All => return None,
            Self::Client(id) => ("client", id),
            Self::Grant(id) => ("grant", id),
            Self::Resource(id) => ("resource", id),
            Self::Session(id) => ("session", id),
            Self::Subject(id) => ("subject", id),
        };
        Some(format!("{what}:{id}"))
    }
}

/// A time that is some way off.
pub(super) fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// How long it is until a time; nothing if it has passed.
pub(super) fn left(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}

/// Seconds since 1970, as tokens have them.
pub(super) fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}
