//! What the deployment wants of its certificates.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::config::certificate::KeyType;
use crate::config::{Certificate, HostPattern, TargetUrl};

/// Let's Encrypt, where people trust what it issues.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Let's Encrypt, where nobody does: for trying things out.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// Domains below which no public authority issues anything (RFC 6761, RFC 8375, RFC 7686, RFC 9476).
const SPECIAL: [&str; 12] = [
    "localhost",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "test",
    "invalid",
    "example",
    "onion",
    "alt",
];

/// What the deployment wants.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether hosts without a certificate get one without being asked.
    pub automatic: bool,
    /// Whether names can be validated by DNS: only then there are wildcards.
    pub can_dns: bool,
    /// The authorities, the first choice first. At least one.
    pub authorities: Vec<Authority>,
    /// The directory that stands for trying things out.
    pub staging: TargetUrl,
    /// The mail address of accounts.
    pub email: Option<String>,
    /// The kind of keys.
    pub key_type: KeyType,
    /// The size of RSA keys, in bits.
    pub rsa_bits: u32,
    /// How many orders run at a time, over all nodes.
    pub workers: usize,
    /// How many orders begin at one authority within three hours.
    pub orders: usize,
    /// A certificate is renewed when it has less than this left, or a third of its life.
    pub renew_before: Duration,
    /// The longest time between two looks at everything.
    pub look: Duration,
    /// How an order is waited for.
    pub poll: Poll,
    /// How many certificates strangers can have issued.
    pub on_demand: OnDemand,
}

/// How many names get a certificate because somebody asks for them.
#[derive(Debug, Clone, Copy)]
pub struct OnDemand {
    /// Of each domain, in a day, over all nodes.
    pub names: usize,
    /// The same in a week.
    pub per_week: usize,
    /// Of each client network, in an hour, on each node.
    pub per_network: u32,
}

/// An authority.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The URL of its directory (RFC 8555, section 7.1.1).
    pub directory: TargetUrl,
    /// What it wants to know accounts by (section 7.3.4).
    pub external_account: Option<ExternalAccount>,
    /// Which kind of certificate to ask it for.
    pub profile: Option<String>,
    /// What its own certificate must be signed by, as PEM; absent: an authority that this machine trusts.
    pub ca: Option<Arc<str>>,
}

/// An account that somebody has at an authority already.
#[derive(Debug, Clone)]
pub struct ExternalAccount {
    /// Its key's id.
    pub key_id: String,
    /// Its key, in base64url.
    pub hmac_key: SecretString,
}

/// How an order is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Poll {
    /// Before the first look.
    pub initial: Duration,
    /// Between looks, where the authority says nothing else.
    pub interval: Duration,
    /// How many looks.
    pub attempts: u32,
}

/// Whether an authority may write to this: one mail address, without parameters (RFC 8555, section 7.3).
pub fn is_contact(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(who, host)| !who.is_empty() && host.contains('.') && !host.contains('@'))
        && text.chars().all(|letter| letter.is_ascii_graphic() && !matches!(letter, ',' | '?' | '<' | '>'))
}

/// Checks a file of certificates that servers are to be signed by.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_ca(pem: &str) -> Result<(), String> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(()),
        Ok(_) => Err("has no certificate in it: expected PEM".to_owned()),
        Err(error) => Err(format!("is no PEM: {error}")),
    }
}

impl Policy {
    /// The authorities that may issue a certificate, in their order: its own one, or those of the deployment.
    pub fn authorities_of(&self, certificate: &Certificate) -> Vec<Authority> {
        let are_public = certificate.domains.iter().all(is_public_name);
        let may = |authority: &Authority| may_issue(&authority.directory, are_public);
        let Some(directory) = &certificate.acme_directory_url else {
            return self.authorities.iter().filter(|authority| may(authority)).cloned().collect();
        };
        // One that the deployment knows keeps what it knows of it.
        let known = self.authorities.iter().find(|authority| authority.directory == *directory);
        let own = known.cloned().unwrap_or_else(|| Authority {
            directory: directory.clone(),
            external_account: None,
            profile: None,
            ca: self
                .authorities
                .iter()
                .find(|known| known.directory.host == directory.host)
                .and_then(|known| known.ca.clone()),
        });
        if may(&own) { vec![own] } else { Vec::new() }
    }

    /// Whether an authority of this deployment may issue for a name.
    pub fn may_issue(&self, name: &HostPattern) -> bool {
        self.may_issue_by(None, name)
    }

    /// The same of one with a directory of its own.
    pub fn may_issue_by(&self, directory: Option<&TargetUrl>, name: &HostPattern) -> bool {
        let is_public = is_public_name(name);
        match directory {
            Some(directory) => may_issue(directory, is_public),
            None => self.authorities.iter().any(|authority| may_issue(&authority.directory, is_public)),
        }
    }
}

/// Public authorities issue for public names only, and names of our own are nobody's business; whoever names an
/// authority of his own knows what it issues for.
fn may_issue(directory: &TargetUrl, is_public_name: bool) -> bool {
    is_public_name || !is_public(directory)
}

/// Whether an authority is one of those that browsers trust, and that are bound by their rules.
pub(super) fn is_public(directory: &TargetUrl) -> bool {
    let host = directory.host.as_str();
    ["letsencrypt.org", "zerossl.com", "pki.goog", "ssl.com", "buypass.com", "sectigo.com", "digicert.com"]
        .iter()
        .any(|domain| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Whether a name could be of the public tree of names: it has two labels of letters, digits and hyphens (RFC 1123,
/// section 2.1), and is below no domain of special use.
fn is_public_name(name: &HostPattern) -> bool {
    let bare = name.wildcard_parent().unwrap_or_else(|| name.as_str());
    let labels: Vec<&str> = bare.rsplit('.').collect();
    let is_ip = name.host().is_some_and(|host| host.is_ip());
    !is_ip
        && labels.len() > 1
        && !bare.contains('_')
        && !SPECIAL.contains(&labels[0])
        && !bare.ends_with(".home.arpa")
        && bare != "home.arpa"
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// What a deployment wants that says nothing but whom to ask.
    pub(crate) fn policy(directory: &str) -> Policy {
        let authority = Authority {
            directory: directory.parse().expect("valid"),
            external_account: None,
            profile: None,
            ca: None,
        };
        Policy {
            automatic: true,
            can_dns: false,
            authorities: vec![authority],
            staging: LETS_ENCRYPT_STAGING.parse().expect("valid"),
            email: None,
            key_type: KeyType::Ecdsa,
            rsa_bits: 2048,
            workers: 5,
            orders: 250,
            renew_before: Duration::from_secs(30 * 86_400),
            look: Duration::from_secs(86_400),
            poll: Poll { initial: Duration::ZERO, interval: Duration::from_secs(2), attempts: 60 },
            on_demand: OnDemand { names: 20, per_week: 40, per_network: 5 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_authorities_are_asked_for_public_names_only() {
        let (public, own) =
            (testing::policy(LETS_ENCRYPT), testing::policy("https://ca.corp.internal/acme/directory"));
        for (name, may) in [
            ("app.example.com", true),
            ("*.example.com", true),
            ("localhost", false),
            ("app.localhost", false),
            ("*.localhost", false),
            ("router", false),
            ("db.internal", false),
            ("nas.home.arpa", false),
            ("a_b.example.com", false),
            ("192.0.2.1", false),
            ("[2001:db8::1]", false),
        ] {
            let name: HostPattern = name.parse().expect("valid");
            assert_eq!(public.may_issue(&name), may, "{name}");
            assert!(own.may_issue(&name), "{name}");
            let directory = own.authorities[0].directory.clone();
            assert!(public.may_issue_by(Some(&directory), &name), "{name}");
            assert_eq!(own.may_issue_by(Some(&public.authorities[0].directory), &name), may, "{name}");
            let both = Policy {
                authorities: [&public, &own].map(|one| one.authorities[0].clone()).to_vec(),
                ..public.clone()
            };
            let wanted = Certificate::wanted("a".parse().expect("valid"), vec![name.clone()]);
            assert_eq!(both.authorities_of(&wanted).len(), 1 + usize::from(may), "{name}");
            let wanted =
                Certificate { acme_directory_url: Some(LETS_ENCRYPT.parse().expect("valid")), ..wanted };
            assert_eq!(own.authorities_of(&wanted).len(), usize::from(may), "{name}");
        }
        assert!(!is_public(&"https://letsencrypt.org.evil.example/directory".parse().expect("valid")));
    }
}
