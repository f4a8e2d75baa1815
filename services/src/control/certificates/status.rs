//! How a certificate is, and how its issuing goes.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::acme::budget::{self, Full};
use crate::acme::failure::Failure;
use crate::acme::needs::Needs;
use crate::acme::progress::insists;
use crate::acme::state::{self, Issuance, Step};
use crate::acme::{on_demand, plan, renewal};
use crate::config::certificate::{CertStatus, Source};
use crate::config::{CertName, Certificate, Config, HostPattern, Serving};
use crate::control::managed::not_found;
use crate::control::operation::get;
use crate::control::{Access, Context, Control, Endpoint, Error, Operation};
use crate::stapling::{Known, Said};

/// How long whoever waits is kept waiting.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// How many wait at a time.
static WAITERS: Semaphore = Semaphore::const_new(64);

/// How a certificate is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Status {
    /// Its name.
    pub cert_name: CertName,
    /// Whether it serves.
    pub status: CertStatus,
    /// The same in a sentence.
    pub message: String,
    /// The names that it is for.
    pub domains: Vec<HostPattern>,
    /// Whether something is being done for it, or about to be.
    pub in_progress: bool,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When its successor is due.
    pub next_renewal: Option<Timestamp>,
    /// What its authority says about that (RFC 9773).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal_window: Option<RenewalWindow>,
    /// The proxies that are served with it.
    pub proxies: Vec<HostPattern>,
    /// When the last attempt to issue it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// What was done in it.
    pub steps: Vec<Step>,
    /// How many attempts have failed since the last that did not.
    pub failures: u32,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Before this there is no other attempt.
    pub next_attempt: Option<Timestamp>,
    /// What the node that answers this knows from the certificate's OCSP responder; absent where it names none, and where
    /// stapling is switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<Known>,
}

/// When an authority wants a certificate to be renewed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RenewalWindow {
    /// From when on.
    pub start: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// Why, where the authority says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation_url: Option<String>,
}

/// Show how a certificate is: whether it serves, whom, and how its issuing goes.
#[derive(Debug, Serialize, Deserialize, JsonSchema, Args)]
#[serde(deny_unknown_fields)]
pub struct CertificateStatus {
    /// Its name.
    pub cert_name: CertName,
    /// Wait until it is issued, or has failed, for up to two minutes; a command line shows each step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[arg(long)]
    pub wait: bool,
}

impl Operation for CertificateStatus {
    const NAME: &'static str = "certificate_status";
    const COMMAND: &'static [&'static str] = &["cert", "status"];
    const HTTP: Endpoint = get("/certificates/{cert_name}/status");
    const SCOPE: Access = Access::User;
    type Output = Status;

    async fn run(self, control: &Control, ctx: &Context) -> Result<Status, Error> {
        of(control, ctx, &self.cert_name, self.wait).await
    }
}

/// The status of a certificate; where somebody waits, when nothing is in progress any more, or after a while. Meanwhile
/// each step is reported as it is done.
pub(super) async fn of(
    control: &Control,
    ctx: &Context,
    name: &CertName,
    wait: bool,
) -> Result<Status, Error> {
    // Where too many wait already, the answer comes at once: whoever wants to know asks again.
    let turn = if wait { WAITERS.try_acquire().ok() } else { None };
    let wait = turn.is_some();
    let end = Instant::now() + PATIENCE;
    let mut told = None;
    loop {
        let status = look(control, name).await?;
        if wait {
            // Times grow; an attempt that begins anew is later than the one before.
            for step in status.steps.iter().filter(|step| told.is_none_or(|at| step.at > at)) {
                ctx.progress.report(&*step.text);
            }
            told = status.steps.last().map(|step| step.at).or(told);
        }
        if !wait || !status.in_progress || Instant::now() >= end {
            return Ok(status);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = ctx.cancel.cancelled() => return Ok(status),
        }
    }
}

async fn look(control: &Control, name: &CertName) -> Result<Status, Error> {
    let config = control.config().await?;
    let certificate = config.certificates.get(name).ok_or_else(|| not_found::<Certificate>(name.as_str()))?;
    let (issuance, _) = state::read(&*control.store, name).await?;
    // Of an earlier certificate of the same name nothing is told.
    let issuance = if issuance.is_of(certificate) { issuance } else { Issuance::default() };
    let issuance = Issuance { of: certificate.created_at, ..issuance };
    let now = Timestamp::now();
    let needs = Needs::of(&config);
    let next = plan::next(certificate, Some(&issuance), &needs, &control.acme);
    let is_due = next.is_some_and(|(_, at)| at <= now);
    let waiting = if is_due { waiting(certificate, &issuance, &needs, control, now).await? } else { None };
    let in_progress = is_due && waiting.is_none();
    Ok(describe(certificate, issuance, (in_progress, waiting), &config, control, now))
}

/// What keeps an attempt back that is due.
struct Waiting {
    why: String,
    until: Option<Timestamp>,
}

async fn waiting(
    certificate: &Certificate,
    issuance: &Issuance,
    needs: &Needs<'_>,
    control: &Control,
    now: Timestamp,
) -> Result<Option<Waiting>, Error> {
    if issuance.is_under_way() {
        return Ok(None);
    }
    let store = &*control.store;
    if certificate.fullchain_pem.is_some()
        && needs.is_allowed_on_demand(certificate)
        && !on_demand::is_any_asked_for(store, certificate).await?
    {
        let why = "it is not renewed, because nobody has asked for it lately".to_owned();
        return Ok(Some(Waiting { why, until: None }));
    }
    let insists = insists(certificate, Some(issuance));
    let mut soonest: Option<Full> = None;
    for authority in control.acme.authorities_of(certificate) {
        let (_, full) =
            budget::used(store, &authority.directory.to_string(), control.acme.orders, insists, now).await?;
        match full {
            None => return Ok(None),
            Some(full) if soonest.is_none_or(|other| full.until() < other.until()) => soonest = Some(full),
            Some(_) => {}
        }
    }
    Ok(soonest.map(|full| Waiting { why: full.to_string(), until: Some(full.until()) }))
}

fn describe(
    certificate: &Certificate,
    issuance: Issuance,
    (in_progress, waiting): (bool, Option<Waiting>),
    config: &Config,
    control: &Control,
    now: Timestamp,
) -> Status {
    let status = match certificate.status_at(now) {
        CertStatus::Pending if !in_progress && issuance.failure.is_some() => CertStatus::Failed,
        // The document follows a moment later.
        CertStatus::Replacing if !in_progress => CertStatus::Active,
        status => status,
    };
    let own = issuance
        .advice
        .as_ref()
        .filter(|advice| Some(&advice.fingerprint) == certificate.fingerprint.as_ref());
    let renewal_window = own.and_then(|advice| advice.window.clone()).map(|window| RenewalWindow {
        start: window.start,
        end: window.end,
        explanation_url: window.explanation,
    });
    let serving = Serving::by_documents(config, now);
    let ocsp = certificate.fingerprint.as_deref().and_then(|fingerprint| control.staples.of(fingerprint));
    let mut message = message(certificate, status, &issuance, in_progress);
    if let Some(Waiting { why, .. }) = &waiting {
        message = format!("{message}; {why}");
    }
    if ocsp.as_ref().is_some_and(|known| known.status == Some(Said::Revoked)) {
        message.push_str("; its authority has revoked it");
    }
    Status {
        cert_name: certificate.cert_name.clone(),
        message,
        status,
        domains: certificate.domains.clone(),
        in_progress,
        expires_at: certificate.expires_at,
        next_renewal: next_renewal(certificate, &issuance, control),
        renewal_window,
        proxies: serving.hosts(certificate).map(|proxy| proxy.proxy_hostname.clone()).collect(),
        started_at: issuance.started_at,
        completed_at: issuance.completed_at,
        steps: issuance.steps,
        failures: issuance.failures,
        error: issuance.failure,
        next_attempt: waiting.map_or(issuance.next_attempt, |waiting| waiting.until).filter(|at| *at > now),
        ocsp,
    }
}

/// When the successor of a certificate is due.
pub(super) fn next_renewal(
    certificate: &Certificate,
    issuance: &Issuance,
    control: &Control,
) -> Option<Timestamp> {
    let issued = certificate.fullchain_pem.as_ref().filter(|_| certificate.source == Source::Acme);
    let advice = issuance.advice.as_ref();
    issued.and(renewal::renew_at(certificate, advice, control.acme.renew_before))
}

fn message(certificate: &Certificate, status: CertStatus, issuance: &Issuance, in_progress: bool) -> String {
    let why = issuance.failure.as_ref().map(|failure| failure.detail.as_str());
    match (status, certificate.expires_at) {
        (CertStatus::Expired, Some(end)) if certificate.source == Source::Upload => {
            format!("expired at {end}: upload its successor with replace")
        }
        (CertStatus::Expired, Some(end)) => {
            format!(
                "expired at {end}; its successor could not be issued: {}",
                why.unwrap_or("nothing is known")
            )
        }
        (CertStatus::Active | CertStatus::Replacing, Some(end)) => match why {
            _ if in_progress => format!("serves until {end}; its successor is being issued"),
            Some(why) => format!("serves until {end}; its successor could not be issued: {why}"),
            None => format!("serves until {end}"),
        },
        (CertStatus::Failed, _) => format!("could not be issued: {}", why.unwrap_or("nothing is known")),
        (CertStatus::Pending, _) => "is being issued".to_owned(),
        _ => "serves".to_owned(),
    }
}
