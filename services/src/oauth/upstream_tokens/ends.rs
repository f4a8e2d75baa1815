//! Until when a token of GitHub's is wanted, and its end.

use std::sync::Arc;

use jiff::Timestamp;
use portcullis_layers::HostName;
use secrecy::SecretString;

use super::{Kept, UpstreamTokens};
use crate::config::names::GithubClientId;
use crate::config::{Config, Proxy};
use crate::mirror::Mirror;
use crate::oauth::AuthorizationServer;
use crate::oauth::github::{self, App, Apps, Github, Refusal, Token};
use crate::oauth::state::Filter;
use crate::store::{self, MAX_PAGE};

/// A user's token for GitHub, for what stands behind a host. `Debug` does not show it.
#[derive(Debug, Clone)]
pub struct UpstreamToken {
    /// The token.
    pub secret: SecretString,
    /// The client id of the app that it was given to.
    pub app: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// When it was given.
    pub kept_at: Timestamp,
}

/// Ends tokens at GitHub.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    tokens: UpstreamTokens,
    github: Github,
    apps: Apps,
    mirror: Mirror,
}

impl Ends {
    /// Ends a token that is marked, and forgets it. Tells whether it has ended: if GitHub can't be reached, it has to be
    /// tried again.
    pub(super) async fn finish(&self, kept: &Kept) -> store::Result<bool> {
        let (token, then) = match self.tokens.open(kept) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%error, host = %kept.host, "a token of GitHub's can't be opened, nor ended");
                self.tokens.forget(kept).await?;
                return Ok(true);
            }
        };
        if self.at_github(kept, &token, &then).await {
            self.tokens.forget(kept).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Ends a token at GitHub through its app, as that is now or was then. Tells whether there is nothing more to do.
    async fn at_github(&self, kept: &Kept, token: &Token, then: &App) -> bool {
        let mut refused = None;
        for app in self.now(kept).await.iter().chain([then]) {
            match self.github.revoke(app, token).await {
                Ok(()) => return true,
                Err(error @ github::Error::Refused(Refusal::IncorrectClientCredentials)) => {
                    refused = Some(error);
                }
                Err(error) => {
                    tracing::info!(%error, host = %kept.host, "a token of GitHub's was not ended yet");
                    return false;
                }
            }
        }
        if let Some(error) = refused {
            tracing::warn!(%error, host = %kept.host, "a token of GitHub's was not ended: its app has another secret");
        }
        true
    }

    /// The app of a token as it is set up now, if it still is.
    async fn now(&self, kept: &Kept) -> Option<App> {
        let same = |app: &App| app.client_id() == kept.app;
        let view = self.mirror.latest().await.ok()?;
        let of_host = self.apps.of_host(&view.config, &kept.host).await.ok();
        of_host.filter(same).or_else(|| self.apps.global().ok().filter(same))
    }
}

/// Whether a host wants tokens of this app.
pub(super) fn wants(config: &Config, kept: &Kept, global: Option<&str>) -> bool {
    let Some(proxy) = config.proxy_of(&kept.host) else { return false };
    proxy.oauth_vault_upstream_token && app_of(proxy, global) == Some(kept.app.as_str())
}

/// The client id of the app that logins at a host go through.
pub(super) fn app_of<'a>(proxy: &'a Proxy, global: Option<&'a str>) -> Option<&'a str> {
    proxy.github_client_id.as_ref().map(GithubClientId::as_str).or(global)
}

impl AuthorizationServer {
    /// The token of GitHub's that a host's upstream may use for a user, if the host wants it kept and the user has
    /// signed in there. It costs a look at the store.
    ///
    /// # Errors
    ///
    /// When the store fails, or the token can't be opened.
    pub async fn upstream_token(
        &self,
        host: &HostName,
        subject: &str,
    ) -> store::Result<Option<UpstreamToken>> {
        let view = self.mirror.latest().await?;
        let Some(kept) = self.upstream_tokens.find(host, subject).await? else { return Ok(None) };
        if !wants(&view.config, &kept, self.global_app().as_deref()) {
            return Ok(None);
        }
        let (token, _) = self.upstream_tokens.open(&kept)?;
        let secret = token.expose().into();
        Ok(Some(UpstreamToken { secret, app: kept.app, scopes: kept.scopes, kept_at: kept.kept_at }))
    }

    /// Whether a user has to go to GitHub for a host once more, because it wants a token and there is none.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub(crate) async fn lacks_upstream_token(
        &self,
        host: &HostName,
        proxy: &Proxy,
        subject: &str,
    ) -> store::Result<bool> {
        if !proxy.oauth_vault_upstream_token {
            return Ok(false);
        }
        let kept = self.upstream_tokens.find(host, subject).await?;
        let global = self.global_app();
        Ok(kept.is_none_or(|kept| app_of(proxy, global.as_deref()) != Some(kept.app.as_str())))
    }

    /// Ends the tokens of a user or a session that are wanted no longer: here at once, at GitHub soon.
    ///
    /// # Errors
    ///
    /// When the store fails: then it has to be repeated, or is done by the [`Sweep`](super::Sweep).
    pub(crate) async fn review_upstream_tokens(
        &self,
        filter: Filter<'_>,
        now: Timestamp,
    ) -> store::Result<()> {
        let mut marked = Vec::new();
        let mut after = None;
        loop {
            let page = self.upstream_tokens.list(filter, after, MAX_PAGE).await?;
            for kept in page.items {
                let ends = kept.ended || !self.is_wanted(&kept, now).await?;
                if ends && self.upstream_tokens.mark(&kept).await? {
                    marked.push(kept);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.finish_upstream_tokens(marked);
        Ok(())
    }

    /// Ends a token whoever wants it; tells whether it has ended at GitHub, too.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub(crate) async fn end_upstream_token(&self, kept: &Kept) -> store::Result<bool> {
        Ok(self.upstream_tokens.mark(kept).await? && self.ends().finish(kept).await?)
    }

    /// Ends tokens that are marked: nobody waits for GitHub, and what fails here is done again later.
    pub(crate) fn finish_upstream_tokens(&self, marked: Vec<Kept>) {
        if marked.is_empty() {
            return;
        }
        let ends = self.ends();
        tokio::spawn(async move {
            for kept in marked {
                if let Err(error) = ends.finish(&kept).await {
                    tracing::info!(%error, "a token of GitHub's has ended, but is not forgotten yet");
                }
            }
        });
    }

    /// Whether a token is wanted: its host wants it, and the session that began with it, or something that the user
    /// granted for the host, goes on.
    pub(super) async fn is_wanted(&self, kept: &Kept, now: Timestamp) -> store::Result<bool> {
        let view = self.mirror.latest().await?;
        if !wants(&view.config, kept, self.global_app().as_deref()) {
            return Ok(false);
        }
        if self.sessions.get(&kept.session, now).await?.is_some() {
            return Ok(true);
        }
        let is_its = |resource: &String| {
            let host = resource.parse::<http::Uri>().ok();
            host.as_ref().and_then(http::Uri::host).is_some_and(|host| host == kept.host.as_str())
        };
        let mut after = None;
        loop {
            let page = self.grants.list(Filter::Subject(&kept.subject), after, MAX_PAGE).await?;
            let mut live = page.items.iter().filter(|grant| now < grant.expires_at);
            if live.any(|grant| grant.resources.iter().any(is_its)) {
                return Ok(true);
            }
            after = page.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }

    pub(super) fn ends(&self) -> Ends {
        Ends {
            tokens: self.upstream_tokens.clone(),
            github: self.github.clone(),
            apps: self.apps.clone(),
            mirror: self.mirror.clone(),
        }
    }

    /// The client id of the deployment's own app.
    pub(super) fn global_app(&self) -> Option<Arc<str>> {
        self.apps.global().ok().map(|app| app.client_id().into())
    }
}
