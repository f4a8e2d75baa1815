//! Certificates: those that an authority issues, and those that are uploaded. Keys go in and come out for an admin who
//! asks for them, only.

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::managed::remove;
use super::{Control, Error, Surface};
use crate::acme::state;
use crate::config::certificate::{CertStatus, Source};
use crate::config::{CertName, Certificate, Config, HostPattern, Proxy, Serving};
use crate::store::{Expect, RecordWrite, Write};
use crate::vault::Vault;

pub mod attach;
pub mod coverage;
pub mod delete;
pub mod doctor;
pub mod export;
pub mod issue;
pub mod names;
pub(crate) mod of_host;
pub mod renew;
pub mod show;
pub mod status;
#[cfg(test)]
mod tests;
pub mod upload;

/// Adds the operations of certificates.
pub fn register(surface: &mut impl Surface) {
    surface.add::<issue::CreateCertificate>();
    surface.add::<issue::CreateMultiCertificate>();
    surface.add::<issue::CreateWildcardCertificate>();
    surface.add::<issue::GenerateCertificate>();
    surface.add::<upload::UploadCertificate>();
    surface.add::<show::ListCertificates>();
    surface.add::<show::ShowCertificate>();
    surface.add::<status::CertificateStatus>();
    surface.add::<coverage::CertificateCoverage>();
    surface.add::<renew::RenewCertificate>();
    surface.add::<renew::ConvertCertificate>();
    surface.add::<names::AddCertificateName>();
    surface.add::<names::RemoveCertificateName>();
    surface.add::<attach::AttachCertificate>();
    surface.add::<export::ExportCertificate>();
    surface.add::<delete::DeleteCertificate>();
    surface.add::<doctor::AcmeDoctor>();
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
    pub source: Source,
    pub issued_from: Option<String>,
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
            source: certificate.source,
            issued_from: certificate.issued_from,
            created_by: certificate.created_by,
            created_at: certificate.created_at,
            updated_at: certificate.updated_at,
            config_version: certificate.config_version,
        }
    }
}

/// The proxies that need a certificate: those that name it, and those on HTTPS that nothing else is good for.
pub(super) fn needed_by<'a>(
    certificate: &'a Certificate,
    config: &'a Config,
    now: Timestamp,
) -> impl Iterator<Item = &'a Arc<Proxy>> {
    let (with, without) = (Serving::by_documents(config, now), Serving::without(config, certificate, now));
    config.proxies.values().filter(move |proxy| {
        let is_served = || with.certificate(proxy).is_some_and(|one| one.cert_name == certificate.cert_name);
        proxy.cert_name.as_ref() == Some(&certificate.cert_name)
            || (proxy.enabled
                && proxy.enable_https
                && is_served()
                && without.covering(&proxy.proxy_hostname).is_none())
    })
}

/// Forgets what is known of the issuing of a certificate that is gone.
pub(super) async fn forget(control: &Control, name: &CertName) -> Result<(), Error> {
    let forgotten = RecordWrite::Delete { key: state::key(name), expect: Expect::Any };
    control.store.commit_records(vec![forgotten]).await?;
    Ok(())
}

/// The steps that delete a certificate with its key.
pub(super) fn delete_steps(certificate: &Certificate) -> [Write; 2] {
    [remove(certificate), Vault::delete(&Certificate::secret_id(&certificate.cert_name), Expect::Any)]
}
