//! What a host lets clients of the MCP server behind it do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use portcullis_layers::HeaderPrefix;
use portcullis_layers::mcp::USUAL_BOUND;
use portcullis_layers::mcp::arguments::{Condition, Scalar, Test};
use portcullis_layers::mcp::rates::Limit;
use portcullis_layers::mcp::rules::{Effect, Rule, Rules, Selector, Who};
use portcullis_layers::users::Users;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol_str::SmolStr;

use super::Proxy;
use crate::config::auth::AuthMode;
use crate::config::field::FieldError;
use crate::config::names::{Group, HeaderKey, Scope, UserPattern};

/// Where an MCP server is, unless the host says otherwise.
pub const USUAL_ENDPOINT: &str = "/mcp";

/// The most rules; each call may be compared with all of them.
const MAX_RULES: usize = 256;
/// The most limits; each call is counted in all that are for it.
const MAX_LIMITS: usize = 32;
/// The most patterns, users, values and the like of one rule.
const MAX_ENTRIES: usize = 256;
/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 512;
/// The least and the greatest bound of messages, in bytes.
const BOUNDS: std::ops::RangeInclusive<u64> = 1024..=64 << 20;
/// The longest time that a limit counts over: a day.
const MAX_SECONDS: u32 = 86_400;

/// What clients of the MCP server behind a host may do. The server is at `resource_endpoint`, or at `/mcp`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mcp {
    /// Who may call what: the first rule that is about a call decides.
    pub rules: Vec<McpRule>,
    /// What happens to calls that no rule is about; `initialize`, `ping`, notifications and lists are allowed all the same.
    /// Default: `allow`.
    pub default: McpEffect,
    /// How often a user may call what, on each node.
    pub limits: Vec<McpLimit>,
    /// The longest request, in bytes: 1024 to 67108864. Default: 4194304 (4 MiB). More is 413.
    pub max_request_bytes: u64,
    /// The longest event or JSON of an answer, in bytes: 1024 to 67108864. Default: 4194304 (4 MiB). More is an error.
    pub max_answer_bytes: u64,
    /// Whether lists show also what the caller could use with more scopes. Default: `false`.
    pub list_attainable: bool,
    /// Whether requests for other paths reach the upstream, unread. Default: `false`, 404 unless a route is for them.
    pub other_paths: bool,
    /// What the upstream gets of its own to know its callers by: `none`, `shared` (one credential for all of them),
    /// `user` (one of each user) or `github` (the token that GitHub gave when the user signed in). Who has none is
    /// refused. The credentials are kept sealed, elsewhere; all but `none` need login. Default: `none`.
    pub credentials: McpCredentials,
    /// The header that the credential stands in, none by which the gateway or the protocol says something itself. Default:
    /// `authorization`.
    pub credential_header: HeaderKey,
    /// Whether clients of revisions with sessions (to 2025-11-25) reach an upstream of those without (from 2026-07-28),
    /// and the other way round. The upstream is asked once in ten minutes which it speaks. Default: `false`.
    pub bridge: bool,
    /// What happens to tools whose definitions nobody has approved: `off` (nothing), `changed` (those that have changed
    /// since they were approved are held back) or `strict` (new ones, too). Default: `off`.
    pub pinning: McpPinning,
}

impl Default for Mcp {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            default: McpEffect::Allow,
            limits: Vec::new(),
            max_request_bytes: USUAL_BOUND as u64,
            max_answer_bytes: USUAL_BOUND as u64,
            list_attainable: false,
            other_paths: false,
            credentials: McpCredentials::None,
            credential_header: authorization(),
            bridge: false,
            pinning: McpPinning::Off,
        }
    }
}

fn authorization() -> HeaderKey {
    "authorization".parse().expect("a header name")
}

/// Which tools are held back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum McpPinning {
    /// None.
    #[default]
    Off,
    /// Those that have changed since they were approved.
    Changed,
    /// Those, and those that nobody has approved.
    Strict,
}

/// Whose credential an upstream gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum McpCredentials {
    /// Nobody's.
    #[default]
    None,
    /// One for all callers.
    Shared,
    /// The caller's own.
    User,
    /// The caller's own for GitHub, which the host keeps from the login on (`oauth_vault_upstream_token`).
    Github,
}

impl McpCredentials {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Shared => "shared",
            Self::User => "user",
            Self::Github => "github",
        }
    }
}

/// What headers begin with that no credential may stand in: the gateway writes them, or they say how a message is read.
const SPOKEN: [&str; 16] = [
    "accept",
    "content-",
    "expect",
    "forwarded",
    "last-event-id",
    "mcp-",
    "origin",
    "range",
    "trace",
    "via",
    "x-forwarded-",
    "x-http-method",
    "x-method-",
    "x-original-",
    "x-real-ip",
    "x-request-id",
];

/// What a rule does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum McpEffect {
    /// Lets the call through.
    #[default]
    Allow,
    /// Refuses it (403).
    Deny,
}

impl std::str::FromStr for McpEffect {
    type Err = crate::config::names::Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(crate::config::names::Expected("`allow` or `deny`")),
        }
    }
}

impl From<McpEffect> for Effect {
    fn from(effect: McpEffect) -> Self {
        match effect {
            McpEffect::Allow => Self::Allow,
            McpEffect::Deny => Self::Deny,
        }
    }
}

/// A rule about calls. In patterns `*` stands for any characters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct McpRule {
    /// What it is called, in records and for changes: lower-case letters, digits, `-` and `_`.
    pub id: String,
    /// What it does. Default: `allow`.
    pub effect: McpEffect,
    /// Methods that it is about, e.g. `resources/*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Names of tools that it is about, e.g. `delete_*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Names of prompts that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
    /// URIs of resources that it is about, e.g. `file:///srv/*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Users that it is about; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<UserPattern>>,
    /// Groups that it is about, of which one is enough; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<Group>>,
    /// OAuth clients that it is about, by their ids; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<Vec<String>>,
    /// Arguments that it is about: all of these conditions hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<McpCondition>,
    /// Scopes that the call needs, all of them; otherwise 403 `insufficient_scope`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
}

/// A condition on one argument: exactly one of `equals`, `one_of`, `glob`, `absent`, and `min` or `max`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct McpCondition {
    /// Where it is, as a JSON pointer (RFC 6901) into the arguments: `/path`.
    pub argument: String,
    /// It is this text, number or boolean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    /// It is one of these texts, numbers, booleans or `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Value>>,
    /// It is a text of this form; `/srv/*` is also that of `/srv/../etc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// It is not there (`true`), or it is (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absent: Option<bool>,
    /// It is a number, at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// It is a number, at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// How often each user may call something. Beyond it is 429 with `Retry-After`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct McpLimit {
    /// Methods that are counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Names of tools that are counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Names of prompts that are counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
    /// URIs of resources that are counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// So many calls, at least 1.
    pub calls: u32,
    /// In so many seconds, 1 to 86400. Default: 60.
    pub seconds: u32,
    /// So many at once; absent: as many as `calls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Whether all are counted together; otherwise each tool for itself. Default: `false`.
    pub together: bool,
}

impl Default for McpLimit {
    fn default() -> Self {
        Self {
            methods: Vec::new(),
            tools: Vec::new(),
            prompts: Vec::new(),
            resources: Vec::new(),
            calls: 0,
            seconds: 60,
            burst: None,
            together: false,
        }
    }
}

fn texts(list: &[String]) -> Vec<SmolStr> {
    list.iter().map(SmolStr::new).collect()
}

fn scalar(value: &Value) -> Option<Scalar> {
    Some(match value {
        Value::Null => Scalar::Null,
        Value::Bool(value) => Scalar::Bool(*value),
        Value::Number(number) => Scalar::Number(number.clone()),
        Value::String(text) => Scalar::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => return None,
    })
}

impl McpCondition {
    /// As the layer has it; `None`: it is not valid.
    fn build(&self) -> Option<Condition> {
        let Self { argument, equals, one_of, glob, absent, min, max } = self;
        let range = min.is_some() || max.is_some();
        let given = [equals.is_some(), one_of.is_some(), glob.is_some(), absent.is_some(), range];
        if given.iter().filter(|given| **given).count() != 1 {
            return None;
        }
        let test = match (equals, one_of, glob, absent) {
            (Some(value), ..) => Test::OneOf(vec![scalar(value)?]),
            (_, Some(values), ..) => Test::OneOf(values.iter().map(scalar).collect::<Option<_>>()?),
            (_, _, Some(glob), _) => Test::Glob(glob.clone()),
            (.., Some(absent)) => Test::Absent(*absent),
            _ => Test::Range { min: *min, max: *max },
        };
        Condition::new(argument, test).ok()
    }

    fn problems(&self, problems: &mut Vec<FieldError>, at: &str) {
        let Self { argument, one_of, glob, min, max, .. } = self;
        if Condition::new(argument, Test::Absent(true)).is_err() {
            let detail = "expected a JSON pointer into the arguments (RFC 6901), such as `/path`, of at most 512 bytes";
            problems.push(FieldError::new(format!("{at}.argument"), argument.as_str(), detail));
            return;
        }
        if one_of.as_ref().is_some_and(|values| values.is_empty() || values.len() > MAX_ENTRIES) {
            let detail = format!("expected 1 to {MAX_ENTRIES} values");
            problems.push(FieldError::bare(format!("{at}.one_of"), detail));
        }
        if let Some(glob) = glob {
            check_pattern(problems, format!("{at}.glob"), glob);
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            problems.push(FieldError::new(
                format!("{at}.min"),
                *min,
                "is greater than `max`: expected at most that",
            ));
        }
        if self.build().is_none() {
            let detail = "expected exactly one of `equals`, `one_of`, `glob`, `absent`, and `min` or `max`, \
                          with texts, numbers, booleans or (in `one_of`) `null`";
            problems.push(FieldError::bare(at, detail));
        }
    }
}

impl McpRule {
    fn build(&self) -> Rule {
        // A condition that is no good was refused with the document. If one is there all the same, a rule that allows
        // must not become one without conditions.
        let when: Option<Vec<_>> = self.when.iter().map(McpCondition::build).collect();
        let effect = if when.is_none() { Effect::Deny } else { self.effect.into() };
        Rule {
            id: SmolStr::new(&self.id),
            what: Selector {
                methods: texts(&self.methods),
                tools: texts(&self.tools),
                prompts: texts(&self.prompts),
                resources: texts(&self.resources),
            },
            who: Who {
                users: self.users.as_ref().map(|list| {
                    // Each entry was checked when it was read.
                    Users::parse(list.iter().map(UserPattern::as_str)).unwrap_or_default()
                }),
                groups: self
                    .groups
                    .as_ref()
                    .map(|list| list.iter().map(|group| SmolStr::new(group.as_str())).collect()),
                clients: self.clients.as_deref().map(texts),
            },
            when: when.unwrap_or_default(),
            effect,
            scopes: self.scopes.iter().map(|scope| SmolStr::new(scope.as_str())).collect(),
        }
    }

    /// Whether it needs to know who calls.
    const fn is_about_callers(&self) -> bool {
        self.users.is_some() || self.groups.is_some() || self.clients.is_some() || !self.scopes.is_empty()
    }

    fn problems(&self, problems: &mut Vec<FieldError>, at: &str) {
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        if self.id.is_empty() || self.id.len() > 64 || !self.id.bytes().all(fine) {
            let detail = "expected 1 to 64 lower-case letters, digits, `-` and `_`";
            problems.push(FieldError::new(format!("{at}.id"), self.id.as_str(), detail));
        }
        let patterns = [&self.methods, &self.tools, &self.prompts, &self.resources];
        check_patterns(problems, at, patterns);
        for (index, client) in self.clients.iter().flatten().enumerate() {
            check_pattern(problems, format!("{at}.clients[{index}]"), client);
        }
        for (index, condition) in self.when.iter().enumerate() {
            condition.problems(problems, &format!("{at}.when[{index}]"));
        }
        if !self.when.is_empty() && self.tools.is_empty() && self.prompts.is_empty() {
            let detail =
                "only calls of tools and prompts have arguments: expected `tools` or `prompts` beside it";
            problems.push(FieldError::bare(format!("{at}.when"), detail));
        }
        if self.effect == McpEffect::Deny && !self.scopes.is_empty() {
            let detail = "a rule that denies asks for no scopes: expected none, or `effect` to be `allow`";
            problems.push(FieldError::bare(format!("{at}.scopes"), detail));
        }
        let lists = [self.users.as_ref().map(Vec::len), self.groups.as_ref().map(Vec::len)];
        let lists = lists.into_iter().flatten().chain([self.when.len(), self.scopes.len()]);
        if lists.chain(self.clients.as_ref().map(Vec::len)).any(|length| length > MAX_ENTRIES) {
            problems
                .push(FieldError::bare(at, format!("expected at most {MAX_ENTRIES} entries in each list")));
        }
    }
}

impl McpLimit {
    fn build(&self) -> Limit {
        Limit {
            what: Selector {
                methods: texts(&self.methods),
                tools: texts(&self.tools),
                prompts: texts(&self.prompts),
                resources: texts(&self.resources),
            },
            calls: self.calls,
            per: Duration::from_secs(u64::from(self.seconds)),
            burst: self.burst.unwrap_or(self.calls),
            together: self.together,
        }
    }

    fn problems(&self, problems: &mut Vec<FieldError>, at: &str) {
        check_patterns(problems, at, [&self.methods, &self.tools, &self.prompts, &self.resources]);
        if self.calls == 0 {
            problems.push(FieldError::new(format!("{at}.calls"), self.calls, "expected at least 1"));
        }
        if !(1..=MAX_SECONDS).contains(&self.seconds) {
            let detail = format!("expected 1 to {MAX_SECONDS} seconds");
            problems.push(FieldError::new(format!("{at}.seconds"), self.seconds, detail));
        }
        if self.burst == Some(0) {
            problems.push(FieldError::new(format!("{at}.burst"), 0, "expected at least 1"));
        }
    }
}

fn check_patterns(problems: &mut Vec<FieldError>, at: &str, lists: [&Vec<String>; 4]) {
    for (field, list) in ["methods", "tools", "prompts", "resources"].into_iter().zip(lists) {
        if list.len() > MAX_ENTRIES {
            let detail = format!("expected at most {MAX_ENTRIES} patterns");
            problems.push(FieldError::bare(format!("{at}.{field}"), detail));
        }
        for (index, pattern) in list.iter().enumerate() {
            check_pattern(problems, format!("{at}.{field}[{index}]"), pattern);
        }
    }
}

fn check_pattern(problems: &mut Vec<FieldError>, field: String, pattern: &str) {
    if pattern.is_empty() || pattern.len() > MAX_PATTERN || pattern.chars().any(char::is_control) {
        let detail =
            format!("expected 1 to {MAX_PATTERN} bytes without control characters, `*` for any characters");
        problems.push(FieldError::new(field, pattern, detail));
    }
}

impl Mcp {
    /// The rules as the layer has them.
    pub fn rules(&self) -> Arc<Rules> {
        let rules = self.rules.iter().map(McpRule::build).collect();
        Arc::new(Rules { rules, default: self.default.into() })
    }

    /// The limits as the layer has them.
    pub fn limits(&self) -> Vec<Limit> {
        self.limits.iter().map(McpLimit::build).collect()
    }

    /// Every scope that a rule asks for.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.rules.iter().flat_map(|rule| &rule.scopes)
    }
}

impl Proxy {
    /// The path of the MCP server.
    pub fn mcp_endpoint(&self) -> &str {
        self.resource_endpoint.as_ref().map_or(USUAL_ENDPOINT, |path| path.as_str())
    }

    pub(super) fn check_mcp(&self, problems: &mut Vec<FieldError>) {
        let Some(mcp) = &self.mcp else { return };
        for (field, length, most) in
            [("mcp.rules", mcp.rules.len(), MAX_RULES), ("mcp.limits", mcp.limits.len(), MAX_LIMITS)]
        {
            if length > most {
                problems.push(FieldError::bare(field, format!("expected at most {most}")));
                return;
            }
        }
        self.check_credentials(mcp, problems);
        let mut ids = BTreeSet::new();
        for (index, rule) in mcp.rules.iter().enumerate() {
            let at = format!("mcp.rules[{index}]");
            rule.problems(problems, &at);
            if !ids.insert(rule.id.as_str()) {
                let detail = "is the id of a rule before: expected another one";
                problems.push(FieldError::new(format!("{at}.id"), rule.id.as_str(), detail));
            }
            if rule.is_about_callers() && !self.auth_enabled {
                let detail = "is about who calls, but nobody is known here: expected `auth_enabled`, or no `users`, \
                              `groups`, `clients` and `scopes`";
                problems.push(FieldError::bare(at, detail));
            }
        }
        for (index, limit) in mcp.limits.iter().enumerate() {
            limit.problems(problems, &format!("mcp.limits[{index}]"));
        }
        for (field, bytes) in
            [("mcp.max_request_bytes", mcp.max_request_bytes), ("mcp.max_answer_bytes", mcp.max_answer_bytes)]
        {
            if !BOUNDS.contains(&bytes) {
                let detail = format!("expected {} to {} bytes", BOUNDS.start(), BOUNDS.end());
                problems.push(FieldError::new(field, bytes, detail));
            }
        }
    }

    /// A credential must not be everybody's, nor say more than who calls.
    fn check_credentials(&self, mcp: &Mcp, problems: &mut Vec<FieldError>) {
        let header = mcp.credential_header.as_str();
        let is_ours = |prefix: &str| {
            let prefix: Option<HeaderPrefix> = prefix.parse().ok();
            let name: Option<HeaderName> = header.parse().ok();
            prefix.zip(name).is_some_and(|(prefix, name)| prefix.matches(&name))
        };
        if SPOKEN.into_iter().chain([self.auth_header_prefix.as_str()]).any(is_ours) {
            let detail = "is a header by which the gateway or the protocol says something itself: expected another one, \
                          such as `authorization` or `x-api-key`";
            problems.push(FieldError::new("mcp.credential_header", header, detail));
        }
        let detail = match mcp.credentials {
            McpCredentials::None => return,
            _ if !self.auth_enabled => {
                "is for callers that are known, and nobody is here: expected `auth_enabled`, or `none`"
            }
            McpCredentials::Shared if self.auth_mode == AuthMode::Passthrough => {
                "would be that of everybody: expected an `auth_mode` other than `passthrough`, or `user`, `github` or \
                 `none`"
            }
            McpCredentials::Github if !self.oauth_vault_upstream_token => {
                "needs GitHub's tokens, which are not kept here: expected `oauth_vault_upstream_token`, or `user`, \
                 `shared` or `none`"
            }
            _ => return,
        };
        problems.push(FieldError::new("mcp.credentials", mcp.credentials.as_str(), detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Entity;

    fn problems(mcp: Value, auth: bool) -> Vec<String> {
        let mut fields = json!({
            "proxy_hostname": "a.example.com", "target_url": "http://10.0.0.5", "auth_enabled": auth,
        });
        fields["mcp"] = mcp;
        let proxy: Proxy = serde_json::from_value(fields).expect("a proxy");
        proxy.problems().into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn a_policy_is_checked_field_by_field() {
        let rule = |more: Value| {
            let mut rule = json!({ "id": "r", "tools": ["*"] });
            rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            json!({ "rules": [rule] })
        };
        for (mcp, field) in [
            (json!({}), None),
            (rule(json!({ "users": ["alice"], "scopes": ["mcp:write"] })), None),
            (rule(json!({ "when": [{ "argument": "/a", "equals": 5 }] })), None),
            (rule(json!({ "when": [{ "argument": "/a", "one_of": [null, "x"] }] })), None),
            (rule(json!({ "when": [{ "argument": "/a", "min": 1, "max": 2 }] })), None),
            (rule(json!({ "id": "" })), Some("mcp.rules[0].id")),
            (rule(json!({ "id": "Not Good" })), Some("mcp.rules[0].id")),
            (rule(json!({ "tools": [""] })), Some("mcp.rules[0].tools[0]")),
            (rule(json!({ "clients": ["\n"] })), Some("mcp.rules[0].clients[0]")),
            (rule(json!({ "effect": "deny", "scopes": ["a"] })), Some("mcp.rules[0].scopes")),
            (
                rule(json!({ "when": [{ "argument": "a", "equals": 5 }] })),
                Some("mcp.rules[0].when[0].argument"),
            ),
            (rule(json!({ "when": [{ "argument": "/a" }] })), Some("mcp.rules[0].when[0]")),
            (
                rule(json!({ "when": [{ "argument": "/a", "equals": 5, "glob": "x" }] })),
                Some("mcp.rules[0].when[0]"),
            ),
            (rule(json!({ "when": [{ "argument": "/a", "equals": [] }] })), Some("mcp.rules[0].when[0]")),
            (
                rule(json!({ "when": [{ "argument": "/a", "one_of": [] }] })),
                Some("mcp.rules[0].when[0].one_of"),
            ),
            (
                rule(json!({ "when": [{ "argument": "/a", "min": 2, "max": 1 }] })),
                Some("mcp.rules[0].when[0].min"),
            ),
            (
                json!({ "rules": [{ "id": "r", "when": [{ "argument": "/a", "absent": true }] }] }),
                Some("mcp.rules[0].when"),
            ),
            (json!({ "rules": [{ "id": "r" }, { "id": "r" }] }), Some("mcp.rules[1].id")),
            (json!({ "limits": [{ "tools": ["*"] }] }), Some("mcp.limits[0].calls")),
            (json!({ "limits": [{ "calls": 1, "seconds": 0 }] }), Some("mcp.limits[0].seconds")),
            (json!({ "limits": [{ "calls": 1, "burst": 0 }] }), Some("mcp.limits[0].burst")),
            (json!({ "max_request_bytes": 10 }), Some("mcp.max_request_bytes")),
            (json!({ "max_answer_bytes": 1_u64 << 40 }), Some("mcp.max_answer_bytes")),
        ] {
            assert_eq!(problems(mcp.clone(), true), field.into_iter().collect::<Vec<_>>(), "{mcp}");
        }
        assert_eq!(problems(rule(json!({ "users": ["alice"] })), false), ["mcp.rules[0]"]);
        assert!(serde_json::from_value::<Mcp>(json!({ "rule": [] })).is_err(), "unknown fields are refused");
    }

    #[test]
    fn credentials_are_for_known_callers_and_in_headers_of_their_own() {
        let of = |more: Value, credentials: &str| {
            let mut fields = json!({
                "proxy_hostname": "a.example.com", "target_url": "http://10.0.0.5", "auth_enabled": true,
                "mcp": { "credentials": credentials },
            });
            fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let proxy: Proxy = serde_json::from_value(fields).expect("a proxy");
            proxy.problems().into_iter().map(|problem| problem.to_string()).collect::<Vec<_>>()
        };
        let (open, passing) = (json!({ "auth_enabled": false }), json!({ "auth_mode": "passthrough" }));
        let keeps = json!({ "oauth_vault_upstream_token": true });
        for (more, credentials, said) in [
            (&open, "none", ""),
            (&open, "shared", "auth_enabled"),
            (&open, "user", "auth_enabled"),
            (&open, "github", "auth_enabled"),
            (&passing, "user", ""),
            (&passing, "shared", "passthrough"),
            (&json!({}), "shared", ""),
            (&json!({}), "user", ""),
            (&json!({}), "github", "oauth_vault_upstream_token"),
            (&keeps, "github", ""),
        ] {
            let problems = of(more.clone(), credentials);
            if said.is_empty() {
                assert_eq!(problems, [] as [&str; 0], "{more} {credentials}");
                continue;
            }
            let [problem] = &problems[..] else { panic!("{more} {credentials}: {problems:?}") };
            let begin = format!("mcp.credentials: \"{credentials}\": ");
            assert!(problem.starts_with(&begin) && problem.contains(said), "{problem}");
        }
        for (header, fine) in [
            ("authorization", true),
            ("x-api-key", true),
            ("cookie", true),
            ("x-auth-key", true),
            ("mcp-session-id", false),
            ("MCP_Protocol_Version", false),
            ("x-forwarded-for", false),
            ("forwarded", false),
            ("content-type", false),
            ("x-http-method-override", false),
            ("x-who-user", false),
        ] {
            let mcp = json!({ "credentials": "user", "credential_header": header });
            let problems = of(json!({ "mcp": mcp, "auth_header_prefix": "X-Who-" }), "user");
            assert_eq!(problems.is_empty(), fine, "{header}: {problems:?}");
            assert!(fine || problems[0].starts_with("mcp.credential_header: "), "{problems:?}");
        }
        assert_eq!(of(json!({ "mcp": { "credential_header": "x-auth-user" } }), "none").len(), 1);
    }

    #[test]
    fn a_condition_that_is_no_good_makes_no_rule_wider() {
        let broken = McpRule {
            id: "r".into(),
            when: vec![McpCondition { argument: "x".into(), ..McpCondition::default() }],
            ..McpRule::default()
        };
        assert_eq!(broken.build().effect, Effect::Deny);
    }
}
