//! Certificates that nobody needs any more.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{forget, needed_by};
use crate::config::{CertName, Certificate, Config, Proxy};
use crate::control::managed::put as put_step;
use crate::control::operation::delete;
use crate::control::{Access, Context, Control, Done, Endpoint, Error, Operation};
use crate::store::Expect;
use crate::vault::Vault;

/// Delete a certificate and its key. Refused while a proxy names it or has no other one, unless forced.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// Delete it even if proxies need it: they forget it, and fall back to the self-signed one.
    #[serde(default)]
    #[arg(long, short)]
    pub force: bool,
}

impl Operation for DeleteCertificate {
    const NAME: &'static str = "delete_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "delete"];
    const HTTP: Endpoint = delete("/certificates/{cert_name}");
    const SCOPE: Access = Access::Admin;
    type Output = Done;

    fn subject(&self) -> Option<String> {
        Some(self.cert_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Done, Error> {
        let with_key = |certificate: &Certificate, config: &Config| {
            let proxies: Vec<_> = needed_by(certificate, config, Timestamp::now()).collect();
            if !proxies.is_empty() && !self.force {
                let names: Vec<_> = proxies.iter().map(|proxy| proxy.proxy_hostname.as_str()).collect();
                return Err(Error::Conflict(format!(
                    "the certificate {} is in use by {}: attach another one to them, or force",
                    certificate.cert_name,
                    names.join(", ")
                )));
            }
            let secret = Certificate::secret_id(&certificate.cert_name);
            let mut writes = vec![Vault::delete(&secret, Expect::Any)];
            let name = &certificate.cert_name;
            let naming = proxies.into_iter().filter(|proxy| proxy.cert_name.as_ref() == Some(name));
            writes.extend(naming.map(|proxy| {
                let version = Expect::Version(proxy.config_version);
                put_step(&Proxy { cert_name: None, ..Proxy::clone(proxy) }, version)
            }));
            Ok(writes)
        };
        let certificate: Certificate = control.delete(ctx, self.cert_name.as_str(), with_key).await?;
        forget(control, &certificate.cert_name).await?;
        Ok(Done::new("deleted", &certificate.cert_name))
    }
}
