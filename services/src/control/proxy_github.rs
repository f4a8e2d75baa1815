//! The GitHub app of a proxy: sign-ins to its host go through that, not through the deployment's.
//!
//! The document holds the client id; the secret is sealed with the id it belongs to, so that neither
//! counts with another half. It goes in and never comes out.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{delete, get, post, put};
use super::{Access, Context, Control, Done, Endpoint, Error, Operation, Secret, Surface};
use crate::config::names::GithubClientId;
use crate::config::{Config, FieldError, HostPattern, Proxy};
use crate::oauth::github::SealedApp;
use crate::store::Expect;
use crate::vault::Vault;

/// What stands for a secret that is there.
const CONFIGURED: &str = "***configured***";

/// GitHub's secrets have 40 characters.
const MAX_SECRET: usize = 256;

/// Adds the operations of the GitHub apps of proxies.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetProxyGithub>();
    surface.add::<ShowProxyGithub>();
    surface.add::<ClearProxyGithub>();
    surface.add::<ListProxyGithub>();
}

/// Whose app sign-ins to a host go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The host's own.
    Proxy,
    /// The deployment's, of `GITHUB_CLIENT_ID`.
    Environment,
    /// Nobody's: people can't sign in.
    None,
}

/// The GitHub app of a proxy.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyGithub {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// Whether the host has an app of its own.
    pub configured: bool,
    /// Whose app is used.
    pub source: Source,
    /// The client id of the app that is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github_client_id: Option<GithubClientId>,
    /// Never the secret: only that there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub github_client_secret: Option<&'static str>,
}

impl ProxyGithub {
    fn of(proxy: Proxy, control: &Control) -> Self {
        let configured = proxy.github_client_id.is_some();
        let used = proxy.github_client_id.or_else(|| control.github_app.clone());
        Self {
            proxy_hostname: proxy.proxy_hostname,
            configured,
            source: match &used {
                Some(_) if configured => Source::Proxy,
                Some(_) => Source::Environment,
                None => Source::None,
            },
            github_client_secret: used.is_some().then_some(CONFIGURED),
            github_client_id: used,
        }
    }
}

/// Let sign-ins to a proxy go through a GitHub app of its own.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetProxyGithub {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The client id of the app.
    #[serde(alias = "client_id")]
    #[arg(value_name = "CLIENT_ID")]
    pub github_client_id: GithubClientId,
    /// The client secret of the app: itself, or `@file` or `@-` on a command line.
    #[serde(alias = "client_secret", serialize_with = "Secret::reveal")]
    #[arg(value_name = "SECRET|@FILE", value_parser = Secret::from_argument)]
    pub github_client_secret: Secret,
}

impl Operation for SetProxyGithub {
    const NAME: &'static str = "set_proxy_github";
    const COMMAND: &'static [&'static str] = &["proxy", "github", "set"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/github-oauth");
    const ALIASES: &'static [Endpoint] = &[put("/proxy/targets/{proxy_hostname}/github-oauth")];
    const SCOPE: Access = Access::Admin;
    type Output = ProxyGithub;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ProxyGithub, Error> {
        // A secret that was read from a file ends with a line break.
        let secret = self.github_client_secret.expose().trim();
        if secret.is_empty() || secret.len() > MAX_SECRET || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            let detail = "expected the secret of an app: up to 256 printable characters without blanks";
            return Err(Error::invalid(FieldError::bare("github_client_secret", detail)));
        }
        let client_id = self.github_client_id;
        let sealed = SealedApp { client_id: client_id.clone(), client_secret: secret.to_owned().into() };
        let sealed = serde_json::to_vec(&sealed).map_err(Error::internal)?;
        let change = |proxy: Proxy, _: &Config| {
            let id = Proxy::github_secret_id(&proxy.proxy_hostname);
            let secret = control.vault.put(&id, &sealed, Expect::Any).map_err(Error::internal)?;
            Ok((Proxy { github_client_id: Some(client_id.clone()), ..proxy }, vec![secret]))
        };
        let proxy = control.edit_with(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(ProxyGithub::of(proxy, control))
    }
}

/// Show which GitHub app sign-ins to a proxy go through. Its secret is never shown.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowProxyGithub {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ShowProxyGithub {
    const NAME: &'static str = "show_proxy_github";
    const COMMAND: &'static [&'static str] = &["proxy", "github", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/github-oauth");
    const SCOPE: Access = Access::User;
    type Output = ProxyGithub;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyGithub, Error> {
        let proxy: Proxy = control.get(self.proxy_hostname.as_str()).await?;
        Ok(ProxyGithub::of(proxy, control))
    }
}

/// Forget the GitHub app of a proxy: sign-ins go through the deployment's again.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearProxyGithub {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ClearProxyGithub {
    const NAME: &'static str = "clear_proxy_github";
    const COMMAND: &'static [&'static str] = &["proxy", "github", "clear"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/github-oauth");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let change = |proxy: Proxy, _: &Config| {
            if proxy.github_client_id.is_none() {
                return Ok((proxy, Vec::new()));
            }
            let id = Proxy::github_secret_id(&proxy.proxy_hostname);
            Ok((Proxy { github_client_id: None, ..proxy }, vec![Vault::delete(&id, Expect::Any)]))
        };
        let proxy = control.edit_with(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(Done::new("cleared", &proxy.proxy_hostname))
    }
}

/// All GitHub apps.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyGithubList {
    /// How many proxies have an app of their own.
    pub count: usize,
    /// Which ones.
    pub proxies: Vec<ProxyGithub>,
    /// Whether the deployment has one for all others.
    pub global_fallback: bool,
}

/// List the proxies that have a GitHub app of their own.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListProxyGithub {}

impl Operation for ListProxyGithub {
    const NAME: &'static str = "list_proxy_github";
    const COMMAND: &'static [&'static str] = &["proxy", "github", "list"];
    const HTTP: Endpoint = get("/proxy/targets/github-oauth/configured");
    const SCOPE: Access = Access::User;
    type Output = ProxyGithubList;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyGithubList, Error> {
        let proxies = control.list::<Proxy>().await?;
        let own = proxies.into_iter().filter(|proxy| proxy.github_client_id.is_some());
        let proxies: Vec<_> = own.map(|proxy| ProxyGithub::of(proxy, control)).collect();
        let global_fallback = control.github_app.is_some();
        Ok(ProxyGithubList { count: proxies.len(), proxies, global_fallback })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    use super::*;
    use crate::control::bundle::{self, Bundle};
    use crate::control::proxies::{CreateProxy, DeleteProxy, ShowProxy, UpdateProxy};
    use crate::control::testing::{caller, control};
    use crate::store::{Key, Kind, Store};

    const HOST: &str = "app.example.com";
    const SECRET: &str = "f00dfeed0123456789abcdef";

    async fn with_proxy() -> (Arc<Control>, Arc<dyn Store>, Context) {
        let (control, store) = control();
        let ctx = Context::of(caller("root", &["admin"]));
        let create: CreateProxy = read(json!({ "proxy_hostname": HOST, "target_url": "http://10.0.0.5" }));
        control.call(create, &ctx).await.expect("created");
        (control, store, ctx)
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("valid")
    }

    fn set(id: &str, secret: &str) -> SetProxyGithub {
        read(json!({ "proxy_hostname": HOST, "github_client_id": id, "github_client_secret": secret }))
    }

    async fn sealed(control: &Control, store: &dyn Store) -> Option<Value> {
        let id = Proxy::github_secret_id(&HOST.parse().expect("a host"));
        let opened = control.vault.get(store, &id).await.expect("opened")?;
        Some(serde_json::from_slice(opened.expose_secret()).expect("JSON"))
    }

    #[tokio::test]
    async fn the_secret_goes_in_with_the_document_and_never_comes_out() {
        let (control, store, ctx) = with_proxy().await;
        let before = store.load().await.expect("a store").0.n;
        let done = control.call(set("Iv1.abc", &format!("{SECRET}\n")), &ctx).await.expect("set");
        assert_eq!(store.load().await.expect("a store").0.n, before + 1, "one commit");
        assert_eq!((done.configured, done.source), (true, Source::Proxy));
        assert_eq!(
            sealed(&control, &*store).await,
            Some(json!({ "client_id": "Iv1.abc", "client_secret": SECRET }))
        );

        let host = || HOST.parse().expect("a host");
        let shown = control.call(ShowProxyGithub { proxy_hostname: host() }, &ctx).await.expect("shown");
        let listed = control.call(ListProxyGithub {}, &ctx).await.expect("listed");
        let proxy = control.call(ShowProxy { proxy_hostname: host() }, &ctx).await.expect("shown");
        assert_eq!((listed.count, listed.global_fallback), (1, false));
        assert_eq!(proxy.github_client_id.as_ref().map(GithubClientId::as_str), Some("Iv1.abc"));
        let (_, documents) = store.load().await.expect("a store");
        for text in [
            json!(done).to_string(),
            json!(shown).to_string(),
            json!(listed).to_string(),
            json!(proxy).to_string(),
            json!(documents).to_string(),
            format!("{:?}", set("Iv1.abc", SECRET)),
        ] {
            assert!(!text.contains(SECRET), "{text}");
        }
        assert!(json!(shown).to_string().contains(CONFIGURED));

        control.call(ClearProxyGithub { proxy_hostname: host() }, &ctx).await.expect("cleared");
        assert_eq!(sealed(&control, &*store).await, None);
        let shown = control.call(ShowProxyGithub { proxy_hostname: host() }, &ctx).await.expect("shown");
        assert_eq!(json!(shown), json!({ "proxy_hostname": HOST, "configured": false, "source": "none" }));
        let again = control.call(ClearProxyGithub { proxy_hostname: host() }, &ctx).await;
        assert!(again.is_ok(), "clearing what is not there changes nothing");
    }

    #[tokio::test]
    async fn a_new_secret_for_the_same_app_replaces_the_old_one() {
        let (control, store, ctx) = with_proxy().await;
        control.call(set("Iv1.abc", "old"), &ctx).await.expect("set");
        control.call(set("Iv1.abc", "new"), &ctx).await.expect("set");
        assert_eq!(sealed(&control, &*store).await.expect("sealed")["client_secret"], "new");
    }

    #[tokio::test]
    async fn wrong_credentials_are_refused_without_repeating_them() {
        let (control, store, ctx) = with_proxy().await;
        for secret in ["", "  ", "two words", "bell\u{7}bell", &"x".repeat(257)] {
            let refused = control.call(set("Iv1.abc", secret), &ctx).await.expect_err("refused");
            let Error::Invalid(errors) = &refused else { panic!("{refused}") };
            assert_eq!((errors[0].field.as_str(), &errors[0].value), ("github_client_secret", &Value::Null));
        }
        for id in ["", "a/b", "a:b", "a b", &"x".repeat(129)] {
            assert!(id.parse::<GithubClientId>().is_err(), "{id:?}");
        }
        assert_eq!(sealed(&control, &*store).await, None);
        let reader = Context::of(caller("eve", &["user"]));
        assert!(matches!(control.call(set("a", "b"), &reader).await, Err(Error::Forbidden { .. })));
    }

    #[tokio::test]
    async fn the_id_changes_only_together_with_its_secret() {
        let (control, _, ctx) = with_proxy().await;
        control.call(set("Iv1.abc", SECRET), &ctx).await.expect("set");
        let update = |value: Value| -> UpdateProxy {
            read(json!({ "proxy_hostname": HOST, "github_client_id": value }))
        };
        for value in [json!("Iv1.other"), Value::Null] {
            let refused = control.call(update(value), &ctx).await.expect_err("refused");
            let Error::Invalid(errors) = &refused else { panic!("{refused}") };
            assert_eq!(errors[0].field, "github_client_id");
        }
        assert!(control.call(update(json!("Iv1.abc")), &ctx).await.is_ok(), "what was read may be sent back");
        let create: CreateProxy = read(json!({
            "proxy_hostname": "b.example", "target_url": "http://10.0.0.5", "github_client_id": "Iv1.abc",
        }));
        assert!(matches!(control.call(create, &ctx).await, Err(Error::Invalid(_))));
        let leak: UpdateProxy = read(json!({ "proxy_hostname": HOST, "github_client_secret": SECRET }));
        let refused = control.call(leak, &ctx).await.expect_err("no such field");
        assert!(!format!("{refused} {refused:?}").contains(SECRET), "{refused:?}");
    }

    #[tokio::test]
    async fn the_secret_goes_with_its_proxy() {
        let (control, store, ctx) = with_proxy().await;
        control.call(set("Iv1.abc", SECRET), &ctx).await.expect("set");
        let gone = read::<DeleteProxy>(json!({ "proxy_hostname": HOST }));
        control.call(gone, &ctx).await.expect("deleted");
        assert_eq!(sealed(&control, &*store).await, None);
        assert!(store.list(Kind::Secret).await.expect("a store").is_empty());
    }

    #[tokio::test]
    async fn an_import_has_both_halves_of_an_app() {
        let (control, store, ctx) = with_proxy().await;
        control.call(set("Iv1.abc", SECRET), &ctx).await.expect("set");
        let (_, documents) = store.load().await.expect("a store");
        let whole = Bundle::of(documents.clone(), true, false);
        let key = Key::new(Kind::Secret, Proxy::github_secret_id(&HOST.parse().expect("a host")));

        let import = async |bundle: &Bundle| {
            let (other, _) = crate::control::testing::control();
            bundle::import(&other, &ctx, bundle, false, false, true).await
        };
        assert!(import(&whole).await.is_ok());
        let halved = Bundle::of(documents.clone(), false, false);
        assert!(matches!(import(&halved).await, Err(Error::Invalid(_))), "no secret");

        let other = json!({ "client_id": "Iv1.other", "client_secret": SECRET });
        let other = control.vault.seal(&key.id, other.to_string().as_bytes()).expect("sealed");
        let mut mixed = documents;
        mixed.iter_mut().filter(|one| one.key == key).for_each(|one| one.value = other.clone());
        let mixed = Bundle::of(mixed, true, false);
        assert!(matches!(import(&mixed).await, Err(Error::Invalid(_))), "the secret of another app");
    }
}
