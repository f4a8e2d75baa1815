//! Which certificate each host is served with. Pure.
//!
//! It is made once for a configuration: to compare each host with each certificate takes too long for thousands.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use portcullis_layers::HostName;

use super::{CertName, Certificate, Config, HostPattern, Proxy};

/// The certificates of a configuration that serve, by the names in their chains.
#[derive(Debug)]
pub struct Serving<'a> {
    config: &'a Config,
    /// When the chains end that there are.
    ends: HashMap<&'a CertName, Timestamp>,
    /// Of each name the best certificate.
    best: HashMap<&'a str, (Rank, &'a Arc<Certificate>)>,
    now: Timestamp,
}

/// Those of the deployment's authorities and uploads first, then those that last longer.
type Rank = (bool, Timestamp);

impl<'a> Serving<'a> {
    /// What serves at a moment; `end` tells when the chain of a certificate ends, if there is one that can be used.
    pub fn of(config: &'a Config, end: impl Fn(&Certificate) -> Option<Timestamp>, now: Timestamp) -> Self {
        let mut serving = Self { config, ends: HashMap::new(), best: HashMap::new(), now };
        for certificate in config.certificates.values() {
            let Some(end) = end(certificate) else { continue };
            serving.ends.insert(&certificate.cert_name, end);
            if end <= now {
                continue;
            }
            for name in certificate.names() {
                let rank = (!certificate.issued_apart, end);
                let held = serving.best.entry(name.as_str()).or_insert((rank, certificate));
                if rank > held.0 {
                    *held = (rank, certificate);
                }
            }
        }
        serving
    }

    /// The same, as far as documents tell.
    pub fn by_documents(config: &'a Config, now: Timestamp) -> Self {
        Self::of(config, end, now)
    }

    /// The same without one of the certificates.
    pub fn without(config: &'a Config, gone: &Certificate, now: Timestamp) -> Self {
        Self::of(config, |one| if one.cert_name == gone.cert_name { None } else { end(one) }, now)
    }

    /// The certificate that a host is served with: the one that it names, as long as that is good for it, else the one
    /// that covers it and is best. Where nothing is good for it, the one that it names is no worse than none.
    pub fn certificate(&self, proxy: &Proxy) -> Option<&'a Arc<Certificate>> {
        let named = proxy.cert_name.as_ref().and_then(|name| self.config.certificates.get(name));
        let named = named.and_then(|one| Some((self.ends.get(&one.cert_name)?, one)));
        let good = named.filter(|(end, one)| **end > self.now && one.serves(&proxy.proxy_hostname));
        let any = || named.map(|(_, one)| one);
        good.map(|(_, one)| one).or_else(|| self.covering(&proxy.proxy_hostname)).or_else(any)
    }

    /// When what serves is another one, although nothing was changed.
    pub fn until(&self) -> Option<Timestamp> {
        self.ends.values().copied().filter(|end| *end > self.now).min()
    }

    /// The certificate that covers a host: none of an authority that only it asks, if there is another one, and then the
    /// one that lasts longest.
    pub fn covering(&self, host: &HostPattern) -> Option<&'a Arc<Certificate>> {
        let name = host.host();
        let wildcard = name.as_ref().and_then(HostName::parent).map(|parent| format!("*.{parent}"));
        let by_wildcard = wildcard.and_then(|domain| self.best.get(domain.as_str()));
        let held = self.best.get(host.as_str()).into_iter().chain(by_wildcard);
        held.max_by_key(|(rank, _)| *rank).map(|(_, certificate)| *certificate)
    }

    /// The hosts on HTTPS that are served with a certificate.
    pub fn hosts(&self, certificate: &Certificate) -> impl Iterator<Item = &'a Arc<Proxy>> {
        let proxies = self.config.proxies.values().filter(|proxy| proxy.enabled && proxy.enable_https);
        proxies
            .filter(|proxy| self.certificate(proxy).is_some_and(|one| one.cert_name == certificate.cert_name))
    }
}

fn end(certificate: &Certificate) -> Option<Timestamp> {
    certificate.expires_at.filter(|_| certificate.fullchain_pem.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Entity;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).expect("in range")
    }

    fn held(name: &str, domains: &[&str], end: i64) -> Certificate {
        let domains = domains.iter().map(|domain| domain.parse().expect("valid")).collect();
        Certificate {
            fullchain_pem: Some("PEM".to_owned()),
            expires_at: Some(at(end)),
            ..Certificate::wanted(name.parse().expect("valid"), domains)
        }
    }

    fn config(proxies: &[(&str, Option<&str>)], certificates: Vec<Certificate>) -> Config {
        let mut config = Config::default();
        for (host, cert_name) in proxies {
            let fields = json!({
                "proxy_hostname": host, "target_url": "http://10.0.0.1", "cert_name": cert_name,
            });
            let proxy = Proxy::from_fields(fields.as_object().expect("an object").clone()).expect("valid");
            config.proxies.insert(proxy.proxy_hostname.clone(), Arc::new(proxy));
        }
        for certificate in certificates {
            config.certificates.insert(certificate.cert_name.clone(), Arc::new(certificate));
        }
        config
    }

    fn served(config: &Config, host: &str, day: i64) -> Option<String> {
        let serving = Serving::by_documents(config, at(day));
        Some(serving.certificate(&config.proxies[host])?.cert_name.to_string())
    }

    #[test]
    fn what_is_tried_out_does_not_take_over() {
        let staging =
            Certificate { issued_apart: true, ..held("try", &["*.example.com", "a.example.com"], 90) };
        let hosts = [("a.example.com", None), ("b.example.com", None), ("c.example.com", Some("try"))];
        let config = config(
            &hosts,
            vec![held("a", &["a.example.com"], 60), held("c", &["c.example.com"], 60), staging],
        );
        assert_eq!(served(&config, "a.example.com", 5).as_deref(), Some("a"));
        assert_eq!(served(&config, "b.example.com", 5).as_deref(), Some("try"), "better than none");
        assert_eq!(served(&config, "c.example.com", 5).as_deref(), Some("try"), "who names it wants it");
        assert_eq!(served(&config, "a.example.com", 70).as_deref(), Some("try"));
    }

    #[test]
    fn the_named_one_serves_while_it_is_good_for_the_host() {
        let wide = Certificate {
            issued_for: vec!["a.example.com".parse().expect("valid")],
            ..held("many", &["a.example.com", "b.example.com"], 90)
        };
        let config = config(
            &[
                ("a.example.com", Some("many")),
                ("b.example.com", Some("many")),
                ("c.example.com", Some("ends")),
                ("d.example.com", Some("old")),
                ("e.example.com", None),
            ],
            vec![
                wide,
                held("b", &["b.example.com"], 30),
                held("ends", &["c.example.com"], 10),
                held("star", &["*.example.com"], 20),
                held("old", &["d.example.org"], 1),
            ],
        );
        assert_eq!(served(&config, "a.example.com", 5).as_deref(), Some("many"));
        assert_eq!(
            served(&config, "b.example.com", 5).as_deref(),
            Some("b"),
            "its chain has no such name yet"
        );
        assert_eq!(served(&config, "c.example.com", 5).as_deref(), Some("ends"));
        assert_eq!(served(&config, "c.example.com", 15).as_deref(), Some("star"), "it has ended");
        assert_eq!(served(&config, "e.example.com", 5).as_deref(), Some("star"));
        assert_eq!(served(&config, "d.example.com", 50).as_deref(), Some("old"), "better than none");
        assert_eq!(served(&config, "e.example.com", 50), None);
        let serving = Serving::by_documents(&config, at(5));
        assert_eq!(serving.until(), Some(at(10)));
        let hosts: Vec<_> =
            serving.hosts(&config.certificates["star"]).map(|proxy| proxy.proxy_hostname.as_str()).collect();
        assert_eq!(hosts, ["d.example.com", "e.example.com"]);
    }
}
