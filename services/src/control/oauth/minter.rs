//! Makes and ends named tokens for the operations: the keys, claims and revocations behind [`Mint`].

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::config::FieldError;
use crate::control::tokens::{Minted, Wanted};
use crate::control::{Error, Mint};
use crate::oauth::Revocations;
use crate::oauth::claims::{Claims, NamedToken};
use crate::oauth::keys::{Keys, SIGNING_KEY};
use crate::store::{Expect, Key, Kind, Store, Write};
use crate::vault::Vault;

/// Signs with the key that is active in the store at that moment.
#[derive(Debug)]
pub struct Minter {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    issuer: String,
    revocations: Arc<Revocations>,
}

impl Minter {
    /// A minter for an issuer.
    pub fn new(
        store: Arc<dyn Store>,
        vault: Arc<Vault>,
        issuer: impl Into<String>,
        revocations: Arc<Revocations>,
    ) -> Self {
        Self { store, vault, issuer: issuer.into(), revocations }
    }
}

#[async_trait]
impl Mint for Minter {
    async fn mint(&self, wanted: &Wanted) -> Result<Minted, Error> {
        let now = Timestamp::now();
        let documents = Keys::documents(&*self.store).await?;
        let keys = Keys::load(&documents, &self.vault, now).map_err(Error::internal)?;
        let keys = keys.ok_or_else(|| Error::internal("there is no signing key yet"))?;
        let pointer = Key::new(Kind::Setting, SIGNING_KEY);
        let version =
            documents.iter().find(|document| document.key == pointer).map(|document| document.version);
        let version = version.ok_or_else(|| Error::internal("there is no signing key yet"))?;
        let named = NamedToken {
            name: wanted.name.to_string(),
            audience: wanted.audience.clone(),
            scopes: wanted.scopes.iter().map(ToString::to_string).collect(),
            cert_email: wanted.cert_email.clone(),
            lifetime: wanted.lifetime,
        };
        let claims = Claims::named(&self.issuer, &named, now)
            .map_err(|error| Error::invalid(FieldError::bare("", error.to_string())))?;
        let time = |seconds: u64| {
            i64::try_from(seconds)
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .unwrap_or(now)
        };
        Ok(Minted {
            token: keys.mint(&claims).into(),
            jti: claims.jti.clone(),
            key_id: keys.active().id().to_owned(),
            issued_at: time(claims.iat),
            expires_at: time(claims.exp),
            // A rotation at the same time computes how long the old key must verify from the tokens
            // that are noted: this one must be among them, or be signed by the new key.
            guards: vec![Write::Check { key: pointer, expect: Expect::Version(version) }],
        })
    }

    async fn revoke(&self, jti: &str, expires_at: Timestamp) -> Result<(), Error> {
        let expires_at = u64::try_from(expires_at.as_second()).unwrap_or(0);
        Ok(self.revocations.revoke(jti, expires_at).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_layers::auth::Revoked;
    use secrecy::SecretString;

    use super::*;
    use crate::oauth::SigningKey;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn a_token_that_a_rotation_missed_is_not_noted() {
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory().expect("memory"));
        let vault =
            Arc::new(Vault::new(&SecretString::from("0123456789abcdef0123456789abcdef")).expect("a key"));
        let revocations = Arc::new(Revocations::new(store.clone(), Arc::new(Revoked::default())));
        let minter = Minter::new(store.clone(), vault.clone(), "https://auth.example.com", revocations);
        let wanted = Wanted {
            name: "ci".parse().expect("valid"),
            scopes: vec!["user".parse().expect("valid")],
            audience: vec!["https://app.example.com".to_owned()],
            cert_email: None,
            lifetime: Duration::from_secs(60),
        };
        assert!(minter.mint(&wanted).await.is_err(), "there is no key yet");
        let now = Timestamp::now();
        Keys::ensure_active(&*store, &vault, None, now, now).await.expect("a key");
        let minted = minter.mint(&wanted).await.expect("signed");
        assert_eq!(minted.token.expose().split('.').count(), 3);
        assert_eq!(minted.expires_at.as_second() - minted.issued_at.as_second(), 60);
        assert!(store.commit(minted.guards.clone()).await.is_ok());
        Keys::rotate(&*store, &vault, &SigningKey::generate(), now, now).await.expect("rotates");
        assert!(store.commit(minted.guards).await.is_err());
    }
}
