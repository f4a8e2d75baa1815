//! What there is: the list, and one certificate with its chain. Never a key.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Summary;
use super::status::next_renewal;
use crate::acme::state;
use crate::config::{CertName, Certificate, HostPattern, Serving};
use crate::control::managed::not_found;
use crate::control::operation::{get, word};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation, Table};

/// List all certificates, without their chains.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ListCertificates {}

impl Operation for ListCertificates {
    const NAME: &'static str = "list_certificates";
    const COMMAND: &'static [&'static str] = &["cert", "list"];
    const HTTP: Endpoint = get("/certificates/");
    const TABLE: Option<Table<Vec<Summary>>> = Some(Table {
        path: "/certificates/formatted",
        columns: &["Name", "Domains", "Status", "Expires", "Days left"],
        rows: |certificates| certificates.iter().map(row).collect(),
    });
    const SCOPE: Access = Access::User;
    type Output = Vec<Summary>;

    async fn run(self, control: &Control, _: &Context) -> Result<Vec<Summary>, Error> {
        Ok(control.list::<Certificate>().await?.into_iter().map(Into::into).collect())
    }
}

fn row(certificate: &Summary) -> Vec<String> {
    let domains: Vec<_> = certificate.domains.iter().map(HostPattern::as_str).collect();
    vec![
        certificate.cert_name.to_string(),
        domains.join(" "),
        word(&certificate.status),
        certificate.expires_at.map(|end| end.to_string()).unwrap_or_default(),
        certificate.days_left.map(|days| days.to_string()).unwrap_or_default(),
    ]
}

/// A certificate with its chain, and what it is used for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    /// Its document.
    #[serde(flatten)]
    pub certificate: Certificate,
    /// The proxies that are served with it.
    pub proxies: Vec<HostPattern>,
    /// When its successor is due; none for what was uploaded.
    pub next_renewal: Option<Timestamp>,
}

/// Show a certificate and its chain, the proxies that are served with it, and when it is renewed. Its key is never shown.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ShowCertificate {
    /// Its name.
    pub cert_name: CertName,
}

impl Operation for ShowCertificate {
    const NAME: &'static str = "show_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "show"];
    const HTTP: Endpoint = get("/certificates/{cert_name}");
    const SCOPE: Access = Access::User;
    type Output = Shown;

    async fn run(self, control: &Control, _: &Context) -> Result<Shown, Error> {
        let config = control.config().await?;
        let held = config.certificates.get(&self.cert_name);
        let held = held.ok_or_else(|| not_found::<Certificate>(self.cert_name.as_str()))?;
        let (issuance, _) = state::read(&*control.store, &self.cert_name).await?;
        let now = Timestamp::now();
        let serving = Serving::by_documents(&config, now);
        Ok(Shown {
            proxies: serving.hosts(held).map(|proxy| proxy.proxy_hostname.clone()).collect(),
            next_renewal: next_renewal(held, &issuance, control),
            certificate: Certificate { status: held.status_at(now), ..Certificate::clone(held) },
        })
    }
}
