//! Successors that somebody asks for.

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::{self, Status};
use crate::acme::{renewal, state};
use crate::config::certificate::Source;
use crate::config::{CertName, Certificate, Config};
use crate::control::operation::post;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// Have a certificate issued anew. Without `force` only when its successor is due, or the last attempt has failed.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct RenewCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// However long the present one is good, and whatever was to be waited for after a failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long, short)]
    pub force: bool,
    /// Wait until it is issued, or has failed; a command line shows each step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub wait: bool,
}

impl Operation for RenewCertificate {
    const NAME: &'static str = "renew_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "renew"];
    const HTTP: Endpoint = post("/certificates/{cert_name}/renew");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(self.cert_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        let certificate: Certificate = control.get(self.cert_name.as_str()).await?;
        only_issued(&certificate)?;
        let (issuance, _) = state::read(&*control.store, &self.cert_name).await?;
        let now = Timestamp::now();
        let due = renewal::renew_at(&certificate, issuance.advice.as_ref(), control.acme.renew_before);
        let is_due = certificate.fullchain_pem.is_none() || due.is_none_or(|due| due <= now);
        let waits = issuance.next_attempt.filter(|next| issuance.is_of(&certificate) && *next > now);
        if let Some(next) = waits.filter(|_| !self.force && issuance.failure.is_some()) {
            let mut status = status::of(control, ctx, &self.cert_name, false).await?;
            status.message = format!("{}: the next attempt is at {next}, unless forced", status.message);
            return Ok(status);
        }
        if !self.force && !is_due && issuance.failure.is_none() {
            let mut status = status::of(control, ctx, &self.cert_name, false).await?;
            let due = due.map(|due| format!(" before {due}")).unwrap_or_default();
            status.message = format!("{}: nothing has to be done{due}, unless forced", status.message);
            return Ok(status);
        }
        request(control, ctx, &self.cert_name).await?;
        status::of(control, ctx, &self.cert_name, self.wait).await
    }
}

/// Replace a certificate of the staging environment by one that everybody trusts. The present one serves until then.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ConvertCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// Although it is not of the staging environment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long, short)]
    pub force: bool,
    /// Wait until it is issued, or has failed; a command line shows each step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub wait: bool,
}

impl Operation for ConvertCertificate {
    const NAME: &'static str = "convert_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "convert-to-production"];
    const HTTP: Endpoint = post("/certificates/{cert_name}/convert-to-production");
    const SCOPE: Access = Access::Admin;
    type Output = Status;

    fn subject(&self) -> Option<String> {
        Some(self.cert_name.to_string())
    }

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        let certificate: Certificate = control.get(self.cert_name.as_str()).await?;
        only_issued(&certificate)?;
        let staging = control.acme.staging.to_string();
        let is_staging =
            certificate.acme_directory_url.as_ref().is_some_and(|one| one.to_string() == staging)
                || certificate.issued_from.as_deref() == Some(&staging);
        if !is_staging && !self.force {
            let mut status = status::of(control, ctx, &self.cert_name, false).await?;
            status.message = format!("{}: it is not of the staging environment", status.message);
            return Ok(status);
        }
        if control.acme.authorities.first().is_some_and(|one| one.directory == control.acme.staging) {
            let detail = "the deployment's own authority is the staging environment: set ACME_DIRECTORY_URL";
            return Err(Error::Conflict(detail.to_owned()));
        }
        let production = |held: Certificate, _: &Config| {
            // Who has asked already waits for the same.
            let is_asked = held.acme_directory_url.is_none() && held.is_requested() && !self.force;
            let asked = held.renew_requested_at.filter(|_| is_asked);
            let asked = Some(asked.unwrap_or_else(Timestamp::now));
            Ok(Certificate { acme_directory_url: None, renew_requested_at: asked, ..held })
        };
        control.edit::<Certificate>(ctx, self.cert_name.as_str(), production).await?;
        status::of(control, ctx, &self.cert_name, self.wait).await
    }
}

/// Asks for a successor at once.
async fn request(control: &Control, ctx: &Context, name: &CertName) -> Result<(), Error> {
    let asked = |held: Certificate, _: &Config| {
        Ok(Certificate { renew_requested_at: Some(Timestamp::now()), ..held })
    };
    control.edit::<Certificate>(ctx, name.as_str(), asked).await.map(drop)
}

/// What was uploaded has no authority to ask.
pub(super) fn only_issued(certificate: &Certificate) -> Result<(), Error> {
    match certificate.source {
        Source::Acme => Ok(()),
        Source::Upload => Err(Error::Conflict(format!(
            "the certificate {} was uploaded, and no authority issues it: upload its successor with replace",
            certificate.cert_name
        ))),
    }
}
