//! Browser sessions at the issuer: who has signed in, and how to sign them out.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use clap::Args;
use jiff::Timestamp;
use portcullis_layers::HostName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::host_of;
use super::paging::{self, Pagination, Paging, walk};
use super::tokens::is_user;
use crate::control::operation::{delete, get};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::sessions::Session;
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::MAX_PAGE;

/// Of how many grants of a session the tokens are counted.
const MAX_GRANTS: usize = 50;

/// Adds the operations of sessions.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthSessions>();
    surface.add::<ShowOauthSession>();
    surface.add::<RevokeOauthSession>();
    surface.add::<RevokeOauthUser>();
}

/// A session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SessionEntry {
    /// Its id: the hash of what the browser has, which opens nothing.
    pub session_id: String,
    /// The numeric id of the person.
    pub user_id: String,
    /// The login name.
    pub username: String,
    /// The e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// When the person signed in.
    pub created_at: Timestamp,
    /// When the session was last used, give or take a minute.
    pub last_activity: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// How long it was used, in minutes.
    pub duration_minutes: i64,
    /// How many grants were made in it and have not ended.
    pub active_grants: u64,
    /// How many access tokens the newest 50 of them have that are good.
    pub active_tokens: u64,
    /// The hosts that these are for.
    pub accessed_proxies: BTreeSet<HostName>,
}

/// The sessions in numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionSummary {
    /// All of them.
    pub total_sessions: u64,
    /// Of how many people; of those that were looked at.
    pub unique_users: usize,
    /// How long they were used on average, in minutes.
    pub average_session_duration: f64,
}

/// A page of sessions.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionPage {
    /// The sessions, newest first.
    pub sessions: Vec<SessionEntry>,
    /// Which page.
    pub pagination: Pagination,
    /// All of them in numbers.
    pub summary: SessionSummary,
}

/// List the browser sessions of people who have signed in.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthSessions {
    /// Only those of a person (login or subject).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub username: Option<String>,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::twenty")]
    #[arg(long, default_value_t = 20)]
    pub per_page: u32,
}

impl Operation for ListOauthSessions {
    const NAME: &'static str = "list_oauth_sessions";
    const COMMAND: &'static [&'static str] = &["oauth", "session", "list"];
    const HTTP: Endpoint = get("/oauth/sessions");
    const SCOPE: Access = Access::Admin;
    type Output = SessionPage;

    async fn run(self, control: &Control, _: &Context) -> Result<SessionPage, Error> {
        let server = control.oauth()?;
        let mut window = Paging::new(self.page, self.per_page)?.window();
        let mut users = BTreeSet::new();
        let (mut minutes, mut looked_at) = (0, 0_u32);
        let read = |after| server.sessions.list(Filter::All, after, MAX_PAGE);
        let truncated = walk(read, |session: Session| {
            looked_at += 1;
            minutes += self::minutes(&session);
            users.insert(session.identity.subject.clone());
            let identity = &session.identity;
            if is_user(self.username.as_deref(), &identity.subject, Some(&identity.login)) {
                window.add(session);
            }
            ControlFlow::Continue(())
        })
        .await?;
        let total_sessions = server.sessions.count(Filter::All).await?;
        let (page, pagination) = window.counted(truncated);
        let mut sessions = Vec::with_capacity(page.len());
        for session in page {
            sessions.push(entry(server, session).await?);
        }
        let average_session_duration =
            if looked_at == 0 { 0.0 } else { minutes as f64 / f64::from(looked_at) };
        let summary = SessionSummary { total_sessions, unique_users: users.len(), average_session_duration };
        Ok(SessionPage { sessions, pagination, summary })
    }
}

fn minutes(session: &Session) -> i64 {
    (session.seen_at.as_second() - session.created_at.as_second()) / 60
}

async fn entry(server: &AuthorizationServer, session: Session) -> Result<SessionEntry, Error> {
    let filter = Filter::Session(&session.id);
    let grants = server.grants.list(filter, None, MAX_GRANTS).await?.items;
    let mut active_tokens = 0;
    for grant in &grants {
        active_tokens += server.grants.count_access(Filter::Grant(&grant.id)).await?;
    }
    let resources = grants.iter().flat_map(|grant| &grant.resources);
    Ok(SessionEntry {
        user_id: session.identity.subject.clone(),
        username: session.identity.login.clone(),
        email: session.identity.emails.first().cloned(),
        created_at: session.created_at,
        last_activity: session.seen_at,
        expires_at: session.expires_at,
        duration_minutes: minutes(&session),
        active_grants: server.grants.count(filter).await?,
        active_tokens,
        accessed_proxies: resources.filter_map(|resource| host_of(resource)).collect(),
        session_id: session.id,
    })
}

/// Show a browser session.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowOauthSession {
    /// Its id.
    pub session_id: String,
}

impl Operation for ShowOauthSession {
    const NAME: &'static str = "show_oauth_session";
    const COMMAND: &'static [&'static str] = &["oauth", "session", "show"];
    const HTTP: Endpoint = get("/oauth/sessions/{session_id}");
    const SCOPE: Access = Access::Admin;
    type Output = SessionEntry;

    async fn run(self, control: &Control, _: &Context) -> Result<SessionEntry, Error> {
        let server = control.oauth()?;
        let session = server.sessions.get(&self.session_id, Timestamp::now()).await?;
        entry(server, session.ok_or_else(|| not_found("session", &self.session_id))?).await
    }
}

/// What was ended with a session.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionRevoked {
    /// `revoked`.
    pub status: &'static str,
    /// The session.
    pub session_id: String,
    /// How many tokens that were good: access and refresh tokens of clients, and of browsers on hosts.
    pub tokens_revoked: usize,
    /// How many grants they were of.
    pub grants_revoked: usize,
}

/// What was ended of a person.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UserRevoked {
    /// `revoked`.
    pub status: &'static str,
    /// The person.
    pub user_id: String,
    /// How many sessions.
    pub sessions_revoked: usize,
    /// How many tokens that were good: access and refresh tokens of clients, and of browsers on hosts.
    pub tokens_revoked: usize,
    /// How many grants they were of.
    pub grants_revoked: usize,
}

/// End a browser session, and all that was granted in it, on all nodes.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RevokeOauthSession {
    /// Its id.
    pub session_id: String,
}

impl Operation for RevokeOauthSession {
    const NAME: &'static str = "revoke_oauth_session";
    const COMMAND: &'static [&'static str] = &["oauth", "session", "revoke"];
    const HTTP: Endpoint = delete("/oauth/sessions/{session_id}");
    const SCOPE: Access = Access::Admin;
    type Output = SessionRevoked;

    fn subject(&self) -> Option<String> {
        Some(self.session_id.clone())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<SessionRevoked, Error> {
        let server = control.oauth()?;
        // First of all: then nothing more is granted in it while its grants are looked for.
        let ended = server.sessions.revoke(&self.session_id).await?;
        let with_it = server.end_grants(Filter::Session(&self.session_id), Timestamp::now()).await?;
        if !ended && with_it.grants == 0 {
            return Err(not_found("session", &self.session_id));
        }
        Ok(SessionRevoked {
            status: "revoked",
            session_id: self.session_id,
            tokens_revoked: with_it.tokens,
            grants_revoked: with_it.grants,
        })
    }
}

/// End all sessions of a person, and all that was granted to any client in their name, on all nodes.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RevokeOauthUser {
    /// The numeric id of the person, as `user_id` has it: a login name may be somebody else's by now.
    pub user_id: String,
}

impl Operation for RevokeOauthUser {
    const NAME: &'static str = "revoke_oauth_user";
    const COMMAND: &'static [&'static str] = &["oauth", "session", "revoke-user"];
    const HTTP: Endpoint = delete("/oauth/users/{user_id}/sessions");
    const SCOPE: Access = Access::Admin;
    type Output = UserRevoked;

    fn subject(&self) -> Option<String> {
        Some(self.user_id.clone())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<UserRevoked, Error> {
        let server = control.oauth()?;
        let sessions_revoked = server.sessions.revoke_subject(&self.user_id).await?.len();
        let ended = server.end_grants(Filter::Subject(&self.user_id), Timestamp::now()).await?;
        if sessions_revoked == 0 && ended.grants == 0 {
            return Err(not_found("session or grant of user", &self.user_id));
        }
        Ok(UserRevoked {
            status: "revoked",
            user_id: self.user_id,
            sessions_revoked,
            tokens_revoked: ended.tokens,
            grants_revoked: ended.grants,
        })
    }
}

fn not_found(what: &'static str, id: &str) -> Error {
    Error::NotFound { what, id: id.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::oauth::testing::{admin, given, person};
    use crate::oauth::grants;

    #[tokio::test]
    async fn a_session_ends_with_all_that_was_granted_in_it() {
        let given = given().await;
        let (ann, ben) = (person(1, "ann"), person(2, "ben"));
        let (mine, other) = (given.session(&ann).await, given.session(&ben).await);
        let of_client = given.grant("c", &ann, Some(&mine)).await;
        let cookie = "https://app.example.com/.portcullis/session";
        let of_host = given.granted("portcullis-browser", &ann, Some(&mine), cookie).await.expect("granted");
        let of_other = given.grant("c", &ben, Some(&other)).await;
        let page = given.ask::<ListOauthSessions>(json!({})).await;
        assert_eq!(page["summary"]["total_sessions"], 2);
        assert_eq!((&page["summary"]["unique_users"], &page["pagination"]["total"]), (&json!(2), &json!(2)));
        let page = given.ask::<ListOauthSessions>(json!({ "username": "ANN" })).await;
        let [shown] = &page["sessions"].as_array().expect("a list")[..] else { panic!("{page}") };
        assert_eq!((&shown["email"], &shown["user_id"]), (&json!("ann@mail.example"), &json!("1")));
        assert_eq!((&shown["active_grants"], &shown["active_tokens"]), (&json!(2), &json!(2)));
        assert_eq!(shown["accessed_proxies"], json!(["app.example.com"]));

        let id = json!({ "session_id": mine.id });
        assert_eq!(given.ask::<ShowOauthSession>(id.clone()).await, *shown);
        let ended = given.ask::<RevokeOauthSession>(id.clone()).await;
        // Two access tokens and a refresh token: a browser on a host has none.
        let expected = json!({
            "status": "revoked", "session_id": mine.id, "tokens_revoked": 3, "grants_revoked": 2,
        });
        assert_eq!(ended, expected);
        assert!(given.is_revoked(&of_client) && given.is_revoked(&of_host) && !given.is_revoked(&of_other));
        let late = given.granted("c", &ann, Some(&mine), "https://app.example.com").await;
        assert!(matches!(late, Err(grants::Error::SessionEnded)), "{late:?}");
        for gone in [
            given.call::<ShowOauthSession>(id.clone(), &admin()).await,
            given.call::<RevokeOauthSession>(id, &admin()).await,
        ] {
            assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
        }
    }

    #[tokio::test]
    async fn everything_of_a_person_ends_and_nothing_of_others() {
        let given = given().await;
        let (ann, ben) = (person(1, "ann"), person(11, "ben"));
        let (one, two) = (given.session(&ann).await, given.session(&ann).await);
        given.session(&ben).await;
        let in_session = given.grant("c", &ann, Some(&one)).await;
        let by_device = given.grant("c", &ann, None).await;
        let of_other = given.grant("c", &ben, None).await;
        let ended = given.ask::<RevokeOauthUser>(json!({ "user_id": "1" })).await;
        let expected = json!({
            "status": "revoked", "user_id": "1", "sessions_revoked": 2, "tokens_revoked": 4, "grants_revoked": 2,
        });
        assert_eq!(ended, expected);
        assert!(
            given.is_revoked(&in_session) && given.is_revoked(&by_device) && !given.is_revoked(&of_other)
        );
        let now = Timestamp::now();
        for session in [one, two] {
            assert!(given.server.sessions.get(&session.id, now).await.expect("read").is_none());
        }
        assert_eq!(given.server.sessions.count(Filter::All).await.expect("counted"), 1);
        let nobody = given.call::<RevokeOauthUser>(json!({ "user_id": "ann" }), &admin()).await;
        assert!(matches!(nobody, Err(Error::NotFound { .. })), "a login is no id: {nobody:?}");
    }
}
