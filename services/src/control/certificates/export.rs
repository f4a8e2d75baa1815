//! Certificates for use elsewhere.

use clap::Args;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::config::{CertName, Certificate};
use crate::control::operation::post;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};

/// A certificate as files have it.
#[derive(Serialize, JsonSchema)]
pub struct Export {
    /// Its name.
    pub cert_name: CertName,
    /// The chain as PEM, the host's certificate first.
    pub fullchain_pem: String,
    /// The private key as PEM, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key_pem: Option<String>,
}

// Not derived: the key has no business in a log.
impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("cert_name", &self.cert_name).finish_non_exhaustive()
    }
}

/// Export a certificate's chain and, where that is asked for, its private key. Each call is in the audit log.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct ExportCertificate {
    /// Its name.
    pub cert_name: CertName,
    /// With the private key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub include_key: bool,
}

impl Operation for ExportCertificate {
    const NAME: &'static str = "export_certificate";
    const COMMAND: &'static [&'static str] = &["cert", "export"];
    // No GET: what it yields belongs in no cache and no history, and every call is audited.
    const HTTP: Endpoint = post("/certificates/{cert_name}/export");
    const SCOPE: Access = Access::Admin;
    type Output = Export;

    fn subject(&self) -> Option<String> {
        let what = if self.include_key { "with its key" } else { "without its key" };
        Some(format!("{} {what}", self.cert_name))
    }

    async fn run(self, control: &Control, _: &Context) -> Result<Export, Error> {
        let certificate: Certificate = control.get(self.cert_name.as_str()).await?;
        let Some(fullchain_pem) = certificate.fullchain_pem else {
            return Err(Error::Conflict(format!(
                "the certificate {} has not been issued yet",
                self.cert_name
            )));
        };
        let mut private_key_pem = None;
        if self.include_key {
            let secret = Certificate::secret_id(&self.cert_name);
            let key = control.vault.get(&*control.store, &secret).await?;
            let key = key.ok_or_else(|| Error::Conflict("its private key is not in the store".to_owned()))?;
            private_key_pem = Some(String::from_utf8(key.expose_secret().to_vec()).map_err(Error::internal)?);
        }
        Ok(Export { cert_name: self.cert_name, fullchain_pem, private_key_pem })
    }
}
