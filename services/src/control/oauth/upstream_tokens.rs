//! The tokens of GitHub's that hosts want to have kept: whose there are, never the tokens.

use clap::Args;
use jiff::Timestamp;
use portcullis_layers::HostName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paging::{self, Pagination, Paging, fill};
use super::tokens::is_user;
use crate::control::operation::{delete, get};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::Filter;
use crate::oauth::upstream_tokens::Kept;
use crate::store::MAX_PAGE;

/// Adds the operations of the tokens of GitHub's.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthUpstreamTokens>();
    surface.add::<EndOauthUpstreamToken>();
}

/// A token that is kept.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct UpstreamTokenEntry {
    /// Its id, which stands for the host and the user.
    pub token_id: String,
    /// The host that it is for.
    pub proxy_hostname: HostName,
    /// The numeric id of the user.
    pub user_id: String,
    /// The login name of the user, when the token was given.
    pub username: String,
    /// The client id of the GitHub app that it was given to.
    pub github_client_id: String,
    /// What it may be used for at GitHub, parted by blanks; empty for a GitHub App's.
    pub scope: String,
    /// The browser session that began with it.
    pub session_id: String,
    /// When it was given.
    pub kept_at: Timestamp,
}

impl From<Kept> for UpstreamTokenEntry {
    fn from(kept: Kept) -> Self {
        Self {
            proxy_hostname: kept.host.clone(),
            user_id: kept.subject.clone(),
            username: kept.login.clone(),
            github_client_id: kept.app.clone(),
            scope: kept.scopes.join(" "),
            session_id: kept.session.clone(),
            kept_at: kept.kept_at,
            token_id: kept.id,
        }
    }
}

/// A page of tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UpstreamTokenPage {
    /// The tokens, newest first.
    pub upstream_tokens: Vec<UpstreamTokenEntry>,
    /// Which page.
    pub pagination: Pagination,
}

/// List for whom GitHub's tokens are kept, at hosts with `oauth_vault_upstream_token`. The tokens are never shown.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthUpstreamTokens {
    /// Only those of a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub proxy_hostname: Option<HostName>,
    /// Only those of a person (login or subject).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub username: Option<String>,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for ListOauthUpstreamTokens {
    const NAME: &'static str = "list_oauth_upstream_tokens";
    const COMMAND: &'static [&'static str] = &["oauth", "upstream-token", "list"];
    const HTTP: Endpoint = get("/oauth/upstream-tokens");
    const SCOPE: Access = Access::Admin;
    type Output = UpstreamTokenPage;

    async fn run(self, control: &Control, _: &Context) -> Result<UpstreamTokenPage, Error> {
        let tokens = &control.oauth()?.upstream_tokens;
        let mut window = Paging::new(self.page, self.per_page)?.window();
        let host = self.proxy_hostname.as_ref();
        let read = async |after| match host {
            Some(host) => tokens.list_of_host(host, after, MAX_PAGE).await,
            None => tokens.list(Filter::All, after, MAX_PAGE).await,
        };
        let row = |kept: Kept| {
            let wanted = !kept.ended && is_user(self.username.as_deref(), &kept.subject, Some(&kept.login));
            wanted.then(|| UpstreamTokenEntry::from(kept))
        };
        let truncated = fill(&mut window, None, read, row).await?;
        let (upstream_tokens, pagination) = window.counted(truncated);
        Ok(UpstreamTokenPage { upstream_tokens, pagination })
    }
}

/// What became of a token.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UpstreamTokenEnded {
    /// `ended`: nobody gets it here any more.
    pub status: &'static str,
    /// Its id.
    pub subject: String,
    /// Whether it has ended at GitHub, too. If not, GitHub could not be reached, and it is tried again for a day.
    pub at_github: bool,
}

/// End a token of GitHub's that is kept, here and at GitHub. The next login at the host brings another one.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct EndOauthUpstreamToken {
    /// Its id.
    pub token_id: String,
}

impl Operation for EndOauthUpstreamToken {
    const NAME: &'static str = "end_oauth_upstream_token";
    const COMMAND: &'static [&'static str] = &["oauth", "upstream-token", "end"];
    const HTTP: Endpoint = delete("/oauth/upstream-tokens/{token_id}");
    const SCOPE: Access = Access::Admin;
    type Output = UpstreamTokenEnded;

    fn subject(&self) -> Option<String> {
        Some(self.token_id.clone())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<UpstreamTokenEnded, Error> {
        let server = control.oauth()?;
        let kept = server.upstream_tokens.get(&self.token_id).await?;
        let kept =
            kept.ok_or_else(|| Error::NotFound { what: "token of GitHub's", id: self.token_id.clone() })?;
        let at_github = server.end_upstream_token(&kept).await?;
        Ok(UpstreamTokenEnded { status: "ended", subject: self.token_id, at_github })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::control::oauth::testing::{Given, admin, given, person};
    use crate::control::proxies::UpdateProxy;
    use crate::control::proxy_github::SetProxyGithub;
    use crate::oauth::github::{App, Token};
    use crate::oauth::sessions::Session;
    use crate::oauth::upstream_tokens::{self, Outcome, Sweep};

    const HOST: &str = "app.example.com";
    const SECRET: &str = "gho_hush";

    /// A host with an app of its own that wants tokens. GitHub is away.
    async fn wanting() -> Given {
        let given = given().await;
        given.proxy(HOST).await;
        let app = json!({ "proxy_hostname": HOST, "client_id": "Iv1.own", "client_secret": "hush" });
        given.ask::<SetProxyGithub>(app).await;
        want(&given, true).await;
        given
    }

    async fn want(given: &Given, wants: bool) {
        let fields = json!({ "proxy_hostname": HOST, "oauth_vault_upstream_token": wants });
        given.ask::<UpdateProxy>(fields).await;
    }

    async fn keep(given: &Given, session: &Session) {
        let app = App::new("Iv1.own".parse().expect("an id"), "hush".into()).expect("an app");
        let token = Token::kept(SECRET.into(), &["read:user".to_owned()]);
        let host = HOST.parse().expect("a host");
        let new = upstream_tokens::Given {
            host: &host,
            identity: &session.identity,
            session: &session.id,
            app: &app,
            token: &token,
        };
        given.server.upstream_tokens.keep(new, Timestamp::now()).await.expect("kept");
    }

    async fn listed(given: &Given) -> Vec<Value> {
        let page = given.ask::<ListOauthUpstreamTokens>(json!({})).await;
        assert!(!page.to_string().contains("hush"), "{page}");
        page["upstream_tokens"].as_array().expect("a list").clone()
    }

    /// How many have ended here and wait for GitHub.
    async fn waiting(given: &Given) -> usize {
        let all = given.server.upstream_tokens.list(Filter::All, None, 10).await.expect("read").items;
        all.iter().filter(|kept| kept.ended).count()
    }

    #[tokio::test]
    async fn what_github_did_not_hear_of_is_tried_again_and_read_by_nobody() {
        let given = wanting().await;
        let session = given.session(&person(1, "ann")).await;
        keep(&given, &session).await;
        let entries = listed(&given).await;
        let [entry] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((&entry["username"], &entry["scope"]), (&json!("ann"), &json!("read:user")));
        let id = json!({ "token_id": entry["token_id"] });
        let ended = given.ask::<EndOauthUpstreamToken>(id.clone()).await;
        assert_eq!((&ended["status"], &ended["at_github"]), (&json!("ended"), &json!(false)));
        let host = HOST.parse().expect("a host");
        assert!(given.server.upstream_token(&host, "1").await.expect("read").is_none());
        assert!(listed(&given).await.is_empty());
        let gone = given.call::<EndOauthUpstreamToken>(id, &admin()).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
        let sweep = Sweep::new(Arc::clone(&given.server));
        assert_eq!(sweep.look(Timestamp::now()).await.expect("looked"), Outcome::Left);
        assert_eq!(waiting(&given).await, 1);
        // A login brings another one, which nobody ends instead.
        keep(&given, &session).await;
        assert_eq!(sweep.look(Timestamp::now()).await.expect("looked"), Outcome::Clean);
        assert_eq!((listed(&given).await.len(), waiting(&given).await), (1, 0));
    }

    #[tokio::test]
    async fn a_look_ends_what_nobody_needs_any_more() {
        let given = wanting().await;
        let ann = person(1, "ann");
        let session = given.session(&ann).await;
        keep(&given, &session).await;
        let sweep = Sweep::new(Arc::clone(&given.server));
        let now = Timestamp::now();
        let later = |days: u64| now + Duration::from_secs(days * 24 * 3600);
        assert_eq!(sweep.look(now).await.expect("looked"), Outcome::Clean);
        // The session ends by its time; a client that acts for the user at the host goes on for longer.
        let issued = given.grant("c", &ann, Some(&session)).await;
        assert_eq!(sweep.look(later(40)).await.expect("looked"), Outcome::Clean);
        given.server.grants.revoke(&issued.grant.id, now).await.expect("ended");
        assert_eq!(sweep.look(now).await.expect("looked"), Outcome::Clean, "the session goes on");
        assert_eq!(sweep.look(later(40)).await.expect("looked"), Outcome::Left);
        assert_eq!(waiting(&given).await, 1);

        let given = wanting().await;
        keep(&given, &given.session(&ann).await).await;
        want(&given, false).await;
        let sweep = Sweep::new(Arc::clone(&given.server));
        assert_eq!(sweep.look(now).await.expect("looked"), Outcome::Left);
        assert_eq!(waiting(&given).await, 1, "the host wants none");
    }
}
