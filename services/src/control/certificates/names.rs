//! Names that a certificate gets, or loses. It is issued anew; the present one serves until then.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::issue::check_names;
use super::needed_by;
use super::renew::only_issued;
use super::status::{self, Status};
use crate::config::{CertName, Certificate, Config, FieldError, HostPattern};
use crate::control::operation::{delete, post};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// The names of the chain in force, which serves until the next one is there.
fn in_force(held: &Certificate) -> Vec<HostPattern> {
    if held.fullchain_pem.is_some() && held.issued_for.is_empty() {
        held.domains.clone()
    } else {
        held.issued_for.clone()
    }
}

/// Add a name to a certificate: it is issued anew.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct AddCertificateName {
    /// The certificate.
    pub cert_name: CertName,
    /// The name.
    pub domain: HostPattern,
    /// Wait until it is issued, or has failed; a command line shows each step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub wait: bool,
}

impl Operation for AddCertificateName {
    const NAME: &'static str = "add_certificate_name";
    const COMMAND: &'static [&'static str] = &["cert", "add-name"];
    const HTTP: Endpoint = post("/certificates/{cert_name}/domains/{domain}");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(format!("{} {}", self.cert_name, self.domain))
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        let add = |held: Certificate, _: &Config| {
            only_issued(&held)?;
            if held.domains.contains(&self.domain) {
                return Ok(held);
            }
            let mut domains = held.domains.clone();
            domains.push(self.domain.clone());
            let issued_for = in_force(&held);
            check_names(&domains, held.acme_directory_url.as_ref(), control, "domain")?;
            Ok(Certificate {
                domains,
                issued_for,
                renew_requested_at: Some(Timestamp::now()),
                automatic: false,
                on_demand: false,
                ..held
            })
        };
        control.edit::<Certificate>(ctx, self.cert_name.as_str(), add).await?;
        status::of(control, ctx, &self.cert_name, self.wait).await
    }
}

/// Remove a name from a certificate: it is issued anew. Refused while a proxy of that name names the certificate.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RemoveCertificateName {
    /// The certificate.
    pub cert_name: CertName,
    /// The name.
    pub domain: HostPattern,
    /// Wait until it is issued, or has failed; a command line shows each step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub wait: bool,
}

impl Operation for RemoveCertificateName {
    const NAME: &'static str = "remove_certificate_name";
    const COMMAND: &'static [&'static str] = &["cert", "remove-name"];
    const HTTP: Endpoint = delete("/certificates/{cert_name}/domains/{domain}");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(format!("{} {}", self.cert_name, self.domain))
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        let without = |held: Certificate, config: &Config| {
            only_issued(&held)?;
            let domains: Vec<_> = held.domains.iter().filter(|name| **name != self.domain).cloned().collect();
            if domains.len() == held.domains.len() {
                let detail = format!("is no name of the certificate {}", held.cert_name);
                return Err(Error::invalid(FieldError::new("domain", self.domain.as_str(), detail)));
            }
            if domains.is_empty() {
                let detail = "is its only name: delete the certificate instead";
                return Err(Error::invalid(FieldError::new("domain", self.domain.as_str(), detail)));
            }
            let issued_for = in_force(&held);
            let next =
                Certificate { domains, issued_for, renew_requested_at: Some(Timestamp::now()), ..held };
            let needed = needed_by(&next, config, Timestamp::now());
            match needed.map(|proxy| &proxy.proxy_hostname).find(|host| !next.covers(host)) {
                Some(host) => Err(Error::Conflict(format!(
                    "the proxy {host} needs this certificate: have another one for it first (`cert generate {host}`)"
                ))),
                None => Ok(next.clone()),
            }
        };
        control.edit::<Certificate>(ctx, self.cert_name.as_str(), without).await?;
        status::of(control, ctx, &self.cert_name, self.wait).await
    }
}
