//! The authorization server: what its endpoints and the operations about it share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use portcullis_layers::auth::Verify;
use serde_json::json;

use super::audiences::Audiences;
use super::clients::{
    AssertionIssuer, Assertions, Authenticator, Client, ClientGrants, ClientRecords, ClientStore, Clients,
    Documents, GrantType, Guard, Registrations, registration,
};
use super::codes::Codes;
use super::consents::Consents;
use super::devices::Devices;
use super::endpoints::Hosts;
use super::github::{Apps, Github};
use super::grants::{self, Ended, Grants};
use super::keys::Keys;
use super::login::Logins;
use super::masked::{masked, without_tokens};
use super::pins::Pins;
use super::revocations::Revocations;
use super::server::metadata::{self, Features, Issuer, ServerMetadata};
use super::server::pages::Site as Pages;
use super::sessions::{self, Sessions};
use super::state::Filter;
use super::upstream_tokens::{HeldTokens, UpstreamTokens};
use super::verifier::Judge;
use crate::config::Config;
use crate::config::access::Site;
use crate::limiter::{Crowd, Limiter};
use crate::logs::{self, Writers};
use crate::mirror::Mirror;
use crate::store;
use crate::vault::Vault;

/// The client of our own command line: first-party, public.
pub const CLI_CLIENT: &str = "portcullis-cli";

/// The name that the older command line had.
const OLD_CLI_CLIENT: &str = "device_flow_client";

/// What the sessions of browsers on protected hosts are granted to.
pub const BROWSER_CLIENT: &str = "portcullis-browser";

/// How the authorization server behaves, as far as deployments differ.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long tokens and grants live.
    pub tokens: grants::Lifetimes,
    /// How long the issuer's own browser sessions live.
    pub sessions: sessions::Lifetimes,
    /// How long a browser's session on a protected host lives before the issuer is asked again.
    pub host_session: Duration,
    /// How long a login may take.
    pub login: Duration,
    /// How long an account's groups are believed that were learned at a login; none for ever.
    pub groups: Option<Duration>,
    /// How registrations are kept and limited; none when clients can't register.
    pub registration: Option<registration::Settings>,
    /// Whether assertions of other issuers (RFC 7523) and token exchange (RFC 8693) are taken.
    pub assertion_grants: bool,
    /// Whose assertions those are. With nobody's there is token exchange alone.
    pub assertion_issuers: Vec<AssertionIssuer>,
}

impl Settings {
    /// Whether a grant is served at all; which clients may use it is another question.
    pub(super) const fn serve(&self, grant: GrantType) -> bool {
        match grant {
            GrantType::JwtBearer => self.assertion_grants && !self.assertion_issuers.is_empty(),
            GrantType::TokenExchange => self.assertion_grants,
            GrantType::AuthorizationCode
            | GrantType::RefreshToken
            | GrantType::DeviceCode
            | GrantType::ClientCredentials => true,
        }
    }
}

/// What the authorization server is made of.
pub struct Parts {
    /// The configuration, and the store below it.
    pub mirror: Mirror,
    /// Seals what is kept.
    pub vault: Arc<Vault>,
    /// What the deployment says about every host.
    pub site: Site,
    /// Who we are.
    pub issuer: Issuer,
    /// Where tokens are revoked.
    pub revocations: Arc<Revocations>,
    /// The keys that sign.
    pub keys: Arc<Keys>,
    /// Judges our own tokens.
    pub verifier: Arc<dyn Verify + Send + Sync>,
    /// Where people sign in.
    pub github: Github,
    /// The apps that we have there.
    pub apps: Apps,
    /// Fetches what strangers name.
    pub guard: Guard,
    /// The log of what happens.
    pub writers: Writers,
    /// The rest.
    pub settings: Settings,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The authorization server.
pub struct AuthorizationServer {
    pub(crate) mirror: Mirror,
    pub(crate) vault: Arc<Vault>,
    pub(crate) site: Site,
    pub(crate) issuer: Issuer,
    pub(crate) settings: Settings,
    pub(crate) grants: Grants,
    /// The sessions of browsers on protected hosts: grants without refresh, which end with the issuer's session.
    pub(crate) host_grants: Grants,
    pub(crate) sessions: Sessions,
    pub(crate) consents: Consents,
    pub(crate) codes: Codes,
    pub(crate) pins: Pins,
    pub(crate) devices: Devices,
    pub(super) logins: Logins,
    pub(crate) clients: Arc<Clients>,
    pub(crate) registrations: Arc<Registrations>,
    pub(crate) authenticator: Authenticator,
    pub(crate) assertions: Arc<Assertions>,
    pub(crate) verifier: Arc<dyn Verify + Send + Sync>,
    pub(crate) github: Github,
    pub(crate) apps: Apps,
    pub(crate) upstream_tokens: UpstreamTokens,
    pub(crate) metadata: ServerMetadata,
    pub(crate) pages: Pages,
    pub(super) limits: Limits,
    pub(super) forward_auth: Hosts,
    /// Judges the tokens that a host takes of other issuers.
    pub(super) judge: Option<Arc<dyn Judge>>,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    keys: ArcSwap<Keys>,
    served: ArcSwapOption<Config>,
    writers: Writers,
}

/// The limits of one network on one node.
#[derive(Debug)]
pub(super) struct Limits {
    /// Logins that are begun.
    pub(super) logins: Crowd,
    /// Device codes that are asked for, and codes that are typed in.
    pub(super) devices: Limiter,
    /// Signed assertions of clients: each is remembered for minutes.
    pub(super) assertions: Limiter,
    /// Documents of clients that have to be fetched: each costs a host that a stranger names.
    pub(super) documents: Limiter,
    /// Logouts.
    pub(super) logouts: Limiter,
    /// Requests to the token endpoint and its like that fail.
    pub(super) failures: Limiter,
    /// Events of checks, which come beside those that tell what came of the request.
    pub(super) checks: Limiter,
    /// Events of failures of nobody that is known.
    pub(super) outcomes: Limiter,
    /// Events of devices that wait.
    pub(super) polls: Limiter,
}

/// Something that happened, for the log of events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Event<'a> {
    /// What.
    pub(crate) kind: &'static str,
    /// The error code, if it went wrong.
    pub(crate) error: Option<&'a str>,
    pub(crate) client_ip: Option<std::net::IpAddr>,
    pub(crate) host: Option<&'a str>,
    /// What it was about, where that is known: the host of the first one is told, rather than the one that was asked.
    pub(crate) resources: &'a [String],
    pub(crate) client_id: Option<&'a str>,
    pub(crate) subject: Option<&'a str>,
    pub(crate) username: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
    /// The id of the request, which its other events and the log of requests have as well.
    pub(crate) request_id: Option<&'a str>,
}

impl AuthorizationServer {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            mirror,
            vault,
            site,
            issuer,
            revocations,
            keys,
            verifier,
            github,
            apps,
            guard,
            writers,
            settings,
        } = parts;
        let store = mirror.store();
        let grants = |lifetimes| Grants::new(Arc::clone(store), Arc::clone(&revocations), lifetimes);
        let of_hosts = grants(grants::Lifetimes { access: settings.host_session, ..settings.tokens });
        let grants = grants(settings.tokens);
        let consents = Consents::new(Arc::clone(store));
        let guard = Arc::new(guard);
        let records: Arc<dyn ClientStore> = Arc::new(ClientRecords::new(Arc::clone(store)));
        let ends = Arc::new(ClientGrants::new(grants.clone(), consents.clone()));
        let endpoint = issuer.endpoint(metadata::path::REGISTER);
        let registering =
            settings.registration.clone().unwrap_or_else(|| registration::Settings::new(&endpoint));
        let registrations = Arc::new(Registrations::new(Arc::clone(&records), ends, registering));
        let documents = Arc::new(Documents::new(Arc::clone(&guard)));
        let loopback = ["http://127.0.0.1/callback", "http://[::1]/callback", "http://localhost/callback"];
        let built_in = [CLI_CLIENT, OLD_CLI_CLIENT].into_iter().map(|id| {
            Client::built_in(id, "portcullis command line", &loopback)
                .expect("loopback URIs are redirect URIs")
        });
        let clients = Arc::new(Clients::new(
            Arc::clone(store),
            Arc::clone(&registrations),
            documents,
            built_in.collect(),
        ));
        // RFC 7523, section 3: the issuer, or the endpoint that the assertion is sent to.
        let audiences = [metadata::path::TOKEN, metadata::path::REVOKE, metadata::path::INTROSPECT];
        let audiences = audiences.iter().map(|path| issuer.endpoint(path));
        let audiences = std::iter::once(issuer.as_str().to_owned()).chain(audiences).collect();
        let assertions = Arc::new(Assertions::new(guard, records, audiences));
        let features = Features {
            scopes: ["openid", "profile", "email", "admin", "user", "mcp"].map(str::to_owned).into(),
            offline_access: false,
            registration: settings.registration.is_some(),
            client_id_metadata_documents: true,
            jwt_bearer: settings.serve(GrantType::JwtBearer),
            token_exchange: settings.serve(GrantType::TokenExchange),
            service_documentation: None,
        };
        let minute = Duration::from_secs(60);
        Self {
            logins: Logins::new(Arc::clone(store), Arc::clone(&vault), settings.login),
            codes: Codes::new(Arc::clone(store)),
            pins: Pins::new(Arc::clone(store)),
            devices: Devices::new(Arc::clone(store)),
            sessions: Sessions::new(Arc::clone(store), settings.sessions),
            upstream_tokens: UpstreamTokens::new(
                Arc::clone(store),
                Arc::clone(&vault),
                settings.tokens.absolute.max(settings.sessions.absolute),
            )
            .held_in(HeldTokens::new(apps.global().ok().map(|app| app.client_id().into()))),
            authenticator: Authenticator::new(Arc::clone(&clients), Arc::clone(&assertions)),
            assertions,
            metadata: ServerMetadata::new(&issuer, &features),
            pages: Pages { product: "Portcullis".to_owned() },
            limits: Limits {
                logins: Crowd::new(60, 6000, 2, minute),
                devices: Limiter::new(20, minute),
                assertions: Limiter::new(300, minute),
                documents: Limiter::new(30, minute),
                logouts: Limiter::new(60, minute),
                failures: Limiter::new(60, minute),
                checks: Limiter::new(60, minute),
                outcomes: Limiter::new(60, minute),
                // Two devices that ask as often as they may.
                polls: Limiter::new(24, minute),
            },
            keys: ArcSwap::new(keys),
            served: ArcSwapOption::empty(),
            host_grants: of_hosts,
            grants,
            consents,
            clients,
            registrations,

            forward_auth: Hosts::default(),
            judge: None,
            clock: Box::new(Timestamp::now),
            verifier,
            github,
            apps,
            mirror,
            vault,
            site,
            issuer,
            settings,
            writers,
        }
    }

    /// GitHub's tokens that upstreams are called with.
    pub fn held_tokens(&self) -> HeldTokens {
        self.upstream_tokens.held().clone()
    }

    /// Answers other proxies by the issuers that each host trusts. Otherwise they are told about our own tokens only.
    #[must_use]
    pub fn judged_by(self, judge: Arc<dyn Judge>) -> Self {
        Self { judge: Some(judge), ..self }
    }

    /// Goes by another clock than the system's. What has ended is then decided by that clock; the store forgets by
    /// its own.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// The time of a request.
    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The keys that sign, at this moment.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    /// Signs with other keys from now on.
    pub fn replace_keys(&self, keys: Arc<Keys>) {
        self.keys.store(keys);
    }

    /// Answers other proxies by this configuration from now on. It is the one that requests are served by: a store
    /// that was replaced is not, until an admin accepts it.
    pub fn serve(&self, config: Arc<Config>) {
        self.served.store(Some(config));
    }

    /// The configuration that requests are served by; what is known of the store where nobody has said.
    pub(super) fn served(&self) -> Option<Arc<Config>> {
        self.served.load_full().or_else(|| Some(Arc::clone(&self.mirror.known()?.config)))
    }

    /// What tokens can be for, as the configuration is now.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub(crate) async fn audiences(&self) -> store::Result<Audiences> {
        Ok(Audiences::new(self.site.clone(), self.mirror.latest().await?))
    }

    /// Ends a session of the issuer, and those that browsers got on hosts because of it. What clients were granted in
    /// it stays: they act for the user, not for the browser. Tells whether there was such a session.
    ///
    /// # Errors
    ///
    /// When the store fails: then it has to be repeated.
    pub(crate) async fn end_session(&self, id: &str, now: Timestamp) -> store::Result<bool> {
        // Before the session: while it is there, what failed halfway can be repeated. And once more after it: then no
        // host gets another one.
        self.end_host_sessions(id, now).await?;
        let ended = self.sessions.revoke(id).await?;
        self.end_host_sessions(id, now).await?;
        self.review_upstream_tokens(Filter::Session(id), now).await?;
        Ok(ended)
    }

    /// Ends the sessions on hosts that came of a session of the issuer; returns how many.
    ///
    /// # Errors
    ///
    /// When the store fails: then it has to be repeated.
    pub(crate) async fn end_host_sessions(&self, id: &str, now: Timestamp) -> store::Result<usize> {
        let of_browser = |grant: &grants::Grant| grant.client.id == BROWSER_CLIENT;
        Ok(self.host_grants.revoke_those(Filter::Session(id), now, of_browser).await?.grants)
    }

    /// Ends all grants of a client, a subject, a session or a resource, those of browsers on hosts among them;
    /// returns how much. What they are of ends first: then none can be added.
    ///
    /// # Errors
    ///
    /// When the store fails: then it has to be repeated.
    pub(crate) async fn end_grants(&self, filter: Filter<'_>, now: Timestamp) -> store::Result<Ended> {
        let mut ended = self.grants.revoke_all(filter, now).await?;
        ended += self.host_grants.revoke_all(filter, now).await?;
        if matches!(filter, Filter::Subject(_) | Filter::Session(_)) {
            self.review_upstream_tokens(filter, now).await?;
        }
        Ok(ended)
    }

    /// Notes something that happened: never a token, a code or a secret. The fields have the names that all logs
    /// have for them.
    pub(crate) fn note(&self, event: &Event<'_>) {
        let now = logs::now();
        let resource = event.resources.first().and_then(|resource| resource.parse::<http::Uri>().ok());
        let host = resource.as_ref().and_then(http::Uri::host).or(event.host);
        let record = json!({
            "timestamp": now,
            "level": if event.error.is_some() { "WARNING" } else { "INFO" },
            "component": "oauth",
            "event_type": event.kind,
            "success": event.error.is_none(),
            "error": event.error.unwrap_or_default(),
            "message": masked(event.detail.unwrap_or_default()),
            "trace_id": event.request_id.unwrap_or_default(),
            "client_ip": event.client_ip.map(|client| client.to_string()).unwrap_or_default(),
            "proxy_hostname": host.unwrap_or_default(),
            "auth_client_id": without_tokens(event.client_id.unwrap_or_default()),
            "auth_user": event.username.unwrap_or_default(),
            "auth_subject": event.subject.unwrap_or_default(),
        });
        if let Err(error) = self.writers.oauth.push_json(now, &record) {
            tracing::error!(kind = event.kind, %error, "an event is lost");
        }
    }
}

impl fmt::Debug for AuthorizationServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationServer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
