//! Creating a service, with its host where one is wanted; what was made is taken back when a step fails.

use std::collections::BTreeMap;

use clap::Args;
use schemars::JsonSchema;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Error, admit, waiting};
use crate::config::service::Desired;
use crate::config::{Config, FieldError, HostPattern, Service, ServiceName};
use crate::control::certificates::of_host::CertificateOfHost;
use crate::control::operation::create;
use crate::control::proxies::{CreateProxy, Created};
use crate::control::{Access, Context, Control, Endpoint, New, Operation, Secret};
use crate::docker::{Docker, Known, foreign, images};
use crate::random;
use crate::store::{Expect, Key, Kind, Write};

/// A service that was just created.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ServiceCreated {
    /// The service.
    pub service: Service,
    /// How it goes.
    pub state: Known,
    /// The host that was made with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_created: Option<Created>,
    /// Routes and hosts can name it.
    pub instance_registered: bool,
}

/// Create a Docker service from an image, which is pulled when it is missing, from a Dockerfile, which is built, or of a
/// container that is there. The answer comes when it runs; if it does not, what was made is taken back and the answer
/// says why.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
pub struct CreateService {
    /// Make this host, whose requests go to the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long, value_name = "HOST")]
    pub host: Option<HostPattern>,
    /// Make the host NAME.BASE_DOMAIN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long, conflicts_with = "host")]
    pub auto_proxy: bool,
    /// People have to sign in at the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub auth: bool,
    /// Further fields of the host, as for `proxy create`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[arg(long, value_name = "JSON", value_parser = crate::control::proxies::json::<Map<String, Value>>, default_value = "{}", hide_default_value = true)]
    pub proxy: Map<String, Value>,
    /// Variables whose values are sealed and never shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "by_name")]
    #[schemars(with = "BTreeMap<String, String>")]
    #[arg(long, value_name = "NAME=VALUE|NAME=@FILE", value_parser = SecretVariable::from_argument)]
    pub secret_environment: Vec<SecretVariable>,
    /// The service.
    #[serde(flatten)]
    #[command(flatten)]
    pub service: New<Service>,
}

/// A variable whose value nobody sees again.
#[derive(Debug, Clone)]
pub struct SecretVariable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Secret,
}

impl SecretVariable {
    /// Reads `NAME=VALUE`, or `NAME=@FILE`.
    fn from_argument(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE or NAME=@FILE")?;
        let value = Secret::from_argument(value).map_err(|error| error.to_string())?;
        Ok(Self { name: name.to_owned(), value })
    }
}

/// A list of variables as an object.
mod by_name {
    use std::collections::BTreeMap;

    use serde::ser::SerializeMap;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Secret, SecretVariable};

    pub(super) fn serialize<S: Serializer>(all: &[SecretVariable], serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(all.len()))?;
        for one in all {
            map.serialize_entry(&one.name, one.value.expose())?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SecretVariable>, D::Error> {
        let map = BTreeMap::<String, Secret>::deserialize(from)?;
        Ok(map.into_iter().map(|(name, value)| SecretVariable { name, value }).collect())
    }
}

/// The name of a build or of a secret value: another one each time.
pub(super) fn revision() -> String {
    random::bytes::<6>().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Operation for CreateService {
    const NAME: &'static str = "create_service";
    const COMMAND: &'static [&'static str] = &["service", "create"];
    const HTTP: Endpoint = create("/services/");
    const SCOPE: Access = Access::Admin;
    type Output = ServiceCreated;

    fn subject(&self) -> Option<String> {
        let name = self.service.0.get("service_name").or_else(|| self.service.0.get("name"));
        name.and_then(|name| name.as_str()).map(str::to_owned)
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<ServiceCreated, Error> {
        let docker = control.docker()?;
        let mut service: Service = self.service.build()?;
        service.node.get_or_insert_with(|| docker.owner.node.clone());
        if service.dockerfile_path.is_some() {
            service.build_revision = Some(revision());
        }
        for variable in &self.secret_environment {
            super::secrets::check(&variable.name, &variable.value)?;
            service.secrets.insert(variable.name.clone(), revision());
        }
        let problems = crate::config::Entity::problems(&service);
        if !problems.is_empty() {
            return Err(Error::Invalid(problems));
        }
        let config = control.config().await?;
        admit(docker, &service, &config)?;
        let host = self.host(&service.service_name, control, &config)?;
        control.examine(&service, &config)?;
        // A name that is taken is told before an image is pulled for it.
        if config.services.contains_key(&service.service_name) {
            let name = service.service_name.as_str();
            return Err(Error::Conflict(format!(
                "there is already a service {name:?}: update it, or choose another name"
            )));
        }
        if is_ours(docker, &service) && service.container.is_some() {
            if let Some(trouble) = foreign::trouble(docker, &service).await? {
                return Err(Error::invalid(FieldError::new("container", service.container, trouble)));
            }
        } else if is_ours(docker, &service) {
            docker.engine.ping().await?;
            docker.check_mounts(&service, &[]).await?;
            let progress = ctx.progress.clone();
            let image = images::ensure(docker, &service, move |step| progress.report(step));
            tokio::select! {
                image = image => drop(image?),
                () = ctx.cancel.cancelled() => return Err(Error::Cancelled),
            }
        }
        let service = self.store(control, ctx, service).await?;
        match self.bring_up(control, ctx, docker, &service, host).await {
            Ok((state, proxy_created)) => {
                Ok(ServiceCreated { service, state, proxy_created, instance_registered: true })
            }
            Err(error) => {
                ctx.progress.report("taking back what was made");
                super::delete::take_back(control, docker, &service).await;
                Err(error)
            }
        }
    }
}

fn is_ours(docker: &Docker, service: &Service) -> bool {
    service.node.as_ref().is_none_or(|node| *node == docker.owner.node)
}

impl CreateService {
    /// The host that is wanted.
    fn host(
        &self,
        service: &ServiceName,
        control: &Control,
        config: &Config,
    ) -> Result<Option<HostPattern>, Error> {
        let host = match (&self.host, self.auto_proxy) {
            (Some(host), _) => host.clone(),
            (None, true) => super::proxy::usual_host(service, control)?,
            (None, false) => return Ok(None),
        };
        if config.proxies.contains_key(host.as_str()) {
            return Err(Error::Conflict(format!(
                "there is already a proxy {:?}: give its requests to the service with `target_url: service:{service}`",
                host.as_str()
            )));
        }
        Ok(Some(host))
    }

    async fn store(&self, control: &Control, ctx: &Context, service: Service) -> Result<Service, Error> {
        // Both kinds of services share their names.
        let other = Key::new(Kind::External, service.service_name.as_str());
        let mut more = vec![Write::Check { key: other, expect: Expect::Absent }];
        if !self.secret_environment.is_empty() {
            let values: BTreeMap<_, _> =
                self.secret_environment.iter().map(|one| (&one.name, one.value.expose())).collect();
            let values = Zeroizing::new(serde_json::to_vec(&values).map_err(Error::internal)?);
            let id = Service::secret_id(&service.service_name);
            more.push(control.vault.put(&id, &values, Expect::Any).map_err(Error::internal)?);
        }
        control.create(ctx, service, more).await
    }

    async fn bring_up(
        &self,
        control: &Control,
        ctx: &Context,
        docker: &Docker,
        service: &Service,
        host: Option<HostPattern>,
    ) -> Result<(Known, Option<Created>), Error> {
        let state = waiting::settled(docker, ctx, service).await?;
        if service.desired_state == Desired::Running {
            waiting::check(service, &state)?;
        }
        let Some(host) = host else { return Ok((state, None)) };
        ctx.progress.report(format!("making the host {host}"));
        let mut fields = self.proxy.clone();
        fields.insert("proxy_hostname".to_owned(), json!(host));
        fields.insert("target_url".to_owned(), json!(format!("service:{}", service.service_name)));
        if self.auth {
            fields.insert("auth_enabled".to_owned(), json!(true));
        }
        let certificate = CertificateOfHost { cert_email: None, acme_directory_url: None, staging: false };
        let made = CreateProxy { certificate, proxy: fields.into() }.run(control, ctx).await?;
        Ok((state, Some(made)))
    }
}
