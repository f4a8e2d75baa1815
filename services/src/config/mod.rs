//! The configuration model: every document, parsed, at one moment.
//!
//! Documents are data until here; whatever leaves this module has a type. A document that can't
//! be read becomes a [`Problem`] and disables only itself. This module reads no store and decides
//! nothing about requests.

pub mod access;
pub mod address;
pub mod auth;
pub mod certificate;
pub mod external;
pub mod field;
pub mod headers;
pub mod names;
pub mod proxy;
pub mod resolve;
pub mod resource;
pub mod route;
pub mod token;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use address::{Builtin, HostPattern, Network, Target, TargetUrl};
pub use certificate::Certificate;
pub use external::External;
pub use field::FieldError;
pub use names::{CertName, ResourceUri, RouteId, Scope, ServiceName, TokenName, UserPattern};
pub use proxy::Proxy;
pub use resource::Resource;
pub use route::Route;
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
    /// The fields that a command line gives without a flag, in order.
    const ARGUMENTS: &'static [&'static str];
    /// Old names of fields, and the new ones.
    const ALIASES: &'static [(&'static str, &'static str)];
    /// Fields, by JSON pointer, whose keys are names of headers: the same in upper and lower case.
    const HEADERS: &'static [&'static str] = &[];

    /// Its name in the collection.
    fn id(&self) -> String;

    /// Where the version is shown.
    fn version_mut(&mut self) -> &mut u64;

    /// Who wrote it when.
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

/// Who wrote an entity when.
#[derive(Debug)]
pub struct Stamps<'a> {
    /// Who created it.
    pub created_by: &'a mut Option<String>,
    /// When it was created.
    pub created_at: &'a mut Option<Timestamp>,
    /// When it was last changed.
    pub updated_at: Option<&'a mut Option<Timestamp>>,
}

/// The fields that the server sets, whatever a caller says.
pub const SERVER_SET: [&str; 4] = ["created_by", "created_at", "updated_at", "config_version"];

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
    pub proxies: BTreeMap<HostPattern, Proxy>,
    /// The routes.
    pub routes: BTreeMap<RouteId, Route>,
    /// The certificates.
    pub certificates: BTreeMap<CertName, Certificate>,
    /// The upstreams that are registered by name.
    pub externals: BTreeMap<ServiceName, External>,
    /// The registry of protected resources.
    pub resources: BTreeMap<ResourceUri, Resource>,
    /// The named tokens.
    pub tokens: BTreeMap<TokenName, Token>,
    /// The settings that nodes share.
    pub settings: BTreeMap<String, Value>,
    /// What could not be read, and what is read but refers to something that is not there.
    pub problems: Vec<Problem>,
}

impl Config {
    /// Parses documents. What can't be read becomes a [`Problem`]; the rest stands.
    pub fn parse(documents: Vec<Document>) -> Self {
        let mut config = Self::default();
        for document in documents {
            let key = document.key.clone();
            let outcome = match key.kind {
                Kind::Proxy => parse(document).map(|one: Proxy| {
                    config.proxies.insert(one.proxy_hostname.clone(), one);
                }),
                Kind::Route => parse(document).map(|one: Route| {
                    config.routes.insert(one.route_id.clone(), one);
                }),
                Kind::Certificate => parse(document).map(|one: Certificate| {
                    config.certificates.insert(one.cert_name.clone(), one);
                }),
                Kind::External => parse(document).map(|one: External| {
                    config.externals.insert(one.service_name.clone(), one);
                }),
                Kind::Resource => parse(document).map(|one: Resource| {
                    config.resources.insert(one.uri.clone(), one);
                }),
                Kind::Token => parse(document).map(|one: Token| {
                    config.tokens.insert(one.name.clone(), one);
                }),
                Kind::Setting => {
                    config.settings.insert(document.key.id, document.value);
                    Ok(())
                }
                Kind::Key | Kind::Secret => Ok(()),
            };
            if let Err(errors) = outcome {
                config.problems.extend(errors.iter().map(|error| Problem::new(&key, error)));
            }
        }
        let dangling = config.dangling();
        config.problems.extend(dangling);
        config
    }

    /// What refers to something that is not there. Such documents stand; what needs the missing part answers 503.
    fn dangling(&self) -> Vec<Problem> {
        fn of<'a, T: Entity>(config: &Config, all: impl Iterator<Item = &'a T>) -> Vec<Problem> {
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

    /// The proxy that answers for a host: the exact one, else the wildcard above it.
    pub fn proxy_of(&self, host: &portcullis_layers::HostName) -> Option<&Proxy> {
        self.proxies.get(host.as_str()).or_else(|| {
            let wildcard = format!("*.{}", host.parent()?);
            self.proxies.get(wildcard.as_str())
        })
    }
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
    *entity.version_mut() = document.version;
    Ok(entity)
}

#[cfg(test)]
mod tests;
