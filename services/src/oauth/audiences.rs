//! What tokens can be for: the resources of this deployment, and what its lists give a person there.
//!
//! It answers the questions of a login: is there such a resource, whose is it, who may have which
//! scopes. The same lists are asked again at each request, by the layers; what is decided here only
//! keeps people from going on who would be refused there.

use std::collections::BTreeSet;
use std::sync::Arc;

use portcullis_layers::allowlist::Allowlist;
use portcullis_layers::auth::Grants as Lists;
use portcullis_layers::users::Users;
use portcullis_layers::{HostName, Principal};
use smol_str::SmolStr;

use super::server::resource::Resource;
use super::server::scope::{OFFLINE_ACCESS, OPENID};
use super::state::Identity;
use crate::config::access::{Access, Site, access};
use crate::config::auth::{RouteAuth, RouteAuthType};
use crate::config::names::GithubClientId;
use crate::config::view::View;
use crate::config::{Builtin, Config, Proxy, Target, Token};

/// Scopes about the person rather than a resource (OpenID Connect Core 1.0, section 5.4): whoever signs in
/// may give them.
const PERSONAL: [&str; 4] = [OPENID, "profile", "email", OFFLINE_ACCESS];

/// The scopes that lists of users give.
const LISTED: [&str; 3] = ["admin", "user", "mcp"];

/// The resources of a deployment, as its configuration is at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Audiences {
    site: Site,
    view: Arc<View>,
}

/// A resource, and who may do what there.
#[derive(Debug, Clone)]
pub(crate) struct AudienceHost {
    /// The resource in our own spelling: what stands in `aud`.
    pub(crate) resource: String,
    /// The host that it is on; none for the issuer itself.
    pub(crate) host: Option<HostName>,
    /// The document of that host.
    pub(crate) proxy: Option<Arc<Proxy>>,
    /// Who may have what: by the rules of the host, and of routes that have their own.
    rules: Vec<Rule>,
}

/// Whom a host, or a route of it, lets in, and what it gives them.
#[derive(Debug, Clone)]
struct Rule {
    lists: Arc<Lists>,
    admitted: Allowlist,
}

impl Audiences {
    pub(crate) const fn new(site: Site, view: Arc<View>) -> Self {
        Self { site, view }
    }

    /// The resource that a URI names, if tokens can be for it.
    pub(crate) fn find(&self, wanted: &Resource) -> Option<AudienceHost> {
        if Resource::parse(&self.site.issuer).is_ok_and(|issuer| issuer == *wanted) {
            return Some(self.issuer());
        }
        let authority = wanted.authority().filter(|_| wanted.scheme() == "https")?;
        let host = authority.strip_suffix(self.site.port_suffix.as_str())?;
        let found = self.of_host(&host.parse().ok()?)?;
        let same = |text: &str| Resource::parse(text).is_ok_and(|own| own == *wanted);
        if same(&found.resource) {
            return Some(found);
        }
        // Another resource on the same host, which an administrator has named there.
        let listed = found.proxy.as_ref()?.auth_allowed_audiences.iter().flatten();
        let resource = listed.into_iter().find(|text| same(text))?.clone();
        Some(AudienceHost { resource, ..found })
    }

    /// The resource that a host is.
    pub(crate) fn of_host(&self, host: &HostName) -> Option<AudienceHost> {
        self.of_proxy(self.view.config.proxy_of(host)?, host)
    }

    fn of_proxy(&self, proxy: &Arc<Proxy>, host: &HostName) -> Option<AudienceHost> {
        if !proxy.enabled {
            return None;
        }
        let config = &self.view.config;
        let tokens: Vec<Arc<Token>> = config.tokens.values().cloned().collect();
        let routes =
            config.routes.values().filter(|route| route.enabled && route.is_for(&proxy.proxy_hostname));
        let own = routes.filter_map(|route| route.own_auth());
        let own: Vec<&RouteAuth> = own.filter(|auth| auth.auth_type != RouteAuthType::None).collect();
        if !proxy.auth_enabled && own.is_empty() {
            // Nobody asks for a token there.
            return None;
        }
        let anywhere = RouteAuth { auth_type: RouteAuthType::Bearer, ..RouteAuth::default() };
        // Where the host itself is open, its lists are for nothing.
        let host_wide = proxy.auth_enabled.then_some(&anywhere);
        let mut rules = Vec::new();
        for auth in host_wide.into_iter().chain(own) {
            if let Access::Protected(policy, admitted) = access(&self.site, proxy, Some(auth), &tokens, host)
            {
                rules.push(Rule { lists: policy.grants.unwrap_or_default(), admitted });
            }
        }
        if rules.is_empty() {
            return None;
        }
        Some(AudienceHost {
            resource: self.site.resource(proxy, host),
            host: Some(host.clone()),
            proxy: Some(Arc::clone(proxy)),
            rules,
        })
    }

    /// All resources that hosts are, and the issuer. Of a wildcard there is one for all names below it.
    pub(crate) fn all(&self) -> impl Iterator<Item = AudienceHost> {
        let hosts = self.view.config.proxies.values().filter_map(|proxy| {
            let name = &proxy.proxy_hostname;
            let below = || format!("any.{}", name.wildcard_parent()?).parse().ok();
            self.of_proxy(proxy, &name.host().or_else(below)?)
        });
        std::iter::once(self.issuer()).chain(hosts)
    }

    /// The configuration that they are of.
    pub(crate) fn config(&self) -> &Config {
        &self.view.config
    }

    /// The resource that a request implies when it names none: the host where it came in, if that is a
    /// resource; who only wants to know who somebody is gets the issuer; all others our own API.
    pub(crate) fn implied(&self, host: Option<&HostName>, identity_only: bool) -> Option<AudienceHost> {
        if let Some(found) = host.and_then(|host| self.of_host(host)) {
            return Some(found);
        }
        if identity_only {
            return Some(self.issuer());
        }
        let api = self.view.config.proxies.values().filter(|proxy| proxy.enabled);
        let api = api.filter(|proxy| proxy.target_url == Target::Builtin(Builtin::Api));
        api.filter_map(|proxy| self.of_host(&proxy.proxy_hostname.host()?)).next()
    }

    /// Whether a list somewhere asks for groups, so that a login has to ask for them.
    pub(crate) fn need_groups(&self) -> bool {
        let config = &self.view.config;
        let routes = config.routes.values().filter_map(|route| route.auth_config.as_ref());
        config.proxies.values().any(|proxy| proxy.auth_required_groups.is_some())
            || routes.into_iter().any(|auth| auth.allowed_groups.is_some())
    }

    /// The issuer as a resource: its own `/userinfo`, for who is on a list of the deployment.
    fn issuer(&self) -> AudienceHost {
        let defaults = &self.site.defaults;
        let allowed = Users::union([&defaults.admin, &defaults.user, &defaults.mcp]);
        AudienceHost {
            resource: self.site.issuer.clone(),
            host: None,
            proxy: None,
            rules: vec![Rule {
                lists: Arc::default(),
                admitted: Allowlist { users: Some(allowed), ..Allowlist::default() },
            }],
        }
    }
}

impl Rule {
    fn admits(&self, principal: &Principal) -> bool {
        self.admitted.check_identity(principal).is_ok()
    }
}

impl AudienceHost {
    /// Whether somebody may use it, or a part of it.
    pub(crate) fn admits(&self, principal: &Principal) -> bool {
        self.rules.iter().any(|rule| rule.admits(principal))
    }

    /// Whether somebody may use it if they are in the right groups, of which nothing is known yet.
    pub(crate) fn could_admit(&self, principal: &Principal) -> bool {
        let admits =
            |list: &Allowlist| Allowlist { groups: None, ..list.clone() }.check_identity(principal).is_ok();
        self.rules.iter().any(|rule| admits(&rule.admitted))
    }

    /// Whether a scope means something here.
    pub(crate) fn knows(&self, scope: &str) -> bool {
        PERSONAL.contains(&scope)
            || self.proxy.is_some() && LISTED.contains(&scope)
            || self.rules.iter().any(|rule| rule.lists.free.iter().any(|own| own.name == scope))
    }

    /// Whether somebody may have a scope here.
    pub(crate) fn gives(&self, principal: &Principal, scope: &str) -> bool {
        let given = |rule: &Rule| rule.admits(principal) && rule.lists.give(principal, scope);
        PERSONAL.contains(&scope) || self.rules.iter().any(given)
    }

    /// What is asked for by who names no scope: what the host publishes.
    pub(crate) fn usual_scopes(&self) -> Vec<String> {
        let Some(proxy) = &self.proxy else { return vec![OPENID.to_owned()] };
        let published = proxy.resource_scopes.iter().flatten().map(ToString::to_string);
        let required = proxy.required_scopes().into_iter().map(|scope| scope.to_string());
        let all: BTreeSet<String> = published.chain(required).collect();
        all.into_iter().collect()
    }

    /// The GitHub app of its own, if it has one.
    pub(crate) fn app(&self) -> Option<&str> {
        self.proxy.as_ref()?.github_client_id.as_ref().map(GithubClientId::as_str)
    }

    /// Whether its upstream is told who somebody is.
    pub(crate) fn announces(&self) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.auth_pass_headers || proxy.auth_identity_jwt)
    }

    /// Whether a token has to say an e-mail address here: a list asks for it, or the upstream is told.
    pub(crate) fn needs_email(&self) -> bool {
        self.announces() || self.rules.iter().any(|rule| rule.admitted.emails.is_some())
    }

    /// The groups that its lists ask for, in lower case.
    pub(crate) fn groups(&self) -> impl Iterator<Item = String> {
        self.rules
            .iter()
            .flat_map(|rule| rule.admitted.groups.iter().flatten())
            .map(|group| group.to_ascii_lowercase())
    }
}

/// A person as the layers would see them: without scopes, which are what is to be found out, and without groups, which
/// differ from host to host.
pub(crate) fn principal(identity: &Identity, issuer: &str) -> Principal {
    Principal {
        issuer: issuer.into(),
        subject: SmolStr::new(&identity.subject),
        username: Some(SmolStr::new(&identity.login)),
        email: identity.emails.first().map(SmolStr::new),
        name: identity.name.as_deref().map(SmolStr::new),
        ..Principal::default()
    }
}
