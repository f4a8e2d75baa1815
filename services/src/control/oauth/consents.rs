//! What users have agreed to. A user sees and takes back their own, an admin everybody's.

use std::ops::ControlFlow;

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::own_subject;
use super::paging::{self, Pagination, Paging, fill, walk};
use crate::config::FieldError;
use crate::control::operation::{delete, get};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::authorization_server::BROWSER_CLIENT;
use crate::oauth::consents::Consent;
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::MAX_PAGE;

/// Adds the operations of consents.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthConsents>();
    surface.add::<WithdrawOauthConsents>();
}

/// Something that a user has agreed to.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ConsentEntry {
    /// The numeric id of the user.
    pub user_id: String,
    /// The client that may act for them.
    pub client_id: String,
    /// Where its codes are sent.
    pub redirect_host: String,
    /// At which resource.
    pub resource: String,
    /// With which scopes, parted by blanks.
    pub scope: String,
    /// Since when.
    pub created_at: Timestamp,
    /// When scopes were last added or confirmed.
    pub updated_at: Timestamp,
}

impl From<Consent> for ConsentEntry {
    fn from(consent: Consent) -> Self {
        Self {
            user_id: consent.subject,
            client_id: consent.client_id,
            redirect_host: consent.redirect_host,
            resource: consent.resource,
            scope: consent.scopes.into_iter().collect::<Vec<_>>().join(" "),
            created_at: consent.created_at,
            updated_at: consent.updated_at,
        }
    }
}

/// A page of consents.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ConsentPage {
    /// The consents, newest first.
    pub consents: Vec<ConsentEntry>,
    /// Which page.
    pub pagination: Pagination,
}

/// List what users have agreed to: your own consents, or, for admins, those of everybody.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthConsents {
    /// Only those of a user, by the numeric id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub user_id: Option<String>,
    /// Only those for a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub client_id: Option<String>,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for ListOauthConsents {
    const NAME: &'static str = "list_oauth_consents";
    const COMMAND: &'static [&'static str] = &["oauth", "consent", "list"];
    const HTTP: Endpoint = get("/oauth/consents");
    const SCOPE: Access = Access::User;
    type Output = ConsentPage;

    async fn run(self, control: &Control, ctx: &Context) -> Result<ConsentPage, Error> {
        let server = control.oauth()?;
        let subject = whose(ctx, self.user_id.as_deref())?;
        let client = self.client_id.as_deref();
        let (filter, also) = match (subject, client) {
            (Some(subject), client) => (Filter::Subject(subject), client),
            (None, Some(client)) => (Filter::Client(client), None),
            (None, None) => (Filter::All, None),
        };
        let mut window = Paging::new(self.page, self.per_page)?.window();
        let read = |after| server.consents.list(filter, after, MAX_PAGE);
        let row = |consent: Consent| {
            also.is_none_or(|client| client == consent.client_id).then(|| ConsentEntry::from(consent))
        };
        let truncated = fill(&mut window, None, read, row).await?;
        let (consents, pagination) = window.counted(truncated);
        Ok(ConsentPage { consents, pagination })
    }
}

/// Whose consents are meant: none for everybody's.
fn whose<'a>(ctx: &'a Context, asked: Option<&'a str>) -> Result<Option<&'a str>, Error> {
    match (own_subject(ctx)?, asked) {
        (None, asked) => Ok(asked),
        (Some(own), None) => Ok(Some(own)),
        (Some(own), Some(asked)) if own == asked => Ok(Some(own)),
        (Some(_), Some(_)) => Err(Error::Forbidden { scopes: Access::Admin.scopes().to_vec() }),
    }
}

/// What was taken back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Withdrawn {
    /// `withdrawn`.
    pub status: &'static str,
    /// How many consents.
    pub consents_withdrawn: usize,
    /// How many grants were ended with them.
    pub grants_revoked: usize,
}

/// Take back what was agreed to, your own or, for admins, another user's, for one client or all: its grants end, and
/// it has to ask again.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct WithdrawOauthConsents {
    /// The client; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub client_id: Option<String>,
    /// The user, by the numeric id; absent: yourself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub user_id: Option<String>,
}

impl Operation for WithdrawOauthConsents {
    const NAME: &'static str = "withdraw_oauth_consents";
    const COMMAND: &'static [&'static str] = &["oauth", "consent", "withdraw"];
    const HTTP: Endpoint = delete("/oauth/consents");
    const SCOPE: Access = Access::User;
    type Output = Withdrawn;

    fn subject(&self) -> Option<String> {
        let user = self.user_id.as_deref().unwrap_or("own");
        Some(format!("{user} {}", self.client_id.as_deref().unwrap_or("all")))
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Withdrawn, Error> {
        let server = control.oauth()?;
        let subject = whose(ctx, self.user_id.as_deref())?.or_else(|| caller(ctx));
        let subject = subject.ok_or_else(|| {
            Error::invalid(FieldError::bare("user_id", "expected a user: this caller has no consents"))
        })?;
        let now = Timestamp::now();
        // The consent goes first: else the client could be granted the same again without a question.
        let (consents_withdrawn, grants_revoked) = match self.client_id.as_deref() {
            Some(client) => {
                let consents = server.consents.forget_client(subject, client).await?;
                (consents, end_grants_of(server, subject, |other| other == client, now).await?)
            }
            None => {
                let consents = server.consents.forget_all(Filter::Subject(subject)).await?;
                // Not only of clients with a consent that was kept: programs on the user's machine are asked about
                // each time, and devices, too. What nobody was asked about stays: the tools of this deployment, and
                // browsers.
                let unasked = |client: &str| {
                    client == BROWSER_CLIENT || server.clients.built_in().iter().any(|own| own.id == client)
                };
                (consents, end_grants_of(server, subject, |client| !unasked(client), now).await?)
            }
        };
        Ok(Withdrawn { status: "withdrawn", consents_withdrawn, grants_revoked })
    }
}

/// The caller, as the subject of consents.
fn caller(ctx: &Context) -> Option<&str> {
    match &ctx.caller {
        crate::control::Caller::Principal(principal) if !principal.foreign => {
            Some(principal.subject.as_str())
        }
        _ => None,
    }
}

/// Ends what clients were granted by one user.
async fn end_grants_of(
    server: &AuthorizationServer,
    subject: &str,
    is_meant: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Result<usize, Error> {
    let mut ids = Vec::new();
    let read = |after| server.grants.list(Filter::Subject(subject), after, MAX_PAGE);
    walk(read, |grant| {
        if is_meant(&grant.client.id) {
            ids.push(grant.id);
        }
        ControlFlow::Continue(())
    })
    .await?;
    let mut ended = 0;
    for id in ids {
        ended += usize::from(server.grants.revoke(&id, now).await?);
    }
    server.review_upstream_tokens(Filter::Subject(subject), now).await?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_layers::Principal;
    use serde_json::json;

    use super::*;
    use crate::control::Caller;
    use crate::control::oauth::testing::{given, person};
    use crate::control::testing::caller;

    fn user(subject: &str) -> Context {
        Context::of(caller(subject, &["user"]))
    }

    #[tokio::test]
    async fn users_see_and_take_back_what_they_agreed_to_themselves() {
        let given = given().await;
        let (ann, ben) = (person(1, "ann"), person(2, "ben"));
        for (client, who) in [("a", &ann), ("b", &ann), ("a", &ben)] {
            given.consent(client, who).await;
        }
        let (of_a, of_b) = (given.grant("a", &ann, None).await, given.grant("b", &ann, None).await);
        let (of_cli, of_ben) =
            (given.grant("portcullis-cli", &ann, None).await, given.grant("a", &ben, None).await);
        let (of_local, of_browser) =
            (given.grant("local", &ann, None).await, given.grant(BROWSER_CLIENT, &ann, None).await);
        let own = given.call::<ListOauthConsents>(json!({}), &user("1")).await.expect("listed");
        assert_eq!(own["pagination"]["total"], 2);
        assert!(own["consents"].as_array().expect("a list").iter().all(|one| one["user_id"] == "1"), "{own}");
        let narrowed = json!({ "user_id": "1", "client_id": "a" });
        let own = given.call::<ListOauthConsents>(narrowed, &user("1")).await.expect("listed");
        assert_eq!(own["pagination"]["total"], 1);
        assert_eq!(
            given.ask::<ListOauthConsents>(json!({ "client_id": "a" })).await["pagination"]["total"],
            2
        );

        let others = json!({ "user_id": "2" });
        let seen = given.call::<ListOauthConsents>(others.clone(), &user("1")).await;
        let taken = given.call::<WithdrawOauthConsents>(others, &user("1")).await;
        assert!(matches!((seen, taken), (Err(Error::Forbidden { .. }), Err(Error::Forbidden { .. }))));

        let client = json!({ "client_id": "a" });
        let done = given.call::<WithdrawOauthConsents>(client, &user("1")).await.expect("withdrawn");
        assert_eq!((&done["consents_withdrawn"], &done["grants_revoked"]), (&json!(1), &json!(1)));
        assert!(given.is_revoked(&of_a) && !given.is_revoked(&of_b) && !given.is_revoked(&of_ben));
        let done = given.call::<WithdrawOauthConsents>(json!({}), &user("1")).await.expect("withdrawn");
        assert_eq!((&done["consents_withdrawn"], &done["grants_revoked"]), (&json!(1), &json!(2)));
        assert!(
            given.is_revoked(&of_b) && given.is_revoked(&of_local),
            "with a consent that is kept or without"
        );
        assert!(!given.is_revoked(&of_cli) && !given.is_revoked(&of_browser) && !given.is_revoked(&of_ben));
        assert_eq!(given.ask::<ListOauthConsents>(json!({})).await["pagination"]["total"], 1);
    }

    #[tokio::test]
    async fn the_same_subject_of_another_issuer_is_somebody_else() {
        let given = given().await;
        given.consent("a", &person(1, "ann")).await;
        let foreign = Principal {
            subject: "1".into(),
            foreign: true,
            scopes: vec!["user".into()],
            ..Principal::default()
        };
        let foreign = Context::of(Caller::Principal(Arc::new(foreign)));
        let seen = given.call::<ListOauthConsents>(json!({}), &foreign).await;
        let taken = given.call::<WithdrawOauthConsents>(json!({}), &foreign).await;
        assert!(matches!((seen, taken), (Err(Error::Forbidden { .. }), Err(Error::Forbidden { .. }))));
        let nobody = given.call::<WithdrawOauthConsents>(json!({}), &Context::of(Caller::Local)).await;
        assert!(matches!(nobody, Err(Error::Invalid(_))), "{nobody:?}");
        let done = given.ask::<WithdrawOauthConsents>(json!({ "user_id": "1" })).await;
        assert_eq!(done["consents_withdrawn"], 1);
    }
}
