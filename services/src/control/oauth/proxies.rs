//! Hosts as the authorization server sees them: who is signed in there, and whether that works.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::auth::SESSION_PATH;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::events;
use super::health::issuer_host;
use super::paging::{self, Pagination, Paging, fill};
use crate::config::auth::AuthMode;
use crate::config::{HostPattern, Proxy};
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::grants::Grant;
use crate::oauth::{AuthorizationServer, Filter};
use crate::store::MAX_PAGE;

/// How far back events count.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// Adds the operations of hosts.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ListOauthProxies>();
    surface.add::<OauthSessionsOfProxy>();
}

/// A host.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ProxyEntry {
    /// Its name.
    pub proxy_hostname: HostPattern,
    /// Whether a token is needed there.
    pub auth_enabled: bool,
    /// What happens there without one.
    pub auth_mode: AuthMode,
    /// The host where its users sign in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_proxy: Option<HostName>,
    /// How many browsers have a session there. Of a wildcard nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_sessions: Option<u64>,
    /// How many grants for its resource have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_grants: Option<u64>,
    /// How often somebody was refused in the last 24 hours.
    pub recent_auth_failures: u64,
    /// When somebody was last let in or given a token, in the last 24 hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_auth_success: Option<Timestamp>,
}

/// The hosts in numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxySummary {
    /// All of them.
    pub total_proxies: usize,
    /// Those that need a token.
    pub auth_enabled_proxies: usize,
    /// Those of this page where a browser has a session, or a client a grant.
    pub proxies_with_active_sessions: usize,
}

/// A page of hosts.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxyPage {
    /// The hosts, by name.
    pub proxies: Vec<ProxyEntry>,
    /// Which page.
    pub pagination: Pagination,
    /// All of them in numbers.
    pub summary: ProxySummary,
    /// Set when there were more events than are looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// List the hosts, with who is signed in there.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListOauthProxies {
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

/// What happened at a host.
#[derive(Debug, Default)]
struct Happened {
    failures: u64,
    last_success: Option<Timestamp>,
}

impl Operation for ListOauthProxies {
    const NAME: &'static str = "list_oauth_proxies";
    const COMMAND: &'static [&'static str] = &["oauth", "proxy", "list"];
    const HTTP: Endpoint = get("/oauth/proxies");
    const SCOPE: Access = Access::Admin;
    type Output = ProxyPage;

    async fn run(self, control: &Control, _: &Context) -> Result<ProxyPage, Error> {
        let server = control.oauth()?;
        let paging = Paging::new(self.page, self.per_page)?;
        let mut happened: BTreeMap<String, Happened> = BTreeMap::new();
        let truncated = events::scan(control, events::since(RECENT), |event| {
            if !event.proxy_hostname.is_empty() {
                let host = happened.entry(event.proxy_hostname.to_string()).or_default();
                match event.event_type.as_ref() {
                    _ if !event.success => host.failures += 1,
                    "auth_complete" | "token_exchange" | "token_refresh" => {
                        host.last_success = host.last_success.or_else(|| event.at());
                    }
                    _ => {}
                }
            }
            ControlFlow::Continue(())
        })
        .await?;
        let config = control.config().await?;
        let auth_enabled_proxies = config.proxies.values().filter(|proxy| proxy.auth_enabled).count();
        let total_proxies = config.proxies.len();
        let (page, pagination) = paging.cut(config.proxies.values().collect(), false);
        let mut proxies = Vec::with_capacity(page.len());
        for proxy in page {
            proxies.push(entry(control, server, proxy, &happened).await?);
        }
        let used = |proxy: &&ProxyEntry| {
            proxy.active_sessions.unwrap_or_default() + proxy.active_grants.unwrap_or_default() > 0
        };
        let summary = ProxySummary {
            total_proxies,
            auth_enabled_proxies,
            proxies_with_active_sessions: proxies.iter().filter(used).count(),
        };
        Ok(ProxyPage { proxies, pagination, summary, truncated })
    }
}

async fn entry(
    control: &Control,
    server: &AuthorizationServer,
    proxy: &Proxy,
    happened: &BTreeMap<String, Happened>,
) -> Result<ProxyEntry, Error> {
    let name = &proxy.proxy_hostname;
    let (mut active_sessions, mut active_grants) = (None, None);
    if let (Some(host), Some(resource)) = (name.host(), control.resource_of(proxy)) {
        let sessions = session_resource(server, &host);
        active_sessions = Some(server.host_grants.count(Filter::Resource(&sessions)).await?);
        active_grants = Some(server.grants.count(Filter::Resource(&resource)).await?);
    }
    let of_host = happened.iter().filter(|(host, _)| host.parse().is_ok_and(|host| name.covers(&host)));
    let (mut failures, mut last_auth_success) = (0, None);
    for (_, happened) in of_host {
        failures += happened.failures;
        last_auth_success = last_auth_success.max(happened.last_success);
    }
    Ok(ProxyEntry {
        proxy_hostname: name.clone(),
        auth_enabled: proxy.auth_enabled,
        auth_mode: proxy.auth_mode,
        auth_proxy: proxy.auth_enabled.then(|| issuer_host(server)).flatten(),
        active_sessions,
        active_grants,
        recent_auth_failures: failures,
        last_auth_success,
    })
}

/// What the cookies of a host are for.
fn session_resource(server: &AuthorizationServer, host: &HostName) -> String {
    format!("{}{SESSION_PATH}", server.site.origin(host.as_str()))
}

/// A browser's session on a host.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HostSession {
    /// Its grant: what ends this session alone.
    pub grant_id: String,
    /// The session at the issuer that it came of, and ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The numeric id of the person.
    pub user_id: String,
    /// The login name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl From<Grant> for HostSession {
    fn from(grant: Grant) -> Self {
        let (username, email) = match grant.identity {
            Some(identity) => (Some(identity.login), identity.emails.into_iter().next()),
            None => (None, None),
        };
        Self {
            grant_id: grant.id,
            session_id: grant.session,
            user_id: grant.subject,
            username,
            email,
            created_at: grant.created_at,
            expires_at: grant.expires_at,
        }
    }
}

/// A page of the sessions on a host.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HostSessionPage {
    /// The host.
    pub proxy_hostname: HostName,
    /// The sessions, newest first.
    pub sessions: Vec<HostSession>,
    /// How many there are.
    pub total_sessions: u64,
    /// Which page.
    pub pagination: Pagination,
}

/// List the browsers that have a session on a host.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct OauthSessionsOfProxy {
    /// The host.
    pub proxy_hostname: HostName,
    /// Which page.
    #[serde(default = "paging::first")]
    #[arg(long, default_value_t = 1)]
    pub page: u32,
    /// How many on a page, 1 to 100.
    #[serde(default = "paging::fifty")]
    #[arg(long, default_value_t = 50)]
    pub per_page: u32,
}

impl Operation for OauthSessionsOfProxy {
    const NAME: &'static str = "oauth_sessions_of_proxy";
    const COMMAND: &'static [&'static str] = &["oauth", "proxy", "sessions"];
    const HTTP: Endpoint = get("/oauth/proxies/{proxy_hostname}/sessions");
    const SCOPE: Access = Access::Admin;
    type Output = HostSessionPage;

    async fn run(self, control: &Control, _: &Context) -> Result<HostSessionPage, Error> {
        let server = control.oauth()?;
        let host = self.proxy_hostname;
        let config = control.config().await?;
        if config.proxy_of(&host).is_none() {
            return Err(Error::NotFound { what: "proxy", id: host.to_string() });
        }
        let resource = session_resource(server, &host);
        let filter = Filter::Resource(&resource);
        let mut window = Paging::new(self.page, self.per_page)?.window();
        let total_sessions = server.host_grants.count(filter).await?;
        let read = |after| server.host_grants.list(filter, after, MAX_PAGE);
        let truncated =
            fill(&mut window, Some(total_sessions), read, |grant: Grant| Some(grant.into())).await?;
        let (sessions, pagination) = window.counted(truncated);
        Ok(HostSessionPage { proxy_hostname: host, sessions, total_sessions, pagination })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::oauth::testing::{RESOURCE, admin, given, person};
    use crate::oauth::authorization_server::Event;

    #[tokio::test]
    async fn hosts_are_listed_with_who_is_signed_in_there() {
        let given = given().await;
        given.proxy("app.example.com").await;
        given.proxy("*.example.org").await;
        let who = person(1, "ann");
        let session = given.session(&who).await;
        given.grant("c", &who, Some(&session)).await;
        let cookie = format!("{RESOURCE}/.portcullis/session");
        let of_host =
            given.granted("portcullis-browser", &who, Some(&session), &cookie).await.expect("granted");
        let event = |kind, error, host| Event { kind, error, host: Some(host), ..Event::default() };
        given
            .note(&[
                event("auth_complete", None, "app.example.com"),
                event("user_check", Some("access_denied"), "a.example.org"),
                event("user_check", Some("access_denied"), "b.example.org"),
            ])
            .await;
        let page = given.ask::<ListOauthProxies>(json!({})).await;
        let summary = json!({
            "total_proxies": 2, "auth_enabled_proxies": 2, "proxies_with_active_sessions": 1,
        });
        assert_eq!(page["summary"], summary);
        let find = |name: &str| {
            let all = page["proxies"].as_array().expect("a list");
            all.iter().find(|one| one["proxy_hostname"] == name).expect("there")
        };
        let app = find("app.example.com");
        assert_eq!((&app["active_sessions"], &app["active_grants"]), (&json!(1), &json!(1)));
        assert_eq!(app["auth_proxy"], "auth.example.com");
        assert!(app["last_auth_success"].is_string() && app["recent_auth_failures"] == 0, "{app}");
        let wildcard = find("*.example.org");
        assert_eq!((wildcard.get("active_sessions"), &wildcard["recent_auth_failures"]), (None, &json!(2)));

        let page = given.ask::<OauthSessionsOfProxy>(json!({ "proxy_hostname": "app.example.com" })).await;
        let [shown] = &page["sessions"].as_array().expect("a list")[..] else { panic!("{page}") };
        assert_eq!(
            (&shown["grant_id"], &shown["session_id"], &shown["username"], &page["total_sessions"]),
            (&json!(of_host.grant.id), &json!(session.id), &json!("ann"), &json!(1))
        );
        let none = json!({ "proxy_hostname": "none.example" });
        let unknown = given.call::<OauthSessionsOfProxy>(none, &admin()).await;
        assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
    }
}
