//! What clients of the MCP server behind a proxy may do: the policy as a whole, its rules one by one, and which rule
//! decides on a call.

use clap::Args;
use portcullis_layers::Principal;
use portcullis_layers::mcp::message::Payload;
use portcullis_layers::mcp::rules::{Call, Decision, Object};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::changes::Form;
use super::mcp_tools;
use super::operation::{create, delete, get, patch, post, put};
use super::proxies::json;
use super::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface};
use crate::config::names::Group;
use crate::config::proxy::mcp::{Mcp, McpRule};
use crate::config::{Config, FieldError, HostPattern, Proxy, Scope, field};

/// What the fields of the policy are called in the proxy.
const PREFIX: &str = "mcp.";

/// Adds the operations.
pub fn register(surface: &mut impl Surface) {
    surface.add::<SetMcpPolicy>();
    surface.add::<UpdateMcpPolicy>();
    surface.add::<ShowMcpPolicy>();
    surface.add::<ClearMcpPolicy>();
    surface.add::<AddMcpRule>();
    surface.add::<ListMcpRules>();
    surface.add::<RemoveMcpRule>();
    surface.add::<ExplainMcpCall>();
}

/// The policy of a proxy.
#[derive(Debug, Serialize, JsonSchema)]
pub struct McpPolicy {
    /// The proxy.
    pub proxy_hostname: HostPattern,
    /// The path of the server.
    pub endpoint: String,
    /// What its clients may do.
    #[serde(flatten)]
    pub policy: Mcp,
}

impl McpPolicy {
    fn of(proxy: Proxy) -> Result<Self, Error> {
        let endpoint = proxy.mcp_endpoint().to_owned();
        let policy = policy_of(&proxy)?.clone();
        Ok(Self { proxy_hostname: proxy.proxy_hostname, endpoint, policy })
    }
}

fn policy_of(proxy: &Proxy) -> Result<&Mcp, Error> {
    let none = || Error::NotFound { what: "MCP policy", id: proxy.proxy_hostname.to_string() };
    proxy.mcp.as_ref().ok_or_else(none)
}

/// Complaints about the fields that were given, not about where the proxy has them.
fn unprefixed(prefix: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Invalid(errors) => Error::Invalid(
            errors
                .into_iter()
                .map(|error| {
                    let field = error.field.strip_prefix(prefix).unwrap_or(&error.field);
                    FieldError { field: field.trim_start_matches('.').to_owned(), ..error }
                })
                .collect(),
        ),
        other => other,
    }
}

/// Set what clients of the MCP server behind a proxy may do; it replaces the policy that was there. Tools, prompts and
/// resources that a caller may not use are left out of lists, and every call is written down.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct SetMcpPolicy {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The policy.
    #[serde(flatten)]
    #[command(flatten)]
    pub policy: Form<Mcp>,
}

impl Operation for SetMcpPolicy {
    const NAME: &'static str = "set_mcp_policy";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "policy", "set"];
    const HTTP: Endpoint = put("/proxy/targets/{proxy_hostname}/mcp/policy");
    const SCOPE: Access = Access::Admin;
    type Output = McpPolicy;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<McpPolicy, Error> {
        let policy = self.policy.read()?;
        let change = |proxy: Proxy, _: &Config| Ok(Proxy { mcp: Some(policy.clone()), ..proxy });
        let changed = control.edit(ctx, self.proxy_hostname.as_str(), change).await;
        McpPolicy::of(changed.map_err(unprefixed(PREFIX))?)
    }
}

/// Change what clients of the MCP server behind a proxy may do: what is not given stays, `null` brings back the default.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateMcpPolicy {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// What changes.
    #[serde(flatten)]
    #[command(flatten)]
    pub changes: Form<Mcp>,
}

impl Operation for UpdateMcpPolicy {
    const NAME: &'static str = "update_mcp_policy";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "policy", "update"];
    const HTTP: Endpoint = patch("/proxy/targets/{proxy_hostname}/mcp/policy");
    const SCOPE: Access = Access::Admin;
    type Output = McpPolicy;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<McpPolicy, Error> {
        let change = |proxy: Proxy, _: &Config| {
            let mut fields = match serde_json::to_value(policy_of(&proxy)?).map_err(Error::internal)? {
                Value::Object(fields) => fields,
                _ => Map::new(),
            };
            field::merge(&mut fields, &self.changes.0);
            let policy = field::read(&Value::Object(fields)).map_err(Error::invalid)?;
            Ok(Proxy { mcp: Some(policy), ..proxy })
        };
        let changed = control.edit(ctx, self.proxy_hostname.as_str(), change).await;
        McpPolicy::of(changed.map_err(unprefixed(PREFIX))?)
    }
}

/// Show what clients of the MCP server behind a proxy may do.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowMcpPolicy {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ShowMcpPolicy {
    const NAME: &'static str = "show_mcp_policy";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "policy", "show"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/mcp/policy");
    const SCOPE: Access = Access::User;
    type Output = McpPolicy;

    async fn run(self, control: &Control, _: &Context) -> Result<McpPolicy, Error> {
        McpPolicy::of(control.get(self.proxy_hostname.as_str()).await?)
    }
}

/// Take the policy off a proxy: whoever may use the host may then call everything, and no call is written down.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearMcpPolicy {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ClearMcpPolicy {
    const NAME: &'static str = "clear_mcp_policy";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "policy", "clear"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/mcp/policy");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let change = |proxy: Proxy, _: &Config| {
            policy_of(&proxy)?;
            Ok(Proxy { mcp: None, ..proxy })
        };
        control.edit(ctx, self.proxy_hostname.as_str(), change).await?;
        Ok(Done::new("MCP policy cleared", &self.proxy_hostname))
    }
}

/// Add a rule about the calls of a proxy's MCP server. A proxy without a policy gets one that allows the rest.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct AddMcpRule {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The rule that it stands before; absent: it is the last one. The first rule that is about a call decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub before: Option<String>,
    /// The rule.
    #[serde(flatten)]
    #[command(flatten)]
    pub rule: Form<McpRule>,
}

impl Operation for AddMcpRule {
    const NAME: &'static str = "add_mcp_rule";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "rule", "add"];
    const HTTP: Endpoint = create("/proxy/targets/{proxy_hostname}/mcp/policy/rules");
    const SCOPE: Access = Access::Admin;
    type Output = McpPolicy;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<McpPolicy, Error> {
        let rule = self.rule.read()?;
        let change = |mut proxy: Proxy, _: &Config| {
            let policy = proxy.mcp.get_or_insert_default();
            if policy.rules.iter().any(|other| other.id == rule.id) {
                return Err(Error::Conflict(format!("there is a rule {:?} already", rule.id)));
            }
            let at = match &self.before {
                Some(before) => position(policy, before)?,
                None => policy.rules.len(),
            };
            policy.rules.insert(at, rule.clone());
            Ok(proxy)
        };
        McpPolicy::of(control.edit(ctx, self.proxy_hostname.as_str(), change).await?)
    }
}

fn position(policy: &Mcp, id: &str) -> Result<usize, Error> {
    let none = || Error::NotFound { what: "rule", id: id.to_owned() };
    policy.rules.iter().position(|rule| rule.id == id).ok_or_else(none)
}

/// The rules of a proxy's MCP server.
#[derive(Debug, Serialize, JsonSchema)]
pub struct McpRules {
    /// In the order in which they are asked.
    pub rules: Vec<McpRule>,
}

/// List the rules about the calls of a proxy's MCP server, in the order in which they are asked.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListMcpRules {
    /// The public name.
    pub proxy_hostname: HostPattern,
}

impl Operation for ListMcpRules {
    const NAME: &'static str = "list_mcp_rules";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "rule", "list"];
    const HTTP: Endpoint = get("/proxy/targets/{proxy_hostname}/mcp/policy/rules");
    const SCOPE: Access = Access::User;
    type Output = McpRules;

    async fn run(self, control: &Control, _: &Context) -> Result<McpRules, Error> {
        let proxy = control.get::<Proxy>(self.proxy_hostname.as_str()).await?;
        Ok(McpRules { rules: policy_of(&proxy)?.rules.clone() })
    }
}

/// Remove a rule about the calls of a proxy's MCP server.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RemoveMcpRule {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The rule.
    pub rule_id: String,
}

impl Operation for RemoveMcpRule {
    const NAME: &'static str = "remove_mcp_rule";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "rule", "remove"];
    const HTTP: Endpoint = delete("/proxy/targets/{proxy_hostname}/mcp/policy/rules/{rule_id}");
    const SCOPE: Access = Access::Admin;
    type Output = McpPolicy;

    fn subject(&self) -> Option<String> {
        Some(self.proxy_hostname.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<McpPolicy, Error> {
        let change = |mut proxy: Proxy, _: &Config| {
            policy_of(&proxy)?;
            let policy = proxy.mcp.get_or_insert_default();
            let at = position(policy, &self.rule_id)?;
            policy.rules.remove(at);
            Ok(proxy)
        };
        McpPolicy::of(control.edit(ctx, self.proxy_hostname.as_str(), change).await?)
    }
}

/// Explain what the policy of a proxy's MCP server says to a call: which rule decides, and what the caller lacks.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ExplainMcpCall {
    /// The public name.
    pub proxy_hostname: HostPattern,
    /// The tool that is called; or `prompt`, `resource` or `method`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub tool: Option<String>,
    /// The prompt that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub prompt: Option<String>,
    /// The URI of the resource that is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub resource: Option<String>,
    /// The method, where it is another one than `tools/call`, `prompts/get` or `resources/read`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub method: Option<String>,
    /// The arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "JSON", value_parser = json::<Map<String, Value>>)]
    pub arguments: Option<Map<String, Value>>,
    /// Who calls: a login, `github:ID` or `service:NAME`; absent: nobody who is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub user: Option<String>,
    /// The groups of the caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_delimiter = ',')]
    pub groups: Vec<Group>,
    /// The scopes of the caller's token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_delimiter = ',')]
    pub scopes: Vec<Scope>,
    /// The id of the OAuth client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub client_id: Option<String>,
}

/// What the policy says to a call.
#[derive(Debug, Serialize, JsonSchema)]
pub struct McpExplanation {
    /// `allow`, `deny`, `step_up` (the caller has to get scopes), or `refused` (the call can't be judged).
    pub decision: &'static str,
    /// The rule that decides; absent: none is about the call, and the default does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The scopes that the caller lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_scopes: Vec<String>,
    /// Why, in a sentence.
    pub reason: String,
}

impl ExplainMcpCall {
    fn principal(&self) -> Option<Principal> {
        let user = self.user.as_deref()?;
        let subject = user.strip_prefix("github:").unwrap_or(user);
        Some(Principal {
            subject: subject.into(),
            username: Some(user.into()),
            groups: self.groups.iter().map(|group| SmolStr::new(group.as_str())).collect(),
            scopes: self.scopes.iter().map(|scope| SmolStr::new(scope.as_str())).collect(),
            client_id: self.client_id.as_deref().map(SmolStr::new),
            ..Principal::default()
        })
    }

    /// The call as a client would send it.
    fn message(&self) -> Result<String, Error> {
        let (usual, member, name) = match (&self.tool, &self.prompt, &self.resource) {
            (Some(tool), None, None) => (Some("tools/call"), "name", Some(tool)),
            (None, Some(prompt), None) => (Some("prompts/get"), "name", Some(prompt)),
            (None, None, Some(uri)) => (Some("resources/read"), "uri", Some(uri)),
            (None, None, None) => (None, "name", None),
            _ => {
                let detail = "expected only one of `tool`, `prompt` and `resource`";
                return Err(Error::invalid(FieldError::bare("tool", detail)));
            }
        };
        let Some(method) = self.method.as_deref().or(usual) else {
            let detail = "expected it, or one of `tool`, `prompt` and `resource`";
            return Err(Error::invalid(FieldError::bare("method", detail)));
        };
        let mut params = Map::new();
        params.extend(name.map(|name| (member.to_owned(), name.as_str().into())));
        params.extend(self.arguments.clone().map(|arguments| ("arguments".to_owned(), arguments.into())));
        Ok(serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string())
    }
}

impl Operation for ExplainMcpCall {
    const NAME: &'static str = "explain_mcp_call";
    const COMMAND: &'static [&'static str] = &["proxy", "mcp", "explain"];
    const HTTP: Endpoint = post("/proxy/targets/{proxy_hostname}/mcp/policy/explain");
    const SCOPE: Access = Access::User;
    type Output = McpExplanation;

    async fn run(self, control: &Control, _: &Context) -> Result<McpExplanation, Error> {
        let proxy = control.get::<Proxy>(self.proxy_hostname.as_str()).await?;
        let policy = policy_of(&proxy)?;
        let rules = policy.rules();
        let message = self.message()?;
        let refused = |reason: String| McpExplanation {
            decision: "refused",
            rule: None,
            missing_scopes: Vec::new(),
            reason,
        };
        let payload = match Payload::read(message.as_bytes()) {
            Ok(payload) => payload,
            Err(error) => return Ok(refused(error.to_string())),
        };
        let Some(message) = payload.messages().first() else {
            return Ok(refused("there is no message".into()));
        };
        let call = match Call::of(message) {
            Ok(call) => call,
            Err(unnamed) => return Ok(refused(unnamed.to_string())),
        };
        let principal = self.principal();
        let decision = match rules.decide(&call, principal.as_ref()) {
            Ok(decision) => decision,
            Err(unreadable) => return Ok(refused(unreadable.to_string())),
        };
        let mut told = told(decision, principal.as_ref());
        // As the edge does: who may not call it anyway need not know how it is.
        if let (Decision::Allow(_), Object::Tool(name)) = (decision, call.object)
            && let Some(held_back) =
                mcp_tools::held_back(control, &self.proxy_hostname, policy.pinning, name).await?
        {
            told.decision = "deny";
            told.reason = format!("{}; but the tool {name} {held_back}: 403", told.reason);
        }
        Ok(told)
    }
}

fn told(decision: Decision<'_>, principal: Option<&Principal>) -> McpExplanation {
    let rule = decision.rule().map(|rule| rule.id.to_string());
    let by = match &rule {
        Some(id) => format!("the rule {id} is the first that is about the call"),
        None => "no rule is about the call, so the default holds".to_owned(),
    };
    let holds = |scope: &SmolStr| principal.is_some_and(|principal| principal.has_scope(scope));
    let (decision, missing, then) = match decision {
        Decision::Allow(_) => ("allow", Vec::new(), "it is allowed".to_owned()),
        Decision::Deny(_) => ("deny", Vec::new(), "it is denied: 403".to_owned()),
        Decision::Scopes(rule) => {
            let missing: Vec<_> =
                rule.scopes.iter().filter(|scope| !holds(scope)).map(ToString::to_string).collect();
            let then =
                format!("it needs the scopes {}: 403, and the client is told to get them", missing.join(" "));
            ("step_up", missing, then)
        }
    };
    McpExplanation { decision, rule, missing_scopes: missing, reason: format!("{by}, and {then}") }
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::proxies::CreateProxy;
    use crate::control::testing::{caller, control};

    fn input<T: serde::de::DeserializeOwned>(mut fields: Value) -> T {
        fields["proxy_hostname"] = "a.example.com".into();
        serde_json::from_value(fields).expect("an input")
    }

    #[tokio::test]
    async fn a_policy_is_set_changed_rule_by_rule_explained_and_cleared() {
        let (control, _) = control();
        let ctx = Context { caller: caller("root", &["admin"]), ..Context::default() };
        let create: CreateProxy = input(json!({ "target_url": "http://10.0.0.1", "auth_enabled": true }));
        control.call(create, &ctx).await.expect("created");
        let show = || input::<ShowMcpPolicy>(json!({}));
        assert!(matches!(control.call(show(), &ctx).await, Err(Error::NotFound { .. })));
        let rule = json!({ "id": "write", "tools": ["write_*"], "scopes": ["mcp:write"] });
        let set: SetMcpPolicy = input(json!({ "rules": [rule], "default": "deny" }));
        let set = control.call(set, &ctx).await.expect("set");
        assert_eq!((set.endpoint.as_str(), set.policy.rules.len()), ("/mcp", 1));

        let bad: SetMcpPolicy = input(json!({ "rules": [{ "id": "" }] }));
        let Err(Error::Invalid(problems)) = control.call(bad, &ctx).await else { panic!("taken") };
        assert_eq!(problems[0].field, "rules[0].id");

        let add = |more: Value| input::<AddMcpRule>(more);
        let root = json!({ "id": "root", "users": ["root"], "before": "write" });
        control.call(add(root.clone()), &ctx).await.expect("added");
        assert!(matches!(control.call(add(root), &ctx).await, Err(Error::Conflict(_))));
        let nowhere = add(json!({ "id": "x", "before": "none" }));
        assert!(matches!(control.call(nowhere, &ctx).await, Err(Error::NotFound { .. })));
        let small =
            json!({ "id": "small", "tools": ["pay"], "when": [{ "argument": "/amount", "max": 10 }] });
        control.call(add(small), &ctx).await.expect("added");
        let rules = control.call(input::<ListMcpRules>(json!({})), &ctx).await.expect("listed").rules;
        assert_eq!(rules.iter().map(|rule| rule.id.as_str()).collect::<Vec<_>>(), ["root", "write", "small"]);

        for (call, decision, rule, missing) in [
            (json!({ "tool": "write_x" }), "step_up", Some("write"), vec!["mcp:write"]),
            (
                json!({ "tool": "write_x", "user": "alice", "scopes": ["mcp:write"] }),
                "allow",
                Some("write"),
                vec![],
            ),
            (json!({ "tool": "write_x", "user": "root" }), "allow", Some("root"), vec![]),
            (json!({ "tool": "pay", "arguments": { "amount": 10 } }), "allow", Some("small"), vec![]),
            (json!({ "tool": "pay", "arguments": { "amount": 11 } }), "deny", None, vec![]),
            (json!({ "method": "tools/list" }), "allow", None, vec![]),
            (json!({ "method": "tools/call" }), "refused", None, vec![]),
            (json!({ "resource": "file:///x" }), "deny", None, vec![]),
        ] {
            let told = control.call(input::<ExplainMcpCall>(call.clone()), &ctx).await.expect("explained");
            assert_eq!((told.decision, told.rule.as_deref()), (decision, rule), "{call} {}", told.reason);
            assert_eq!(told.missing_scopes, missing, "{call}");
        }
        let pinned: UpdateMcpPolicy = input(json!({ "pinning": "strict" }));
        control.call(pinned, &ctx).await.expect("changed");
        for (call, held_back) in [
            (json!({ "tool": "pay", "arguments": { "amount": 10 } }), true),
            (json!({ "tool": "pay", "arguments": { "amount": 11 } }), false),
        ] {
            let told = control.call(input::<ExplainMcpCall>(call), &ctx).await.expect("explained");
            assert_eq!(
                (told.decision, told.reason.contains("is held back")),
                ("deny", held_back),
                "{}",
                told.reason
            );
        }
        let none = input::<ExplainMcpCall>(json!({}));
        assert!(matches!(control.call(none, &ctx).await, Err(Error::Invalid(_))));

        let remove = || input::<RemoveMcpRule>(json!({ "rule_id": "write" }));
        assert_eq!(control.call(remove(), &ctx).await.expect("removed").policy.rules.len(), 2);
        assert!(matches!(control.call(remove(), &ctx).await, Err(Error::NotFound { .. })));
        control.call(input::<ClearMcpPolicy>(json!({})), &ctx).await.expect("cleared");
        assert!(matches!(control.call(show(), &ctx).await, Err(Error::NotFound { .. })));
    }
}
