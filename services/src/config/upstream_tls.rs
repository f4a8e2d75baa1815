//! TLS towards upstreams, said in the same words by hosts and external services.

use portcullis_layers::HostName;
use portcullis_layers::forward::TlsOptions;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::FieldError;

/// TLS towards upstreams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// Whether the upstream's certificate must be valid for its name.
    pub verify: bool,
    /// The authorities to trust instead of the system's, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The name to ask for and to verify, instead of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<HostName>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { verify: true, ca_pem: None, server_name: None }
    }
}

impl UpstreamTls {
    /// As the layers want it.
    pub fn options(&self) -> TlsOptions {
        TlsOptions {
            verify: self.verify,
            ca: self.ca_pem.as_deref().map(Into::into),
            server_name: self.server_name.clone(),
        }
    }

    /// What is wrong with it.
    pub(super) fn check(&self, problems: &mut Vec<FieldError>) {
        let Some(pem) = &self.ca_pem else { return };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        if !certificates.is_ok_and(|certificates| !certificates.is_empty()) {
            problems
                .push(FieldError::bare("upstream_tls.ca_pem", "expected one or more certificates as PEM"));
        }
    }
}
