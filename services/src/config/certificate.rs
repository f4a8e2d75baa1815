//! A certificate: its chain and what is known of it. The key is a sealed secret, never a field.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::HostPattern;
use super::field::FieldError;
use super::names::CertName;
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Its name.
    pub cert_name: CertName,
    /// The names that it covers.
    pub domains: Vec<HostPattern>,
    /// Whether it serves.
    #[serde(default)]
    pub status: CertStatus,
    /// The chain as PEM, the host's certificate first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fullchain_pem: Option<String>,
    /// When its validity starts.
    #[serde(default)]
    pub issued_at: Option<Timestamp>,
    /// When its validity ends.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// `sha256:` and the hexadecimal hash of the host's certificate.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Who issued it.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Who created it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Grows by one with each change.
    #[serde(default)]
    pub config_version: u64,
}

/// Where a certificate is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertStatus {
    /// It serves.
    #[default]
    Active,
    /// It is being issued.
    Pending,
    /// It serves, and its successor is being issued.
    Replacing,
    /// Issuing it failed.
    Failed,
    /// Its validity is over.
    Expired,
}

impl Certificate {
    /// The id of the secret that holds the key of a certificate.
    pub fn secret_id(name: &CertName) -> String {
        format!("certificate:{name}")
    }

    /// Whether it covers everything that a public name means.
    pub fn covers(&self, host: &HostPattern) -> bool {
        self.domains.iter().any(|domain| domain.serves(host))
    }

    /// The status at a moment: what was active may have expired since it was stored.
    pub fn status_at(&self, now: Timestamp) -> CertStatus {
        match (self.status, self.expires_at) {
            (CertStatus::Active | CertStatus::Replacing, Some(end)) if end <= now => CertStatus::Expired,
            (status, _) => status,
        }
    }
}

impl Entity for Certificate {
    const KIND: Kind = Kind::Certificate;
    const NOUN: &'static str = "certificate";
    const ID: &'static str = "cert_name";
    const REQUIRED: &'static [&'static str] = &["cert_name", "domains"];
    const ARGUMENTS: &'static [&'static str] = &["cert_name"];
    const ALIASES: &'static [(&'static str, &'static str)] = &[];

    fn id(&self) -> String {
        self.cert_name.to_string()
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if self.domains.is_empty() || self.domains.len() > 100 {
            problems.push(FieldError::bare("domains", "expected 1 to 100 names"));
        }
        if self.status == CertStatus::Active && self.fullchain_pem.is_none() {
            problems
                .push(FieldError::bare("fullchain_pem", "expected a chain, because the status is `active`"));
        }
        problems
    }

    fn references(&self, _: &Config, _: &mut Vec<FieldError>) -> Vec<Key> {
        Vec::new()
    }
}
