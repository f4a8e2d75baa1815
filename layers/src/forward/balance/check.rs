//! One upstream and how it is asked whether it is well. What it answered last decides.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Uri, header};
use tracing::{info, warn};

use super::health::text_of;
use super::settings::HealthCheck;
use crate::body::BoxError;
use crate::forward::pool::Endpoint;
use crate::forward::rewrite::Asked;
use crate::forward::target::Scheme;
use crate::forward::upload::{Outgoing, RequestBody};

const UNKNOWN: u8 = 0;
const HEALTHY: u8 = 1;
const UNHEALTHY: u8 = 2;

const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"), " (health check)");

/// An upstream that is checked. It lives as long as a target wants it, across reloads.
pub(in crate::forward) struct Checked {
    pub(super) settings: HealthCheck,
    pub(super) endpoint: Arc<Endpoint>,
    state: AtomicU8,
    told: Mutex<Told>,
}

/// What is written with each check.
#[derive(Debug, Clone)]
struct Told {
    streak: Streak,
    since: SystemTime,
    last: Option<SystemTime>,
    next: Option<SystemTime>,
    error: Option<String>,
}

/// What checks found, and how often one after the other it was something else. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Streak {
    healthy: Option<bool>,
    against: u32,
}

impl Streak {
    /// After one more check.
    fn after(self, is_well: bool, settings: &HealthCheck) -> Self {
        if self.healthy == Some(is_well) {
            return Self { against: 0, ..self };
        }
        let against = self.against + 1;
        let needed = match (self.healthy, is_well) {
            // It was not known to be anything else.
            (None, true) => 1,
            (Some(_), true) => settings.healthy_threshold,
            (_, false) => settings.unhealthy_threshold,
        };
        if against >= needed {
            return Self { healthy: Some(is_well), against: 0 };
        }
        Self { against, ..self }
    }
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("no connection")]
    Connect(#[source] BoxError),
    #[error("no answer")]
    NoAnswer(#[source] BoxError),
    #[error("the answer was {0}")]
    Status(u16),
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("it can't be asked for that path or host")]
    Request,
}

/// What the checks of an upstream found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStatus {
    /// Whether it is well; `None` before that is known.
    pub healthy: Option<bool>,
    /// Since when.
    pub since: SystemTime,
    /// When it was asked last.
    pub last: Option<SystemTime>,
    /// When it is asked next.
    pub next: Option<SystemTime>,
    /// What was wrong last, while something is.
    pub error: Option<String>,
}

impl Checked {
    pub(in crate::forward) fn new(settings: HealthCheck, endpoint: Arc<Endpoint>) -> Self {
        let told =
            Told { streak: Streak::default(), since: SystemTime::now(), last: None, next: None, error: None };
        Self { settings, endpoint, state: AtomicU8::new(UNKNOWN), told: Mutex::new(told) }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to get no requests.
    pub(super) fn is_bad(&self) -> bool {
        match self.state.load(Ordering::Relaxed) {
            HEALTHY => false,
            UNKNOWN => !self.settings.initially_healthy,
            _ => true,
        }
    }

    pub(super) fn status(&self) -> CheckStatus {
        let told = self.told();
        CheckStatus {
            healthy: told.streak.healthy,
            since: told.since,
            last: told.last,
            next: told.next,
            error: told.error.clone(),
        }
    }

    /// Says when it is asked next.
    pub(super) fn plan(&self, pause: Duration) {
        self.told().next = Some(SystemTime::now() + pause);
    }

    /// Asks once, and takes note of what was found.
    pub(super) async fn check(&self) {
        let limit = self.settings.timeout;
        let found = match tokio::time::timeout(limit, self.ask()).await {
            Ok(found) => found,
            Err(_) => Err(CheckError::Slow(limit)),
        };
        self.note(found.map_err(|error| text_of(&error)));
    }

    fn note(&self, found: Result<(), String>) {
        let (is_well, now) = (found.is_ok(), SystemTime::now());
        let mut told = self.told();
        let before = told.streak.healthy;
        told.streak = told.streak.after(is_well, &self.settings);
        told.last = Some(now);
        told.error = found.err();
        let after = told.streak.healthy;
        if after == before {
            return;
        }
        told.since = now;
        let (upstream, error) = (&self.endpoint.label, told.error.clone());
        drop(told);
        self.state.store(if is_well { HEALTHY } else { UNHEALTHY }, Ordering::Relaxed);
        if is_well {
            if before.is_some() || !self.settings.initially_healthy {
                self.endpoint.health.grow();
            }
            info!(%upstream, state = "healthy", "upstream changed its state");
        } else {
            warn!(%upstream, state = "unhealthy", error, "upstream changed its state");
        }
    }

    /// Over a connection of its own, with the same TLS as requests.
    async fn ask(&self) -> Result<(), CheckError> {
        let Self { endpoint, settings, .. } = self;
        let mut lease = endpoint.dial_apart().await.map_err(|error| CheckError::Connect(error.into()))?;
        let Some(path) = &settings.path else { return Ok(()) };
        let mut request = self.request(path)?;
        let asked = Asked::of(&request).map_err(|_| CheckError::Request)?;
        request.headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        request.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let mut request: Outgoing = http::Request::from_parts(request, RequestBody::Empty);
        let (own_host, authority) = (settings.host.is_some(), &endpoint.authority);
        if lease.is_http2() {
            let scheme = match endpoint.upstream.scheme {
                Scheme::Http => http::uri::Scheme::HTTP,
                Scheme::Https => http::uri::Scheme::HTTPS,
            };
            asked.shape_http2(&mut request, scheme, "", own_host, authority)
        } else {
            asked.shape_http1(&mut request, "", own_host, authority)
        }
        .map_err(|_| CheckError::Request)?;
        let answer = lease.send(&mut request, false).await;
        let answer = answer.map_err(|failure| CheckError::NoAnswer(failure.error))?;
        let status = answer.status().as_u16();
        let is_good = settings.statuses.iter().any(|(from, to)| (*from..=*to).contains(&status));
        if is_good { Ok(()) } else { Err(CheckError::Status(status)) }
    }

    fn request(&self, path: &str) -> Result<http::request::Parts, CheckError> {
        let uri: Uri = path.parse().map_err(|_| CheckError::Request)?;
        let mut request = http::Request::builder().method(self.settings.method.clone()).uri(uri);
        if let Some(host) = &self.settings.host {
            request = request.header(header::HOST, host.as_str());
        }
        Ok(request.body(()).map_err(|_| CheckError::Request)?.into_parts().0)
    }
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_several_answers_to_change_what_is_known() {
        let settings = HealthCheck { healthy_threshold: 2, unhealthy_threshold: 3, ..HealthCheck::default() };
        for (answers, expected) in [
            ("", None),
            ("+", Some(true)),
            ("-", None),
            ("--", None),
            ("--+", Some(true)),
            ("---", Some(false)),
            ("+--", Some(true)),
            ("+--+--", Some(true)),
            ("+---", Some(false)),
            ("+---+", Some(false)),
            ("+---+-+", Some(false)),
            ("+---++", Some(true)),
        ] {
            let streak = answers
                .bytes()
                .fold(Streak::default(), |streak, answer| streak.after(answer == b'+', &settings));
            assert_eq!(streak.healthy, expected, "{answers}");
        }
    }
}
