//! Certificates that are uploaded: checked, kept, replaced.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::{Summary, forget, needed_by};
use crate::config::certificate::{Source, pem};
use crate::config::{CertName, Certificate, Config, Entity, FieldError, HostPattern};
use crate::control::managed::{forbid_operation, put as put_step};
use crate::control::operation::{create, put};
use crate::control::secret::{Secret, text_or_file};
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};
use crate::store::{Expect, Write};

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
            .put(&secret_id, facts.key_pem.expose_secret().as_bytes(), Expect::Any)
            .map_err(Error::internal)?;
        let fields = |certificate: Certificate| Certificate {
            domains: facts.domains.clone(),
            source: Source::Upload,
            automatic: false,
            on_demand: false,
            issued_from: None,
            issued_apart: false,
            obtained_at: None,
            renew_requested_at: None,
            renewed_for: None,
            ..certificate.with_chain(&facts)
        };
        let config = control.config().await?;
        if let (true, Some(current)) = (self.replace, config.certificates.get(&self.cert_name)) {
            return replace(control, ctx, &fields(Certificate::clone(current)), &config, secret).await;
        }
        let new = fields(Certificate::wanted(self.cert_name, Vec::new()));
        Ok(control.create(ctx, new, vec![secret]).await?.into())
    }
}

/// Replaces a certificate and its key in one commit, as long as it still covers the proxies that need it.
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
    let uncovered =
        needed_by(next, config, Timestamp::now()).find(|proxy| !next.covers(&proxy.proxy_hostname));
    if let Some(proxy) = uncovered {
        let detail =
            format!("does not cover {}, which is served with this certificate", proxy.proxy_hostname);
        return Err(Error::invalid(FieldError::bare("fullchain_pem", detail)));
    }
    let next = Certificate { updated_at: Some(Timestamp::now()), ..next.clone() };
    let version = next.config_version;
    control.commit(vec![put_step(&next, Expect::Version(version)), secret]).await?;
    // What was tried for the one before says nothing about this one.
    forget(control, &next.cert_name).await?;
    Ok(Certificate { config_version: version + 1, ..next }.into())
}
