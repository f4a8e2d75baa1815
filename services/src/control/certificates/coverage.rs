//! Which hosts a certificate is good for, and which not.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{CertName, Certificate, HostPattern, Serving};
use crate::control::managed::not_found;
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// What a certificate covers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Coverage {
    /// Its name.
    pub cert_name: CertName,
    /// The names that it is for.
    pub domains: Vec<HostPattern>,
    /// The proxies that are served with it.
    pub serves: Vec<HostPattern>,
    /// The proxies that it covers, but that are served with another one, or not over HTTPS.
    pub could_serve: Vec<HostPattern>,
    /// The proxies that it does not cover.
    pub leaves: Vec<HostPattern>,
    /// Those of its names that no proxy has.
    pub unused: Vec<HostPattern>,
}

/// Show which proxies a certificate covers, and which it leaves.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CertificateCoverage {
    /// Its name.
    pub cert_name: CertName,
}

impl Operation for CertificateCoverage {
    const NAME: &'static str = "certificate_coverage";
    const COMMAND: &'static [&'static str] = &["cert", "coverage"];
    const HTTP: Endpoint = get("/certificates/{cert_name}/coverage");
    const SCOPE: Access = Access::User;
    type Output = Coverage;

    async fn run(self, control: &Control, _: &Context) -> Result<Coverage, Error> {
        let config = control.config().await?;
        let certificate = config
            .certificates
            .get(&self.cert_name)
            .ok_or_else(|| not_found::<Certificate>(self.cert_name.as_str()))?;
        let serving = Serving::by_documents(&config, Timestamp::now());
        let serves: Vec<_> = serving.hosts(certificate).map(|proxy| proxy.proxy_hostname.clone()).collect();
        let (covered, leaves): (Vec<_>, Vec<_>) =
            config.proxies.keys().cloned().partition(|host| certificate.covers(host));
        let could_serve = covered.into_iter().filter(|host| !serves.contains(host)).collect();
        let leaves = leaves.into_iter().filter(|host| !serves.contains(host)).collect();
        let unused =
            certificate.domains.iter().filter(|name| !config.proxies.keys().any(|host| name.serves(host)));
        Ok(Coverage {
            unused: unused.cloned().collect(),
            domains: certificate.domains.clone(),
            cert_name: self.cert_name,
            serves,
            could_serve,
            leaves,
        })
    }
}
