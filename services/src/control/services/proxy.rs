//! A host in front of a service that is there already.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::Error;
use crate::config::{HostPattern, Service, ServiceName};
use crate::control::certificates::of_host::CertificateOfHost;
use crate::control::operation::create;
use crate::control::proxies::{CreateProxy, Created};
use crate::control::{Access, Context, Control, Endpoint, Operation};

/// Create a host whose requests go to a service.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CreateServiceProxy {
    /// The service.
    pub service_name: ServiceName,
    /// The host. Default: NAME.BASE_DOMAIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub hostname: Option<HostPattern>,
    /// Whether it answers over HTTPS. Default: as for any host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[arg(long)]
    pub enable_https: Option<bool>,
}

impl Operation for CreateServiceProxy {
    const NAME: &'static str = "create_service_proxy";
    const COMMAND: &'static [&'static str] = &["service", "proxy"];
    const HTTP: Endpoint = create("/services/{service_name}/proxy");
    const SCOPE: Access = Access::Admin;
    type Output = Created;

    fn subject(&self) -> Option<String> {
        Some(self.service_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Created, Error> {
        let service: Service = control.get(self.service_name.as_str()).await?;
        let host = match self.hostname {
            Some(host) => host,
            None => usual_host(&service.service_name, control)?,
        };
        let mut fields = Map::new();
        fields.insert("proxy_hostname".to_owned(), json!(host));
        fields.insert("target_url".to_owned(), json!(format!("service:{}", service.service_name)));
        if let Some(enable_https) = self.enable_https {
            fields.insert("enable_https".to_owned(), json!(enable_https));
        }
        let certificate = CertificateOfHost { cert_email: None, acme_directory_url: None, staging: false };
        CreateProxy { certificate, proxy: fields.into() }.run(control, ctx).await
    }
}

/// `NAME.BASE_DOMAIN`: the domain that the issuer's host is in.
pub(super) fn usual_host(name: &ServiceName, control: &Control) -> Result<HostPattern, Error> {
    let issuer = control.issuer().host.as_str();
    let domain = issuer.strip_prefix("auth.").unwrap_or(issuer);
    let host = format!("{}.{domain}", name.as_str().replace('_', "-"));
    host.parse().map_err(|_| Error::Conflict(format!("{host:?} is no name of a host: give one with `host`")))
}
