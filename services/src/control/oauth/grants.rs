//! Grants: what one authorization yielded, and ends as a whole.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paging::{self, Pagination, Paging, fill};
use super::tokens::is_user;
use crate::control::operation::{delete, get};
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::oauth::Filter;
use crate::oauth::grants::Grant;
use crate::store::MAX_PAGE;

/// Adds the operations of grants.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthGrants>();
    surface.add::<ShowOauthGrant>();
    surface.add::<RevokeOauthGrant>();
}

/// A grant.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct GrantEntry {
    /// Its id.
    pub grant_id: String,
    /// The client that has it.
    pub client_id: String,
    /// The subject of its tokens.
    pub user_id: String,
    /// The login name of the person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The browser session in which it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Whether it has a refresh token. One without ends with its access token.
    pub refreshable: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its refresh token was last used, or when it was made.
    pub last_used: Timestamp,
    /// How often its refresh token was used.
    pub usage_count: u64,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// The scopes that its tokens can have, parted by blanks.
    pub scope: String,
    /// The resources that its tokens can be for.
    pub audience: Vec<String>,
}

impl From<Grant> for GrantEntry {
    fn from(grant: Grant) -> Self {
        Self {
            grant_id: grant.id,
            client_id: grant.client.id,
            user_id: grant.subject,
            username: grant.identity.map(|identity| identity.login),
            session_id: grant.session,
            refreshable: grant.refreshable,
            created_at: grant.created_at,
            last_used: grant.used_at,
            usage_count: grant.rotations,
            expires_at: grant.expires_at,
            scope: grant.scopes.into_iter().collect::<Vec<_>>().join(" "),
            audience: grant.resources,
        }
    }
}

/// A page of grants.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GrantPage {
    /// The grants, newest first.
    pub grants: Vec<GrantEntry>,
    /// Which page.
    pub pagination: Pagination,
}

/// List the grants that have not ended.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthGrants {
    /// Only those of a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub client_id: Option<String>,
    /// Only those of a person (login or subject).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub username: Option<String>,
    /// Only those that were made in a browser session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub session_id: Option<String>,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for ListOauthGrants {
    const NAME: &'static str = "list_oauth_grants";
    const COMMAND: &'static [&'static str] = &["oauth", "grant", "list"];
    const HTTP: Endpoint = get("/oauth/grants");
    const SCOPE: Access = Access::Admin;
    type Output = GrantPage;

    async fn run(self, control: &Control, _: &Context) -> Result<GrantPage, Error> {
        let server = control.oauth()?;
        let (filter, also) = match (&self.session_id, &self.client_id) {
            (Some(session), client) => (Filter::Session(session), client.as_deref()),
            (None, Some(client)) => (Filter::Client(client), None),
            (None, None) => (Filter::All, None),
        };
        let mut window = Paging::new(self.page, self.per_page)?.window();
        let total = match (&self.username, also) {
            (None, None) => Some(server.grants.count(filter).await?),
            _ => None,
        };
        let row = |grant: Grant| {
            let login = grant.identity.as_ref().map(|identity| identity.login.as_str());
            let wanted = is_user(self.username.as_deref(), &grant.subject, login)
                && also.is_none_or(|client| client == grant.client.id);
            wanted.then(|| grant.into())
        };
        let read = |after| server.grants.list(filter, after, MAX_PAGE);
        let truncated = fill(&mut window, total, read, row).await?;
        let (grants, pagination) = window.counted(truncated);
        Ok(GrantPage { grants, pagination })
    }
}

/// A grant in full.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GrantDetails {
    /// What lists say of it.
    #[serde(flatten)]
    pub grant: GrantEntry,
    /// How many access tokens it has that are good.
    pub active_tokens: u64,
}

/// Show a grant.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowOauthGrant {
    /// Its id.
    pub grant_id: String,
}

impl Operation for ShowOauthGrant {
    const NAME: &'static str = "show_oauth_grant";
    const COMMAND: &'static [&'static str] = &["oauth", "grant", "show"];
    const HTTP: Endpoint = get("/oauth/grants/{grant_id}");
    const SCOPE: Access = Access::Admin;
    type Output = GrantDetails;

    async fn run(self, control: &Control, _: &Context) -> Result<GrantDetails, Error> {
        let server = control.oauth()?;
        let grant = server.grants.get(&self.grant_id, Timestamp::now()).await?;
        let grant = grant.ok_or_else(|| not_found(&self.grant_id))?;
        let active_tokens = server.grants.count_access(Filter::Grant(&grant.id)).await?;
        Ok(GrantDetails { grant: grant.into(), active_tokens })
    }
}

/// End a grant with all its tokens, on all nodes.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RevokeOauthGrant {
    /// Its id.
    pub grant_id: String,
}

impl Operation for RevokeOauthGrant {
    const NAME: &'static str = "revoke_oauth_grant";
    const COMMAND: &'static [&'static str] = &["oauth", "grant", "revoke"];
    const HTTP: Endpoint = delete("/oauth/grants/{grant_id}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.grant_id.clone())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<Done, Error> {
        let (server, now) = (control.oauth()?, Timestamp::now());
        let grant = server.grants.get(&self.grant_id, now).await?;
        if server.grants.revoke(&self.grant_id, now).await? {
            if let Some(grant) = grant {
                server.review_upstream_tokens(Filter::Subject(&grant.subject), now).await?;
            }
            return Ok(Done::new("revoked", self.grant_id));
        }
        Err(not_found(&self.grant_id))
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound { what: "grant", id: id.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::oauth::testing::{admin, given, person};

    #[tokio::test]
    async fn grants_are_listed_narrowed_down_and_end_as_a_whole() {
        let given = given().await;
        let (ann, ben) = (person(1, "ann"), person(2, "ben"));
        let session = given.session(&ann).await;
        let issued = given.grant("a", &ann, Some(&session)).await;
        given.grant("b", &ann, Some(&session)).await;
        given.grant("a", &ben, None).await;
        for (asked, count) in [
            (json!({}), 3),
            (json!({ "client_id": "a" }), 2),
            (json!({ "username": "Ann" }), 2),
            (json!({ "session_id": session.id }), 2),
            (json!({ "session_id": session.id, "client_id": "b" }), 1),
            (json!({ "per_page": 2, "page": 2 }), 1),
        ] {
            let page = given.ask::<ListOauthGrants>(asked.clone()).await;
            assert_eq!(page["grants"].as_array().map(Vec::len), Some(count), "{asked}: {page}");
        }
        let id = json!({ "grant_id": issued.grant.id });
        let shown = given.ask::<ShowOauthGrant>(id.clone()).await;
        assert_eq!((&shown["active_tokens"], &shown["refreshable"]), (&json!(1), &json!(true)));
        given.ask::<RevokeOauthGrant>(id.clone()).await;
        assert!(given.is_revoked(&issued));
        let gone = given.call::<RevokeOauthGrant>(id, &admin()).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    }
}
