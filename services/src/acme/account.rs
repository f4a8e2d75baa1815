//! Accounts at authorities: made once, kept sealed, reused.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use portcullis_layers::forward::Client;
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tracing::info;

use super::failure::Trouble;
use super::http::Http;
use super::policy::{Authority, ExternalAccount};
use crate::store::{self, Expect, Store, Write};
use crate::vault::Vault;

/// The accounts of a deployment.
pub(super) struct Accounts {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    client: Client,
    // Held while an account is made, so that there is one.
    open: Mutex<HashMap<String, Account>>,
}

/// What is looked at of an account that is kept: its URL.
#[derive(Debug, Deserialize)]
struct Kept {
    id: String,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

impl Accounts {
    pub(super) fn new(store: Arc<dyn Store>, vault: Arc<Vault>, client: Client) -> Self {
        Self { store, vault, client, open: Mutex::default() }
    }

    /// The account at an authority: the one that is kept, else a new one. By making it the deployment agrees to the
    /// authority's terms of service.
    pub(super) async fn get(
        &self,
        authority: &Authority,
        email: Option<&str>,
        fence: &Write,
    ) -> Result<Account, Trouble> {
        let id = secret_id(authority, email);
        let mut open = self.open.lock().await;
        if let Some(account) = open.get(&id) {
            return Ok(account.clone());
        }
        let http = || Box::new(Http::new(self.client.clone(), authority.ca.clone()));
        let builder = Account::builder_with_http(http());
        if let Some(credentials) = self.kept::<AccountCredentials>(&id).await? {
            let account = builder.from_credentials(credentials).await?;
            open.insert(id, account.clone());
            return Ok(account);
        }
        let contact = email.map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = authority.external_account.as_ref().map(external_key).transpose()?;
        let directory = authority.directory.to_string();
        let (account, credentials) = builder.create(&new, directory, external.as_ref()).await?;
        let json = serde_json::to_vec(&credentials).map(Zeroizing::new);
        let json = json.map_err(|_| Trouble::ours("the account can't be written"))?;
        let sealed = self.vault.put(&id, &json, Expect::Absent);
        let sealed = sealed.map_err(|error| Trouble::ours(error.to_string()))?;
        self.store.commit(vec![sealed, fence.clone()]).await.map_err(|error| not_kept(&error))?;
        info!(directory = %authority.directory, account = account.id(), "an account was made at a certificate authority");
        open.insert(id, account.clone());
        Ok(account)
    }

    /// Forgets an account that its authority does not know any more, unless another one has taken its place already.
    pub(super) async fn forget(
        &self,
        authority: &Authority,
        email: Option<&str>,
        gone: &str,
        fence: &Write,
    ) -> Result<(), Trouble> {
        let id = secret_id(authority, email);
        let mut open = self.open.lock().await;
        if open.get(&id).is_some_and(|account| account.id() == gone) {
            open.remove(&id);
        }
        if self.kept::<Kept>(&id).await?.is_some_and(|kept| kept.id == gone) {
            self.store.commit(vec![Vault::delete(&id, Expect::Any), fence.clone()]).await?;
        }
        Ok(())
    }

    /// Closes what is open, because another node may have made other accounts since.
    pub(super) async fn close(&self) {
        self.open.lock().await.clear();
    }

    async fn kept<T: DeserializeOwned>(&self, id: &str) -> Result<Option<T>, Trouble> {
        kept(&*self.store, &self.vault, id).await
    }
}

async fn kept<T: DeserializeOwned>(store: &dyn Store, vault: &Vault, id: &str) -> Result<Option<T>, Trouble> {
    let kept = vault.get(store, id).await.map_err(|error| not_kept(&error))?;
    let read = kept.map(|kept| serde_json::from_slice(kept.expose_secret()));
    // What is wrong with it is not told, because it is secret.
    read.transpose().map_err(|_| Trouble::ours(format!("the kept account {id} is damaged")))
}

/// The URL of the account at an authority (RFC 8555, section 7.3), if there is one.
pub(super) async fn url(
    store: &dyn Store,
    vault: &Vault,
    authority: &Authority,
    email: Option<&str>,
) -> Result<Option<String>, Trouble> {
    let kept = kept::<Kept>(store, vault, &secret_id(authority, email)).await?;
    Ok(kept.map(|kept| kept.id))
}

fn not_kept(error: &store::Error) -> Trouble {
    Trouble::ours(format!("the account can't be kept: {error}"))
}

/// Another directory, mail address or external account is another account.
fn secret_id(authority: &Authority, email: Option<&str>) -> String {
    let external = authority.external_account.as_ref().map(|external| external.key_id.as_str());
    let text =
        format!("{}\n{}\n{}", authority.directory, email.unwrap_or_default(), external.unwrap_or_default());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    format!("acme_account:{}", BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]))
}

/// The key that binds an account to one that somebody has there already (RFC 8555, section 7.3.4).
fn external_key(external: &ExternalAccount) -> Result<ExternalAccountKey, Trouble> {
    let text = external.hmac_key.expose_secret().trim().trim_end_matches('=');
    let text = Zeroizing::new(text.replace('+', "-").replace('/', "_"));
    let key = BASE64_URL_SAFE_NO_PAD.decode(text.as_bytes()).map(Zeroizing::new);
    let key = key.map_err(|_| Trouble::ours("ACME_EAB_HMAC_KEY: expected the key in base64url"))?;
    Ok(ExternalAccountKey::new(external.key_id.clone(), &key))
}
