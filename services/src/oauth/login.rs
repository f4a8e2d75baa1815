//! Logins under way: what is kept between the pages, sealed, bound to one browser, and taken once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::HostName;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::server::cookies::Transaction;
use super::server::redirect::RedirectTarget;
use super::server::request::pkce::Challenge;
use super::server::scope::Scopes;
use crate::store::{self, ItemKey, Store};
use crate::vault::{self, Vault};

/// The collection of the items.
const KIND: &str = "login";

/// What a client asks a browser's user for, as it was found to be acceptable.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<String>,
    pub(super) challenge: Challenge,
    pub(super) resources: Vec<String>,
    pub(super) scopes: Scopes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<String>,
    /// Whether the page with the question is shown even to who has agreed before (`prompt=consent`).
    #[serde(default)]
    pub(super) ask_again: bool,
    /// The login name that the client expects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) login_hint: Option<String>,
    /// Whether the user shall choose an account.
    #[serde(default)]
    pub(super) choose_account: bool,
}

/// What happens when somebody has signed in.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// A client gets its code; `approved` if the user has agreed before signing in.
    Client { ask: Box<Ask>, approved: bool },
    /// A host gets a session.
    Host { host: HostName, path: String, state: String },
    /// A page of ours is shown.
    Page {
        path: String,
        /// The host whose app is asked, if it matters.
        #[serde(default)]
        app_of: Option<HostName>,
    },
}

/// Where a login stands.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Step {
    /// The user is asked whether the client may; in this session, if there is one.
    Consent { ask: Box<Ask>, session: Option<String> },
    /// The user is at GitHub.
    Upstream {
        purpose: Purpose,
        /// The verifier of our own challenge there.
        verifier: String,
        /// The host whose app was chosen; none for the deployment's own.
        app_of: Option<HostName>,
        /// The id of that app: another one must not redeem the code.
        app: String,
        /// Whether groups were asked for.
        groups: bool,
    },
}

#[derive(Serialize, Deserialize)]
struct Kept {
    binding: String,
    until: Timestamp,
    step: Step,
}

/// Why a login can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    /// It took too long, was finished, or began in another browser.
    #[error("the login is not known in this browser, or was finished already")]
    Unknown,
    /// The store failed.
    #[error("the login can not be kept at the moment")]
    Store(#[from] store::Error),
    /// It can't be sealed.
    #[error("the login can not be sealed")]
    Vault(#[from] vault::Error),
}

impl Ask {
    /// Where the answer goes.
    pub(super) fn target(&self, issuer: &str) -> RedirectTarget {
        RedirectTarget::new(&self.redirect_uri, self.state.as_deref(), issuer)
    }
}

/// The logins of a deployment.
pub(super) struct Logins {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    lifetime: Duration,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

impl Logins {
    pub(super) const fn new(store: Arc<dyn Store>, vault: Arc<Vault>, lifetime: Duration) -> Self {
        Self { store, vault, lifetime }
    }

    /// How long a login may take.
    pub(super) const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Keeps a step for a browser.
    pub(super) async fn keep(
        &self,
        browser: &Transaction,
        step: Step,
        now: Timestamp,
    ) -> Result<(), LoginError> {
        let until = super::state::after(now, self.lifetime);
        let kept = Kept { binding: browser.binding(), until, step };
        let json = secrecy::zeroize::Zeroizing::new(serde_json::to_vec(&kept).expect("texts serialise"));
        let sealed = self.vault.seal(&name(browser.id()), &json)?;
        let sealed = serde_json::to_vec(&sealed).expect("a JSON value serialises");
        Ok(self.store.put_item(&key(browser.id()), &sealed, self.lifetime).await?)
    }

    /// Takes the step that a browser is at: once, whoever asks.
    pub(super) async fn take(&self, browser: &Transaction, now: Timestamp) -> Result<Step, LoginError> {
        let item = self.store.take_item(&key(browser.id())).await?.ok_or(LoginError::Unknown)?;
        let sealed = serde_json::from_slice(&item).map_err(|_| LoginError::Unknown)?;
        let opened = self.vault.open(&name(browser.id()), &sealed)?;
        let kept: Kept = serde_json::from_slice(opened.expose_secret()).map_err(|_| LoginError::Unknown)?;
        if now < kept.until && browser.is_bound_to(&kept.binding) {
            Ok(kept.step)
        } else {
            Err(LoginError::Unknown)
        }
    }
}

fn key(id: &str) -> ItemKey {
    ItemKey { kind: KIND, id: id.to_owned() }
}

/// What the seal is for, so that one login can't stand in for another.
fn name(id: &str) -> String {
    format!("{KIND}/{id}")
}
