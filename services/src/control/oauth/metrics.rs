//! The authorization server in numbers. What there is comes from the records, what happened from the log of events.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::noted::{self, Noted};
use super::paging::{BOUND, walk};
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::logs;
use crate::oauth::authorization_server::BROWSER_CLIENT;
use crate::oauth::clients::REGISTERED;
use crate::oauth::grants::{self, Grant};
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::{Kind, MAX_PAGE, RecordKind};

const HOUR: Duration = Duration::from_secs(3600);

/// When a registration that is not used expires soon.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The errors (RFC 6749, section 5.2) that are told even when nobody made them.
const USUAL: [&str; 3] = ["invalid_client", "invalid_grant", "unauthorized_client"];

/// Adds the operation.
pub fn register(surface: &mut impl Surface) {
    surface.add::<OauthMetrics>();
}

/// Clients.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientCounts {
    /// Those that were set up, and those that registered.
    pub total: u64,
    /// The same without registrations that nobody has used.
    pub active: u64,
    /// Registrations that were used, and end within 30 days if they are not used again.
    pub expiring_soon: u64,
}

/// Access tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AccessCounts {
    /// Those that are kept: the good ones, and those that have ended in the last two minutes.
    pub total: u64,
    /// The good ones.
    pub active: u64,
    /// Those that were issued in the last hour.
    pub issued_last_hour: u64,
    /// Those that were issued so that they ended in the last hour, revoked ones among them.
    pub expired_last_hour: u64,
}

/// Refresh tokens: one for each grant that has one.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RefreshCounts {
    /// Those that are kept: the good ones, and those that have ended in the last two minutes.
    pub total: u64,
    /// The good ones.
    pub active: u64,
    /// How often one was used in the last hour.
    pub used_last_hour: u64,
}

/// Tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TokenCounts {
    /// For resources.
    pub access_tokens: AccessCounts,
    /// For further tokens.
    pub refresh_tokens: RefreshCounts,
}

/// Requests of one kind.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Flow {
    /// How many ended in the last hour.
    pub last_hour: u64,
    /// Their share that went well, 0 to 1; absent when there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<f64>,
    #[serde(skip)]
    good: u64,
}

impl Flow {
    const fn add(&mut self, success: bool) {
        self.last_hour += 1;
        self.good += success as u64;
    }

    fn rated(mut self) -> Self {
        self.success_rate = (self.last_hour > 0).then(|| self.good as f64 / self.last_hour as f64);
        self
    }
}

/// What was asked.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Flows {
    /// Users who were sent by a client or a host: let in, or refused.
    pub authorization_requests: Flow,
    /// Clients at the token endpoint.
    pub token_requests: Flow,
}

/// The authorization server in numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Metrics {
    /// When they were counted.
    pub timestamp: Timestamp,
    /// Clients.
    pub clients: ClientCounts,
    /// Tokens.
    pub tokens: TokenCounts,
    /// Browser sessions at the issuer.
    pub sessions: u64,
    /// What was asked in the last hour.
    pub auth_flows: Flows,
    /// How often each error was answered in the last hour, by code; the usual ones are always there.
    pub errors: BTreeMap<String, u64>,
    /// Set when there was more in the records or the log than is looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// How long access tokens live, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Lives {
    /// Those of clients.
    clients: i64,
    /// Those of browsers on protected hosts.
    browsers: i64,
}

impl Lives {
    /// How long the token lives whose issue an event tells.
    fn of(self, event: &Noted<'_>) -> Option<i64> {
        match event.event_type.as_ref() {
            "token_exchange" | "token_refresh" if event.success => Some(self.clients),
            "auth_complete" if event.success && event.client_id == BROWSER_CLIENT => Some(self.browsers),
            _ => None,
        }
    }
}

/// What the log of events tells.
#[derive(Debug, Default)]
struct Happened {
    flows: Flows,
    errors: BTreeMap<String, u64>,
    issued: u64,
    refreshed: u64,
    expired: u64,
}

impl Happened {
    fn add(&mut self, event: &Noted<'_>, now: i64, lives: Lives) {
        let hour = i64::try_from(HOUR.as_millis()).unwrap_or(i64::MAX);
        let age = now - event.timestamp;
        let life = lives.of(event);
        let issues = life.is_some();
        if life.is_some_and(|life| (life..life + hour).contains(&age)) {
            self.expired += 1;
        }
        if age >= hour {
            return;
        }
        if issues {
            self.issued += 1;
            self.refreshed += u64::from(event.event_type == "token_refresh");
        }
        match event.event_type.as_ref() {
            // What went well is told once, at the end.
            "auth_request" | "auth_callback" | "auth_complete" | "device_complete" => {
                self.flows.authorization_requests.add(event.success);
            }
            "token_exchange" | "token_refresh" => self.flows.token_requests.add(event.success),
            _ => {}
        }
        // Of what went wrong the checks that have failed are told besides.
        if !event.error.is_empty() && !event.is_check() {
            *self.errors.entry(event.error.to_string()).or_default() += 1;
        }
    }
}

/// Show the authorization server in numbers.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct OauthMetrics {}

impl Operation for OauthMetrics {
    const NAME: &'static str = "oauth_metrics";
    const COMMAND: &'static [&'static str] = &["oauth", "metrics"];
    const HTTP: Endpoint = get("/oauth/metrics");
    const SCOPE: Access = Access::Admin;
    type Output = Metrics;

    async fn run(self, control: &Control, _: &Context) -> Result<Metrics, Error> {
        let server = control.oauth()?;
        let timestamp = Timestamp::now();
        let (clients, more_clients) = clients(server, timestamp).await?;
        let access = server.grants.count_access(Filter::All).await?;
        let refresh = server.grants.count_refreshable(None).await?;
        let ended = Ended::read(server, timestamp).await?;
        let (of_clients, of_browsers) = (server.settings.tokens.access, server.settings.host_session);
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2);
        let lives = Lives { clients: milliseconds(of_clients), browsers: milliseconds(of_browsers) };
        let now = i64::try_from(logs::now()).unwrap_or(i64::MAX / 2);
        let mut happened = Happened::default();
        happened.errors.extend(USUAL.map(|code| (code.to_owned(), 0)));
        let since = noted::since(of_clients.max(of_browsers) + HOUR);
        let more_events = noted::scan(control, since, |event| {
            happened.add(event, now, lives);
            ControlFlow::Continue(())
        })
        .await?;
        let Happened { flows, errors, issued, refreshed, expired } = happened;
        Ok(Metrics {
            timestamp,
            clients,
            tokens: TokenCounts {
                access_tokens: AccessCounts {
                    total: access,
                    active: access.saturating_sub(ended.access),
                    issued_last_hour: issued,
                    expired_last_hour: expired,
                },
                refresh_tokens: RefreshCounts {
                    total: refresh,
                    active: refresh.saturating_sub(ended.refresh),
                    used_last_hour: refreshed,
                },
            },
            sessions: server.sessions.count(Filter::All).await?,
            auth_flows: Flows {
                authorization_requests: flows.authorization_requests.rated(),
                token_requests: flows.token_requests.rated(),
            },
            errors,
            truncated: more_clients || more_events || ended.truncated,
        })
    }
}

/// What has ended and is still kept.
#[derive(Debug, Default)]
struct Ended {
    access: u64,
    refresh: u64,
    /// Whether there was more than was looked at.
    truncated: bool,
}

impl Ended {
    async fn read(server: &AuthorizationServer, now: Timestamp) -> Result<Self, Error> {
        let (mut access, mut refresh) = (0, 0);
        let tokens = |after| server.grants.list_access(Filter::All, after, MAX_PAGE);
        let more_tokens = walk(tokens, |token: grants::Access| {
            access += u64::from(token.expires_at <= now);
            ControlFlow::Continue(())
        });
        let more_tokens = more_tokens.await?;
        let grants = |after| server.grants.list_refreshable(None, after, MAX_PAGE);
        let more_grants = walk(grants, |grant: Grant| {
            refresh += u64::from(server.grants.ends(&grant) <= now);
            ControlFlow::Continue(())
        });
        let more_grants = more_grants.await?;
        Ok(Self { access, refresh, truncated: more_tokens || more_grants })
    }
}

async fn clients(server: &AuthorizationServer, now: Timestamp) -> Result<(ClientCounts, bool), Error> {
    let store = server.mirror.store();
    let set_up = server.clients.built_in().len() + store.list(Kind::Client).await?.len();
    let registered = store.count_records(RecordKind::Client, Some(REGISTERED)).await?;
    let (mut used, mut expiring_soon) = (0, 0);
    let (mut after, mut seen) = (None, 0);
    let truncated = loop {
        let (page, next) = server.registrations.list(after.as_deref(), MAX_PAGE, now).await?;
        seen += page.len();
        for client in page.iter().filter(|client| client.used_at.is_some()) {
            used += 1;
            expiring_soon += u64::from(client.expires_at.duration_since(now) <= SOON);
        }
        after = next;
        if after.is_none() || seen >= BOUND {
            break after.is_some();
        }
    };
    let set_up = set_up as u64;
    Ok((ClientCounts { total: set_up + registered, active: set_up + used, expiring_soon }, truncated))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::oauth::testing::{given, person};
    use crate::oauth::authorization_server::Event;

    #[tokio::test]
    async fn figures_are_those_of_the_records_and_of_the_last_hour() {
        let given = given().await;
        let who = person(1, "ann");
        let session = given.session(&who).await;
        given.grant("c", &who, Some(&session)).await;
        let cookie = "https://app.example.com/.portcullis/session";
        given.granted("portcullis-browser", &who, Some(&session), cookie).await.expect("granted");
        let event = |kind, error| Event { kind, error, ..Event::default() };
        given
            .note(&[
                event("auth_complete", None),
                event("user_check", Some("access_denied")),
                event("auth_request", Some("access_denied")),
                event("token_exchange", None),
                event("token_refresh", None),
                event("client_auth", Some("invalid_client")),
                event("token_exchange", Some("invalid_client")),
                event("token_exchange", Some("invalid_client")),
                event("pkce_validation", Some("invalid_grant")),
                event("device_poll", None),
                event("token_validation", Some("invalid_token")),
            ])
            .await;
        let metrics = given.ask::<OauthMetrics>(json!({})).await;
        assert_eq!(metrics["clients"], json!({ "total": 2, "active": 2, "expiring_soon": 0 }));
        let access = json!({ "total": 2, "active": 2, "issued_last_hour": 2, "expired_last_hour": 0 });
        assert_eq!(metrics["tokens"]["access_tokens"], access);
        assert_eq!(
            metrics["tokens"]["refresh_tokens"],
            json!({ "total": 1, "active": 1, "used_last_hour": 1 })
        );
        assert_eq!(metrics["sessions"], 1);
        assert_eq!(
            metrics["auth_flows"],
            json!({
                "authorization_requests": { "last_hour": 2, "success_rate": 0.5 },
                "token_requests": { "last_hour": 4, "success_rate": 0.5 },
            })
        );
        let errors =
            json!({ "access_denied": 1, "invalid_client": 2, "invalid_grant": 0, "unauthorized_client": 0 });
        assert_eq!(metrics["errors"], errors);
    }

    #[test]
    fn what_was_issued_a_life_ago_has_expired() {
        let mut happened = Happened::default();
        let (now, lives) = (100_000_000, Lives { clients: 1_800_000, browsers: 7_200_000 });
        for age in [0, 1_799_999, 1_800_000, 5_399_999, 5_400_000] {
            let event = Noted {
                timestamp: now - age,
                event_type: "token_exchange".into(),
                success: true,
                ..Noted::default()
            };
            happened.add(&event, now, lives);
        }
        assert_eq!((happened.issued, happened.expired), (3, 2));
        let mut happened = Happened::default();
        for (age, client_id) in [(0, BROWSER_CLIENT), (0, "c"), (7_200_000, BROWSER_CLIENT), (7_200_000, "c")]
        {
            let event = Noted {
                timestamp: now - age,
                event_type: "auth_complete".into(),
                success: true,
                client_id: client_id.into(),
                ..Noted::default()
            };
            happened.add(&event, now, lives);
        }
        assert_eq!((happened.issued, happened.expired), (1, 1), "a browser's token is issued with its login");
    }
}
