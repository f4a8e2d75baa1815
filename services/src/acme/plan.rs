//! What is to be done for certificates, and when. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::needs::{Needs, wants_https};
use super::policy::Policy;
use super::renewal::renew_at;
use super::state::Issuance;
use crate::config::certificate::{CertStatus, Source};
use crate::config::{CertName, Certificate, HostPattern};

/// Why a certificate is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// An attempt was under way when its node ended.
    Resumed,
    /// There is none.
    Missing,
    /// It is of another authority than the one that is wanted.
    Authority,
    /// Somebody asked for it.
    Requested,
    /// It is time.
    Renewal,
}

impl Why {
    /// The same in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "goes on with an attempt that broke off",
            Self::Missing => "there is no certificate yet",
            Self::Authority => "another authority is wanted",
            Self::Requested => "somebody asked for a new one",
            Self::Renewal => "it is time for the next one",
        }
    }
}

/// Why and when a certificate is issued next; none for one that nobody issues or needs.
pub fn next(
    certificate: &Certificate,
    issuance: Option<&Issuance>,
    needs: &Needs<'_>,
    policy: &Policy,
) -> Option<(Why, Timestamp)> {
    if certificate.source != Source::Acme || (certificate.automatic && !needs.is_needed(certificate)) {
        return None;
    }
    let now_or_earlier = Timestamp::MIN;
    let of_another = || match (&certificate.acme_directory_url, &certificate.issued_from) {
        (Some(wanted), Some(held)) => wanted.to_string() != *held,
        _ => false,
    };
    let issuance = issuance.filter(|issuance| issuance.is_of(certificate));
    if issuance.is_some_and(Issuance::is_under_way) {
        return Some((Why::Resumed, now_or_earlier));
    }
    let (why, at) = if certificate.fullchain_pem.is_none() {
        (Why::Missing, now_or_earlier)
    } else if of_another() {
        (Why::Authority, now_or_earlier)
    } else if certificate.is_requested() {
        (Why::Requested, now_or_earlier)
    } else {
        let advice = issuance.and_then(|issuance| issuance.advice.as_ref());
        (Why::Renewal, renew_at(certificate, advice, policy.renew_before).unwrap_or(now_or_earlier))
    };
    // Who asks after the last attempt wants it now.
    let waits = issuance.filter(|last| last.asked == certificate.renew_requested_at);
    let not_before = waits.and_then(|last| last.next_attempt).unwrap_or(Timestamp::MIN);
    Some((why, at.max(not_before)))
}

/// The certificates of hosts that have none and are to get one, under names that are free.
pub fn missing(
    needs: &Needs<'_>,
    is_free: impl Fn(&CertName) -> bool,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Certificate> {
    if !policy.automatic {
        return Vec::new();
    }
    let mut made: BTreeMap<CertName, Certificate> = BTreeMap::new();
    for proxy in needs.config().proxies.values() {
        let host = &proxy.proxy_hostname;
        let is_wildcard = host.wildcard_parent().is_some();
        if !wants_https(proxy)
            || proxy.cert_name.is_some()
            || (is_wildcard && (!policy.can_dns || proxy.on_demand_certificates))
            || !policy.may_issue(host)
            || needs.covering(host).any(|one| holds(one, now))
        {
            continue;
        }
        if let Some(name) = names_for(host).find(|name| is_free(name) && !made.contains_key(name)) {
            let wanted =
                Certificate { automatic: true, ..Certificate::wanted(name.clone(), vec![host.clone()]) };
            made.insert(name, wanted);
        }
    }
    made.into_values().collect()
}

/// Whether a certificate serves, or will.
pub fn holds(certificate: &Certificate, now: Timestamp) -> bool {
    certificate.source == Source::Acme || certificate.status_at(now) != CertStatus::Expired
}

/// Certificates that were made for hosts that are gone, and that have ended.
pub fn leftover<'a>(needs: &Needs<'a>, now: Timestamp) -> impl Iterator<Item = &'a Certificate> {
    let certificates = needs.config().certificates.values().map(|certificate| &**certificate);
    certificates.filter(move |one| {
        let ended = one.expires_at.is_none_or(|end| end <= now);
        // Whoever names it is about to need it again.
        one.automatic && one.source == Source::Acme && ended && !needs.is_needed(one) && !needs.is_named(one)
    })
}

/// How many attempts a certificate has that was made on demand: whoever owns a name's DNS decides whether they succeed.
const ATTEMPTS: u32 = 3;

/// Certificates that were made on demand and serve nobody: those that could not be issued, and those that nobody has
/// asked for until they ended. The next one who asks has them made again.
pub fn spent<'a>(
    needs: &Needs<'a>,
    failures: impl Fn(&CertName) -> u32,
    now: Timestamp,
) -> impl Iterator<Item = &'a Certificate> {
    let certificates = needs.config().certificates.values().map(|certificate| &**certificate);
    certificates.filter(move |one| {
        let ended = match one.expires_at.filter(|_| one.fullchain_pem.is_some()) {
            Some(end) => end <= now,
            None => failures(&one.cert_name) >= ATTEMPTS,
        };
        // What somebody has uploaded or taken over meanwhile is his.
        one.automatic && one.source == Source::Acme && ended && needs.is_allowed_on_demand(one)
    })
}

/// Names for the certificate of a host, best first.
pub fn names_for(host: &HostPattern) -> impl Iterator<Item = CertName> {
    let text = host.as_str().replace("*.", "wildcard-");
    let text: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    // The rest of the longest names is no help to anybody.
    let base = format!("proxy-{}", text.trim_matches('-')).chars().take(56).collect::<String>();
    let numbered = base.clone();
    std::iter::once(base)
        .chain((2..1000).map(move |number| format!("{numbered}-{number}")))
        .filter_map(|name| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_layers::HostName;
    use serde_json::json;

    use super::super::needs::wildcard_of;
    use super::super::policy::{LETS_ENCRYPT, testing};
    use super::*;
    use crate::config::{Config, Entity, Proxy};

    fn policy() -> Policy {
        testing::policy(LETS_ENCRYPT)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn config(proxies: &[serde_json::Value], certificates: Vec<Certificate>) -> Config {
        let mut config = Config::default();
        for fields in proxies {
            let mut fields = fields.as_object().expect("an object").clone();
            fields.insert("target_url".to_owned(), json!("http://10.0.0.1"));
            let proxy = Proxy::from_fields(fields).expect("valid");
            config.proxies.insert(proxy.proxy_hostname.clone(), Arc::new(proxy));
        }
        for certificate in certificates {
            config.certificates.insert(certificate.cert_name.clone(), Arc::new(certificate));
        }
        config
    }

    fn held(name: &str, domain: &str) -> Certificate {
        Certificate {
            fullchain_pem: Some("PEM".to_owned()),
            status: CertStatus::Active,
            issued_at: Some(at(0)),
            expires_at: Some(at(90 * 86_400)),
            obtained_at: Some(at(0)),
            fingerprint: Some("sha256:1".to_owned()),
            ..Certificate::wanted(name.parse().expect("valid"), vec![domain.parse().expect("valid")])
        }
    }

    fn missing_in(config: &Config, policy: &Policy, now: Timestamp) -> Vec<Certificate> {
        missing(&Needs::of(config), |name| !config.certificates.contains_key(name), policy, now)
    }

    fn names(made: &[Certificate]) -> Vec<(&str, &str)> {
        made.iter().map(|one| (one.cert_name.as_str(), one.domains[0].as_str())).collect()
    }

    #[test]
    fn hosts_without_a_certificate_get_one() {
        let proxies = [
            json!({ "proxy_hostname": "app.example.com" }),
            json!({ "proxy_hostname": "covered.example.com" }),
            json!({ "proxy_hostname": "named.example.com", "cert_name": "own" }),
            json!({ "proxy_hostname": "plain.example.com", "enable_https": false }),
            json!({ "proxy_hostname": "off.example.com", "enabled": false }),
            json!({ "proxy_hostname": "app.localhost" }),
            json!({ "proxy_hostname": "*.wild.example.com" }),
            json!({ "proxy_hostname": "app-example.com" }),
            json!({ "proxy_hostname": "old.example.com" }),
        ];
        let upload = Certificate { source: Source::Upload, ..held("old", "old.example.com") };
        let config = config(&proxies, vec![held("covers", "covered.example.com"), upload]);
        let made = missing_in(&config, &policy(), at(0));
        assert_eq!(
            names(&made),
            [("proxy-app-example-com", "app-example.com"), ("proxy-app-example-com-2", "app.example.com")]
        );
        let later = missing_in(&config, &Policy { can_dns: true, ..policy() }, at(91 * 86_400));
        assert_eq!(
            names(&later)[2..],
            [
                ("proxy-old-example-com", "old.example.com"),
                ("proxy-wildcard-wild-example-com", "*.wild.example.com")
            ]
        );
        assert!(missing_in(&config, &Policy { automatic: false, ..policy() }, at(0)).is_empty());
    }

    #[test]
    fn it_is_due_when_there_is_a_reason() {
        let config = config(&[json!({ "proxy_hostname": "a.example.com" })], Vec::new());
        let policy = policy();
        let due = |certificate: &Certificate, issuance: Option<&Issuance>| {
            next(certificate, issuance, &Needs::of(&config), &policy)
        };
        let own = held("a", "a.example.com");
        let (why, when) = due(&own, None).expect("wanted");
        assert!(why == Why::Renewal && when > at(50 * 86_400) && when < at(61 * 86_400), "{when}");
        assert_eq!(due(&Certificate { source: Source::Upload, ..own.clone() }, None), None);
        let none = Certificate { fullchain_pem: None, ..own.clone() };
        assert_eq!(due(&none, None), Some((Why::Missing, Timestamp::MIN)));
        let waits = Issuance { next_attempt: Some(at(77)), ..Issuance::default() };
        assert_eq!(due(&none, Some(&waits)), Some((Why::Missing, at(77))));
        let asked_since = Certificate { renew_requested_at: Some(at(50)), ..none.clone() };
        let failed = Issuance { asked: Some(at(40)), ..waits.clone() };
        assert_eq!(
            due(&asked_since, Some(&failed)),
            Some((Why::Missing, Timestamp::MIN)),
            "who asks wants it now"
        );
        let failed_again = Issuance { asked: Some(at(50)), ..waits };
        assert_eq!(due(&asked_since, Some(&failed_again)), Some((Why::Missing, at(77))));
        let broken = Issuance { started_at: Some(at(1)), ..Issuance::default() };
        assert_eq!(due(&own, Some(&broken)), Some((Why::Resumed, Timestamp::MIN)));
        let asked = Certificate { renew_requested_at: Some(at(5)), ..own.clone() };
        assert_eq!(due(&asked, None), Some((Why::Requested, Timestamp::MIN)));
        let done = Certificate { renewed_for: Some(at(5)), ..asked };
        assert_eq!(due(&done, None).map(|(why, _)| why), Some(Why::Renewal));
        let other = Certificate {
            acme_directory_url: Some(LETS_ENCRYPT.parse().expect("valid")),
            issued_from: Some("https://staging.example/directory".to_owned()),
            ..own.clone()
        };
        assert_eq!(due(&other, None), Some((Why::Authority, Timestamp::MIN)));
    }

    #[test]
    fn what_no_host_needs_is_not_renewed_and_goes_when_it_ends() {
        let automatic = |domain: &str| Certificate {
            automatic: true,
            ..held(&domain[..1], &format!("{domain}.example.com"))
        };
        let config = config(
            &[
                json!({ "proxy_hostname": "a.example.com" }),
                json!({ "proxy_hostname": "b.example.com", "enabled": false }),
            ],
            vec![automatic("a"), automatic("b"), automatic("c"), held("d", "d.example.com")],
        );
        let policy = policy();
        let wanted =
            |name: &str| next(&config.certificates[name], None, &Needs::of(&config), &policy).is_some();
        assert_eq!(["a", "b", "c", "d"].map(wanted), [true, false, false, true]);
        assert_eq!(leftover(&Needs::of(&config), at(0)).count(), 0);
        let gone: Vec<_> =
            leftover(&Needs::of(&config), at(91 * 86_400)).map(|one| one.cert_name.as_str()).collect();
        assert_eq!(gone, ["b", "c"]);
    }

    #[test]
    fn what_may_have_none_has_no_wildcard() {
        let on = |host: &str, more: serde_json::Value| {
            let mut fields = json!({
                "proxy_hostname": host, "on_demand_certificates": true, "on_demand_names": ["*"],
            });
            fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            fields
        };
        let config = config(
            &[
                on("*.on.example.com", json!({})),
                on("*.off.example.com", json!({ "enabled": false })),
                on("*.plain.example.com", json!({ "enable_https": false })),
                json!({ "proxy_hostname": "*.other.example.com" }),
                json!({ "proxy_hostname": "off.on.example.com", "enabled": false }),
                json!({ "proxy_hostname": "plain.on.example.com", "enable_https": false }),
            ],
            Vec::new(),
        );
        for (name, expected) in [
            ("t.on.example.com", true),
            ("t.off.example.com", false),
            ("t.plain.example.com", false),
            ("t.other.example.com", false),
            ("off.on.example.com", false),
            ("plain.on.example.com", false),
            ("b.a.on.example.com", false),
            ("t.off.on.example.com", false),
            ("on.example.com", false),
            ("example.com", false),
            ("com", false),
            ("unknown.example.org", false),
            ("192.0.2.1", false),
            ("[2001:db8::1]", false),
        ] {
            let host: HostName = name.parse().expect("valid");
            assert_eq!(wildcard_of(&host, &config).is_some(), expected, "{name}");
        }
    }

    #[test]
    fn what_was_made_on_demand_is_needed_while_its_name_may_have_one() {
        let demanded =
            |name: &str, domain: &str| Certificate { automatic: true, on_demand: true, ..held(name, domain) };
        let wildcard = |more: serde_json::Value| {
            let mut fields = json!({ "proxy_hostname": "*.example.com", "on_demand_names": ["a*"] });
            fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            fields
        };
        let made = || vec![demanded("a", "a.example.com"), demanded("b", "b.example.com")];
        let on = config(&[wildcard(json!({ "on_demand_certificates": true }))], made());
        let wanted = |config: &Config| {
            ["a", "b"]
                .map(|name| next(&config.certificates[name], None, &Needs::of(config), &policy()).is_some())
        };
        assert_eq!(wanted(&on), [true, false], "b is not allowed any more");
        assert_eq!(leftover(&Needs::of(&on), at(91 * 86_400)).count(), 1);
        let with_dns = Policy { can_dns: true, ..policy() };
        assert_eq!(spent(&Needs::of(&on), |_| 9, at(0)).count(), 0, "what serves is kept");
        let ended: Vec<_> =
            spent(&Needs::of(&on), |_| 0, at(91 * 86_400)).map(|one| one.cert_name.as_str()).collect();
        assert_eq!(ended, ["a"]);
        let mut never = on.clone();
        let document = Certificate { fullchain_pem: None, ..demanded("a", "a.example.com") };
        never.certificates.insert(document.cert_name.clone(), Arc::new(document));
        assert_eq!(spent(&Needs::of(&never), |_| 2, at(91 * 86_400)).count(), 0);
        assert_eq!(spent(&Needs::of(&never), |_| 3, at(0)).count(), 1);
        for kept in [
            Certificate { automatic: false, ..demanded("a", "a.example.com") },
            Certificate { source: Source::Upload, ..demanded("a", "a.example.com") },
        ] {
            let kept = config(&[wildcard(json!({ "on_demand_certificates": true }))], vec![kept]);
            assert_eq!(spent(&Needs::of(&kept), |_| 9, at(91 * 86_400)).count(), 0, "it is somebody's");
        }
        for (own, told) in [(false, 0), (true, 1)] {
            let one = Certificate { on_demand: !own, automatic: !own, ..held("a", "a.example.com") };
            let config = config(&[wildcard(json!({ "on_demand_certificates": true }))], vec![one]);
            let alerts = super::super::alerts::all(&config, at(80 * 86_400));
            assert_eq!(alerts.count(), told, "whoever looks after it himself is told");
        }
        assert!(missing_in(&on, &with_dns, at(0)).is_empty(), "names get their own, not the wildcard");
        assert_eq!(wanted(&config(&[wildcard(json!({}))], made())), [false, false]);
        let own = config(
            &[
                wildcard(json!({ "on_demand_certificates": true })),
                json!({ "proxy_hostname": "b.example.com" }),
            ],
            made(),
        );
        assert_eq!(wanted(&own), [true, true], "a host of its own needs it");
        assert!(!Needs::of(&own).is_allowed_on_demand(&own.certificates["b"]));
        assert!(missing_in(&own, &policy(), at(0)).is_empty());
    }
}
