//! The settings of certificates that authorities issue.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use portcullis_services::acme::policy::{self, LETS_ENCRYPT, LETS_ENCRYPT_STAGING, OnDemand};
use portcullis_services::acme::{Authority, ExternalAccount, Policy, Poll};
use portcullis_services::config::TargetUrl;
use portcullis_services::config::certificate::KeyType;
use secrecy::{ExposeSecret, SecretString};

use super::{number, seconds};

/// Where certificates come from, and when.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Certificates")]
pub struct Acme {
    /// Whether HTTPS hosts that no certificate covers get one by themselves. Public authorities are asked for public
    /// names only; asking one means agreeing to its terms of service.
    #[arg(long, env = "PORTCULLIS_ACME_AUTOMATIC", default_value_t = true, action = clap::ArgAction::Set)]
    pub acme_automatic: bool,

    /// The directory of the certificate authority (RFC 8555, section 7.1.1).
    #[arg(long, env = "ACME_DIRECTORY_URL", default_value = LETS_ENCRYPT)]
    pub acme_directory_url: TargetUrl,

    /// The directory of its staging environment: what `--staging` means.
    #[arg(long, env = "ACME_STAGING_URL", default_value = LETS_ENCRYPT_STAGING)]
    pub acme_staging_url: TargetUrl,

    /// Directories of other authorities, asked in this order when the first one fails. Comma-separated; behind one that
    /// wants an external account stand its key id and HMAC key, e.g. `https://ca.example/directory KID KEY`.
    // Read later: what can't be read here would be repeated in the complaint, keys and all.
    #[arg(long, env = "PORTCULLIS_ACME_FALLBACKS", hide_env_values = true)]
    pub acme_fallbacks: Option<SecretString>,

    /// The mail address that authorities may write to.
    #[arg(long, env = "ACME_EMAIL", value_parser = email)]
    pub acme_email: Option<String>,

    /// The key id of the external account at the first authority (RFC 8555, section 7.3.4).
    #[arg(long, env = "ACME_EAB_KID", requires = "acme_eab_hmac_key")]
    pub acme_eab_kid: Option<String>,

    /// The HMAC key of that account, in base64url.
    #[arg(long, env = "ACME_EAB_HMAC_KEY", hide_env_values = true, requires = "acme_eab_kid")]
    pub acme_eab_hmac_key: Option<SecretString>,

    /// The profile that the first authority is asked for, e.g. `shortlived`; absent: its own choice.
    #[arg(long, env = "PORTCULLIS_ACME_PROFILE")]
    pub acme_profile: Option<String>,

    /// PEM file: what the authorities' own servers must be signed by, instead of what this machine trusts.
    #[arg(long, env = "PORTCULLIS_ACME_CA")]
    pub acme_ca: Option<PathBuf>,

    /// Key of certificates that are issued.
    #[arg(long, env = "PORTCULLIS_ACME_KEY", value_enum, default_value_t = KeyType::Ecdsa)]
    pub acme_key: KeyType,

    /// Looks at an order before it is given up.
    #[arg(long, env = "ACME_POLL_MAX_ATTEMPTS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub acme_poll_max_attempts: u32,

    /// Seconds between them, where the authority says nothing else.
    #[arg(long, env = "ACME_POLL_INTERVAL_SECONDS", default_value = "2", value_parser = seconds)]
    pub acme_poll_interval_seconds: Duration,

    /// Seconds before the first one.
    #[arg(long, env = "ACME_POLL_INITIAL_WAIT", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=3600))]
    pub acme_poll_initial_wait: u64,

    /// Seconds at most between two looks at all certificates.
    #[arg(long, env = "RENEWAL_CHECK_INTERVAL", default_value = "86400", value_parser = seconds)]
    pub renewal_check_interval: Duration,

    /// A certificate is renewed when it has fewer days left than this, or a third of its life; unless its authority says
    /// when (RFC 9773).
    #[arg(long, env = "RENEWAL_THRESHOLD_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub renewal_threshold_days: u32,

    /// Orders at a time, over all nodes.
    #[arg(long, env = "CERT_GEN_MAX_WORKERS", default_value_t = 5, value_parser = number::<1, 100>)]
    pub cert_gen_max_workers: usize,

    /// Orders that begin at one authority within three hours.
    #[arg(long, env = "PORTCULLIS_ACME_ORDERS", default_value_t = 250, value_parser = number::<1, 100_000>)]
    pub acme_orders: usize,

    /// Names of one domain that get a certificate on demand within a day, over all nodes; for wildcard hosts with
    /// `on_demand_certificates`. A domain is the last two labels of the wildcard's parent.
    #[arg(long, env = "PORTCULLIS_ACME_ON_DEMAND", default_value_t = 20, value_parser = number::<1, 10_000>)]
    pub acme_on_demand: usize,

    /// The same within a week. Let's Encrypt allows a registered domain 50 new certificates in a week: what is left is for
    /// other hosts.
    #[arg(long, env = "PORTCULLIS_ACME_ON_DEMAND_PER_WEEK", default_value_t = 40, value_parser = number::<1, 10_000>)]
    pub acme_on_demand_per_week: usize,

    /// Names that get one within an hour because one client network asks for them, at each node.
    #[arg(long, env = "PORTCULLIS_ACME_ON_DEMAND_PER_NETWORK", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub acme_on_demand_per_network: u32,

    /// Whether the OCSP responders that certificates name are asked, and their answers stapled in handshakes.
    #[arg(long, env = "PORTCULLIS_OCSP_STAPLING", default_value_t = true, action = clap::ArgAction::Set)]
    pub ocsp_stapling: bool,
}

/// Another authority.
#[derive(Debug, Clone)]
struct Fallback {
    directory: TargetUrl,
    external_account: Option<ExternalAccount>,
}

impl FromStr for Fallback {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let expected = "expected DIRECTORY_URL, or DIRECTORY_URL KEY_ID HMAC_KEY";
        // What is refused may hold a key: it is not repeated.
        let directory = words.next().and_then(|url| url.parse().ok()).ok_or(expected)?;
        let external_account = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some(key_id), Some(key), None) => {
                Some(ExternalAccount { key_id: key_id.to_owned(), hmac_key: key.to_owned().into() })
            }
            _ => return Err(expected.to_owned()),
        };
        Ok(Self { directory, external_account })
    }
}

impl Acme {
    /// What the deployment wants.
    ///
    /// # Errors
    ///
    /// When the file of authorities can't be used: the variable, and what is wrong.
    pub fn policy(&self, rsa_bits: u32) -> Result<Policy, (&'static str, String)> {
        let ca = self
            .acme_ca
            .as_deref()
            .map(authorities)
            .transpose()
            .map_err(|detail| ("PORTCULLIS_ACME_CA", detail))?;
        let external = self.acme_eab_kid.as_ref().zip(self.acme_eab_hmac_key.as_ref());
        let first = Authority {
            directory: self.acme_directory_url.clone(),
            external_account: external.map(|(key_id, key)| ExternalAccount {
                key_id: key_id.clone(),
                hmac_key: key.expose_secret().into(),
            }),
            profile: self.acme_profile.clone(),
            ca: ca.clone(),
        };
        let others = self.acme_fallbacks.as_ref().map_or("", |others| others.expose_secret());
        let others = others.split(',').filter(|other| !other.trim().is_empty()).map(str::parse::<Fallback>);
        let others = others.collect::<Result<Vec<_>, _>>();
        let others = others.map_err(|detail| ("PORTCULLIS_ACME_FALLBACKS", detail))?;
        let others = others.into_iter().map(|Fallback { directory, external_account }| Authority {
            directory,
            external_account,
            profile: None,
            ca: ca.clone(),
        });
        Ok(Policy {
            automatic: self.acme_automatic,
            can_dns: false,
            authorities: std::iter::once(first).chain(others).collect(),
            staging: self.acme_staging_url.clone(),
            email: self.acme_email.clone(),
            key_type: self.acme_key,
            rsa_bits,
            workers: self.cert_gen_max_workers,
            orders: self.acme_orders,
            renew_before: Duration::from_secs(u64::from(self.renewal_threshold_days) * 86_400),
            look: self.renewal_check_interval,
            poll: Poll {
                initial: Duration::from_secs(self.acme_poll_initial_wait),
                interval: self.acme_poll_interval_seconds,
                attempts: self.acme_poll_max_attempts,
            },
            on_demand: OnDemand {
                names: self.acme_on_demand,
                per_week: self.acme_on_demand_per_week,
                per_network: self.acme_on_demand_per_network,
            },
        })
    }
}

/// Authorities of a file, as PEM.
fn authorities(path: &Path) -> Result<Arc<str>, String> {
    let read = std::fs::read_to_string(path)
        .map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    policy::check_ca(&read).map_err(|detail| format!("{}: {detail}", path.display()))?;
    Ok(read.into())
}

fn email(text: &str) -> Result<String, String> {
    let text = text.trim();
    if policy::is_contact(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no mail address: write NAME@HOST"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallbacks_are_read_and_never_repeated_in_complaints() {
        let plain: Fallback = "https://ca.example/directory".parse().unwrap();
        assert!(plain.external_account.is_none());
        let bound: Fallback = "https://ca.example/directory kid c2VjcmV0".parse().unwrap();
        let external = bound.external_account.clone().unwrap();
        assert_eq!((external.key_id.as_str(), external.hmac_key.expose_secret()), ("kid", "c2VjcmV0"));
        assert!(!format!("{bound:?}").contains("c2VjcmV0"));
        for bad in [
            "",
            "ca.example c2VjcmV0 c2VjcmV0",
            "https://ca.example kid",
            "https://ca.example kid c2VjcmV0 more",
        ] {
            let complaint = bad.parse::<Fallback>().unwrap_err();
            assert!(complaint.contains("DIRECTORY_URL") && !complaint.contains("c2VjcmV0"), "{complaint}");
        }
    }

    #[test]
    fn a_wrong_fallback_is_complained_of_without_its_key() {
        let wrong = "ca.example kid c2VjcmV0 more";
        let settings = crate::settings::Settings::of_arguments(["--acme-fallbacks", wrong]).unwrap();
        let (variable, detail) = settings.acme.policy(2048).unwrap_err();
        assert_eq!(variable, "PORTCULLIS_ACME_FALLBACKS");
        assert!(!detail.contains("c2VjcmV0") && !format!("{settings:?}").contains("c2VjcmV0"), "{detail}");
    }

    #[test]
    fn addresses_are_single_and_plain() {
        assert_eq!(email(" ops@example.com ").unwrap(), "ops@example.com");
        for bad in ["", "ops", "@example.com", "a@b", "a@b.c,d@e.f", "a@b.c?subject=x", "A <a@b.c>"] {
            assert!(email(bad).is_err(), "{bad}");
        }
    }
}
