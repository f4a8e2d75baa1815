//! What a deployment needs before it can serve: signing keys, a fallback certificate, the hosts of the API and of the
//! authorization server.

use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_services::config::access::LOCALHOST;
use portcullis_services::config::view::View;
use portcullis_services::config::{Config, TargetUrl};
use portcullis_services::control::logs::LEVELS;
use portcullis_services::logs::{LevelSettings, Levels};
use portcullis_services::oauth::{Keys, SigningKey, keys, rotation};
use portcullis_services::store::{self, Document, Expect, Key, Kind, Store, Write};
use portcullis_services::vault::{self, Vault};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::self_signed::{self, FALLBACK};
use crate::settings::Settings;

/// The setting that keeps the issuer: it must never change by accident.
const ISSUER: &str = "issuer";

/// Why a deployment can't be made ready.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The store.
    #[error("the store can't be made ready")]
    Store(#[from] store::Error),
    /// The keys.
    #[error("there is no key to sign with")]
    Keys(#[from] keys::Error),
    /// The key of the settings.
    #[error("OAUTH_JWT_PRIVATE_KEY_B64: the key can't be used")]
    Import(#[source] keys::Error),
    /// The vault.
    #[error("PORTCULLIS_SECRET_KEY: the secrets of this store can't be opened or sealed with it")]
    Vault(#[from] vault::Error),
    /// The fallback certificate.
    #[error("the fallback certificate can't be made")]
    Certificate(#[from] rcgen::Error),
    /// Another issuer than before.
    #[error(
        "OAUTH_ISSUER: this store belongs to the issuer {stored:?}, not {wanted:?}: tokens of the one are no good for \
         the other. Set it back (without OAUTH_ISSUER it follows from BASE_DOMAIN and the public HTTPS port), or start \
         once with --accept-new-issuer"
    )]
    Issuer {
        /// The issuer of the store.
        stored: String,
        /// The issuer of the settings.
        wanted: String,
    },
}

impl BootstrapError {
    /// Whether it may go better later, without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Store(store::Error::Unavailable(_))
                | Self::Keys(keys::Error::Store(store::Error::Unavailable(_)))
        )
    }
}

/// What there is after the first look at the store.
#[derive(Debug)]
pub struct Ready {
    /// The keys that sign and verify.
    pub keys: Keys,
    /// Whether the store was empty: somebody has to become its admin.
    pub fresh: bool,
}

/// Makes what is missing. Several nodes may do this at once: the first one wins, the others take what it made.
///
/// # Errors
///
/// When the store is away, or belongs to another issuer.
pub async fn run(store: &dyn Store, vault: &Vault, settings: &Settings) -> Result<Ready, BootstrapError> {
    check_issuer(store, settings).await?;
    let imported = settings.identity.oauth_jwt_private_key_b64.as_ref().map(SigningKey::import);
    let imported = imported.transpose().map_err(BootstrapError::Import)?;
    let now = Timestamp::now();
    let until = rotation::signed_until(store, settings.oauth.longest_token(), now).await?;
    let keys = Keys::ensure_active(store, vault, imported, until, now).await;
    let keys = keys.map_err(|error| match error {
        keys::Error::Vault(error) => BootstrapError::Vault(error),
        other => other.into(),
    })?;
    if vault.get(store, FALLBACK).await?.is_none() {
        let identity = &settings.identity;
        let pair = self_signed::fallback(
            &identity.self_signed_cn,
            identity.self_signed_days,
            identity.self_signed_key,
            identity.rsa_key_size,
        )?;
        ignore_conflict(
            store.commit(vec![vault.put(FALLBACK, pair.to_json().as_bytes(), Expect::Absent)?]).await,
        )?;
    }
    // Not parsed: there may be thousands.
    let fresh = !store.load_raw().await?.1.iter().any(|raw| raw.key.kind == Kind::Proxy);
    if fresh {
        let key = Key::new(Kind::Proxy, LOCALHOST);
        ignore_conflict(
            store.commit(vec![Write::Put { key, value: localhost(), expect: Expect::Absent }]).await,
        )?;
    }
    make_issuer_host(store, settings).await?;
    Ok(Ready { keys, fresh })
}

/// Makes the host of the authorization server, where nobody has made another one of it. Not only on an empty store:
/// older ones have none.
async fn make_issuer_host(store: &dyn Store, settings: &Settings) -> Result<(), store::Error> {
    // An issuer that is no URL is refused before anything is served.
    let Ok(issuer) = settings.issuer().parse::<TargetUrl>() else { return Ok(()) };
    let key = Key::new(Kind::Proxy, issuer.host.as_str());
    if issuer.host.as_str() == LOCALHOST || store.get(&key).await?.is_some() {
        return Ok(());
    }
    let value = issuer_host(&issuer.host);
    ignore_conflict(store.commit(vec![Write::Put { key, value, expect: Expect::Absent }]).await)
}

async fn check_issuer(store: &dyn Store, settings: &Settings) -> Result<(), BootstrapError> {
    let wanted = settings.issuer();
    let key = Key::new(Kind::Setting, ISSUER);
    let value = json!({ "issuer": wanted });
    let stored = store.get(&key).await?;
    let expect = match &stored {
        None => Expect::Absent,
        Some(document) if is_issuer(document, settings)? => return Ok(()),
        Some(document) => Expect::Version(document.version),
    };
    Ok(ignore_conflict(store.commit(vec![Write::Put { key, value, expect }]).await)?)
}

/// Whether they belong to the issuer of the settings; an error when they belong to another one, and nobody has
/// said that this is meant: tokens are not all that relies on it, clients and upstreams have its name, too.
pub fn check_view(view: &View, settings: &Settings) -> Result<(), BootstrapError> {
    match view.document(&Key::new(Kind::Setting, ISSUER)) {
        Some(document) => is_issuer(&document, settings).map(drop),
        None => Ok(()),
    }
}

/// Whether it is the same one. Another one is an error, unless it was asked for.
fn is_issuer(document: &Document, settings: &Settings) -> Result<bool, BootstrapError> {
    let wanted = settings.issuer();
    let stored = document.value.get(ISSUER).and_then(Value::as_str).unwrap_or_default();
    if stored != wanted && !settings.identity.accept_new_issuer {
        return Err(BootstrapError::Issuer { stored: stored.to_owned(), wanted });
    }
    Ok(stored == wanted)
}

/// Another node was first.
fn ignore_conflict(outcome: store::Result<store::Revision>) -> Result<(), store::Error> {
    match outcome {
        Ok(_) | Err(store::Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The host of the API: with authentication on.
fn localhost() -> Value {
    json!({
        "proxy_hostname": LOCALHOST,
        "target_url": "builtin:api",
        "preserve_host_header": false,
        "auth_enabled": true,
        "resource_endpoint": "/",
        "resource_scopes": ["admin", "user", "mcp"],
        "builtin_mcp": true,
        "resource_versions": ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"],
        "resource_documentation_suffix": "/docs",
        "resource_server_info": { "name": "Portcullis API", "version": env!("CARGO_PKG_VERSION") },
        "created_at": Timestamp::now(),
    })
}

/// The issuer's host: open to everybody, because its endpoints ask for themselves who calls.
fn issuer_host(host: &HostName) -> Value {
    json!({ "proxy_hostname": host, "target_url": "builtin:oauth", "created_at": Timestamp::now() })
}

/// Applies the levels of diagnostics that the nodes share.
pub fn apply_levels(config: &Config, levels: &Levels) {
    let Some(shared) = config.settings.get(LEVELS) else { return };
    let applied = LevelSettings::deserialize(shared)
        .map_err(|error| error.to_string())
        .and_then(|settings| levels.apply(&settings).map_err(|error| error.to_string()));
    if let Err(error) = applied {
        tracing::warn!(%error, "the levels of diagnostics in the store are not valid");
    }
}
