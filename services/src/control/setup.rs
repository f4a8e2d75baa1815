//! The first admin: a setup token, good for an hour and for one use over all nodes, becomes an admin's token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::managed::remove;
use super::operation::{create, post};
use super::tokens::{Wanted, api_audience, keep};
use super::{Access, Context, Control, Endpoint, Error, Operation, Secret, Surface};
use crate::config::{Config, FieldError, Token, TokenName};
use crate::store::{ItemKey, Write};

/// How long a setup token is good for.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How long the admin's token is good for that it becomes.
const ADMIN_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// What the names of the admins' tokens start with: they are listed and deleted like any other.
pub(super) const SETUP: &str = "setup-";

/// What every setup token starts with, so that scanners find one that leaked.
const PREFIX: &str = "pcs_";

/// Adds the operations of the setup.
pub fn register(surface: &mut impl Surface) {
    surface.add::<CreateSetupToken>();
    surface.add::<UseSetupToken>();
}

/// A setup token, shown this once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SetupToken {
    /// The token: for `portcullis login --setup`.
    #[serde(serialize_with = "Secret::reveal")]
    #[schemars(with = "String")]
    pub token: Secret,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Make a setup token: whoever has it can become admin, once, within an hour.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CreateSetupToken {}

impl Operation for CreateSetupToken {
    const NAME: &'static str = "create_setup_token";
    const COMMAND: &'static [&'static str] = &["setup-token"];
    const HTTP: Endpoint = create("/setup/tokens");
    const SCOPE: Access = Access::Admin;
    type Output = SetupToken;

    async fn run(self, control: &Control, _: &Context) -> Result<SetupToken, Error> {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::internal("the system has no randomness"))?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let expires_at = Timestamp::now() + LIFETIME;
        control.store.put_item(&item(&token), &[], LIFETIME).await?;
        Ok(SetupToken { token: token.into(), expires_at })
    }
}

/// An admin's token, shown this once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AdminToken {
    /// The token.
    #[serde(serialize_with = "Secret::reveal")]
    #[schemars(with = "String")]
    pub token: Secret,
    /// Its name: deleting the token of this name ends it.
    pub name: TokenName,
    /// The identity that it proves.
    pub subject: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Exchange a setup token for an admin's token, which is a named one: it can be listed, and ended before its time.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct UseSetupToken {
    /// The setup token.
    #[serde(serialize_with = "Secret::reveal")]
    #[schemars(with = "String")]
    #[arg(value_parser = Secret::from_argument)]
    pub token: Secret,
}

impl Operation for UseSetupToken {
    const NAME: &'static str = "use_setup_token";
    // `login --setup` is its command, because the answer belongs into the profile and not onto the screen.
    const COMMAND: &'static [&'static str] = &[];
    const HTTP: Endpoint = post("/setup");
    const SCOPE: Access = Access::Public;
    type Output = AdminToken;

    async fn run(self, control: &Control, ctx: &Context) -> Result<AdminToken, Error> {
        let detail =
            "is no setup token, was used, or is older than an hour: make one with `portcullis setup-token`";
        let refused = || Error::invalid(FieldError::bare("token", detail));
        let token = self.token.expose().trim();
        if !token.starts_with(PREFIX) || token.len() > 128 {
            return Err(refused());
        }
        // Taking it is atomic: of two that race, one gets in.
        control.store.take_item(&item(token)).await?.ok_or_else(refused)?;
        let config = control.config().await?;
        let wanted = Wanted {
            name: new_name()?,
            scopes: vec!["admin".parse().map_err(|_| Error::internal("admin is no scope"))?],
            audience: api_audience(control, &config)?,
            cert_email: None,
            lifetime: ADMIN_LIFETIME,
        };
        let minted = control.mint.mint(&wanted).await?;
        let kept = keep(wanted, &minted);
        let steps = minted.guards.into_iter().chain(forget_expired(&config)).collect();
        let Token { name, expires_at, .. } = control.create(ctx, kept, steps).await?;
        Ok(AdminToken { token: minted.token, subject: Token::subject(&name), name, expires_at })
    }
}

/// `setup-`, the day, and digits that nobody had before.
fn new_name() -> Result<TokenName, Error> {
    let mut random = [0; 4];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::internal("the system has no randomness"))?;
    let (day, random) = (Timestamp::now().strftime("%Y%m%d"), u32::from_be_bytes(random));
    format!("{SETUP}{day}-{random:08x}").parse().map_err(|_| Error::internal("the name is none"))
}

/// Nobody else would: their owners have long had other tokens.
fn forget_expired(config: &Config) -> impl Iterator<Item = Write> {
    let now = Timestamp::now();
    let expired = config
        .tokens
        .values()
        .filter(move |one| one.name.as_str().starts_with(SETUP) && one.expires_at < now);
    expired.map(|one| remove(&**one))
}

/// The store keeps the hash only: reading the store makes nobody admin.
fn item(token: &str) -> ItemKey {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    ItemKey { kind: "setup", id: URL_SAFE_NO_PAD.encode(hash) }
}
