//! Clients that administrators set up. A secret is shown when it is made, and never again.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::clients::{ClientDetails, ClientId, check_match, details, is_built_in, not_found, read};
use crate::config::{FieldError, field};
use crate::control::changes::Form;
use crate::control::operation::{create, patch, post};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Surface};
use crate::oauth::AuthorizationServer;
use crate::oauth::clients::configured::InvalidClient;
use crate::oauth::clients::metadata::{InvalidMetadata, Source};
use crate::oauth::clients::{ConfiguredClient, Metadata};
use crate::store::{Expect, Key, Kind};

/// The fields that are no metadata (RFC 7591) of the client: what an administrator says of it.
const SAID: [&str; 2] = ["first_party", "introspect"];

/// Adds the operations of clients that administrators set up.
pub fn register(surface: &mut impl Surface) {
    surface.add::<CreateOauthClient>();
    surface.add::<UpdateOauthClient>();
    surface.add::<RotateOauthClientSecret>();
}

/// What a client is to be (RFC 7591, section 2).
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// Its name, for people.
    client_name: Option<String>,
    /// Where it may send browsers back to.
    redirect_uris: Option<Vec<String>>,
    /// What it may send to the token endpoint; absent: `authorization_code` and `refresh_token`.
    grant_types: Option<Vec<String>>,
    /// How it proves itself: `none`, `client_secret_basic` (when nothing is said), `client_secret_post` or
    /// `private_key_jwt`.
    token_endpoint_auth_method: Option<String>,
    /// The scopes that it will ask for, parted by blanks. No ceiling.
    scope: Option<String>,
    /// Its home page.
    client_uri: Option<String>,
    /// Its picture.
    logo_uri: Option<String>,
    /// Its terms.
    tos_uri: Option<String>,
    /// Its privacy policy.
    policy_uri: Option<String>,
    /// Whom to write to.
    contacts: Option<Vec<String>>,
    /// The keys that its assertions are signed with, as a JSON Web Key Set,
    jwks: Option<Value>,
    /// or where they are.
    jwks_uri: Option<String>,
    /// Which software it is.
    software_id: Option<String>,
    /// Which version.
    software_version: Option<String>,
    /// `web` or `native`.
    application_type: Option<String>,
    /// Whether it is a part of this deployment, so that its users need not be asked.
    first_party: Option<bool>,
    /// Whether it is a resource server of this deployment, which may introspect all access tokens.
    introspect: Option<bool>,
}

/// A client that was set up or changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SetUp {
    /// The client.
    #[serde(flatten)]
    pub client: ClientDetails,
    /// Its secret, if a new one was made. It is not kept: this is the only time that it is shown.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reveal")]
    #[schemars(with = "Option<String>")]
    pub client_secret: Option<SecretString>,
}

fn reveal<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_str(secret.expose_secret()),
        None => serializer.serialize_none(),
    }
}

/// Set a client up. Its secret is shown once.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct CreateOauthClient {
    /// Its id: letters, digits, `.`, `_` or `-`.
    pub client_id: String,
    /// What it is to be.
    #[serde(flatten)]
    #[command(flatten)]
    pub wanted: Form<Wanted>,
}

impl Operation for CreateOauthClient {
    const NAME: &'static str = "create_oauth_client";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "create"];
    const HTTP: Endpoint = create("/oauth/clients");
    const SCOPE: Access = Access::Admin;
    type Output = SetUp;

    fn subject(&self) -> Option<String> {
        Some(self.client_id.clone())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<SetUp, Error> {
        let server = control.oauth()?;
        let Wanted { first_party, introspect, .. } = self.wanted.read()?;
        let id = self.client_id;
        let exists = || Error::Conflict(format!("there is already an OAuth client {id:?}"));
        let key = Key::new(Kind::Client, id.as_str());
        if is_built_in(server, &id) || server.mirror.store().get(&key).await?.is_some() {
            return Err(exists());
        }
        let fields = metadata(self.wanted.0);
        let (mut client, client_secret) = ConfiguredClient::new(&fields, first_party.unwrap_or_default())
            .map_err(|error| invalid(&error))?;
        client.introspect = introspect.unwrap_or_default();
        client.created_at = Some(Timestamp::now());
        client.created_by = ctx.caller.name().map(std::borrow::Cow::into_owned);
        put(control, &id, &client, Expect::Absent).await?;
        Ok(SetUp { client: details(control, &id).await?, client_secret })
    }
}

/// Change a client that an administrator set up. If it needs a secret now and had none, one is made and shown once.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct UpdateOauthClient {
    /// Its id.
    pub client_id: ClientId,
    /// What is to be otherwise: absent keeps, `null` clears.
    #[serde(flatten)]
    #[command(flatten)]
    pub wanted: Form<Wanted>,
}

impl Operation for UpdateOauthClient {
    const NAME: &'static str = "update_oauth_client";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "update"];
    const HTTP: Endpoint = patch("/oauth/clients/{client_id}");
    const SCOPE: Access = Access::Admin;
    type Output = SetUp;

    fn subject(&self) -> Option<String> {
        Some(self.client_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<SetUp, Error> {
        let id = self.client_id.as_str();
        let Wanted { first_party, introspect, .. } = self.wanted.read()?;
        let (mut client, version) = configured(control.oauth()?, id).await?;
        check_match(ctx, id, Some(version))?;
        let Ok(Value::Object(mut fields)) = serde_json::to_value(&client.metadata) else {
            return Err(Error::internal("metadata is an object"));
        };
        // The keys of a client that signs: one kind takes the place of the other.
        for (one, other) in [("jwks", "jwks_uri"), ("jwks_uri", "jwks")] {
            if self.wanted.0.get(one).is_some_and(|value| !value.is_null()) {
                fields.remove(other);
            }
        }
        field::merge(&mut fields, &metadata(self.wanted.0));
        client.metadata = Metadata::read(&fields, Source::Configuration).map_err(|error| invalid(&error))?;
        client.first_party = first_party.unwrap_or(client.first_party);
        client.introspect = introspect.unwrap_or(client.introspect);
        let needs = client.metadata.token_endpoint_auth_method.has_secret();
        let client_secret = if needs == client.has_secret() { None } else { client.renew_secret() };
        put(control, id, &client, Expect::Version(version)).await?;
        Ok(SetUp { client: details(control, id).await?, client_secret })
    }
}

/// Replace the secret of a client that an administrator set up, at once. The new one is shown once.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RotateOauthClientSecret {
    /// Its id.
    pub client_id: ClientId,
}

impl Operation for RotateOauthClientSecret {
    const NAME: &'static str = "rotate_oauth_client_secret";
    const COMMAND: &'static [&'static str] = &["oauth", "client", "rotate-secret"];
    const HTTP: Endpoint = post("/oauth/clients/{client_id}/secret");
    const SCOPE: Access = Access::Admin;
    type Output = SetUp;

    fn subject(&self) -> Option<String> {
        Some(self.client_id.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<SetUp, Error> {
        let id = self.client_id.as_str();
        let (mut client, version) = configured(control.oauth()?, id).await?;
        check_match(ctx, id, Some(version))?;
        let client_secret = client.renew_secret();
        if client_secret.is_none() {
            let method = client.metadata.token_endpoint_auth_method.as_str();
            let why = format!("{id:?} has no secret: its token_endpoint_auth_method is {method}");
            return Err(Error::Conflict(why));
        }
        put(control, id, &client, Expect::Version(version)).await?;
        Ok(SetUp { client: details(control, id).await?, client_secret })
    }
}

/// A client that an administrator set up, and its version. Of others it says why they can't be changed.
async fn configured(server: &AuthorizationServer, id: &str) -> Result<(ConfiguredClient, u64), Error> {
    let document = server.mirror.store().get(&Key::new(Kind::Client, id)).await?;
    if let Some(document) = document.filter(|_| !is_built_in(server, id)) {
        let version = document.version;
        return Ok((read(document)?, version));
    }
    if is_built_in(server, id) {
        return Err(Error::Conflict(format!("{id:?} is a part of portcullis")));
    }
    if server.registrations.get(id, Timestamp::now()).await?.is_some() {
        return Err(Error::Conflict(format!("{id:?} registered itself, and only it can change that")));
    }
    Err(not_found(id))
}

/// The fields that are metadata.
fn metadata(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.retain(|name, _| !SAID.contains(&name.as_str()));
    fields
}

async fn put(control: &Control, id: &str, client: &ConfiguredClient, expect: Expect) -> Result<(), Error> {
    let write = client.put(id, expect).map_err(|error| match error {
        InvalidClient::Id => Error::invalid(FieldError::new("client_id", id, error.to_string())),
        InvalidClient::Metadata(error) => invalid(&error),
    })?;
    control.commit(vec![write]).await?;
    Ok(())
}

fn invalid(error: &InvalidMetadata) -> Error {
    let field = match error {
        InvalidMetadata::RedirectUri(_) => "redirect_uris",
        InvalidMetadata::Member { member, problem } => {
            return Error::invalid(FieldError::bare(*member, *problem));
        }
        InvalidMetadata::TooLong | InvalidMetadata::NotAnObject => "",
    };
    Error::invalid(FieldError::bare(field, error.to_string()))
}
