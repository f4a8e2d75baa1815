//! A route: which requests, and where they go instead of their host's target.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use portcullis_layers::route as matcher;
use portcullis_layers::route::{Anchored, HeaderTest, Pattern, PatternKind};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Map;

use super::address::{Builtin, HostPattern, TargetUrl};
use super::auth::{RouteAuth, RouteAuthType};
use super::field::FieldError;
use super::names::{Expected, HeaderKey, MethodName, PathPrefix, RouteId, ServiceName};
use super::{Config, Entity, stamped};
use crate::store::{Document, Key, Kind};

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name.
    pub route_id: RouteId,
    /// Which paths, in the language of `match`.
    pub path_pattern: String,
    /// How the pattern is read.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// The old form of `match: regex`: anchored at the start only.
    #[serde(default)]
    pub is_regex: bool,
    /// What kind of target.
    pub target_type: TargetType,
    /// The target: a URL, a service, a host, a port or a built-in, as `target_type` says.
    pub target_value: TargetValue,
    /// Higher ones are asked first, 0 to 1000; ties go to the longest pattern, then to the id.
    #[serde(default = "default_priority")]
    pub priority: u16,
    /// Which methods; absent, empty or `*` for all.
    #[serde(default)]
    pub methods: Option<Vec<MethodName>>,
    /// What must hold of the request's headers, all of it.
    #[serde(default)]
    pub headers: Vec<HeaderCondition>,
    /// What becomes of the path on its way to the target.
    #[serde(default)]
    pub rewrite: Option<Rewrite>,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Whether it is asked at all.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Whose requests: every host's, or those of `proxy_hostnames`.
    #[serde(default)]
    pub scope: RouteScope,
    /// The hosts of scope `proxy`.
    #[serde(default)]
    pub proxy_hostnames: Vec<HostPattern>,
    /// Its own rules of authentication.
    #[serde(default)]
    pub auth_config: Option<RouteAuth>,
    /// Whether `auth_config` replaces the host's rules.
    #[serde(default)]
    pub override_proxy_auth: bool,
    /// Who created it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Grows by one with each change.
    #[serde(default)]
    pub config_version: u64,
}

const fn yes() -> bool {
    true
}

const fn default_priority() -> u16 {
    50
}

/// How a path pattern is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Matching {
    /// This path and no other.
    Exact,
    /// This path and everything below it, on a segment boundary.
    #[default]
    Prefix,
    /// `*` for anything within a segment, `**` for anything.
    Glob,
    /// A regular expression, anchored at both ends.
    Regex,
}

/// What a route's target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetType {
    /// A port of this machine.
    Port,
    /// A service that is registered by name.
    #[serde(alias = "instance")]
    Service,
    /// The upstream of another proxy.
    Hostname,
    /// A URL.
    Url,
    /// A service inside the daemon.
    Builtin,
}

impl FromStr for TargetType {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "port" => Ok(Self::Port),
            "service" | "instance" => Ok(Self::Service),
            "hostname" => Ok(Self::Hostname),
            "url" => Ok(Self::Url),
            "builtin" => Ok(Self::Builtin),
            _ => Err(Expected("`port`, `service`, `hostname`, `url` or `builtin`")),
        }
    }
}

/// A route's target as it was given: a text, or a number for a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TargetValue(pub String);

impl FromStr for TargetValue {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl fmt::Display for TargetValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TargetValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a text, or a number for a port")]
        enum Either {
            Number(u64),
            Text(String),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Number(number) => Self(number.to_string()),
            Either::Text(text) => Self(text.trim().to_owned()),
        })
    }
}

impl JsonSchema for TargetValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TargetValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"] })
    }
}

/// A target, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// An upstream.
    Url(TargetUrl),
    /// A port of this machine.
    Port(u16),
    /// A service that is registered by name.
    Service(ServiceName),
    /// The upstream of another proxy.
    Host(HostPattern),
    /// A service inside the daemon.
    Builtin(Builtin),
}

/// What must hold of one request header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderCondition {
    /// The header.
    pub name: HeaderKey,
    /// One of its values is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
    /// One of its values matches this regular expression, anchored at both ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// It is there (`true`), or not (`false`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// What becomes of a path on its way to the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rewrite {
    /// Takes this prefix away.
    StripPrefix(PathPrefix),
    /// Puts this in place of what the pattern (a prefix or an exact path) matched.
    ReplacePrefix(PathPrefix),
}

/// Whose requests a route is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteScope {
    /// Every host's.
    #[default]
    Global,
    /// Those of `proxy_hostnames`.
    Proxy,
}

impl FromStr for RouteScope {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "global" => Ok(Self::Global),
            "proxy" => Ok(Self::Proxy),
            _ => Err(Expected("`global` or `proxy`")),
        }
    }
}

impl Route {
    /// Its rules, where they stand in place of its host's.
    pub fn own_auth(&self) -> Option<&RouteAuth> {
        self.auth_config.as_ref().filter(|_| self.override_proxy_auth)
    }

    /// Whether it needs a token where its host may need none.
    pub fn needs_token(&self) -> bool {
        self.enabled && self.own_auth().is_some_and(|auth| auth.auth_type != RouteAuthType::None)
    }

    /// The target, read; a complaint when it does not fit `target_type`.
    pub fn target(&self) -> Result<RouteTarget, FieldError> {
        let value = self.target_value.0.as_str();
        let wrong = |detail: String| FieldError::new("target_value", value, detail);
        match self.target_type {
            TargetType::Url => {
                value.parse().map(RouteTarget::Url).map_err(|e: Expected| wrong(e.to_string()))
            }
            TargetType::Service => {
                value.parse().map(RouteTarget::Service).map_err(|e: Expected| wrong(e.to_string()))
            }
            TargetType::Hostname => value
                .parse()
                .map(RouteTarget::Host)
                .map_err(|e| wrong(format!("{e}: expected the host name of a proxy"))),
            // The authorization server has its paths on its own host and no others.
            TargetType::Builtin => match value.parse() {
                Ok(Builtin::OAuth | Builtin::Mcp) | Err(_) => {
                    Err(wrong("expected `api` or `echo`".to_owned()))
                }
                Ok(builtin) => Ok(RouteTarget::Builtin(builtin)),
            },
            TargetType::Port => match value.parse() {
                Ok(port) if port != 0 => Ok(RouteTarget::Port(port)),
                _ => Err(wrong("expected a port, 1 to 65535".to_owned())),
            },
        }
    }

    /// The methods, `None` for all.
    pub fn method_list(&self) -> Option<&[MethodName]> {
        self.methods
            .as_deref()
            .filter(|methods| !methods.is_empty() && !methods.iter().any(MethodName::is_every))
    }

    /// Whether its scope includes a host; the host's own mode is another question.
    pub fn is_for(&self, host: &HostPattern) -> bool {
        self.scope == RouteScope::Global || self.proxy_hostnames.contains(host)
    }

    /// What the layers match by; a complaint when a part of it can't be understood.
    pub fn matcher(&self) -> Result<matcher::Route, FieldError> {
        let kind = match self.matching {
            _ if self.is_regex => PatternKind::RegexStart,
            Matching::Exact => PatternKind::Exact,
            Matching::Prefix => PatternKind::Prefix,
            Matching::Glob => PatternKind::Glob,
            Matching::Regex => PatternKind::Regex,
        };
        let wrong = |field: &str, value: &str, error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            FieldError::new(field, value, format!("{error}{cause}"))
        };
        let pattern = Pattern::new(kind, &self.path_pattern)
            .map_err(|error| wrong("path_pattern", &self.path_pattern, &error))?;
        let mut route = matcher::Route::new(self.route_id.as_str(), pattern);
        route.priority = self.priority.try_into().map_err(|error: matcher::PriorityError| {
            FieldError::new("priority", self.priority, error.to_string())
        })?;
        if let Some(methods) = self.method_list() {
            route.methods = matcher::Methods::parse(methods)
                .map_err(|error| wrong("methods", &format!("{methods:?}"), &error))?;
        }
        for (index, condition) in self.headers.iter().enumerate() {
            let condition = condition.test().map_err(|error| error.within(&format!("headers[{index}]")))?;
            route.headers.push(condition);
        }
        Ok(route)
    }

    /// The order in which routes are asked: higher priority, then longer pattern, then id.
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        (other.priority.cmp(&self.priority))
            .then_with(|| other.path_pattern.len().cmp(&self.path_pattern.len()))
            .then_with(|| self.route_id.cmp(&other.route_id))
    }

    /// What becomes of the path, as the layers do it.
    pub fn rewriter(&self) -> Result<Option<matcher::Rewrite>, FieldError> {
        let made = match &self.rewrite {
            None => return Ok(None),
            Some(Rewrite::StripPrefix(prefix)) => matcher::Rewrite::strip(prefix.as_str()),
            Some(Rewrite::ReplacePrefix(with)) => {
                matcher::Rewrite::replace(&self.path_pattern, with.as_str())
            }
        };
        made.map(Some).map_err(|error| FieldError::bare("rewrite", error.to_string()))
    }

    /// Whether both would match the same requests at the same priority, so that only the id would decide.
    pub fn collides(&self, other: &Self) -> bool {
        let hosts = match (self.scope, other.scope) {
            (RouteScope::Global, RouteScope::Global) => true,
            (RouteScope::Proxy, RouteScope::Proxy) => {
                self.proxy_hostnames.iter().any(|host| other.proxy_hostnames.contains(host))
            }
            _ => false,
        };
        let methods = match (self.method_list(), other.method_list()) {
            (Some(a), Some(b)) => a.iter().any(|method| b.contains(method)),
            _ => true,
        };
        self.route_id != other.route_id
            && hosts
            && methods
            && self.priority == other.priority
            && self.path_pattern == other.path_pattern
            && (self.matching, self.is_regex) == (other.matching, other.is_regex)
            && self.headers == other.headers
    }

    fn check_rewrite(&self, problems: &mut Vec<FieldError>) {
        let plain = !self.is_regex && matches!(self.matching, Matching::Prefix | Matching::Exact);
        match &self.rewrite {
            Some(Rewrite::ReplacePrefix(with)) if !plain => problems.push(FieldError::new(
                "rewrite.replace_prefix",
                with.as_str(),
                "needs `match` prefix or exact: a glob or a regex has no prefix to replace",
            )),
            Some(Rewrite::StripPrefix(prefix)) if plain && !is_below(&self.path_pattern, prefix.as_str()) => {
                problems.push(FieldError::new(
                    "rewrite.strip_prefix",
                    prefix.as_str(),
                    format!("is no prefix of the pattern {:?}", self.path_pattern),
                ));
            }
            _ => problems.extend(self.rewriter().err()),
        }
    }
}

/// What says which requests a route is for.
/// The id of the route to the gateway's own MCP server, in logs and explanations. No document may have it.
pub const RESERVED: &str = "portcullis-mcp";

const MATCHING: [&str; 5] = ["path_pattern", "match", "is_regex", "scope", "proxy_hostnames"];

/// The same, but without these it is for more requests and for no others.
const NARROWING: [&str; 4] = ["enabled", "priority", "methods", "headers"];

/// What can still be read of a route's document: which requests it is for. Its target means nothing.
pub(super) fn remains(document: &Document) -> Option<Route> {
    let fields = document.value.as_object()?;
    let read = |narrowing: &[&str]| {
        let mut kept = Map::from_iter([
            ("route_id".to_owned(), document.key.id.as_str().into()),
            ("target_type".to_owned(), "builtin".into()),
            ("target_value".to_owned(), Builtin::Echo.to_string().into()),
        ]);
        let names = MATCHING.iter().chain(narrowing).filter_map(|name| fields.get_key_value(*name));
        kept.extend(
            names.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())),
        );
        Route::from_fields(kept).ok()
    };
    read(&NARROWING).or_else(|| read(&[]))
}

/// Whether `path` is `prefix` or below it, on a segment boundary.
fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl HeaderCondition {
    /// What the layers test.
    fn test(&self) -> Result<matcher::HeaderCondition, FieldError> {
        let test = match (&self.equals, &self.matches, self.present) {
            (Some(value), None, None) => HeaderTest::Exact(value.parse().map_err(|_| {
                FieldError::new("equals", value.as_str(), "expected a header value of printable characters")
            })?),
            (None, Some(pattern), None) => HeaderTest::Regex(Anchored::whole(pattern).map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                FieldError::new("matches", pattern.as_str(), format!("{error}: {cause}"))
            })?),
            (None, None, Some(true)) => HeaderTest::Present,
            (None, None, Some(false)) => HeaderTest::Absent,
            _ => {
                return Err(FieldError::bare(
                    "",
                    "expected exactly one of `equals`, `matches` and `present`",
                ));
            }
        };
        let name = self.name.as_str().parse().expect("a header key is a header name");
        Ok(matcher::HeaderCondition { name, test })
    }
}

impl Entity for Route {
    const KIND: Kind = Kind::Route;
    const NOUN: &'static str = "route";
    const ID: &'static str = "route_id";
    const REQUIRED: &'static [&'static str] = &["route_id", "path_pattern", "target_type", "target_value"];
    const GENERATED: &'static [&'static str] = &["route_id"];
    const ARGUMENTS: &'static [&'static str] = &["path_pattern", "target_type", "target_value"];
    const ALIASES: &'static [(&'static str, &'static str)] = &[];

    fn id(&self) -> String {
        self.route_id.to_string()
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        problems.extend(self.matcher().err());
        if self.route_id.as_str() == RESERVED {
            let detail = "this is the route to the gateway's own MCP server: expected another id";
            problems.push(FieldError::new("route_id", RESERVED, detail));
        }
        if self.is_regex && !matches!(self.matching, Matching::Prefix | Matching::Regex) {
            problems
                .push(FieldError::bare("is_regex", "contradicts `match`: expected `match: regex`, or none"));
        }
        self.check_rewrite(&mut problems);
        problems.extend(self.target().err());
        if (self.scope == RouteScope::Proxy) == self.proxy_hostnames.is_empty() {
            problems.push(FieldError::bare(
                "proxy_hostnames",
                "expected at least one host for the scope `proxy`, and none for `global`",
            ));
        }
        if self.override_proxy_auth && self.auth_config.is_none() {
            problems.push(FieldError::bare(
                "auth_config",
                "expected rules, because `override_proxy_auth` is set",
            ));
        }
        problems
    }

    fn references(&self, config: &Config, problems: &mut Vec<FieldError>) -> Vec<Key> {
        let mut keys = Vec::new();
        for (index, host) in self.proxy_hostnames.iter().enumerate() {
            if config.proxies.contains_key(host) {
                keys.push(Key::new(Kind::Proxy, host.as_str()));
            } else {
                problems.push(FieldError::new(
                    format!("proxy_hostnames[{index}]"),
                    host.as_str(),
                    "there is no such proxy: expected the host name of one that exists",
                ));
            }
        }
        match self.target() {
            Ok(RouteTarget::Service(name)) => match config.service_key(&name) {
                Ok(key) => keys.push(key),
                Err(detail) => problems.push(FieldError::new("target_value", name.as_str(), detail)),
            },
            Ok(RouteTarget::Host(host)) => {
                if config.proxies.contains_key(&host) {
                    keys.push(Key::new(Kind::Proxy, host.as_str()));
                } else {
                    problems.push(FieldError::new(
                        "target_value",
                        host.as_str(),
                        "there is no such proxy: expected the host name of one that exists",
                    ));
                }
            }
            Ok(RouteTarget::Url(_) | RouteTarget::Port(_) | RouteTarget::Builtin(_)) | Err(_) => {}
        }
        keys
    }
}
