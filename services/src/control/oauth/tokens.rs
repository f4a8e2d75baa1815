//! The tokens that clients have: what is known of them. Access tokens go by their `jti`, refresh tokens by their
//! grant; neither opens anything.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clients::name_of;
use super::paging::{self, Pagination, Paging, walk};
use crate::control::operation::{delete, get};
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::oauth::grants::{self, Grant};
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::MAX_PAGE;

/// Adds the operations of tokens.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthTokens>();
    surface.add::<ShowOauthToken>();
    surface.add::<RevokeOauthToken>();
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// For resources.
    Access,
    /// For the next access token.
    Refresh,
}

/// A token.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TokenEntry {
    /// Its id; of a refresh token that of its grant.
    pub jti: String,
    /// What it is.
    pub token_type: TokenType,
    /// The grant that it is of.
    pub grant_id: String,
    /// The client that has it.
    pub client_id: String,
    /// What that calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Its subject.
    pub user_id: String,
    /// The login name of the person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// When it was issued; of a refresh token, when the first one of its grant was.
    pub issued_at: Timestamp,
    /// When it ends; of a refresh token, if it is not used before.
    pub expires_at: Timestamp,
    /// Whether it has ended.
    pub is_expired: bool,
    /// How many seconds it has left.
    pub time_remaining: i64,
    /// Its scopes, parted by blanks.
    pub scope: String,
    /// The resources that it is for.
    pub audience: Vec<String>,
    /// When a refresh token was last used. Of access tokens nobody knows: hosts judge them without telling anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// How often a refresh token was used: it and those before it, which are one to an administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_count: Option<u64>,
}

/// Tokens in numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TokenSummary {
    /// All that are kept, of the client if one was named: those that are good, and those that have ended in the last
    /// two minutes.
    pub total_tokens: u64,
    /// Those that are good.
    pub active_tokens: u64,
    /// Those that have ended: of as many as are looked at.
    pub expired_tokens: u64,
    /// Access tokens.
    pub access_tokens: u64,
    /// Refresh tokens: one for each grant that has one.
    pub refresh_tokens: u64,
}

/// A page of tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TokenPage {
    /// The tokens: access tokens first, the newest of each kind first.
    pub tokens: Vec<TokenEntry>,
    /// Which page.
    pub pagination: Pagination,
    /// How many there are.
    pub summary: TokenSummary,
}

/// List the tokens that are good: what is known of them, never the tokens. Those that have ended are kept for two
/// minutes.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthTokens {
    /// Only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_enum)]
    pub token_type: Option<TokenType>,
    /// Only those of a person (login or subject).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub username: Option<String>,
    /// Only those of a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub client_id: Option<String>,
    /// Those as well that have ended in the last two minutes.
    #[serde(default)]
    #[arg(long)]
    pub include_expired: bool,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for ListOauthTokens {
    const NAME: &'static str = "list_oauth_tokens";
    const COMMAND: &'static [&'static str] = &["oauth", "token", "list"];
    const HTTP: Endpoint = get("/oauth/tokens");
    const SCOPE: Access = Access::Admin;
    type Output = TokenPage;

    async fn run(self, control: &Control, _: &Context) -> Result<TokenPage, Error> {
        let server = control.oauth()?;
        let now = Timestamp::now();
        let filter = self.client_id.as_deref().map_or(Filter::All, Filter::Client);
        let access_tokens = server.grants.count_access(filter).await?;
        let refresh_tokens = server.grants.count_refreshable(self.client_id.as_deref()).await?;
        let mut window = Paging::new(self.page, self.per_page)?.window();
        let mut expired_tokens = 0;
        let mut visit = |entry: TokenEntry| {
            expired_tokens += u64::from(entry.is_expired);
            let is_meant = self.token_type.is_none_or(|kind| kind == entry.token_type)
                && (self.include_expired || !entry.is_expired)
                && is_user(self.username.as_deref(), &entry.user_id, entry.username.as_deref());
            if is_meant {
                window.add(entry);
            }
            ControlFlow::Continue(())
        };
        let access = |after| server.grants.list_access(filter, after, MAX_PAGE);
        let mut truncated = walk(access, |access| visit(TokenEntry::of_access(access, now))).await?;
        let refresh = |after| server.grants.list_refreshable(self.client_id.as_deref(), after, MAX_PAGE);
        truncated |= walk(refresh, |grant| visit(TokenEntry::of_grant(server, grant, now))).await?;
        let (mut tokens, pagination) = window.counted(truncated);
        add_names(server, &mut tokens, now).await?;
        let total_tokens = access_tokens + refresh_tokens;
        Ok(TokenPage {
            tokens,
            pagination,
            summary: TokenSummary {
                total_tokens,
                active_tokens: total_tokens.saturating_sub(expired_tokens),
                expired_tokens,
                access_tokens,
                refresh_tokens,
            },
        })
    }
}

/// Whether somebody is meant: by login, in whatever case, or by subject.
pub(super) fn is_user(wanted: Option<&str>, subject: &str, login: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| {
        wanted == subject || login.is_some_and(|login| login.eq_ignore_ascii_case(wanted))
    })
}

/// Says what clients call themselves, each asked for once.
async fn add_names(
    server: &AuthorizationServer,
    tokens: &mut [TokenEntry],
    now: Timestamp,
) -> Result<(), Error> {
    let mut names: BTreeMap<String, Option<String>> = BTreeMap::new();
    for token in tokens {
        let name = match names.get(&token.client_id) {
            Some(known) => known.clone(),
            None => name_of(server, &token.client_id, &token.grant_id, now).await?,
        };
        names.insert(token.client_id.clone(), name.clone());
        token.client_name = name;
    }
    Ok(())
}

impl TokenEntry {
    fn of_access(access: grants::Access, now: Timestamp) -> Self {
        Self {
            jti: access.jti,
            token_type: TokenType::Access,
            grant_id: access.grant,
            client_id: access.client_id,
            client_name: None,
            user_id: access.subject,
            username: access.username,
            issued_at: access.issued_at,
            expires_at: access.expires_at,
            is_expired: access.expires_at <= now,
            time_remaining: access.expires_at.as_second() - now.as_second(),
            scope: access.scopes.into_iter().collect::<Vec<_>>().join(" "),
            audience: access.resources,
            last_used: None,
            usage_count: None,
        }
    }

    fn of_grant(server: &AuthorizationServer, grant: Grant, now: Timestamp) -> Self {
        let expires_at = server.grants.ends(&grant);
        Self {
            last_used: grant.last_rotation(),
            usage_count: Some(grant.rotations),
            jti: grant.id.clone(),
            token_type: TokenType::Refresh,
            grant_id: grant.id,
            client_id: grant.client.id,
            client_name: None,
            user_id: grant.subject,
            username: grant.identity.map(|identity| identity.login),
            issued_at: grant.created_at,
            expires_at,
            is_expired: expires_at <= now,
            time_remaining: expires_at.as_second() - now.as_second(),
            scope: grant.scopes.into_iter().collect::<Vec<_>>().join(" "),
            audience: grant.resources,
        }
    }
}

/// What an access token says, as far as it is kept.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KnownClaims {
    /// The issuer.
    pub iss: String,
    /// The subject.
    pub sub: String,
    /// The resources.
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Its id.
    pub jti: String,
    /// Its scopes.
    pub scope: String,
    /// The client.
    pub client_id: String,
}

/// A token in full.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TokenDetails {
    /// What lists say of it.
    #[serde(flatten)]
    pub token: TokenEntry,
    /// What an access token says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<KnownClaims>,
    /// The browser session in which it was granted, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// Show what is known of a token: never the token.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowOauthToken {
    /// Its id; of a refresh token that of its grant.
    pub jti: String,
}

impl Operation for ShowOauthToken {
    const NAME: &'static str = "show_oauth_token";
    const COMMAND: &'static [&'static str] = &["oauth", "token", "show"];
    const HTTP: Endpoint = get("/oauth/tokens/{jti}");
    const SCOPE: Access = Access::Admin;
    type Output = TokenDetails;

    async fn run(self, control: &Control, _: &Context) -> Result<TokenDetails, Error> {
        let server = control.oauth()?;
        let now = Timestamp::now();
        let access = server.grants.get_access(&self.jti, now).await?;
        let grant_id = access.as_ref().map_or(&self.jti, |access| &access.grant);
        let grant = server.grants.get(grant_id, now).await?;
        let session_id = grant.as_ref().and_then(|grant| grant.session.clone());
        let (token, claims) = match (access, grant) {
            (Some(access), _) => {
                let token = TokenEntry::of_access(access, now);
                let claims = KnownClaims {
                    iss: server.issuer.as_str().to_owned(),
                    sub: token.user_id.clone(),
                    aud: token.audience.clone(),
                    exp: token.expires_at.as_second(),
                    iat: token.issued_at.as_second(),
                    jti: token.jti.clone(),
                    scope: token.scope.clone(),
                    client_id: token.client_id.clone(),
                };
                (token, Some(claims))
            }
            (None, Some(grant)) if grant.refreshable => (TokenEntry::of_grant(server, grant, now), None),
            _ => return Err(not_found(&self.jti)),
        };
        let mut tokens = [token];
        add_names(server, &mut tokens, now).await?;
        let [token] = tokens;
        Ok(TokenDetails { token, claims, session_id })
    }
}

/// Revoke a token on all nodes. A refresh token takes its grant with it, and all that came of that.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RevokeOauthToken {
    /// Its id; of a refresh token that of its grant.
    pub jti: String,
}

impl Operation for RevokeOauthToken {
    const NAME: &'static str = "revoke_oauth_token";
    const COMMAND: &'static [&'static str] = &["oauth", "token", "revoke"];
    const HTTP: Endpoint = delete("/oauth/tokens/{jti}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.jti.clone())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<Done, Error> {
        let server = control.oauth()?;
        let now = Timestamp::now();
        if let Some(access) = server.grants.get_access(&self.jti, now).await? {
            server.grants.revoke_access(&access.jti, access.expires_at).await?;
            return Ok(Done::new("revoked", access.jti));
        }
        if server.grants.revoke(&self.jti, now).await? {
            return Ok(Done::new("revoked", self.jti));
        }
        Err(not_found(&self.jti))
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound { what: "token", id: id.to_owned() }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    use super::*;
    use crate::control::oauth::clients::{ListOauthClients, ShowOauthClient, TokensOfOauthClient};
    use crate::control::oauth::metrics::OauthMetrics;
    use crate::control::oauth::testing::{admin, given, person};
    use crate::oauth::grants::Wanted;

    fn users(page: &Value) -> Vec<&str> {
        page["tokens"].as_array().expect("a list").iter().filter_map(|one| one["username"].as_str()).collect()
    }

    fn summary(total: u64, expired: u64, access: u64, refresh: u64) -> Value {
        json!({
            "total_tokens": total, "active_tokens": total - expired, "expired_tokens": expired,
            "access_tokens": access, "refresh_tokens": refresh,
        })
    }

    #[tokio::test]
    async fn what_has_ended_is_told_apart_for_two_minutes() {
        let given = given().await;
        let ann = person(1, "ann");
        given.grant("c", &ann, None).await;
        let ended = given.ended_access("c", &ann).await;
        let page = given.ask::<ListOauthTokens>(json!({})).await;
        assert_eq!(page["summary"], summary(3, 1, 2, 1), "a grant without refresh token has ended: {page}");
        assert_eq!((users(&page).len(), &page["pagination"]["total"]), (2, &json!(2)));
        let page = given.ask::<ListOauthTokens>(json!({ "include_expired": true })).await;
        assert_eq!(page["pagination"]["total"], 3);
        let all = page["tokens"].as_array().expect("a list");
        let expired: Vec<_> = all.iter().filter(|token| token["is_expired"] == true).collect();
        let [expired] = expired[..] else { panic!("{page}") };
        assert_eq!(expired["jti"], json!(ended));
        assert!(expired["time_remaining"].as_i64() < Some(0), "{expired}");
        let metrics = given.ask::<OauthMetrics>(json!({})).await;
        let access = &metrics["tokens"]["access_tokens"];
        assert_eq!((&access["total"], &access["active"]), (&json!(2), &json!(1)), "{metrics}");
    }

    #[tokio::test]
    async fn a_refresh_token_tells_how_often_it_was_used() {
        let given = given().await;
        let issued = given.grant("c", &person(1, "ann"), None).await;
        let id = json!({ "jti": issued.grant.id });
        let unused = given.ask::<ShowOauthToken>(id.clone()).await;
        assert_eq!((&unused["usage_count"], unused.get("last_used")), (&json!(0), None), "{unused}");
        let mut token = issued.refresh.expect("a refresh token");
        for _ in 0..2 {
            let grants = &given.server.grants;
            let now = Timestamp::now();
            let refreshed = grants.refresh(token.expose_secret(), "c", Wanted::default(), now).await;
            let next = refreshed.expect("refreshed").refresh.expect("a refresh token");
            let again = grants.refresh(token.expose_secret(), "c", Wanted::default(), now).await;
            assert!(again.is_ok(), "a repetition within the window: {again:?}");
            token = next;
        }
        let used = given.ask::<ShowOauthToken>(id).await;
        assert_eq!(used["usage_count"], 2, "{used}");
        assert!(used["last_used"].is_string(), "{used}");
        let page = given.ask::<ListOauthTokens>(json!({ "token_type": "access" })).await;
        assert_eq!(page["tokens"][0].get("usage_count"), None, "nobody counts requests: {page}");
        let client = given.ask::<ShowOauthClient>(json!({ "client_id": "c" })).await;
        assert_eq!(client["usage_count"], 3, "the first tokens, and two rotations: {client}");
        let page = given.ask::<ListOauthClients>(json!({})).await;
        let listed = page["clients"].as_array().expect("a list").iter().find(|one| one["client_id"] == "c");
        assert_eq!(listed.expect("there")["usage_count"], 3, "{page}");
    }

    #[tokio::test]
    async fn tokens_are_listed_by_type_person_and_client_and_never_shown() {
        let given = given().await;
        let (ann, ben) = (person(1, "Ann"), person(2, "ben"));
        let issued = given.grant("https://a.example/client", &ann, None).await;
        given.grant("https://b.example/client", &ben, None).await;
        let page = given.ask::<ListOauthTokens>(json!({})).await;
        assert_eq!(users(&page), ["ben", "Ann", "ben", "Ann"], "access tokens first, the newest first");
        assert_eq!(page["summary"], summary(4, 0, 2, 2));
        let secret = issued.refresh.expect("a refresh token");
        assert!(!page.to_string().contains(secret.expose_secret()) && !page.to_string().contains("pcr_"));
        let refresh = page["tokens"].as_array().expect("a list").last().expect("one");
        assert_eq!(
            (&refresh["jti"], &refresh["token_type"], &refresh["client_name"], &refresh["scope"]),
            (&json!(issued.grant.id), &json!("refresh"), &json!("Snapped"), &json!("read"))
        );
        for (asked, expected) in [
            (json!({ "token_type": "access" }), vec!["ben", "Ann"]),
            (json!({ "username": "ann" }), vec!["Ann", "Ann"]),
            (json!({ "username": "2", "token_type": "refresh" }), vec!["ben"]),
            (json!({ "client_id": "https://a.example/client" }), vec!["Ann", "Ann"]),
            (json!({ "client_id": "https://a.example/client", "username": "ben" }), vec![]),
            (json!({ "page": 2, "per_page": 3 }), vec!["Ann"]),
            (json!({ "page": 2, "per_page": 2 }), vec!["ben", "Ann"]),
            (json!({ "page": 3, "per_page": 2 }), vec![]),
        ] {
            assert_eq!(users(&given.ask::<ListOauthTokens>(asked.clone()).await), expected, "{asked}");
        }
        let id = json!({ "client_id": "https://b.example/client" });
        let page = given.ask::<TokensOfOauthClient>(id).await;
        assert_eq!(users(&page), ["ben", "ben"]);
        assert_eq!(page["pagination"]["total"], 2);
    }

    #[tokio::test]
    async fn one_token_is_revoked_and_its_grant_goes_on() {
        let given = given().await;
        let issued = given.grant("c", &person(1, "ann"), None).await;
        let access = json!({ "jti": issued.access.jti });
        let shown = given.ask::<ShowOauthToken>(access.clone()).await;
        assert_eq!(shown["claims"]["sub"], "1");
        assert_eq!(shown["claims"]["aud"], json!([crate::control::oauth::testing::RESOURCE]));
        given.ask::<RevokeOauthToken>(access.clone()).await;
        assert!(given.is_revoked(&issued));
        let refresh = json!({ "jti": issued.grant.id });
        assert_eq!(given.ask::<ShowOauthToken>(refresh.clone()).await["token_type"], "refresh");
        given.ask::<RevokeOauthToken>(refresh.clone()).await;
        for gone in [access, refresh, json!({ "jti": "none" })] {
            let shown = given.call::<ShowOauthToken>(gone.clone(), &admin()).await;
            let revoked = given.call::<RevokeOauthToken>(gone, &admin()).await;
            assert!(matches!((shown, revoked), (Err(Error::NotFound { .. }), Err(Error::NotFound { .. }))));
        }
    }
}
