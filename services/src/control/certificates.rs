//! Certificates that are uploaded: checked, listed, attached, deleted. Keys go in and never come out.

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::managed::{forbid_operation, put as put_step, remove};
use super::operation::{create, delete, get, post, put, word};
use super::secret::{Secret, text_or_file};
use super::{Access, Context, Control, Done, Endpoint, Error, Operation, Surface, Table};
use crate::config::certificate::CertStatus;
use crate::config::{CertName, Certificate, Config, Entity, FieldError, HostPattern, Proxy};
use crate::store::{Expect, Write};
use crate::vault::Vault;

mod pem;

/// Adds the operations of certificates.
pub fn register(surface: &mut impl Surface) {
    surface.add::<UploadCertificate>();
    surface.add::<ListCertificates>();
    surface.add::<ShowCertificate>();
    surface.add::<CertificateStatus>();
    surface.add::<AttachCertificate>();
    surface.add::<DeleteCertificate>();
}

/// A certificate without its chain.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields are those of the certificate, documented there")]
pub struct Summary {
    pub cert_name: CertName,
    pub domains: Vec<HostPattern>,
    pub status: CertStatus,
    pub issued_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// Whole days until it expires; negative afterwards.
    pub days_left: Option<i64>,
    pub fingerprint: Option<String>,
    pub issuer: Option<String>,
    pub created_by: Option<String>,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
    pub config_version: u64,
}

impl From<Certificate> for Summary {
    fn from(certificate: Certificate) -> Self {
        let now = Timestamp::now();
        Self {
            status: certificate.status_at(now),
            days_left: certificate
                .expires_at
                .map(|end| (end.as_second() - now.as_second()).div_euclid(86_400)),
            cert_name: certificate.cert_name,
            domains: certificate.domains,
            issued_at: certificate.issued_at,
            expires_at: certificate.expires_at,
            fingerprint: certificate.fingerprint,
            issuer: certificate.issuer,
            created_by: certificate.created_by,
            created_at: certificate.created_at,
            updated_at: certificate.updated_at,
            config_version: certificate.config_version,
        }
    }
}

/// Upload a certificate and its key, as PEM. A certificate of the same name is replaced only with `replace`.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct UploadCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// The chain, the host's certificate first: PEM, or `@file` on a command line.
    #[serde(alias = "certificate", alias = "cert")]
    #[arg(long = "cert", visible_alias = "fullchain-pem", value_name = "@FILE", value_parser = text_or_file)]
    pub fullchain_pem: String,
    /// The private key: PEM, or `@file` on a command line.
    #[serde(alias = "private_key", alias = "key", serialize_with = "Secret::reveal")]
    #[arg(long = "key", visible_alias = "private-key-pem", value_name = "@FILE", value_parser = Secret::from_argument)]
    pub private_key_pem: Secret,
    /// Names that it must cover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_delimiter = ',')]
    pub domains: Vec<HostPattern>,
    /// Replace a certificate of this name.
    #[serde(default)]
    #[arg(long)]
    pub replace: bool,
}

impl Operation for UploadCertificate {
    const NAME: &'static str = "upload_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "upload"];
    const HTTP: Endpoint = create("/certificates/upload");
    const ALIASES: &'static [Endpoint] = &[put("/certificates/{cert_name}")];
    const SCOPE: Access = Access::Admin;
    type Output = Summary;

    fn subject(&self) -> Option<String> {
        Some(self.cert_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Summary, Error> {
        let now = Timestamp::now();
        let facts =
            pem::check(&self.fullchain_pem, self.private_key_pem.expose(), now).map_err(Error::invalid)?;
        for (index, domain) in self.domains.iter().enumerate() {
            if !facts.domains.iter().any(|name| name.serves(domain)) {
                let names: Vec<_> = facts.domains.iter().map(HostPattern::as_str).collect();
                let detail = format!("is not covered: the certificate is for {}", names.join(", "));
                return Err(Error::invalid(FieldError::new(
                    format!("domains[{index}]"),
                    domain.as_str(),
                    detail,
                )));
            }
        }
        forbid_operation("cert_name", self.cert_name.as_str(), &["upload", "formatted"])?;
        let secret_id = Certificate::secret_id(&self.cert_name);
        let secret = control
            .vault
            .put(&secret_id, facts.key_pem.expose().as_bytes(), Expect::Any)
            .map_err(Error::internal)?;
        let fields = |certificate: Certificate| Certificate {
            domains: facts.domains.clone(),
            status: CertStatus::Active,
            fullchain_pem: Some(facts.chain_pem.clone()),
            issued_at: Some(facts.not_before),
            expires_at: Some(facts.not_after),
            fingerprint: Some(facts.fingerprint.clone()),
            issuer: Some(facts.issuer.clone()),
            ..certificate
        };
        let config = control.config().await?;
        if let (true, Some(current)) = (self.replace, config.certificates.get(&self.cert_name)) {
            return replace(control, ctx, &fields(Certificate::clone(current)), &config, secret).await;
        }
        let new = fields(Certificate {
            cert_name: self.cert_name,
            domains: Vec::new(),
            status: CertStatus::Active,
            fullchain_pem: None,
            issued_at: None,
            expires_at: None,
            fingerprint: None,
            issuer: None,
            created_by: None,
            created_at: None,
            updated_at: None,
            config_version: 0,
        });
        Ok(control.create(ctx, new, vec![secret]).await?.into())
    }
}

/// Replaces a certificate and its key in one commit, as long as it still covers the proxies that name it.
async fn replace(
    control: &Control,
    ctx: &Context,
    next: &Certificate,
    config: &Config,
    secret: Write,
) -> Result<Summary, Error> {
    if let Some(expected) = ctx.if_match.filter(|expected| *expected != next.config_version) {
        let (what, id, actual) = (Certificate::NOUN, next.id(), next.config_version);
        return Err(Error::Stale { what, id, expected, actual });
    }
    let uncovered = users(next, config).find(|proxy| !next.covers(&proxy.proxy_hostname));
    if let Some(proxy) = uncovered {
        let detail = format!("does not cover {}, whose proxy names this certificate", proxy.proxy_hostname);
        return Err(Error::invalid(FieldError::bare("fullchain_pem", detail)));
    }
    let next = Certificate { updated_at: Some(Timestamp::now()), ..next.clone() };
    let version = next.config_version;
    control.commit(vec![put_step(&next, Expect::Version(version)), secret]).await?;
    Ok(Certificate { config_version: version + 1, ..next }.into())
}

fn users<'a>(certificate: &'a Certificate, config: &'a Config) -> impl Iterator<Item = &'a Arc<Proxy>> {
    config.proxies.values().filter(|proxy| proxy.cert_name.as_ref() == Some(&certificate.cert_name))
}

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

/// Show a certificate and its chain. Its key is never shown.
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
    type Output = Certificate;

    async fn run(self, control: &Control, _: &Context) -> Result<Certificate, Error> {
        let certificate: Certificate = control.get(self.cert_name.as_str()).await?;
        Ok(Certificate { status: certificate.status_at(Timestamp::now()), ..certificate })
    }
}

/// What a certificate's state is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Status {
    /// Its name.
    pub cert_name: CertName,
    /// Whether it serves.
    pub status: CertStatus,
    /// The same in a sentence.
    pub message: String,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// The proxies that name it, or that it covers while they name none.
    pub proxies: Vec<HostPattern>,
}

/// Show whether a certificate serves, and whom.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CertificateStatus {
    /// Its name.
    pub cert_name: CertName,
}

impl Operation for CertificateStatus {
    const NAME: &'static str = "certificate_status";
    const COMMAND: &'static [&'static str] = &["cert", "status"];
    const HTTP: Endpoint = get("/certificates/{cert_name}/status");
    const SCOPE: Access = Access::User;
    type Output = Status;

    async fn run(self, control: &Control, _: &Context) -> Result<Status, Error> {
        let config = control.config().await?;
        let certificate = config
            .certificates
            .get(&self.cert_name)
            .ok_or_else(|| super::managed::not_found::<Certificate>(self.cert_name.as_str()))?;
        let proxies = config.proxies.values().filter(|proxy| match &proxy.cert_name {
            Some(name) => *name == certificate.cert_name,
            None => certificate.covers(&proxy.proxy_hostname),
        });
        let proxies: Vec<_> = proxies.map(|proxy| proxy.proxy_hostname.clone()).collect();
        let status = certificate.status_at(Timestamp::now());
        let message = match (status, certificate.expires_at) {
            (CertStatus::Active | CertStatus::Replacing, Some(end)) => format!("serves until {end}"),
            (CertStatus::Expired, Some(end)) => {
                format!("expired at {end}: upload its successor with replace")
            }
            (CertStatus::Pending, _) => "is being issued".to_owned(),
            (CertStatus::Failed, _) => "could not be issued".to_owned(),
            _ => "serves".to_owned(),
        };
        let (cert_name, expires_at) = (self.cert_name, certificate.expires_at);
        Ok(Status { cert_name, status, message, expires_at, proxies })
    }
}

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

/// Delete a certificate and its key. Refused while a proxy names it, unless forced.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct DeleteCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// Delete it even if proxies name it; they forget it.
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
            let proxies: Vec<_> = users(certificate, config).collect();
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
            writes.extend(proxies.into_iter().map(|proxy| {
                let version = Expect::Version(proxy.config_version);
                put_step(&Proxy { cert_name: None, ..Proxy::clone(proxy) }, version)
            }));
            Ok(writes)
        };
        let certificate: Certificate = control.delete(ctx, self.cert_name.as_str(), with_key).await?;
        Ok(Done::new("deleted", &certificate.cert_name))
    }
}

/// The steps that delete a certificate with its key.
pub(super) fn delete_steps(certificate: &Certificate) -> [Write; 2] {
    [remove(certificate), Vault::delete(&Certificate::secret_id(&certificate.cert_name), Expect::Any)]
}
