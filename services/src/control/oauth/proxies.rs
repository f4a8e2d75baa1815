//! Hosts as the authorization server sees them: who is signed in there, and whether that works.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::auth::SESSION_PATH;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::health::issuer_host;
use super::host_of;
use super::noted::{self, Noted, Requests};
use super::paging::{self, Pagination, Paging, fill, walk};
use crate::config::auth::AuthMode;
use crate::config::{Config, HostPattern, Proxy};
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
    /// How many browsers have a session there: of a wildcard, on all its hosts.
    pub active_sessions: u64,
    /// How many grants for its resource have not ended.
    pub active_grants: u64,
    /// How often somebody was refused in the last 24 hours: by the host, or at the authorization server for it. A request
    /// counts once.
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
    /// Those where a browser has a session, or a client a grant.
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
    /// Set when there were more events or grants than are looked at: of wildcards and in the summary some are missing.
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
    /// The requests to the authorization server that have failed: several events tell of one.
    failed: HashSet<u128>,
}

impl Happened {
    /// Adds an event; newer ones come first.
    fn add(&mut self, event: &Noted<'_>) {
        if !event.success {
            let id = u128::from_str_radix(&event.trace_id, 16).ok().filter(|_| !event.is_request);
            self.failures += u64::from(id.is_none_or(|id| self.failed.insert(id)));
            return;
        }
        let let_in = matches!(&*event.event_type, "auth_complete" | "token_exchange" | "token_refresh");
        if let_in || event.is_request {
            self.last_success = self.last_success.or_else(|| event.at());
        }
    }
}

/// What happened at the hosts in the last time, by the host's document; and whether there was more.
async fn happened<'a>(
    control: &Control,
    config: &'a Config,
) -> Result<(BTreeMap<&'a HostPattern, Happened>, bool), Error> {
    let mut happened: BTreeMap<&HostPattern, Happened> = BTreeMap::new();
    let truncated = noted::scan_with(control, noted::since(RECENT), Requests::Known, |event| {
        let host = event.proxy_hostname.parse().ok();
        if let Some(proxy) = host.and_then(|host: HostName| config.proxy_of(&host)) {
            happened.entry(&proxy.proxy_hostname).or_default().add(event);
        }
        ControlFlow::Continue(())
    });
    let truncated = truncated.await?;
    Ok((happened, truncated))
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
        let config = control.config().await?;
        let (happened, truncated) = happened(control, &config).await?;
        let auth_enabled_proxies = config.proxies.values().filter(|proxy| proxy.auth_enabled).count();
        let total_proxies = config.proxies.len();
        let (in_use, more_grants) = in_use(server, &config).await?;
        let (page, pagination) = paging.cut(config.proxies.values().collect(), false);
        let mut proxies = Vec::with_capacity(page.len());
        for proxy in page {
            let happened = happened.get(&proxy.proxy_hostname);
            proxies.push(entry(control, server, proxy, happened, &in_use).await?);
        }
        let summary =
            ProxySummary { total_proxies, auth_enabled_proxies, proxies_with_active_sessions: in_use.len() };
        Ok(ProxyPage { proxies, pagination, summary, truncated: truncated || more_grants })
    }
}

/// What was granted for a host and has not ended.
#[derive(Debug, Default)]
struct InUse {
    sessions: u64,
    grants: u64,
}

/// The hosts for which something is granted, and whether there was more than was looked at.
async fn in_use<'a>(
    server: &AuthorizationServer,
    config: &'a Config,
) -> Result<(BTreeMap<&'a HostPattern, InUse>, bool), Error> {
    let mut found: BTreeMap<&HostPattern, InUse> = BTreeMap::new();
    let grants = |after| server.grants.list(Filter::All, after, MAX_PAGE);
    let more = walk(grants, |grant: Grant| {
        for resource in &grant.resources {
            let proxy = host_of(resource).and_then(|host| config.proxy_of(&host));
            let Some(proxy) = proxy else { continue };
            let of_host = found.entry(&proxy.proxy_hostname).or_default();
            if resource.ends_with(SESSION_PATH) {
                of_host.sessions += 1;
            } else {
                of_host.grants += 1;
            }
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok((found, more))
}

async fn entry(
    control: &Control,
    server: &AuthorizationServer,
    proxy: &Proxy,
    happened: Option<&Happened>,
    in_use: &BTreeMap<&HostPattern, InUse>,
) -> Result<ProxyEntry, Error> {
    let name = &proxy.proxy_hostname;
    let walked = in_use.get(name);
    let (mut active_sessions, mut active_grants) =
        walked.map_or((0, 0), |of_host| (of_host.sessions, of_host.grants));
    // Of a host that has one name the store has a count, however many grants there are.
    if let (Some(host), Some(resource)) = (name.host(), control.resource_of(proxy)) {
        let sessions = session_resource(server, &host);
        active_sessions = server.host_grants.count(Filter::Resource(&sessions)).await?;
        active_grants = server.grants.count(Filter::Resource(&resource)).await?;
    }
    Ok(ProxyEntry {
        proxy_hostname: name.clone(),
        auth_enabled: proxy.auth_enabled,
        auth_mode: proxy.auth_mode,
        auth_proxy: proxy.auth_enabled.then(|| issuer_host(server)).flatten(),
        active_sessions,
        active_grants,
        recent_auth_failures: happened.map_or(0, |happened| happened.failures),
        last_auth_success: happened.and_then(|happened| happened.last_success),
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
        let below = "https://b.example.org";
        given.granted("c", &who, Some(&session), below).await.expect("granted");
        given
            .granted("portcullis-browser", &who, Some(&session), &format!("{below}/.portcullis/session"))
            .await
            .expect("granted");
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
            "total_proxies": 2, "auth_enabled_proxies": 2, "proxies_with_active_sessions": 2,
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
        assert_eq!((&wildcard["active_sessions"], &wildcard["active_grants"]), (&json!(1), &json!(1)));
        assert_eq!(wildcard["recent_auth_failures"], 2);
        // The summary is of all hosts, whatever is on the page.
        let second = given.ask::<ListOauthProxies>(json!({ "page": 2, "per_page": 1 })).await;
        assert_eq!(second["summary"], summary);

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
