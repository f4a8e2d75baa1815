//! Which account a login on a list means: the one that first signed in with it, by its numeric id.
//!
//! GitHub lets people rename their accounts, and gives a login that became free to whoever asks for it. A list
//! that names a login must not follow it to a stranger. Only logins that some list names are pinned.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::Identity;
use crate::config::access::Site;
use crate::config::{Config, UserPattern};
use crate::store::{Error, Expect, Page, RecordCursor, RecordKey, RecordKind, RecordWrite, Result, Store};

/// A login and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The login, in lower case.
    pub login: String,
    /// The numeric id at GitHub.
    pub subject: String,
    /// Since when.
    pub created_at: Timestamp,
}

/// The pins of a deployment.
#[derive(Clone)]
pub struct Pins {
    store: Arc<dyn Store>,
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").finish_non_exhaustive()
    }
}

impl Pins {
    /// The pins in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Whether a login is this person's: pins it if it is nobody's yet.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn holds(&self, identity: &Identity, now: Timestamp) -> Result<bool> {
        let login = identity.login.to_ascii_lowercase();
        let key = key(&login);
        let pin = Pin { login, subject: identity.subject.clone(), created_at: now };
        let write = RecordWrite::put(key, &pin, None, Expect::Absent, Vec::new())?;
        match self.store.commit_records(vec![write]).await {
            Ok(()) => Ok(true),
            Err(Error::RecordConflict { .. }) => {
                let known = self.get(&pin.login).await?;
                Ok(known.is_some_and(|known| known.subject == pin.subject))
            }
            Err(error) => Err(error),
        }
    }

    /// Pins, newest first.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn list(&self, after: Option<RecordCursor>, limit: usize) -> Result<Page<Pin>> {
        Ok(self.store.list_records(RecordKind::Pin, None, after, limit).await?.read())
    }

    /// Whose a login is.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn get(&self, login: &str) -> Result<Option<Pin>> {
        let record = self.store.get_record(&key(&login.to_ascii_lowercase())).await?;
        record.map(|record| record.read()).transpose()
    }

    /// Lets a login go to whoever signs in with it next; tells whether it was somebody's.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn release(&self, login: &str) -> Result<bool> {
        let key = key(&login.to_ascii_lowercase());
        match self.store.commit_records(vec![RecordWrite::Delete { key, expect: Expect::Present }]).await {
            Ok(()) => Ok(true),
            Err(Error::RecordConflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether some list names a login.
pub(super) fn is_listed(site: &Site, config: &Config, login: &str) -> bool {
    let is_login = |entry: &UserPattern| entry.as_str().eq_ignore_ascii_case(login);
    let names = |list: &Option<Vec<UserPattern>>| list.iter().flatten().any(is_login);
    let hosts = config.proxies.values().any(|proxy| {
        let lists = [
            &proxy.auth_required_users,
            &proxy.oauth_admin_users,
            &proxy.oauth_user_users,
            &proxy.oauth_mcp_users,
        ];
        lists.into_iter().any(names) || proxy.oauth_scope_users.values().any(|list| list.iter().any(is_login))
    });
    let routes = config.routes.values().filter_map(|route| route.auth_config.as_ref());
    let defaults = [&site.defaults, &site.localhost]
        .into_iter()
        .flat_map(|lists| [&lists.admin, &lists.user, &lists.mcp]);
    hosts
        || routes.into_iter().any(|auth| names(&auth.allowed_users))
        || defaults.into_iter().any(|list| list.names_login(login))
}

fn key(login: &str) -> RecordKey {
    RecordKey::new(RecordKind::Pin, login)
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn a_login_stays_with_the_account_that_had_it_first() {
        let pins = Pins::new(Arc::new(Embedded::in_memory().expect("memory")));
        let now = Timestamp::UNIX_EPOCH;
        let person = |subject: &str, login: &str| Identity {
            subject: subject.to_owned(),
            login: login.to_owned(),
            name: None,
            emails: Vec::new(),
            memberships: Vec::new(),
        };
        assert!(pins.holds(&person("1", "Alice"), now).await.expect("stored"));
        assert!(pins.holds(&person("1", "alice"), now).await.expect("read"));
        assert!(!pins.holds(&person("9", "alice"), now).await.expect("read"), "she was renamed meanwhile");
        assert!(pins.holds(&person("1", "alice-2"), now).await.expect("stored"));
        assert_eq!(pins.list(None, 10).await.expect("read").items.len(), 2);
        assert!(pins.release("ALICE").await.expect("released"));
        assert!(!pins.release("alice").await.expect("read"));
        assert!(pins.holds(&person("9", "alice"), now).await.expect("stored"));
    }
}
