//! Which app asks: the host's own, else the deployment's. Never anything that a request says.

use std::sync::Arc;

use portcullis_layers::HostName;
use secrecy::ExposeSecret;

use super::{App, InvalidApp, SealedApp};
use crate::config::{Config, HostPattern, Proxy};
use crate::store::{self, Store};
use crate::vault::Vault;

/// All apps of a deployment.
#[derive(Debug, Clone)]
pub struct Apps {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    global: Option<App>,
}

/// Why there is no app for a host. A host whose own app is broken does not get the deployment's: its
/// admin wants sign-ins to go through that app.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Nobody set one up.
    #[error("neither the host nor the deployment has a GitHub app")]
    NotConfigured,
    /// There is no such host here.
    #[error("no proxy answers for {0}")]
    UnknownHost(HostName),
    /// The host names an app whose secret is not there, or is of another app.
    #[error("the secret of the GitHub app of {0} is missing or belongs to another app: set both again")]
    NoSecret(HostPattern),
    /// What was sealed is no app.
    #[error("the GitHub app of {host} can't be used")]
    Invalid {
        /// Which host.
        host: HostPattern,
        /// What is wrong with it.
        #[source]
        source: InvalidApp,
    },
    /// The store does not answer, or the secret can't be opened.
    #[error("the secret of the GitHub app can't be read")]
    Store(#[from] store::Error),
}

impl Apps {
    /// The apps of a deployment: `global` is that of `GITHUB_CLIENT_ID`, those of hosts are in the store.
    pub fn new(store: Arc<dyn Store>, vault: Arc<Vault>, global: Option<App>) -> Self {
        Self { store, vault, global }
    }

    /// The app of the deployment: for sign-ins that are for no host, such as one at the issuer itself.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn global(&self) -> Result<App, AppError> {
        self.global.clone().ok_or(AppError::NotConfigured)
    }

    /// The app for a sign-in to a host, which must be the host of the resource that was asked for
    /// (RFC 8707).
    ///
    /// # Errors
    ///
    /// When there is none, or the host's own can't be used.
    pub async fn of_host(&self, config: &Config, host: &HostName) -> Result<App, AppError> {
        let proxy = config.proxy_of(host).ok_or_else(|| AppError::UnknownHost(host.clone()))?;
        let Some(client_id) = &proxy.github_client_id else { return self.global() };
        let id = Proxy::github_secret_id(&proxy.proxy_hostname);
        let missing = || AppError::NoSecret(proxy.proxy_hostname.clone());
        let opened = self.vault.get(&*self.store, &id).await?.ok_or_else(missing)?;
        let sealed = SealedApp::read(opened.expose_secret())
            .filter(|sealed| sealed.client_id == *client_id)
            .ok_or_else(missing)?;
        App::new(sealed.client_id, sealed.client_secret)
            .map_err(|source| AppError::Invalid { host: proxy.proxy_hostname.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::control::proxies::CreateProxy;
    use crate::control::proxy_github::SetProxyGithub;
    use crate::control::testing::{caller, control};
    use crate::control::{Context, Control};
    use crate::store::{Expect, Key, Kind, Write};

    struct Deployment {
        control: Arc<Control>,
        store: Arc<dyn Store>,
    }

    impl Deployment {
        /// One with these hosts, the first of which has an app of its own.
        async fn with(hosts: &[&str]) -> Self {
            let (control, store) = control();
            let ctx = Context::of(caller("root", &["admin"]));
            for host in hosts {
                let fields = json!({ "proxy_hostname": host, "target_url": "http://10.0.0.5" });
                let create: CreateProxy = serde_json::from_value(fields).expect("valid");
                control.call(create, &ctx).await.expect("created");
            }
            let own =
                json!({ "proxy_hostname": hosts[0], "client_id": "own", "client_secret": "its-secret" });
            let set: SetProxyGithub = serde_json::from_value(own).expect("valid");
            control.call(set, &ctx).await.expect("set");
            Self { control, store }
        }

        fn apps(&self, global: bool) -> Apps {
            let global = global.then(|| App::new("global".parse().expect("an id"), "g-secret".into()));
            let global = global.transpose().expect("an app");
            Apps::new(self.store.clone(), self.control.vault.clone(), global)
        }

        async fn of(&self, apps: &Apps, host: &str) -> Result<(String, String), AppError> {
            let config = self.control.config().await.expect("a store");
            let app = apps.of_host(&config, &host.parse().expect("a host")).await?;
            Ok((app.client_id().to_owned(), app.client_secret().expose_secret().to_owned()))
        }

        async fn put(&self, secret: &Value) {
            let id =
                Proxy::github_secret_id(&HostPattern::from("a.example".parse::<HostName>().expect("a host")));
            let write = self.control.vault.put(&id, secret.to_string().as_bytes(), Expect::Any);
            self.store.commit(vec![write.expect("sealed")]).await.expect("stored");
        }
    }

    fn pair(id: &str, secret: &str) -> (String, String) {
        (id.to_owned(), secret.to_owned())
    }

    #[tokio::test]
    async fn a_host_has_its_own_app_or_the_deployments() {
        let deployment = Deployment::with(&["a.example", "b.example"]).await;
        let apps = deployment.apps(true);
        assert_eq!(deployment.of(&apps, "a.example").await.expect("an app"), pair("own", "its-secret"));
        assert_eq!(deployment.of(&apps, "b.example").await.expect("an app"), pair("global", "g-secret"));
        let unknown = deployment.of(&apps, "c.example").await;
        assert!(matches!(unknown, Err(AppError::UnknownHost(_))));
        let none = deployment.apps(false);
        assert_eq!(deployment.of(&none, "a.example").await.expect("an app"), pair("own", "its-secret"));
        assert!(matches!(deployment.of(&none, "b.example").await, Err(AppError::NotConfigured)));
        assert!(matches!(none.global(), Err(AppError::NotConfigured)));
        assert!(!format!("{apps:?}").contains("g-secret"));
    }

    #[tokio::test]
    async fn hosts_of_a_wildcard_share_its_app() {
        let deployment = Deployment::with(&["*.example.com", "b.example.com"]).await;
        let apps = deployment.apps(true);
        assert_eq!(deployment.of(&apps, "x.example.com").await.expect("an app"), pair("own", "its-secret"));
        assert_eq!(deployment.of(&apps, "b.example.com").await.expect("an app"), pair("global", "g-secret"));
    }

    #[tokio::test]
    async fn a_broken_app_is_not_replaced_by_another() {
        let deployment = Deployment::with(&["a.example"]).await;
        let apps = deployment.apps(true);
        for secret in [json!({ "client_id": "other", "client_secret": "s" }), json!("s"), json!({})] {
            deployment.put(&secret).await;
            let refused = deployment.of(&apps, "a.example").await.expect_err("of another app");
            assert!(matches!(refused, AppError::NoSecret(_)), "{refused:?}");
        }
        deployment.put(&json!({ "client_id": "own", "client_secret": "two words" })).await;
        let refused = deployment.of(&apps, "a.example").await.expect_err("no secret");
        assert!(matches!(refused, AppError::Invalid { .. }), "{refused:?}");
        assert!(!format!("{refused:?}").contains("two words"));
        let key = Key::new(Kind::Secret, "github:a.example");
        let value = json!({ "alg": "A256GCM", "kid": "x", "nonce": "", "data": "" });
        deployment
            .store
            .commit(vec![Write::Put { key: key.clone(), value, expect: Expect::Any }])
            .await
            .expect("stored");
        assert!(matches!(deployment.of(&apps, "a.example").await, Err(AppError::Store(_))));
        deployment.store.commit(vec![Write::Delete { key, expect: Expect::Any }]).await.expect("stored");
        assert!(matches!(deployment.of(&apps, "a.example").await, Err(AppError::NoSecret(_))));
    }
}
