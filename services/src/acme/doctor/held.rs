//! The certificate that covers a name now: what it is good for, what went wrong last, and what comes next.

use jiff::Timestamp;

use super::report::{Check, Report};
use crate::acme::needs::Needs;
use crate::acme::policy::{Authority, Policy};
use crate::acme::{Issuance, budget, plan, state};
use crate::config::certificate::{CertStatus, Source};
use crate::config::{Certificate, Config, HostPattern};
use crate::store::Store;

/// The certificate that a name is served with, or would be.
pub(super) fn of<'a>(name: &HostPattern, config: &'a Config) -> Option<&'a Certificate> {
    let named = config.proxies.get(name).and_then(|proxy| proxy.cert_name.as_ref());
    let named = named.and_then(|cert| config.certificates.get(cert));
    let covering = config.certificates.values().filter(|certificate| certificate.covers(name));
    let best =
        covering.max_by_key(|certificate| (certificate.fullchain_pem.is_some(), certificate.expires_at));
    named.or(best).map(|certificate| &**certificate)
}

/// The checks of it, and of the room for another order.
pub(super) async fn look(
    report: &mut Report,
    found: Option<&Certificate>,
    config: &Config,
    store: &dyn Store,
    policy: &Policy,
    authorities: &[Authority],
) {
    let now = Timestamp::now();
    match found {
        None => report.add(Check::skip("certificate", "none covers it yet")),
        Some(certificate) => {
            report.add(served(certificate, now));
            if certificate.source == Source::Acme {
                attempts(report, certificate, config, store, policy, now).await;
            }
        }
    }
    for authority in authorities {
        let directory = authority.directory.to_string();
        report.add(match budget::used(store, &directory, policy.orders, false, now).await {
            Ok((used, None)) => Check::ok(
                "budget",
                format!("{used} of {} orders at {directory} in the last three hours", policy.orders),
            ),
            Ok((_, Some(full))) => Check::warn(
                "budget",
                format!("{directory}: {full}"),
                "wait, or raise PORTCULLIS_ACME_ORDERS if it is our own limit and the authority allows more",
            ),
            Err(error) => Check::skip("budget", format!("the store does not answer: {error}")),
        });
    }
}

fn served(certificate: &Certificate, now: Timestamp) -> Check {
    const CHECK: &str = "certificate";
    let name = &certificate.cert_name;
    let issuer = certificate.issuer.as_deref().unwrap_or("nobody known");
    match (certificate.status_at(now), certificate.expires_at) {
        (CertStatus::Active | CertStatus::Replacing, Some(end)) => {
            Check::ok(CHECK, format!("{name} by {issuer} serves until {end}"))
        }
        (CertStatus::Expired, Some(end)) => {
            let advice = match certificate.source {
                Source::Acme => again(certificate),
                Source::Upload => "upload its successor with replace".to_owned(),
            };
            Check::fail(CHECK, format!("{name} by {issuer} has expired at {end}"), &advice)
        }
        (CertStatus::Failed, _) => {
            Check::warn(CHECK, format!("{name} could not be issued"), &again(certificate))
        }
        _ => Check::ok(CHECK, format!("{name} is being issued")),
    }
}

fn again(certificate: &Certificate) -> String {
    format!("mend what fails here, then: portcullis cert renew {} --force", certificate.cert_name)
}

async fn attempts(
    report: &mut Report,
    certificate: &Certificate,
    config: &Config,
    store: &dyn Store,
    policy: &Policy,
    now: Timestamp,
) {
    let name = &certificate.cert_name;
    let known = match state::read(store, name).await {
        // That of a deleted one of the same name says nothing of this one.
        Ok((issuance, _)) => Some(issuance).filter(|issuance| issuance.is_of(certificate)),
        Err(error) => {
            report.add(Check::skip("last attempt", format!("the store does not answer: {error}")));
            return;
        }
    };
    let issuance = known.as_ref();
    let last = issuance.map(|issuance| (&issuance.failure, issuance.completed_at));
    report.add(match last.unwrap_or((&None, None)) {
        (Some(failure), _) => {
            let problem =
                failure.problem.as_deref().map(|problem| format!(" ({problem})")).unwrap_or_default();
            let found = format!("failed at {}{problem}: {}", failure.at, failure.detail);
            let status = format!("portcullis cert status {name} shows what was done");
            Check::warn("last attempt", found, failure.hint.as_deref().unwrap_or(&status))
        }
        (None, Some(at)) => Check::ok("last attempt", format!("succeeded at {at}")),
        (None, None) if issuance.is_some_and(Issuance::is_under_way) => {
            Check::ok("last attempt", "is under way")
        }
        (None, None) => Check::skip("last attempt", "there was none yet"),
    });
    report.add(match plan::next(certificate, issuance, &Needs::of(config), policy) {
        Some((_, at)) if at <= now => Check::ok("next attempt", "now"),
        Some((why, at)) => Check::ok("next attempt", format!("{} at {at}", why.as_str())),
        None => Check::skip("next attempt", "none: nobody needs it"),
    });
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::super::report::Outcome;
    use super::*;
    use crate::acme::failure::Trouble;
    use crate::acme::policy::testing::policy;
    use crate::store::Expect;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn attempts_of_an_earlier_certificate_are_not_told() {
        let store = Embedded::in_memory().expect("a store");
        let now = Timestamp::now();
        let certificate = Certificate {
            status: CertStatus::Failed,
            created_at: Some(now),
            ..Certificate::wanted(
                "app".parse().expect("valid"),
                vec!["a.example.com".parse().expect("valid")],
            )
        };
        let policy = policy("https://ca.corp.internal/directory");
        let told = async || {
            let mut report = Report::new("a.example.com".parse().expect("valid"));
            look(&mut report, Some(&certificate), &Config::default(), &store, &policy, &[]).await;
            let found = |name: &str| report.checks.iter().find(|check| check.check == name).cloned();
            (found("certificate").expect("told"), found("last attempt").expect("told"))
        };
        let failure = Trouble::ours("no").into_failure("https://ca.example", now, None);
        let of = |created| Issuance {
            of: Some(created),
            completed_at: Some(now),
            failure: Some(failure.clone()),
            ..Issuance::default()
        };
        let name = &certificate.cert_name;
        let earlier = of(Timestamp::UNIX_EPOCH);
        let expect = state::write(&store, name, &earlier, Expect::Absent).await.expect("stored");
        assert_eq!(told().await.1.result, Outcome::Skip);
        state::write(&store, name, &of(now), expect).await.expect("stored");
        let (held, last) = told().await;
        assert_eq!(last.result, Outcome::Warn);
        let advice = held.advice.expect("something to do");
        assert!(advice.ends_with("portcullis cert renew app --force"), "it can be typed like that: {advice}");
    }
}
