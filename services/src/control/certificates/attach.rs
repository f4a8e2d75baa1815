//! Which host serves which certificate.

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{CertName, Certificate, Config, HostPattern, Proxy};
use crate::control::operation::post;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// Let a proxy serve a certificate.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct AttachCertificate {
    /// The certificate.
    pub cert_name: CertName,
    /// The public name of the proxy.
    #[serde(alias = "hostname")]
    pub proxy_hostname: HostPattern,
}

impl Operation for AttachCertificate {
    const NAME: &'static str = "attach_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "attach"];
    const HTTP: Endpoint = post("/certificates/{cert_name}/attach");
    const SCOPE: Access = Access::Admin;
    type Output = Proxy;

    fn subject(&self) -> Option<String> {
        Some(format!("{} {}", self.cert_name, self.proxy_hostname))
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Proxy, Error> {
        let _: Certificate = control.get(self.cert_name.as_str()).await?;
        let attach =
            |proxy: Proxy, _: &Config| Ok(Proxy { cert_name: Some(self.cert_name.clone()), ..proxy });
        control.edit(ctx, self.proxy_hostname.as_str(), attach).await
    }
}
