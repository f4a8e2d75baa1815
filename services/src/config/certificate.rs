//! A certificate: its chain and what is known of it. The key is a sealed secret, never a field.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{HostPattern, TargetUrl};
use super::field::FieldError;
use super::names::CertName;
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

pub mod pem;

use pem::Facts;

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
    /// Where it comes from.
    #[serde(default)]
    pub source: Source,
    /// The mail address of the account that it is issued for; absent: `ACME_EMAIL`.
    #[serde(default)]
    pub email: Option<String>,
    /// The directory of the authority that issues it; absent: those of the deployment, in their order.
    #[serde(default)]
    pub acme_directory_url: Option<TargetUrl>,
    /// The authority's profile, e.g. `shortlived`; absent: the deployment's, or the authority's own choice.
    #[serde(default)]
    pub acme_profile: Option<String>,
    /// The kind of its key; absent: the deployment's.
    #[serde(default)]
    pub key_type: Option<KeyType>,
    /// How the authority validates its names; absent: whatever works.
    #[serde(default)]
    pub challenge: Option<ChallengeType>,
    /// Whether it was made because a host had none: it goes when no host needs it any more.
    #[serde(default)]
    pub automatic: bool,
    /// Whether it was made because somebody asked for a name below a wildcard: it is renewed while it is asked for.
    #[serde(default)]
    pub on_demand: bool,
    /// The names of the chain in force, where they are not those above: it is to be issued anew for those.
    #[serde(default)]
    pub issued_for: Vec<HostPattern>,
    /// The directory that the chain in force came from.
    #[serde(default)]
    pub issued_from: Option<String>,
    /// Whether that is an authority which only this certificate asks, e.g. the staging environment: clients of the
    /// deployment may not trust it, so that whatever else covers a host goes before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub issued_apart: bool,
    /// When the chain in force was obtained.
    #[serde(default)]
    pub obtained_at: Option<Timestamp>,
    /// Somebody wants it to be issued anew: whatever was obtained before is to be replaced.
    #[serde(default)]
    pub renew_requested_at: Option<Timestamp>,
    /// The last such wish that was fulfilled. They are told apart, never compared: clocks of nodes differ.
    #[serde(default)]
    pub renewed_for: Option<Timestamp>,
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

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Somebody has uploaded it, and uploads its successor.
    #[default]
    Upload,
    /// An authority issues it by ACME (RFC 8555), and its successors.
    Acme,
}

/// The kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "control", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// ECDSA on P-256.
    Ecdsa,
    /// RSA, of `RSA_KEY_SIZE` bits.
    Rsa,
}

/// How an authority validates that we answer for a name (RFC 8555, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "control", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum ChallengeType {
    /// It asks on port 80 (section 8.3).
    #[serde(rename = "http-01")]
    #[cfg_attr(feature = "control", value(name = "http-01"))]
    Http01,
    /// It asks on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    #[cfg_attr(feature = "control", value(name = "tls-alpn-01"))]
    TlsAlpn01,
    /// It looks for a TXT record (section 8.4): the only one for wildcards.
    #[serde(rename = "dns-01")]
    #[cfg_attr(feature = "control", value(name = "dns-01"))]
    Dns01,
}

impl ChallengeType {
    /// Its name in the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }
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

impl CertStatus {
    /// Whether an authority is being asked.
    pub const fn is_under_way(self) -> bool {
        matches!(self, Self::Pending | Self::Replacing)
    }
}

impl Certificate {
    /// The id of the secret that holds the key of a certificate.
    pub fn secret_id(name: &CertName) -> String {
        format!("certificate:{name}")
    }

    /// One that is to be issued for these names, and nothing is known of yet.
    pub fn wanted(cert_name: CertName, domains: Vec<HostPattern>) -> Self {
        Self {
            cert_name,
            domains,
            status: CertStatus::Pending,
            source: Source::Acme,
            fullchain_pem: None,
            issued_at: None,
            expires_at: None,
            fingerprint: None,
            issuer: None,
            email: None,
            acme_directory_url: None,
            acme_profile: None,
            key_type: None,
            challenge: None,
            automatic: false,
            on_demand: false,
            issued_for: Vec::new(),
            issued_from: None,
            issued_apart: false,
            obtained_at: None,
            renew_requested_at: None,
            renewed_for: None,
            created_by: None,
            created_at: None,
            updated_at: None,
            config_version: 0,
        }
    }

    /// The same with another chain, which serves from now on.
    #[must_use]
    pub fn with_chain(self, facts: &Facts) -> Self {
        Self {
            status: CertStatus::Active,
            fullchain_pem: Some(facts.chain_pem.clone()),
            issued_at: Some(facts.not_before),
            expires_at: Some(facts.not_after),
            fingerprint: Some(facts.fingerprint.clone()),
            issuer: Some(facts.issuer.clone()),
            issued_for: if facts.domains == self.domains { Vec::new() } else { facts.domains.clone() },
            ..self
        }
    }

    /// The status while it is being issued.
    pub const fn begun(&self) -> CertStatus {
        if self.fullchain_pem.is_some() { CertStatus::Replacing } else { CertStatus::Pending }
    }

    /// The status when that failed: what serves goes on.
    pub const fn failed(&self) -> CertStatus {
        if self.fullchain_pem.is_some() { CertStatus::Active } else { CertStatus::Failed }
    }

    /// Whether it covers everything that a public name means.
    pub fn covers(&self, host: &HostPattern) -> bool {
        self.domains.iter().any(|domain| domain.serves(host))
    }

    /// Whether the chain in force covers everything that a public name means; without a chain, whether it will.
    pub fn serves(&self, host: &HostPattern) -> bool {
        self.names().iter().any(|name| name.serves(host))
    }

    /// The names in the chain in force; without a chain, those that will be in it.
    pub fn names(&self) -> &[HostPattern] {
        if self.issued_for.is_empty() { &self.domains } else { &self.issued_for }
    }

    /// Whether there is a chain, and it has not ended.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.fullchain_pem.is_some() && self.expires_at.is_some_and(|end| end > now)
    }

    /// Whether it is to be issued anew because somebody asked.
    pub fn is_requested(&self) -> bool {
        self.renew_requested_at.is_some() && self.renew_requested_at != self.renewed_for
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
        if let Some(wildcard) = self.domains.iter().find(|name| name.wildcard_parent().is_some())
            && matches!(self.challenge, Some(ChallengeType::Http01 | ChallengeType::TlsAlpn01))
        {
            let detail =
                format!("expected `dns-01`, because {wildcard} is a wildcard (RFC 8555, section 7.1.3)");
            problems.push(FieldError::bare("challenge", detail));
        }
        if let Some(address) =
            self.domains.iter().find(|name| name.is_ip()).filter(|_| self.source == Source::Acme)
        {
            if matches!(self.challenge, Some(ChallengeType::TlsAlpn01 | ChallengeType::Dns01)) {
                let detail = format!(
                    "expected `http-01`, because {address} is an address: authorities do not look for those in the DNS \
                     (RFC 8738, section 7), and here they are not answered over TLS"
                );
                problems.push(FieldError::bare("challenge", detail));
            }
            if self.domains.iter().any(|name| name.wildcard_parent().is_some()) {
                let detail = format!(
                    "has a wildcard beside the address {address}: no validation is good for both, so that each needs a \
                     certificate of its own"
                );
                problems.push(FieldError::bare("domains", detail));
            }
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
