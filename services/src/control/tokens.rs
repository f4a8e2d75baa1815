//! Named tokens: minted for a service identity, shown once, kept as claims only.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use jiff::Timestamp;
use portcullis_layers::Principal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::certificates::delete_steps;
use super::managed::{remove, replace};
use super::operation::{create, delete, get, post};
use super::setup::SETUP;
use super::{Access, Caller, Context, Control, Done, Endpoint, Error, Operation, Secret, Surface, Table};
use crate::config::{Builtin, Config, Entity, FieldError, Scope, Service, Target, Token, TokenName};
use crate::store::{Key, Write};

const DAY: u64 = 86_400;

/// Makes and ends tokens.
#[async_trait]
pub trait Mint: fmt::Debug + Send + Sync {
    /// Makes a token.
    async fn mint(&self, wanted: &Wanted) -> Result<Minted, Error>;

    /// Ends a token before its time, on all nodes.
    async fn revoke(&self, jti: &str, expires_at: Timestamp) -> Result<(), Error>;
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name; the identity is `service:NAME`.
    pub name: TokenName,
    /// Its scopes.
    pub scopes: Vec<Scope>,
    /// The resources that it is for.
    pub audience: Vec<String>,
    /// The address for certificates.
    pub cert_email: Option<String>,
    /// How long it lives.
    pub lifetime: Duration,
}

/// A token that was just made.
#[derive(Debug)]
pub struct Minted {
    /// The token.
    pub token: Secret,
    /// Its id.
    pub jti: String,
    /// The key that signed it.
    pub key_id: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// What must still hold when it is noted: that the key still signs, so that it outlives the token.
    pub guards: Vec<Write>,
}

/// Adds the operations of named tokens.
pub fn register(surface: &mut impl Surface) {
    surface.add::<CreateToken>();
    surface.add::<ListTokens>();
    surface.add::<TokenInfo>();
    surface.add::<ShowToken>();
    surface.add::<RevealToken>();
    surface.add::<RotateToken>();
    surface.add::<DeleteToken>();
}

/// A token, shown this once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    /// Its name.
    pub name: TokenName,
    /// The token. It is not kept: this is the only time that it is shown.
    #[serde(serialize_with = "Secret::reveal")]
    #[schemars(with = "String")]
    pub token: Secret,
    /// Its id.
    pub jti: String,
    /// The identity that it proves: put it on a host's lists to let it in.
    pub subject: String,
    /// Its scopes.
    pub scopes: Vec<Scope>,
    /// The resources that it is for.
    pub audience: Vec<String>,
    /// The address for certificates.
    pub cert_email: Option<String>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Shown {
    fn of(kept: Token, token: Secret) -> Self {
        Self {
            subject: Token::subject(&kept.name),
            name: kept.name,
            token,
            jti: kept.jti,
            scopes: kept.scopes,
            audience: kept.audience,
            cert_email: kept.cert_email,
            created_at: kept.created_at,
            expires_at: kept.expires_at,
        }
    }
}

/// Create a named token for a service. It is shown once.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Its name; the identity is `service:NAME`.
    pub name: TokenName,
    /// Its scopes.
    #[serde(default = "user_scope")]
    #[arg(long, value_delimiter = ',', default_value = "user")]
    pub scopes: Vec<Scope>,
    /// What it is for: hosts or resource URIs; absent: the management API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_delimiter = ',')]
    pub audience: Vec<String>,
    /// The address for certificates that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub cert_email: Option<String>,
    /// How many days it lives, 1 to 366.
    #[serde(default = "ninety")]
    #[arg(long, default_value_t = 90)]
    pub expires_in_days: u32,
}

fn user_scope() -> Vec<Scope> {
    vec!["user".parse().expect("a scope")]
}

const fn ninety() -> u32 {
    90
}

impl Operation for CreateToken {
    const NAME: &'static str = "create_token";
    const COMMAND: &'static [&'static str] = &["token", "create"];
    const HTTP: Endpoint = create("/tokens/");
    const SCOPE: Access = Access::Admin;
    type Output = Shown;

    fn subject(&self) -> Option<String> {
        Some(self.name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Shown, Error> {
        // `/tokens/info` is an operation as others are, and `setup-…` whoever took a setup token.
        if ["info", "email", "formatted"].contains(&self.name.as_str())
            || self.name.as_str().starts_with(SETUP)
        {
            let detail = "is taken by the gateway itself: choose another one";
            return Err(Error::invalid(FieldError::new("name", self.name.as_str(), detail)));
        }
        let lifetime = lifetime(self.expires_in_days)?;
        let config = control.config().await?;
        let audience = audience(control, &config, &self.audience)?;
        if config.tokens.contains_key(&self.name) {
            return Err(Error::Conflict(format!(
                "there is already a token {:?}: rotate it, or choose another name",
                self.name.as_str()
            )));
        }
        let wanted = Wanted {
            name: self.name.clone(),
            scopes: self.scopes,
            audience,
            cert_email: self.cert_email,
            lifetime,
        };
        let mut again = true;
        loop {
            let minted = control.mint.mint(&wanted).await?;
            let kept = keep(wanted.clone(), &minted);
            let problems = kept.problems();
            if !problems.is_empty() {
                return Err(Error::Invalid(problems));
            }
            match control.create(ctx, kept, minted.guards).await {
                Ok(kept) => return Ok(Shown::of(kept, minted.token)),
                // Another key may have begun to sign just then.
                Err(Error::Conflict(_)) if std::mem::take(&mut again) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn lifetime(days: u32) -> Result<Duration, Error> {
    if (1..=366).contains(&days) {
        return Ok(Duration::from_secs(u64::from(days) * DAY));
    }
    Err(Error::invalid(FieldError::new("expires_in_days", days, "expected 1 to 366")))
}

pub(super) fn keep(wanted: Wanted, minted: &Minted) -> Token {
    Token {
        name: wanted.name,
        scopes: wanted.scopes,
        audience: wanted.audience,
        cert_email: wanted.cert_email,
        jti: minted.jti.clone(),
        key_id: Some(minted.key_id.clone()),
        issued_at: minted.issued_at,
        expires_at: minted.expires_at,
        created_by: None,
        created_at: None,
        updated_at: None,
        config_version: 0,
    }
}

/// The resources that are meant: hosts stand for the resource of their proxy, nothing for the API.
fn audience(control: &Control, config: &Config, given: &[String]) -> Result<Vec<String>, Error> {
    if given.is_empty() {
        return api_audience(control, config);
    }
    let resolve = |(index, text): (usize, &String)| {
        let wrong =
            |detail| Error::invalid(FieldError::new(format!("audience[{index}]"), text.as_str(), detail));
        if text.contains("://") {
            let fine = text.parse::<http::Uri>().is_ok() && !text.contains('#');
            return if fine { Ok(text.clone()) } else { Err(wrong("expected a URI without a fragment")) };
        }
        let host = text.parse().map_err(|_| wrong("expected a host name or a resource URI"))?;
        let proxy = config.proxy_of(&host).ok_or_else(|| wrong("there is no proxy for this host"))?;
        Ok(control.site.resource(proxy, &host))
    };
    given.iter().enumerate().map(resolve).collect()
}

/// The resources that the management API is.
pub(super) fn api_audience(control: &Control, config: &Config) -> Result<Vec<String>, Error> {
    let api = config.proxies.values().filter(|proxy| proxy.target_url == Target::Builtin(Builtin::Api));
    let found: Vec<_> = api.filter_map(|proxy| control.resource_of(proxy)).collect();
    if found.is_empty() {
        let detail = "no proxy serves the management API: expected hosts or resource URIs";
        return Err(Error::invalid(FieldError::bare("audience", detail)));
    }
    Ok(found)
}

/// List the named tokens: what is known of them, never the tokens.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListTokens {}

impl Operation for ListTokens {
    const NAME: &'static str = "list_tokens";
    const COMMAND: &'static [&'static str] = &["token", "list"];
    const HTTP: Endpoint = get("/tokens/");
    const TABLE: Option<Table<Vec<Token>>> = Some(Table {
        path: "/tokens/formatted",
        columns: &["Name", "Scopes", "Audience", "Email", "Expires"],
        rows: |tokens| tokens.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::Admin;
    type Output = Vec<Token>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Token>, Error> {
        control.list().await
    }
}

fn row(token: &Token) -> Vec<String> {
    let scopes: Vec<_> = token.scopes.iter().map(Scope::as_str).collect();
    vec![
        token.name.to_string(),
        scopes.join(" "),
        token.audience.join(" "),
        token.cert_email.clone().unwrap_or_default(),
        token.expires_at.to_string(),
    ]
}

/// What the caller's own token says.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Info {
    /// `oauth_jwt`, or `local_socket` for whoever calls over the daemon's own socket.
    pub token_type: &'static str,
    /// The login, or `service:NAME`.
    pub username: Option<String>,
    /// The identity.
    pub subject: Option<String>,
    /// The scopes that hold here.
    pub scopes: Vec<String>,
    /// The e-mail address.
    pub email: Option<String>,
    /// The OAuth client.
    pub client_id: Option<String>,
    /// The resources that the token is for.
    pub audience: Vec<String>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

impl From<&Principal> for Info {
    fn from(principal: &Principal) -> Self {
        let text = |value: &Option<smol_str::SmolStr>| value.as_ref().map(ToString::to_string);
        Self {
            token_type: "oauth_jwt",
            username: text(&principal.username),
            subject: Some(principal.subject.to_string()),
            scopes: principal.scopes.iter().map(ToString::to_string).collect(),
            email: text(&principal.email),
            client_id: text(&principal.client_id),
            audience: principal.audience.iter().map(ToString::to_string).collect(),
            expires_at: i64::try_from(principal.expires_at)
                .ok()
                .and_then(|at| Timestamp::from_second(at).ok()),
        }
    }
}

/// Show what the token of this very call says.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct TokenInfo {}

impl Operation for TokenInfo {
    const NAME: &'static str = "token_info";
    const COMMAND: &'static [&'static str] = &["token", "info"];
    const HTTP: Endpoint = get("/tokens/info");
    const SCOPE: Access = Access::Anyone;
    type Output = Info;

    async fn run(self, _: &Control, ctx: &Context) -> Result<Info, Error> {
        match &ctx.caller {
            Caller::Principal(principal) => Ok((&**principal).into()),
            Caller::Local => Ok(Info {
                token_type: "local_socket",
                username: Some("local".to_owned()),
                subject: None,
                scopes: vec!["admin".to_owned()],
                email: None,
                client_id: None,
                audience: Vec::new(),
                expires_at: None,
            }),
            Caller::Anonymous => Err(Error::Unauthenticated),
        }
    }
}

/// A named token and what its identity has created.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Details {
    /// What is known of the token.
    #[serde(flatten)]
    pub token: Token,
    /// The identity that it proves.
    pub subject: String,
    /// What this identity has created.
    pub created: Vec<String>,
}

/// Show a named token: what is known of it, never the token.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowToken {
    /// Its name.
    pub name: TokenName,
}

impl Operation for ShowToken {
    const NAME: &'static str = "show_token";
    const COMMAND: &'static [&'static str] = &["token", "show"];
    const HTTP: Endpoint = get("/tokens/{name}");
    const SCOPE: Access = Access::Admin;
    type Output = Details;

    async fn run(self, control: &Control, _: &Context) -> Result<Details, Error> {
        let token: Token = control.get(self.name.as_str()).await?;
        let config = control.config().await?;
        let subject = Token::subject(&self.name);
        let created = belongings(&config, &subject).iter().map(|(key, _)| key.to_string()).collect();
        Ok(Details { token, subject, created })
    }
}

/// Tokens are not kept, so none can be shown again: this always says so.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RevealToken {
    /// Its name.
    pub name: TokenName,
}

impl Operation for RevealToken {
    const NAME: &'static str = "reveal_token";
    const COMMAND: &'static [&'static str] = &["token", "reveal"];
    const HTTP: Endpoint = get("/tokens/{name}/reveal");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    async fn run(self, control: &Control, _: &Context) -> Result<Done, Error> {
        let token: Token = control.get(self.name.as_str()).await?;
        Err(Error::Gone(format!(
            "the token {:?} was shown when it was made and is not kept: rotate it to get a new one",
            token.name.as_str()
        )))
    }
}

/// Make the next token of a name, and end the last one at once. It is shown once.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RotateToken {
    /// Its name.
    pub name: TokenName,
    /// How many days the new one lives; absent: as long as the last one was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub expires_in_days: Option<u32>,
}

impl Operation for RotateToken {
    const NAME: &'static str = "rotate_token";
    const COMMAND: &'static [&'static str] = &["token", "rotate"];
    const HTTP: Endpoint = post("/tokens/{name}/rotate");
    const SCOPE: Access = Access::Admin;
    type Output = Shown;

    fn subject(&self) -> Option<String> {
        Some(self.name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Shown, Error> {
        let last: Token = control.get(self.name.as_str()).await?;
        if let Some(expected) = ctx.if_match.filter(|expected| *expected != last.config_version) {
            let (what, id, actual) = (Token::NOUN, last.id(), last.config_version);
            return Err(Error::Stale { what, id, expected, actual });
        }
        let lifetime = match self.expires_in_days {
            Some(days) => lifetime(days)?,
            None => {
                let seconds = last.expires_at.as_second() - last.issued_at.as_second();
                Duration::from_secs(u64::try_from(seconds).unwrap_or(DAY))
            }
        };
        let wanted = Wanted {
            name: last.name.clone(),
            scopes: last.scopes.clone(),
            audience: last.audience.clone(),
            cert_email: last.cert_email.clone(),
            lifetime,
        };
        let minted = control.mint.mint(&wanted).await?;
        // First: should the rest fail, there is one valid token too few, and never one too many.
        control.mint.revoke(&last.jti, last.expires_at).await?;
        let next = Token {
            created_by: last.created_by.clone(),
            created_at: last.created_at,
            updated_at: Some(Timestamp::now()),
            config_version: last.config_version,
            ..keep(wanted, &minted)
        };
        let mut writes = vec![super::managed::replace(&next)];
        writes.extend(minted.guards);
        control.commit(writes).await?;
        Ok(Shown::of(next, minted.token))
    }
}

/// End a named token, and forget it.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteToken {
    /// Its name.
    pub name: TokenName,
    /// Delete what its identity has created as well.
    #[serde(default)]
    #[arg(long)]
    pub cascade: bool,
}

impl Operation for DeleteToken {
    const NAME: &'static str = "delete_token";
    const COMMAND: &'static [&'static str] = &["token", "delete"];
    const HTTP: Endpoint = delete("/tokens/{name}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let token: Token = control.get(self.name.as_str()).await?;
        let subject = Token::subject(&self.name);
        let mut done = Done::new("deleted", &token.name);
        if self.cascade {
            let config = control.config().await?;
            let all = belongings(&config, &subject);
            forbid_while_used(&config, &all)?;
            done.also = all.iter().map(|(key, _)| format!("{key} deleted")).collect();
        }
        control.mint.revoke(&token.jti, token.expires_at).await?;
        let cascade = |_: &Token, config: &Config| {
            if !self.cascade {
                return Ok(Vec::new());
            }
            let all = belongings(config, &subject);
            forbid_while_used(config, &all)?;
            Ok(all.into_iter().flat_map(|(_, writes)| writes).collect())
        };
        let _: Token = control.delete(ctx, self.name.as_str(), cascade).await?;
        Ok(done)
    }
}

/// What an identity has created, and the steps that delete it.
fn belongings(config: &Config, subject: &str) -> Vec<(Key, Vec<Write>)> {
    fn of<'a, T: Entity>(
        all: impl Iterator<Item = &'a Arc<T>> + 'a,
        subject: &'a str,
    ) -> impl Iterator<Item = &'a T> + 'a {
        all.map(|one| &**one).filter(move |one| one.created_by() == Some(subject))
    }
    let mut found = Vec::new();
    found.extend(of(config.routes.values(), subject).map(|one| (one.key(), vec![remove(one)])));
    found.extend(of(config.resources.values(), subject).map(|one| (one.key(), vec![remove(one)])));
    found.extend(of(config.proxies.values(), subject).map(|one| (one.key(), vec![remove(one)])));
    found.extend(of(config.externals.values(), subject).map(|one| (one.key(), vec![remove(one)])));
    // Whoever runs its containers removes them, and then the document.
    found.extend(
        of(config.services.values(), subject)
            .map(|one| (one.key(), vec![replace(&Service { deleting: true, ..one.clone() })])),
    );
    found.extend(of(config.certificates.values(), subject).map(|one| (one.key(), delete_steps(one).into())));
    found
}

/// What stays must not rely on what goes.
fn forbid_while_used(config: &Config, going: &[(Key, Vec<Write>)]) -> Result<(), Error> {
    fn relying<'a, T: Entity>(
        config: &Config,
        all: impl Iterator<Item = &'a Arc<T>>,
        going: &BTreeSet<&Key>,
        users: &mut Vec<String>,
    ) {
        for one in all.filter(|one| !going.contains(&one.key())) {
            if one.references(config, &mut Vec::new()).iter().any(|key| going.contains(key)) {
                users.push(one.key().to_string());
            }
        }
    }
    let going: BTreeSet<&Key> = going.iter().map(|(key, _)| key).collect();
    let mut users = Vec::new();
    relying(config, config.proxies.values(), &going, &mut users);
    relying(config, config.routes.values(), &going, &mut users);
    relying(config, config.resources.values(), &going, &mut users);
    let listed = config.proxies.values().filter(|proxy| {
        !going.contains(&proxy.key())
            && proxy
                .enabled_routes
                .iter()
                .chain(&proxy.disabled_routes)
                .any(|route| going.contains(&Key::new(crate::store::Kind::Route, route.as_str())))
    });
    users.extend(listed.map(|proxy| proxy.key().to_string()));
    if users.is_empty() {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "{} still rely on what this identity created: change them first",
        users.join(", ")
    )))
}
