//! The configuration model: every document, parsed, at one moment.
//!
//! Documents are data until here; whatever leaves this module has a type. A document that can't
//! be read becomes a [`Problem`] and disables only itself. This module reads no store and decides
//! nothing about requests.

pub mod access;
pub mod address;
pub mod auth;
pub mod balancing;
pub mod certificate;
pub mod external;
pub mod field;
pub mod headers;
pub mod names;
pub mod origins;
pub mod port;
pub mod proxy;
pub mod resolve;
pub mod resource;
pub mod route;
pub mod service;
pub mod serving;
pub mod token;
pub mod tools;
pub mod upstream_tls;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use address::{Builtin, HostPattern, Network, Target, TargetUrl};
pub use certificate::Certificate;
pub use external::External;
pub use field::FieldError;
pub use names::{
    CertName, NodeName, PortName, ResourceUri, RouteId, Scope, ServiceName, TokenName, UserPattern,
};
pub use port::Port;
pub use proxy::Proxy;
pub use resource::Resource;
pub use route::Route;
pub use service::Service;
pub use serving::Serving;
pub use token::Token;

use crate::store::{Document, Key, Kind};

/// A type of document.
pub trait Entity:
    Clone + PartialEq + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static
{
    /// Its collection.
    const KIND: Kind;
    /// What people call it.
    const NOUN: &'static str;
    /// The field that names it.
    const ID: &'static str;
    /// The fields without a default.
    const REQUIRED: &'static [&'static str];
    /// The required fields that the server makes up when they are left out.
    const GENERATED: &'static [&'static str] = &[];
    /// Fields that an operation of its own sets, and which one.
    const ELSEWHERE: &'static [(&'static str, &'static str)] = &[];
    /// The fields that a command line gives without a flag, in order.
    const ARGUMENTS: &'static [&'static str];
    /// Old names of fields, and the new ones.
    const ALIASES: &'static [(&'static str, &'static str)];
    /// Fields, by JSON pointer, whose keys are names of headers: the same in upper and lower case.
    const HEADERS: &'static [&'static str] = &[];

    /// Its name in the collection.
    fn id(&self) -> String;

    /// Its version.
    fn version(&self) -> u64;

    /// Who created it.
    fn created_by(&self) -> Option<&str>;

    /// What the server sets in it.
    fn stamps_mut(&mut self) -> Stamps<'_>;

    /// What is wrong between its fields.
    fn problems(&self) -> Vec<FieldError>;

    /// The documents that it needs, so that a write can require that they are still there;
    /// complaints about those that are not.
    fn references(&self, config: &Config, problems: &mut Vec<FieldError>) -> Vec<Key>;

    /// The key of its document.
    fn key(&self) -> Key {
        Key::new(Self::KIND, self.id())
    }

    /// Reads one from JSON: old names are renamed, unknown ones refused, fields checked against each other.
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        field::rename(&mut fields, Self::ALIASES).map_err(|error| vec![error])?;
        let entity: Self = field::read(&Value::Object(fields)).map_err(|error| vec![error])?;
        let problems = entity.problems();
        if problems.is_empty() { Ok(entity) } else { Err(problems) }
    }

    /// Its fields, defaults and version included.
    fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => unreachable!("every entity is a struct whose keys are texts"),
        }
    }

    /// What is stored: only what differs from the defaults, so that a node of an older release
    /// refuses a document only when it really uses what that node does not know.
    fn stored(&self) -> Value {
        let mut fields = self.fields();
        let minimal: Map<_, _> = Self::REQUIRED
            .iter()
            .filter_map(|name| fields.get_key_value(*name))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if let Ok(plain) = field::read::<Self>(&Value::Object(minimal)) {
            let plain = plain.fields();
            fields.retain(|name, value| {
                Self::REQUIRED.contains(&name.as_str())
                    || plain.get(name).is_none_or(|default| default != value)
            });
        }
        fields.remove("config_version");
        fields.retain(|_, value| !value.is_null());
        Value::Object(fields)
    }
}

/// Who wrote an entity when, and how often.
#[derive(Debug)]
pub struct Stamps<'a> {
    /// Who created it.
    pub created_by: &'a mut Option<String>,
    /// When it was created.
    pub created_at: &'a mut Option<Timestamp>,
    /// When it was last changed.
    pub updated_at: &'a mut Option<Timestamp>,
    /// Grows by one with each change.
    pub config_version: &'a mut u64,
}

/// The part of an [`Entity`] that is about its stamps, whose fields have the same names in all.
macro_rules! stamped {
    () => {
        fn version(&self) -> u64 {
            self.config_version
        }

        fn created_by(&self) -> Option<&str> {
            self.created_by.as_deref()
        }

        fn stamps_mut(&mut self) -> $crate::config::Stamps<'_> {
            $crate::config::Stamps {
                created_by: &mut self.created_by,
                created_at: &mut self.created_at,
                updated_at: &mut self.updated_at,
                config_version: &mut self.config_version,
            }
        }
    };
}
use stamped;

/// The fields that the server sets, whatever a caller says.
pub const SERVER_SET: [&str; 5] = ["created_by", "created_at", "updated_at", "config_version", "labelled_by"];

/// Why a document is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub id: String,
    /// The field, if it is one field's fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// A problem of a document.
    pub fn new(key: &Key, error: &FieldError) -> Self {
        Self {
            kind: key.kind.as_str().to_owned(),
            id: key.id.clone(),
            field: (!error.field.is_empty()).then(|| error.field.clone()),
            message: FieldError { field: String::new(), ..error.clone() }.to_string(),
        }
    }
}

/// All documents at one revision, parsed.
///
/// Secrets and keys are not in here: whoever needs one asks the vault.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// The hosts.
    pub proxies: BTreeMap<HostPattern, Arc<Proxy>>,
    /// The routes.
    pub routes: BTreeMap<RouteId, Arc<Route>>,
    /// Routes whose documents can't be read, but for what they match: it gets 503 and not the target of its host.
    pub closed: BTreeMap<RouteId, Arc<Route>>,
    /// Routes of which not even that can be read.
    pub lost: BTreeSet<RouteId>,
    /// The certificates.
    pub certificates: BTreeMap<CertName, Arc<Certificate>>,
    /// The upstreams that are registered by name.
    pub externals: BTreeMap<ServiceName, Arc<External>>,
    /// What nodes run in containers.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// The ports of machines that lead to them, by protocol and number.
    pub ports: BTreeMap<String, Arc<Port>>,
    /// The registry of protected resources.
    pub resources: BTreeMap<ResourceUri, Arc<Resource>>,
    /// The named tokens.
    pub tokens: BTreeMap<TokenName, Arc<Token>>,
    /// The tools of MCP servers, by the hosts that they are behind.
    pub tools: BTreeMap<String, Arc<tools::McpTools>>,
    /// The settings that nodes share.
    pub settings: BTreeMap<String, Value>,
    /// What could not be read, and what is read but refers to something that is not there.
    pub problems: Vec<Problem>,
}

impl Config {
    /// Parses documents. What can't be read becomes a [`Problem`]; the rest stands.
    pub fn parse(documents: Vec<Document>) -> Self {
        let parsed = documents.into_iter().map(|document| (document.key.clone(), Parsed::of(document)));
        let parsed: Vec<_> = parsed.collect();
        Self::collect(parsed.iter().map(|(key, parsed)| (key, parsed)))
    }

    /// Puts together what was parsed before.
    fn collect<'a>(documents: impl Iterator<Item = (&'a Key, &'a Parsed)>) -> Self {
        let mut config = Self::default();
        for (key, parsed) in documents {
            match parsed {
                Parsed::Proxy(one) => {
                    config.proxies.insert(one.proxy_hostname.clone(), Arc::clone(one));
                }
                Parsed::Route(one) => {
                    config.routes.insert(one.route_id.clone(), Arc::clone(one));
                }
                Parsed::Certificate(one) => {
                    config.certificates.insert(one.cert_name.clone(), Arc::clone(one));
                }
                Parsed::External(one) => {
                    config.externals.insert(one.service_name.clone(), Arc::clone(one));
                }
                Parsed::Service(one) => {
                    config.services.insert(one.service_name.clone(), Arc::clone(one));
                }
                Parsed::Port(one) => {
                    config.ports.insert(one.id(), Arc::clone(one));
                }
                Parsed::Resource(one) => {
                    config.resources.insert(one.uri.clone(), Arc::clone(one));
                }
                Parsed::Token(one) => {
                    config.tokens.insert(one.name.clone(), Arc::clone(one));
                }
                Parsed::Setting(value) => {
                    config.settings.insert(key.id.clone(), value.clone());
                }
                Parsed::Tools(host, tools, problems) => {
                    config.tools.insert(host.clone(), Arc::clone(tools));
                    config.problems.extend(problems.iter().cloned());
                }
                Parsed::Closed(one, problems) => {
                    config.closed.insert(one.route_id.clone(), Arc::clone(one));
                    config.problems.extend(problems.iter().cloned());
                }
                Parsed::Lost(id, problems) => {
                    config.lost.insert(id.clone());
                    config.problems.extend(problems.iter().cloned());
                }
                Parsed::Bad(problems) => config.problems.extend(problems.iter().cloned()),
                Parsed::Other => {}
            }
        }
        let dangling = config.dangling();
        config.problems.extend(dangling);
        config
    }

    /// All routes that requests can match.
    pub fn matched_routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values().chain(self.closed.values())
    }

    /// One of them.
    pub fn matched_route(&self, id: &str) -> Option<&Arc<Route>> {
        self.routes.get(id).or_else(|| self.closed.get(id))
    }

    /// Puts what was read before in the place of routes that can't be read at all: without them their requests would
    /// go to the hosts' own targets, by the hosts' own rules.
    pub fn keep_last_good(&mut self, before: &BTreeMap<RouteId, Arc<Route>>) {
        for id in &self.lost {
            let kept = before.get(id);
            if let Some(route) = kept {
                self.routes.insert(id.clone(), Arc::clone(route));
            }
            let outcome = if kept.is_some() {
                "its last readable state is"
            } else {
                "no state of it was read, none is"
            };
            for problem in &mut self.problems {
                if problem.kind == Kind::Route.as_str() && problem.id == id.as_str() {
                    problem.message.push_str(&format!("; {outcome} in force"));
                }
            }
        }
    }

    /// What refers to something that is not there. Such documents stand; what needs the missing part answers 503.
    fn dangling(&self) -> Vec<Problem> {
        fn of<'a, T: Entity>(config: &Config, all: impl Iterator<Item = &'a Arc<T>>) -> Vec<Problem> {
            let mut problems = Vec::new();
            for one in all {
                let mut errors = Vec::new();
                one.references(config, &mut errors);
                problems.extend(errors.iter().map(|error| Problem::new(&one.key(), error)));
            }
            problems
        }
        let mut problems = of(self, self.proxies.values());
        problems.extend(of(self, self.routes.values()));
        problems.extend(of(self, self.resources.values()));
        problems
    }

    /// Whether any list names groups, so that those who sign in must tell theirs.
    pub fn uses_groups(&self) -> bool {
        let of_route = |route: &Arc<Route>| {
            let auth = route.own_auth();
            auth.is_some_and(|auth| auth.allowed_groups.is_some())
        };
        self.proxies.values().any(|proxy| proxy.auth_required_groups.is_some())
            || self.routes.values().any(of_route)
    }

    /// The document of a service that hosts and routes may name; else what is wrong with the name.
    pub fn service_key(&self, name: &ServiceName) -> Result<Key, &'static str> {
        match (self.externals.get(name), self.services.get(name)) {
            (Some(external), _) if !external.routing_enabled => {
                Err("this service is not open for routing: set its `routing_enabled`")
            }
            (Some(external), _) => Ok(external.key()),
            (None, Some(service)) if service.deleting => Err("this service is being deleted"),
            (None, Some(service)) => Ok(service.key()),
            (None, None) => Err("there is no such service: expected the name of one that is registered"),
        }
    }

    /// The hosts and routes that send requests to a service.
    pub fn users_of(&self, name: &ServiceName) -> Vec<Key> {
        let hosts = self.proxies.values().filter(|proxy| proxy.target_url == Target::Service(name.clone()));
        let routes = self.routes.values().filter(
            |route| matches!(route.target(), Ok(route::RouteTarget::Service(target)) if target == *name),
        );
        hosts.map(|proxy| proxy.key()).chain(routes.map(|route| route.key())).collect()
    }

    /// The proxy that answers for a host: the exact one, else the wildcard above it.
    pub fn proxy_of(&self, host: &portcullis_layers::HostName) -> Option<&Arc<Proxy>> {
        self.proxies.get(host.as_str()).or_else(|| {
            let wildcard = format!("*.{}", host.parent()?);
            self.proxies.get(wildcard.as_str())
        })
    }
}

/// What a document says.
#[derive(Debug)]
enum Parsed {
    Proxy(Arc<Proxy>),
    Route(Arc<Route>),
    Certificate(Arc<Certificate>),
    External(Arc<External>),
    Service(Arc<Service>),
    Port(Arc<Port>),
    Resource(Arc<Resource>),
    Token(Arc<Token>),
    Setting(Value),
    /// The tools of the MCP server behind a host.
    Tools(String, Arc<tools::McpTools>, Vec<Problem>),
    /// Secrets and keys.
    Other,
    /// A route that can't be read, but for what it matches.
    Closed(Arc<Route>, Vec<Problem>),
    /// A route of which not even that can be read.
    Lost(RouteId, Vec<Problem>),
    /// It can't be read.
    Bad(Vec<Problem>),
}

impl Parsed {
    fn of(document: Document) -> Self {
        let key = document.key.clone();
        let outcome = match key.kind {
            Kind::Proxy => parse(document).map(|one| Self::Proxy(Arc::new(one))),
            Kind::Route => return Self::route(document),
            Kind::Certificate => parse(document).map(|one| Self::Certificate(Arc::new(one))),
            Kind::External => parse(document).map(|one| Self::External(Arc::new(one))),
            Kind::Service => parse(document).map(|one| Self::Service(Arc::new(one))),
            Kind::Port => parse(document).map(|one| Self::Port(Arc::new(one))),
            Kind::Resource => parse(document).map(|one| Self::Resource(Arc::new(one))),
            Kind::Token => parse(document).map(|one| Self::Token(Arc::new(one))),
            Kind::Setting => return Self::setting(document),
            Kind::Client | Kind::Key | Kind::Secret => Ok(Self::Other),
        };
        outcome.unwrap_or_else(|errors| Self::Bad(problems(&key, &errors)))
    }

    fn setting(document: Document) -> Self {
        let Some(host) = tools::McpTools::host_of(&document.key.id).map(str::to_owned) else {
            return Self::Setting(document.value);
        };
        match field::read::<tools::McpTools>(&document.value) {
            Ok(tools) => Self::Tools(host, Arc::new(tools), Vec::new()),
            Err(error) => {
                let tools = tools::McpTools { unreadable: true, ..tools::McpTools::default() };
                Self::Tools(host, Arc::new(tools), problems(&document.key, &[error]))
            }
        }
    }

    fn route(document: Document) -> Self {
        let key = document.key.clone();
        let remains = route::remains(&document);
        match parse(document) {
            Ok(one) => Self::Route(Arc::new(one)),
            Err(errors) => match (remains, key.id.parse()) {
                (Some(one), _) => Self::Closed(Arc::new(one), problems(&key, &errors)),
                (None, Ok(id)) => Self::Lost(id, problems(&key, &errors)),
                (None, Err(_)) => Self::Bad(problems(&key, &errors)),
            },
        }
    }
}

fn problems(key: &Key, errors: &[FieldError]) -> Vec<Problem> {
    errors.iter().map(|error| Problem::new(key, error)).collect()
}

/// Reads one document.
pub fn parse<T: Entity>(document: Document) -> Result<T, Vec<FieldError>> {
    let Value::Object(mut fields) = document.value else {
        return Err(vec![FieldError::bare("", "expected an object")]);
    };
    // Null and absent are the same here, as in the merge patches that make documents.
    fields.retain(|_, value| !value.is_null());
    let mut entity = T::from_fields(fields)?;
    if entity.id() != document.key.id {
        let detail = format!("is stored under the name {:?}", document.key.id);
        return Err(vec![FieldError::new(T::ID, entity.id(), detail)]);
    }
    *entity.stamps_mut().config_version = document.version;
    Ok(entity)
}

#[cfg(test)]
pub(crate) mod tests;
