//! Certificates that somebody should look after: those that could not be issued, and those that end soon. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::needs::Needs;
use crate::config::certificate::{CertStatus, Source};
use crate::config::{CertName, Certificate, Config, Entity, FieldError, Problem};

const DAY: Duration = Duration::from_secs(86_400);

/// Why somebody should look after a certificate, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alert {
    /// It could not be issued.
    Failed,
    /// It ends in less than two weeks, or in less than a sixth of its life.
    Soon,
    /// It ends in less than a week, or in less than a twelfth of its life.
    VerySoon,
    /// It has ended.
    Expired,
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "could not be issued",
            Self::Soon => "ends in less than two weeks",
            Self::VerySoon => "ends in less than a week",
            Self::Expired => "has expired",
        })
    }
}

/// What there is to say of a certificate, if there is something.
pub fn of(certificate: &Certificate, now: Timestamp) -> Option<Alert> {
    let Some(end) = certificate.expires_at.filter(|_| certificate.fullchain_pem.is_some()) else {
        return (certificate.status == CertStatus::Failed).then_some(Alert::Failed);
    };
    let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
    let life = certificate.issued_at.and_then(|start| Duration::try_from(end.duration_since(start)).ok());
    let life = life.unwrap_or(Duration::MAX);
    if left.is_zero() {
        Some(Alert::Expired)
    } else if left < (7 * DAY).min(life / 12) {
        Some(Alert::VerySoon)
    } else if left < (14 * DAY).min(life / 6) {
        Some(Alert::Soon)
    } else {
        None
    }
}

/// The certificates that hosts need and that somebody should look after, by name.
pub fn all(config: &Config, now: Timestamp) -> impl Iterator<Item = (&CertName, Alert)> {
    let needs = Needs::of(config);
    // What somebody has asked for is told of even if no host has it yet.
    let told = config.certificates.iter().filter(move |(_, one)| {
        is_chosen(one, &needs) && (one.status == CertStatus::Failed || needs.is_needed(one))
    });
    told.filter_map(move |(name, one)| Some((name, of(one, now)?)))
}

/// Whether somebody has chosen to have a certificate: what strangers have asked for is told of in the log only, and is
/// not renewed when they stay away.
fn is_chosen(certificate: &Certificate, needs: &Needs<'_>) -> bool {
    !needs.is_allowed_on_demand(certificate)
}

/// The certificates of hosts that were revoked, as problems: renewing does not replace them, because they are good for
/// long, and clients may refuse them now.
pub fn revoked(config: &Config, is_revoked: impl Fn(&str) -> bool) -> Vec<Problem> {
    let revoked: Vec<_> = config
        .certificates
        .iter()
        .filter(|(_, one)| one.fingerprint.as_deref().is_some_and(&is_revoked))
        .collect();
    if revoked.is_empty() {
        return Vec::new();
    }
    let needs = Needs::of(config);
    let told = revoked.into_iter().filter(|(_, one)| is_chosen(one, &needs) && needs.is_needed(one));
    let problem = |(name, one): (&CertName, &Arc<Certificate>)| {
        let detail = match one.source {
            Source::Acme => {
                format!("was revoked by its authority: `portcullis cert renew {name} --force` replaces it")
            }
            Source::Upload => "was revoked by its authority: upload another one with replace".to_owned(),
        };
        Problem::new(&one.key(), &FieldError::bare("", detail))
    };
    told.map(problem).collect()
}

/// The same as problems, for whoever looks at the health of a node.
pub fn problems(config: &Config, now: Timestamp) -> Vec<Problem> {
    let problem = |(name, alert): (&CertName, Alert)| {
        let detail = format!("{alert}: `portcullis cert status {name}` tells more");
        Some(Problem::new(&config.certificates.get(name)?.key(), &FieldError::bare("", detail)))
    };
    all(config, now).filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(life: i64, left: i64) -> (Certificate, Timestamp) {
        let at = |days: i64| Timestamp::from_second(days * 86_400).expect("in range");
        let certificate = Certificate {
            fullchain_pem: Some("PEM".to_owned()),
            status: CertStatus::Active,
            issued_at: Some(at(0)),
            expires_at: Some(at(life)),
            ..Certificate::wanted("a".parse().expect("valid"), Vec::new())
        };
        (certificate, at(life - left))
    }

    #[test]
    fn those_that_end_soon_are_told_of() {
        for (life, left, alert) in [
            (90, 30, None),
            (90, 13, Some(Alert::Soon)),
            (90, 6, Some(Alert::VerySoon)),
            (90, 0, Some(Alert::Expired)),
            (90, -5, Some(Alert::Expired)),
            (6, 3, None),
        ] {
            let (certificate, now) = held(life, left);
            assert_eq!(of(&certificate, now), alert, "{left} of {life}");
        }
        let (certificate, now) = held(90, 30);
        let failed = Certificate { fullchain_pem: None, status: CertStatus::Failed, ..certificate };
        assert_eq!(of(&failed, now), Some(Alert::Failed));
    }
}
