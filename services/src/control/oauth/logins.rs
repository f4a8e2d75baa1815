//! Which accounts the logins on lists mean.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paging::{self, Pagination, Paging, fill};
use crate::control::operation::{delete, get};
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::oauth::Filter;
use crate::oauth::pins::Pin;
use crate::store::MAX_PAGE;

/// Adds the operations of logins.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthLogins>();
    surface.add::<ReleaseOauthLogin>();
}

/// A login, and whose it is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LoginEntry {
    /// The login, in lower case.
    pub login: String,
    /// The numeric id of the account that it means.
    pub user_id: String,
    /// Since when.
    pub created_at: Timestamp,
}

/// A page of logins.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LoginPage {
    /// The logins, newest first.
    pub logins: Vec<LoginEntry>,
    /// Which page.
    pub pagination: Pagination,
}

/// List the logins on lists that somebody has signed in with, and whose they are.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthLogins {
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for ListOauthLogins {
    const NAME: &'static str = "list_oauth_logins";
    const COMMAND: &'static [&'static str] = &["oauth", "login", "list"];
    const HTTP: Endpoint = get("/oauth/logins");
    const SCOPE: Access = Access::Admin;
    type Output = LoginPage;

    async fn run(self, control: &Control, _: &Context) -> Result<LoginPage, Error> {
        let server = control.oauth()?;
        let mut window = Paging::new(self.page, self.per_page)?.window();
        let read = |after| server.pins.list(after, MAX_PAGE);
        let row = |Pin { login, subject, created_at }: Pin| {
            Some(LoginEntry { login, user_id: subject, created_at })
        };
        let truncated = fill(&mut window, None, read, row).await?;
        let (logins, pagination) = window.counted(truncated);
        Ok(LoginPage { logins, pagination })
    }
}

/// Let a login on a list go to whoever signs in with it next: its account was renamed, or belongs to somebody else now.
/// The sessions and grants of who had it end.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ReleaseOauthLogin {
    /// The login.
    pub login: String,
}

impl Operation for ReleaseOauthLogin {
    const NAME: &'static str = "release_oauth_login";
    const COMMAND: &'static [&'static str] = &["oauth", "login", "release"];
    const HTTP: Endpoint = delete("/oauth/logins/{login}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.login.clone())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<Done, Error> {
        let server = control.oauth()?;
        let Some(pin) = server.pins.get(&self.login).await? else {
            return Err(Error::NotFound { what: "login", id: self.login });
        };
        // Whoever had it keeps nothing that the login gave them: they can sign in again under the one that they have.
        server.sessions.revoke_subject(&pin.subject).await?;
        server.end_grants(Filter::Subject(&pin.subject), Timestamp::now()).await?;
        server.pins.release(&self.login).await?;
        Ok(Done::new("released", self.login))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{admin, given, person};
    use super::*;

    #[tokio::test]
    async fn a_login_is_released_once() {
        let given = given().await;
        let now = Timestamp::now();
        assert!(given.server.pins.holds(&person(1, "Octocat"), now).await.expect("stored"));
        assert!(!given.server.pins.holds(&person(2, "octocat"), now).await.expect("read"));
        let listed = given.ask::<ListOauthLogins>(json!({})).await;
        assert_eq!(listed["logins"][0]["login"], "octocat");
        assert_eq!(listed["logins"][0]["user_id"], "1");
        given.ask::<ReleaseOauthLogin>(json!({ "login": "OctoCat" })).await;
        let again = given.call::<ReleaseOauthLogin>(json!({ "login": "octocat" }), &admin()).await;
        assert_eq!(again.expect_err("gone").status().as_u16(), 404);
        assert!(given.server.pins.holds(&person(2, "octocat"), now).await.expect("stored"));
    }
}
