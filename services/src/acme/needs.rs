//! Which certificates hosts need, and which cover them. Pure.
//!
//! It is made once for a look at everything: to compare each host with each certificate takes too long for thousands.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_layers::HostName;

use crate::config::{CertName, Certificate, Config, HostPattern, Proxy};

/// What the hosts of a configuration need.
#[derive(Debug)]
pub struct Needs<'a> {
    config: &'a Config,
    covering: HashMap<&'a str, Vec<&'a Certificate>>,
    needed: BTreeSet<&'a CertName>,
    named: BTreeSet<&'a CertName>,
}

impl<'a> Needs<'a> {
    /// What is needed in a configuration.
    pub fn of(config: &'a Config) -> Self {
        let mut covering: HashMap<&str, Vec<&Certificate>> = HashMap::new();
        for certificate in config.certificates.values() {
            for domain in &certificate.domains {
                covering.entry(domain.as_str()).or_default().push(certificate);
            }
        }
        let mut needs = Self { config, covering, needed: BTreeSet::new(), named: BTreeSet::new() };
        for proxy in config.proxies.values() {
            needs.named.extend(&proxy.cert_name);
            if !wants_https(proxy) {
                continue;
            }
            match &proxy.cert_name {
                Some(name) => drop(needs.needed.insert(name)),
                None => {
                    let covering = needs.covering(&proxy.proxy_hostname);
                    let names: Vec<_> = covering.map(|one| &one.cert_name).collect();
                    needs.needed.extend(names);
                }
            }
        }
        needs
    }

    /// The configuration.
    pub const fn config(&self) -> &'a Config {
        self.config
    }

    /// The certificates that are to cover a host.
    pub fn covering(&self, host: &HostPattern) -> impl Iterator<Item = &'a Certificate> + use<'a> {
        let name = host.host();
        let wildcard = name.as_ref().and_then(HostName::parent).map(|parent| format!("*.{parent}"));
        let held = |domain: &str| self.covering.get(domain).cloned().unwrap_or_default();
        let by_wildcard = wildcard.map(|domain| held(&domain)).unwrap_or_default();
        held(host.as_str()).into_iter().chain(by_wildcard)
    }

    /// Whether a host is served with a certificate, or a name below a wildcard that may have one of its own. That of a
    /// host that is gone is not needed for such a name: nobody has asked for it.
    pub fn is_needed(&self, certificate: &Certificate) -> bool {
        let is_wanted = certificate.on_demand || !certificate.automatic;
        self.has_host(certificate) || (is_wanted && self.is_below_wildcard(certificate))
    }

    /// Whether a certificate that was made on demand is of a name that still may have one, and of no host of its own.
    pub fn is_allowed_on_demand(&self, certificate: &Certificate) -> bool {
        certificate.on_demand && self.is_below_wildcard(certificate) && !self.has_host(certificate)
    }

    /// Whether a proxy names a certificate, even one that is switched off.
    pub fn is_named(&self, certificate: &Certificate) -> bool {
        self.named.contains(&certificate.cert_name)
    }

    fn is_below_wildcard(&self, certificate: &Certificate) -> bool {
        let wildcard = |name: &HostPattern| wildcard_of(&name.host()?, self.config);
        certificate.domains.iter().any(|name| wildcard(name).is_some())
    }

    fn has_host(&self, certificate: &Certificate) -> bool {
        self.needed.contains(&certificate.cert_name)
    }
}

/// Whether a host is served over HTTPS.
pub(super) const fn wants_https(proxy: &Proxy) -> bool {
    proxy.enabled && proxy.enable_https
}

/// The wildcard host below which a name may get a certificate on demand, as far as patterns say.
pub fn wildcard_of<'a>(name: &HostName, config: &'a Config) -> Option<&'a Arc<Proxy>> {
    if config.proxies.contains_key(name.as_str()) {
        return None;
    }
    let wildcard = config.proxies.get(format!("*.{}", name.parent()?).as_str())?;
    wildcard.may_have_certificate(name).then_some(wildcard)
}
