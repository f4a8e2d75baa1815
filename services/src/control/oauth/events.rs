//! What happened at the authorization server and at the hosts that it protects: logins, tokens, refusals. A user sees
//! their own, an admin all.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use portcullis_layers::HostName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::noted::{Noted, Requests, scan_with, since};
use super::own_subject;
use super::tokens::is_user;
use crate::config::FieldError;
use crate::control::changes::Form;
use crate::control::operation::get;
use crate::control::{Access, Caller, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::masked::masked;

/// The longest window in hours, 30 days.
const MAX_HOURS: u32 = 720;

/// How many events an answer may have, and has when nobody says.
const MAX_LIMIT: usize = 1000;

/// Adds the operations of events.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthEvents>();
    surface.add::<OauthEventsOfIp>();
    surface.add::<OauthEventsOfProxy>();
    surface.add::<OauthEventsOfUser>();
}

/// Something that happened. Members without a value are left out.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OauthEvent {
    /// When.
    pub timestamp: Timestamp,
    /// What: `auth_request`, `auth_complete`, `token_exchange` …; of a request that a host has refused, the check that
    /// it has failed: `token_validation`, `jwt_decode`, `audience_check`, `scope_check`, `user_check`.
    pub event_type: String,
    /// Whether it went well.
    pub success: bool,
    /// Whose browser or program asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_ip: String,
    /// The host that it was about, or that was asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proxy_hostname: String,
    /// The login name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The subject.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    /// The client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_id: String,
    /// The error code.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What went wrong, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// The id of the request, which its other events have as well, and its record in the log of requests.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
}

impl From<&Noted<'_>> for OauthEvent {
    fn from(event: &Noted<'_>) -> Self {
        Self {
            timestamp: event.at().unwrap_or_default(),
            event_type: event.event_type.to_string(),
            success: event.success,
            client_ip: event.client_ip.to_string(),
            proxy_hostname: event.proxy_hostname.to_string(),
            username: event.username.to_string(),
            user_id: event.subject.to_string(),
            client_id: event.client_id.to_string(),
            error: event.error.to_string(),
            details: masked(&event.message).into_owned(),
            trace_id: event.trace_id.to_string(),
        }
    }
}

/// The newest events that match.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventPage {
    /// How many match in the window.
    pub total: u64,
    /// The newest of them, newest first.
    pub events: Vec<OauthEvent>,
    /// Set when there was more in the log than is looked at: older ones are missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Which events.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// So many hours back from now, 1 to 720; 24 when nothing is said.
    hours: Option<u32>,
    /// How many events at most: 1 to 1000, 1000 when nothing is said.
    limit: Option<usize>,
    /// Only events of this type.
    event_type: Option<String>,
    /// Only those of a client.
    client_id: Option<String>,
    /// Only what failed.
    errors: Option<bool>,
}

impl Selection {
    async fn find(&self, control: &Control, wanted: impl Fn(&Noted<'_>) -> bool) -> Result<EventPage, Error> {
        // Without an authorization server there are no events of it, even if another node has written some.
        control.oauth()?;
        let hours = self.hours.unwrap_or(24);
        if !(1..=MAX_HOURS).contains(&hours) {
            return Err(Error::invalid(FieldError::new("hours", hours, "expected 1 to 720")));
        }
        let limit = self.limit.unwrap_or(MAX_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid(FieldError::new("limit", limit, "expected 1 to 1000")));
        }
        let (mut total, mut events) = (0, Vec::new());
        let window = Duration::from_secs(u64::from(hours) * 3600);
        let truncated = scan_with(control, since(window), Requests::Refused, |event| {
            let fits = self.event_type.as_deref().is_none_or(|kind| kind == event.event_type)
                && self.client_id.as_deref().is_none_or(|client| client == event.client_id)
                && !(self.errors == Some(true) && event.success);
            if fits && wanted(event) {
                total += 1;
                if events.len() < limit {
                    events.push(event.into());
                }
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(EventPage { total, events, truncated })
    }
}

/// List what happened at the authorization server, and what the hosts that it protects have refused.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct ListOauthEvents {
    /// Which events.
    #[serde(flatten)]
    #[command(flatten)]
    pub selection: Form<Selection>,
}

impl Operation for ListOauthEvents {
    const NAME: &'static str = "list_oauth_events";
    const COMMAND: &'static [&'static str] = &["oauth", "event", "list"];
    const HTTP: Endpoint = get("/oauth/events");
    const SCOPE: Access = Access::Admin;
    type Output = EventPage;

    async fn run(self, control: &Control, _: &Context) -> Result<EventPage, Error> {
        self.selection.read()?.find(control, |_| true).await
    }
}

/// List what an address asked of the authorization server, and what hosts have refused it.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct OauthEventsOfIp {
    /// The address.
    pub address: IpAddr,
    /// Which events.
    #[serde(flatten)]
    #[command(flatten)]
    pub selection: Form<Selection>,
}

impl Operation for OauthEventsOfIp {
    const NAME: &'static str = "oauth_events_of_ip";
    const COMMAND: &'static [&'static str] = &["oauth", "event", "ip"];
    const HTTP: Endpoint = get("/oauth/events/ip/{address}");
    const SCOPE: Access = Access::Admin;
    type Output = EventPage;

    async fn run(self, control: &Control, _: &Context) -> Result<EventPage, Error> {
        let address = self.address.to_canonical();
        let of_address = |event: &Noted<'_>| {
            event.client_ip.parse::<IpAddr>().is_ok_and(|client| client.to_canonical() == address)
        };
        self.selection.read()?.find(control, of_address).await
    }
}

/// List what happened at the authorization server about a host, and what the host has refused.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct OauthEventsOfProxy {
    /// The host.
    pub proxy_hostname: HostName,
    /// Which events.
    #[serde(flatten)]
    #[command(flatten)]
    pub selection: Form<Selection>,
}

impl Operation for OauthEventsOfProxy {
    const NAME: &'static str = "oauth_events_of_proxy";
    const COMMAND: &'static [&'static str] = &["oauth", "event", "proxy"];
    const HTTP: Endpoint = get("/oauth/events/proxy/{proxy_hostname}");
    const SCOPE: Access = Access::Admin;
    type Output = EventPage;

    async fn run(self, control: &Control, _: &Context) -> Result<EventPage, Error> {
        let host = self.proxy_hostname.as_str();
        self.selection.read()?.find(control, |event| event.proxy_hostname == host).await
    }
}

/// List what a user did at the authorization server, and was refused by hosts: yourself, or, for admins, anybody.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct OauthEventsOfUser {
    /// The login name, or the numeric id.
    pub user: String,
    /// Which events.
    #[serde(flatten)]
    #[command(flatten)]
    pub selection: Form<Selection>,
}

impl Operation for OauthEventsOfUser {
    const NAME: &'static str = "oauth_events_of_user";
    const COMMAND: &'static [&'static str] = &["oauth", "event", "user"];
    const HTTP: Endpoint = get("/oauth/events/user/{user}");
    const SCOPE: Access = Access::User;
    type Output = EventPage;

    async fn run(self, control: &Control, ctx: &Context) -> Result<EventPage, Error> {
        let selection = self.selection.read()?;
        let Some(own) = own_subject(ctx)? else {
            let user = Some(self.user.as_str());
            return selection
                .find(control, |event| is_user(user, &event.subject, Some(&event.username)))
                .await;
        };
        if !is_own(&ctx.caller, &self.user) {
            return Err(Error::Forbidden { scopes: Access::Admin.scopes().to_vec() });
        }
        // By the numeric id alone: whoever had the login name before is somebody else.
        selection.find(control, |event| event.subject == own).await
    }
}

fn is_own(caller: &Caller, user: &str) -> bool {
    match caller {
        Caller::Principal(principal) => {
            is_user(Some(user), &principal.subject, principal.username.as_deref())
        }
        Caller::Local | Caller::Anonymous => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_layers::Principal;
    use serde_json::{Value, json};

    use super::*;
    use crate::control::oauth::testing::{Given, RESOURCE, admin, given};
    use crate::oauth::authorization_server::Event;

    fn user(subject: &str, username: &str) -> Context {
        Context::of(Caller::Principal(Arc::new(Principal {
            subject: subject.into(),
            username: Some(username.into()),
            scopes: vec!["user".into()],
            ..Principal::default()
        })))
    }

    async fn noted() -> Given {
        let given = given().await;
        let resources = [format!("{RESOURCE}/mcp")];
        let event = |kind, subject, username, ip: &str| Event {
            kind,
            subject: Some(subject),
            username: Some(username),
            client_id: Some("c"),
            host: Some("auth.example.com"),
            client_ip: ip.parse().ok(),
            ..Event::default()
        };
        given
            .note(&[
                Event { resources: &resources, ..event("auth_complete", "1", "ann", "192.0.2.1") },
                event("token_exchange", "1", "ann", "2001:db8::1"),
                // Somebody who has her old login name by now.
                event("auth_complete", "2", "ann", "192.0.2.2"),
                Event {
                    error: Some("invalid_grant"),
                    detail: Some("the code is not known"),
                    ..event("token_exchange", "", "", "192.0.2.2")
                },
            ])
            .await;
        given
    }

    fn kinds(page: &Value) -> Vec<&str> {
        page["events"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["event_type"].as_str())
            .collect()
    }

    #[tokio::test]
    async fn events_are_found_by_what_they_say_newest_first() {
        let given = noted().await;
        let page = given.ask::<ListOauthEvents>(json!({})).await;
        assert_eq!(kinds(&page), ["token_exchange", "auth_complete", "token_exchange", "auth_complete"]);
        let failed = &page["events"][0];
        assert_eq!(
            (&failed["success"], &failed["error"], &failed["details"], failed.get("username")),
            (&json!(false), &json!("invalid_grant"), &json!("the code is not known"), None)
        );
        let page = given.ask::<ListOauthEvents>(json!({ "errors": true })).await;
        assert_eq!((kinds(&page).len(), &page["total"]), (1, &json!(1)));
        let page = given.ask::<ListOauthEvents>(json!({ "limit": 1, "event_type": "auth_complete" })).await;
        assert_eq!((kinds(&page).len(), &page["total"]), (1, &json!(2)));
        let page = given.ask::<OauthEventsOfIp>(json!({ "address": "::ffff:192.0.2.2" })).await;
        assert_eq!(kinds(&page), ["token_exchange", "auth_complete"]);
        let page = given.ask::<OauthEventsOfProxy>(json!({ "proxy_hostname": "app.example.com" })).await;
        assert_eq!(kinds(&page), ["auth_complete"], "the host that it was about");
        let page = given.ask::<OauthEventsOfUser>(json!({ "user": "ANN" })).await;
        assert_eq!(page["total"], 3);
        for (field, value) in [("hours", 0), ("hours", 721), ("limit", 0), ("limit", 1001)] {
            let Err(Error::Invalid(errors)) =
                given.call::<ListOauthEvents>(json!({ field: value }), &admin()).await
            else {
                panic!("{field} {value} must be refused")
            };
            assert_eq!(errors[0].field, field);
        }
    }

    #[tokio::test]
    async fn users_see_their_own_events_and_not_those_of_who_had_their_name() {
        let given = noted().await;
        for name in ["ann", "1"] {
            let own = given.call::<OauthEventsOfUser>(json!({ "user": name }), &user("1", "ann")).await;
            let own = own.expect("listed");
            assert_eq!(kinds(&own), ["token_exchange", "auth_complete"], "{own}");
            assert!(own["events"].as_array().expect("a list").iter().all(|event| event["user_id"] == "1"));
        }
        for (name, ctx) in [("2", user("1", "ann")), ("ben", user("1", "ann")), ("", user("1", "ann"))] {
            let refused = given.call::<OauthEventsOfUser>(json!({ "user": name }), &ctx).await;
            assert!(matches!(refused, Err(Error::Forbidden { .. })), "{name}: {refused:?}");
        }
    }
}
