//! Between handshakes and certificates that are made on demand.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use portcullis_layers::HostName;
use portcullis_layers::tls::{self, CertificateTable, Certificates, Certified};
use portcullis_services::acme::needs;
use portcullis_services::acme::on_demand::{Demand, Noted};
use portcullis_services::config::{CertName, Config, HostPattern};

use crate::live::Live;

/// Names below wildcards that are served with certificates that were made on demand, and when that was noted.
pub(crate) type Uses = HashMap<HostName, Arc<Noted>>;

/// Serves names below wildcards with certificates of their own, whoever had them made; tells which of these were made
/// on demand. What was noted of them in `previous` goes on.
pub(crate) fn serve(
    config: &Config,
    opened: &BTreeMap<CertName, Arc<Certified>>,
    table: &mut CertificateTable,
    previous: &Uses,
) -> Uses {
    let now = Timestamp::now().as_second();
    let mut own: Vec<_> = config
        .certificates
        .values()
        .filter_map(|one| Some((one, opened.get(&one.cert_name)?)))
        .filter(|(_, certified)| certified.not_after > now)
        .collect();
    // Of two for one name the one that lasts longer, and none of an authority that only it asks.
    own.sort_by_key(|(one, certified)| (!one.issued_apart, certified.not_after));
    let mut uses = Uses::new();
    for (certificate, certified) in own {
        for name in certificate.domains.iter().chain(&certificate.issued_for).filter_map(HostPattern::host) {
            let is_served = needs::wildcard_of(&name, config).is_some()
                && certificate.serves(&HostPattern::from(name.clone()))
                && table.serve(name.as_str(), Arc::clone(certified)).is_ok();
            if !is_served {
                continue;
            }
            if certificate.on_demand {
                let noted = previous.get(&name).cloned().unwrap_or_default();
                uses.insert(name, noted);
            } else {
                uses.remove(&name);
            }
        }
    }
    uses
}

/// The certificates of the current snapshot; tells which of those that were made on demand are used, and which are
/// missing. Both cost a look into memory: most names that strangers think of end here.
#[derive(Debug, Clone)]
pub struct OnDemand {
    live: Live,
    demand: Demand,
}

impl OnDemand {
    /// Tells `demand` of names that may have a certificate.
    pub const fn new(live: Live, demand: Demand) -> Self {
        Self { live, demand }
    }
}

impl Certificates for OnDemand {
    fn certificate(&self, sni: Option<&HostName>) -> Option<Arc<Certified>> {
        let current = self.live.current();
        let found = current.certificate(sni);
        if let Some(name) = sni
            && let Some(noted) = current.on_demand(name)
        {
            self.demand.used(name, noted);
        }
        found
    }
}

impl tls::Demand for OnDemand {
    fn missed(&self, name: &HostName, client: IpAddr) {
        if self.live.current().may_have_certificate(name) {
            self.demand.missed(name, client);
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_services::config::{Certificate, Entity, Proxy};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use serde_json::json;

    use super::*;

    /// Certificates, opened.
    #[derive(Default)]
    struct Held {
        config: Config,
        opened: BTreeMap<CertName, Arc<Certified>>,
    }

    impl Held {
        /// One whose chain is for `names`, until a year.
        fn add(&mut self, name: &str, names: &[&str], year: i32, change: impl FnOnce(&mut Certificate)) {
            let mut params =
                CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                    .unwrap();
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(year, 1, 1);
            let key = KeyPair::generate().unwrap();
            let chain = params.self_signed(&key).unwrap().pem();
            let certified = Certified::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
            let domains = names.iter().map(|name| name.parse().unwrap()).collect();
            let mut document = Certificate {
                fullchain_pem: Some(chain),
                ..Certificate::wanted(name.parse().unwrap(), domains)
            };
            change(&mut document);
            self.opened.insert(document.cert_name.clone(), Arc::new(certified));
            self.config.certificates.insert(document.cert_name.clone(), Arc::new(document));
        }

        fn serve(&self, previous: &Uses) -> (CertificateTable, Uses) {
            let mut table = CertificateTable::new(None);
            let uses = serve(&self.config, &self.opened, &mut table, previous);
            (table, uses)
        }
    }

    fn held() -> Held {
        let mut held = Held::default();
        let wildcard = json!({
            "proxy_hostname": "*.example.com", "target_url": "http://10.0.0.1",
            "on_demand_certificates": true, "on_demand_names": ["t-*"],
        });
        for fields in
            [wildcard, json!({ "proxy_hostname": "t-host.example.com", "target_url": "http://10.0.0.1" })]
        {
            let proxy = Proxy::from_fields(fields.as_object().unwrap().clone()).unwrap();
            held.config.proxies.insert(proxy.proxy_hostname.clone(), Arc::new(proxy));
        }
        held
    }

    fn on_demand(document: &mut Certificate) {
        (document.automatic, document.on_demand) = (true, true);
    }

    #[test]
    fn names_are_served_with_certificates_of_their_own_whoever_had_them_made() {
        let mut held = held();
        held.add("made", &["t-made.example.com"], 2998, on_demand);
        held.add("own", &["t-own.example.com", "www.example.org"], 2998, |_| ());
        held.add("both-made", &["t-both.example.com"], 2997, on_demand);
        held.add("both-own", &["t-both.example.com"], 2998, |_| ());
        held.add("ended", &["t-ended.example.com"], 2002, on_demand);
        held.add("host", &["t-host.example.com"], 2998, on_demand);
        held.add("refused", &["other.example.com"], 2998, on_demand);
        // The chain does not have the name yet.
        held.add("wished", &["t-had.example.com"], 2998, |document| {
            document.issued_for = std::mem::replace(
                &mut document.domains,
                vec!["t-wished.example.com".parse().unwrap(), "t-more.example.com".parse().unwrap()],
            );
        });
        let (table, uses) = held.serve(&Uses::new());
        for (name, expected) in [
            ("t-made.example.com", Some("made")),
            ("t-own.example.com", Some("own")),
            ("t-both.example.com", Some("both-own")),
            ("t-had.example.com", Some("wished")),
            ("t-wished.example.com", None),
            ("t-ended.example.com", None),
            ("t-host.example.com", None),
            ("other.example.com", None),
            ("www.example.org", None),
        ] {
            let name: HostName = name.parse().unwrap();
            let found = table.certificate(Some(&name)).map(|found| Arc::as_ptr(&found));
            assert_eq!(found, expected.map(|name| Arc::as_ptr(&held.opened[name])), "{name}");
        }
        let names: Vec<_> = uses.keys().map(HostName::as_str).collect();
        assert_eq!(names, ["t-made.example.com"], "the use of others need not be known");
    }

    #[test]
    fn what_was_noted_goes_on_with_the_next_snapshot() {
        let mut held = held();
        let names: Vec<_> = (0..3).map(|n| format!("t-{n}.example.com")).collect();
        held.add("0", &[&names[0]], 2998, on_demand);
        held.add("1", &[&names[1]], 2998, on_demand);
        let (_, before) = held.serve(&Uses::new());
        held.add("2", &[&names[2]], 2998, on_demand);
        held.opened.remove("1");
        let (_, after) = held.serve(&before);
        assert_eq!(after.len(), 2);
        assert!(Arc::ptr_eq(&before[names[0].as_str()], &after[names[0].as_str()]));
        assert!(after.contains_key(names[2].as_str()));
    }
}
