//! The registry of resources and the tokens for them: is a token good for a resource, and what is not registered yet.

use clap::Args;
use portcullis_layers::auth::{Audience, TokenError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::managed::{checks, put as put_step, sign};
use super::operation::post;
use super::{Access, Context, Control, Endpoint, Error, Operation, Secret, Surface};
use crate::config::{Config, Proxy, Resource, ResourceUri, Scope};
use crate::store::Expect;

/// Adds the operations.
pub fn register(surface: &mut impl Surface) {
    surface.add::<ValidateToken>();
    surface.add::<AutoRegister>();
}

/// What a token is worth at a resource.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Verdict {
    /// Whether the resource would take it.
    pub valid: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Whose it is, where that is proved.
    pub user_id: Option<String>,
    /// The scopes that it carries, where that is proved.
    pub scopes: Vec<String>,
}

/// Tell whether a token is good for a registered resource: signature, issuer, life time, revocation, audience, scopes.
/// Whether the lists of the host let its user in is another question.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ValidateToken {
    /// The URI of the resource.
    pub uri: ResourceUri,
    /// The token: itself, `@file`, or `@-` for standard input on a command line.
    #[serde(serialize_with = "Secret::reveal")]
    #[arg(value_parser = Secret::from_argument)]
    pub token: Secret,
    /// Scopes that it must carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_delimiter = ',')]
    pub scopes: Vec<Scope>,
}

impl Operation for ValidateToken {
    const NAME: &'static str = "validate_resource_token";
    const COMMAND: &'static [&'static str] = &["resource", "validate-token"];
    const HTTP: Endpoint = post("/resources/{*uri}/validate-token");
    const SCOPE: Access = Access::User;
    type Output = Verdict;

    fn subject(&self) -> Option<String> {
        Some(self.uri.to_string())
    }

    async fn run(self, control: &Control, _: &Context) -> Result<Verdict, Error> {
        let resource: Resource = control.get(self.uri.as_str()).await?;
        let proxy: Proxy = control.get(resource.proxy_target.as_str()).await?;
        let refused = |reason: &str| Verdict {
            valid: false,
            reason: Some(reason.to_owned()),
            user_id: None,
            scopes: Vec::new(),
        };
        let verified = match control.judge.verify(&proxy, self.token.expose().trim()) {
            Ok(verified) => verified,
            Err(error) => return Ok(refused(error.description())),
        };
        let principal = verified.principal();
        let missing: Vec<_> =
            self.scopes.iter().map(Scope::as_str).filter(|scope| !principal.has_scope(scope)).collect();
        let reason = if !verified.is_for(&[Audience::new(resource.uri.as_str())]) {
            Some(TokenError::Audience(Vec::new()).description().to_owned())
        } else if !missing.is_empty() {
            Some(format!("The access token lacks {}", missing.join(" ")))
        } else {
            None
        };
        Ok(Verdict {
            valid: reason.is_none(),
            reason,
            user_id: Some(principal.subject.to_string()),
            scopes: principal.scopes.iter().map(ToString::to_string).collect(),
        })
    }
}

/// What was registered.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Registered {
    /// The URIs.
    pub registered: Vec<ResourceUri>,
    /// How many.
    pub count: usize,
}

/// Register the resource of every proxy with HTTPS that is not in the registry yet. Wildcards have one for each name
/// and are left out.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct AutoRegister {}

impl Operation for AutoRegister {
    const NAME: &'static str = "auto_register_resources";
    const COMMAND: &'static [&'static str] = &["resource", "auto-register"];
    const HTTP: Endpoint = post("/resources/auto-register");
    const SCOPE: Access = Access::Admin;
    type Output = Registered;

    async fn run(self, control: &Control, ctx: &Context) -> Result<Registered, Error> {
        let config = control.config().await?;
        let missing: Vec<_> = missing(control, &config).collect();
        let mut writes = Vec::new();
        let mut registered = Vec::new();
        for mut resource in missing {
            sign(&mut resource, ctx);
            writes.push(put_step(&resource, Expect::Absent));
            writes.extend(checks(control.examine(&resource, &config)?));
            registered.push(resource.uri);
        }
        if !writes.is_empty() {
            control.commit(writes).await?;
        }
        Ok(Registered { count: registered.len(), registered })
    }
}

/// The resources that the registry lacks.
fn missing<'a>(control: &'a Control, config: &'a Config) -> impl Iterator<Item = Resource> + 'a {
    config.proxies.values().filter(|proxy| proxy.enable_https).filter_map(|proxy| {
        let uri: ResourceUri = control.resource_of(proxy)?.parse().ok()?;
        if config.resources.contains_key(&uri) {
            return None;
        }
        Some(Resource {
            name: proxy.proxy_hostname.to_string(),
            proxy_target: proxy.proxy_hostname.clone(),
            scopes: proxy.resource_scopes.clone().unwrap_or_default(),
            metadata_url: None,
            description: String::new(),
            created_by: None,
            created_at: None,
            updated_at: None,
            config_version: 0,
            uri,
        })
    })
}
