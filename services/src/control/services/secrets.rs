//! Secret variables of a service: sealed in the vault. The document knows their names, and which value is wanted.

use std::collections::BTreeMap;

use clap::Args;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};

use super::create::revision;
use super::{Error, ServiceInfo, waiting};
use crate::config::service::is_variable;
use crate::config::{Config, FieldError, Service, ServiceName};
use crate::control::operation::{delete, put};
use crate::control::{Access, Context, Control, Endpoint, Operation, Secret};
use crate::store::{Expect, Key, Kind, Write};
use crate::vault::Vault;

/// The longest value, in bytes.
const MAX_VALUE: usize = 32 * 1024;

/// Set a secret variable of a service: its value is sealed and never shown. New containers take the place of the old.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct SetServiceSecret {
    /// The service.
    pub service_name: ServiceName,
    /// The variable.
    pub variable: String,
    /// Its value.
    #[serde(serialize_with = "Secret::reveal")]
    #[arg(value_name = "VALUE|@FILE", value_parser = Secret::from_argument)]
    pub value: Secret,
}

impl Operation for SetServiceSecret {
    const NAME: &'static str = "set_service_secret";
    const COMMAND: &'static [&'static str] = &["service", "secret", "set"];
    const HTTP: Endpoint = put("/services/{service_name}/secrets/{variable}");
    const SCOPE: Access = Access::Admin;
    type Output = ServiceInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        check(&self.variable, &self.value)?;
        change(control, ctx, &self.service_name, |service, values| {
            service.secrets.insert(self.variable.clone(), revision());
            values.insert(self.variable.clone(), Zeroizing::new(self.value.expose().to_owned()));
            Ok(())
        })
        .await
    }
}

/// Forget a secret variable of a service.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ClearServiceSecret {
    /// The service.
    pub service_name: ServiceName,
    /// The variable.
    pub variable: String,
}

impl Operation for ClearServiceSecret {
    const NAME: &'static str = "clear_service_secret";
    const COMMAND: &'static [&'static str] = &["service", "secret", "clear"];
    const HTTP: Endpoint = delete("/services/{service_name}/secrets/{variable}");
    const SCOPE: Access = Access::Admin;
    type Output = ServiceInfo;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceInfo, Error> {
        change(control, ctx, &self.service_name, |service, values| {
            values.remove(&self.variable);
            match service.secrets.remove(&self.variable) {
                Some(_) => Ok(()),
                None => Err(Error::NotFound { what: "secret variable", id: self.variable.clone() }),
            }
        })
        .await
    }
}

/// What can be wrong with a variable, without its value.
pub(super) fn check(name: &str, value: &Secret) -> Result<(), Error> {
    let wrong = |detail: &str| Err(Error::invalid(FieldError::bare(format!("secrets.{name}"), detail)));
    if !is_variable(name) {
        return wrong("expected a name of letters, digits and '_' that does not begin with a digit");
    }
    if value.expose().len() > MAX_VALUE || value.expose().contains('\0') {
        return wrong("expected a text of up to 32768 bytes");
    }
    Ok(())
}

type Values = BTreeMap<String, Zeroizing<String>>;

async fn change(
    control: &Control,
    ctx: &Context,
    name: &ServiceName,
    change: impl Fn(&mut Service, &mut Values) -> Result<(), Error> + Send + Sync,
) -> Result<ServiceInfo, Error> {
    let docker = control.docker()?;
    let id = Service::secret_id(name);
    let view = control.mirror.latest().await?;
    let before = view.document(&Key::new(Kind::Secret, &*id));
    let values: BTreeMap<String, String> = match &before {
        Some(sealed) => {
            let opened = control.vault.open(&id, &sealed.value).map_err(Error::internal)?;
            serde_json::from_slice(opened.expose_secret()).map_err(Error::internal)?
        }
        None => BTreeMap::new(),
    };
    let values: Values = values.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
    let expect = before.as_ref().map_or(Expect::Absent, |before| Expect::Version(before.version));
    let edit = |mut service: Service, _: &Config| {
        super::check_made_here(&service)?;
        let mut values = values.clone();
        change(&mut service, &mut values)?;
        let write = match (values.is_empty(), &before) {
            (true, None) => None,
            (true, Some(_)) => Some(Vault::delete(&id, expect)),
            (false, _) => Some(seal(control, &id, &values, expect)?),
        };
        Ok((service, write.into_iter().collect()))
    };
    let service = control.edit_with(ctx, name.as_str(), edit).await?;
    let known = waiting::settled(docker, ctx, &service).await?;
    waiting::check(&service, &known)?;
    Ok(ServiceInfo { service, state: known })
}

fn seal(control: &Control, id: &str, values: &Values, expect: Expect) -> Result<Write, Error> {
    let plain: BTreeMap<_, _> = values.iter().map(|(name, value)| (name, value.as_str())).collect();
    let content = Zeroizing::new(serde_json::to_vec(&plain).map_err(Error::internal)?);
    control.vault.put(id, &content, expect).map_err(Error::internal)
}
