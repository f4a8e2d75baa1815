//! One attempt to issue a certificate: one authority after the other, until one issues.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;
use tracing::{debug, info, warn};

use super::Manager;
use crate::acme::failure::{Failure, Trouble};
use crate::acme::http::noting_retry_after;
use crate::acme::order::{self, Tools};
use crate::acme::plan::Why;
use crate::acme::policy::Authority;
use crate::acme::progress::Progress;
use crate::acme::renewal::{after, back_off};
use crate::config::certificate::pem::Facts;
use crate::config::certificate::{CertStatus, Source};
use crate::config::{Certificate, Entity};
use crate::store::{self, Expect, Write};

/// Whatever an authority or a clock says, a certificate is not replaced sooner than this by itself.
const FLOOR: Duration = Duration::from_secs(3600);

/// Who has had too many requests and is not told until when waits for an hour.
const RATE_LIMITED: Duration = Duration::from_secs(3600);

/// How often a step is tried that fails by chance: each goes on where the one before ended.
const TRIES: u32 = 12;

impl Manager {
    /// One attempt: one authority after the other, until one issues.
    pub(super) async fn attempt(
        &self,
        certificate: &Certificate,
        why: Why,
        progress: &mut Progress<'_>,
        fence: &Write,
    ) -> store::Result<()> {
        if why != Why::Resumed {
            progress.begin(certificate, Timestamp::now());
        }
        progress.step(why.as_str()).await?;
        let begun = self.set_status(certificate, certificate.begun(), fence).await?;
        let (mut failure, mut asked): (Option<Failure>, bool) = (None, false);
        let mut authorities = self.policy.authorities_of(certificate);
        // What is under way is gone on with, wherever that is.
        let under_way = progress.order().map(|open| open.directory.clone());
        authorities.sort_by_key(|authority| under_way.as_ref() != Some(&authority.directory.to_string()));
        // When there is an authority to ask again.
        let mut soonest = Timestamp::MAX;
        for authority in authorities {
            let directory = authority.directory.to_string();
            if let Some(until) = progress.left_alone(&directory, Timestamp::now()) {
                soonest = soonest.min(until);
                let trouble = Trouble::ours(format!("the authority wants to be left alone until {until}"));
                failure = failure.or(Some(trouble.into_failure(&directory, Timestamp::now(), Some(until))));
                continue;
            }
            progress.step(format!("asking {directory}")).await?;
            let (issued, retry_after) =
                noting_retry_after(self.order(certificate, &authority, progress, fence)).await;
            let trouble = match issued {
                Ok(facts) => return self.succeed(&begun, &facts, &directory, progress, fence).await,
                Err(trouble) => trouble,
            };
            let now = Timestamp::now();
            let step = format!("failed: {}", trouble.detail);
            match trouble.full {
                // It was not asked.
                Some(full) => {
                    soonest = soonest.min(full.until());
                    failure = failure.or(Some(trouble.into_failure(&directory, now, Some(full.until()))));
                }
                None => {
                    let told = trouble.into_failure(&directory, now, retry_after);
                    if told.is_rate_limited() {
                        self.budget.pause(&directory, retry_after, now).await?;
                    }
                    let limited = Some(after(now, RATE_LIMITED)).filter(|_| told.is_rate_limited());
                    let until = retry_after.or(limited);
                    if let Some(until) = until {
                        progress.leave_alone(&directory, until);
                    }
                    soonest = soonest.min(until.unwrap_or(now));
                    failure = Some(told);
                    asked = true;
                }
            }
            progress.step(step).await?;
        }
        let failure = failure.unwrap_or_else(|| {
            let trouble = Trouble::ours("no authority of this deployment may issue for these names");
            trouble.into_failure("", Timestamp::now(), None)
        });
        self.fail(&begun, failure, (soonest, asked), progress, fence).await
    }

    /// The order at one authority, with an account that it knows.
    async fn order(
        &self,
        certificate: &Certificate,
        authority: &Authority,
        progress: &mut Progress<'_>,
        fence: &Write,
    ) -> Result<Facts, Trouble> {
        let email = self.email_of(certificate);
        progress.set_email(email);
        let tools = Tools {
            policy: &self.policy,
            budget: &self.budget,
            vault: &self.vault,
            challenges: &self.challenges,
            dns: self.dns.as_deref(),
        };
        let (mut tries, mut is_new) = (0, false);
        loop {
            tries += 1;
            let account = self.accounts.get(authority, email, fence).await;
            let outcome = match &account {
                Ok(account) => order::run(&tools, account, authority, certificate, progress).await,
                Err(trouble) => Err(trouble.clone()),
            };
            match (outcome, account) {
                (Err(trouble), Ok(account)) if trouble.is_account_gone() && !is_new => {
                    progress.step("the authority has forgotten our account: making another one").await?;
                    self.accounts.forget(authority, email, account.id(), fence).await?;
                    is_new = true;
                }
                (Err(trouble), _) if trouble.is_chance() && tries < TRIES => {
                    debug!(certificate = %certificate.cert_name, detail = %trouble.detail, "once more");
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// The chain and its key go in together, and serve on all nodes from then on.
    async fn succeed(
        &self,
        certificate: &Certificate,
        facts: &Facts,
        directory: &str,
        progress: &mut Progress<'_>,
        fence: &Write,
    ) -> store::Result<()> {
        let now = Timestamp::now();
        let issued = Certificate {
            issued_from: Some(directory.to_owned()),
            issued_apart: certificate.acme_directory_url.is_some(),
            obtained_at: Some(now),
            renewed_for: certificate.renew_requested_at,
            updated_at: Some(now),
            ..certificate.clone().with_chain(facts)
        };
        let secret = Certificate::secret_id(&certificate.cert_name);
        let key = self.vault.put(&secret, facts.key_pem.expose_secret().as_bytes(), Expect::Any)?;
        let writes = vec![put(&issued, certificate.config_version), key, fence.clone()];
        self.commit(certificate, writes).await?;
        self.counters.issued.fetch_add(1, Ordering::Relaxed);
        let life = Duration::try_from(facts.not_after.duration_since(facts.not_before)).unwrap_or_default();
        let told = format!("issued by {}, good until {}", facts.issuer, facts.not_after);
        progress.succeed(told, now, after(now, FLOOR.min(life / 10).min(self.policy.look))).await?;
        info!(certificate = %certificate.cert_name, until = %facts.not_after, issuer = %facts.issuer, "a certificate was issued");
        Ok(())
    }

    async fn fail(
        &self,
        certificate: &Certificate,
        failure: Failure,
        (soonest, asked): (Timestamp, bool),
        progress: &mut Progress<'_>,
        fence: &Write,
    ) -> store::Result<()> {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        let next = after(failure.at, back_off(progress.failures(), certificate.cert_name.as_str()));
        let next = if soonest == Timestamp::MAX { next } else { next.max(soonest) };
        warn!(
            certificate = %certificate.cert_name,
            directory = %failure.directory,
            problem = failure.problem.as_deref().unwrap_or("-"),
            identifier = failure.identifier.as_deref().unwrap_or("-"),
            detail = %failure.detail,
            %next,
            "a certificate could not be issued"
        );
        progress.fail(failure, next, asked).await?;
        self.set_status(certificate, certificate.failed(), fence).await.map(drop)
    }

    /// Writes another status, if it is another one; the document as it is then.
    async fn set_status(
        &self,
        certificate: &Certificate,
        status: CertStatus,
        fence: &Write,
    ) -> store::Result<Certificate> {
        if certificate.status == status {
            return Ok(certificate.clone());
        }
        let next = Certificate { status, updated_at: Some(Timestamp::now()), ..certificate.clone() };
        self.commit(certificate, vec![put(&next, certificate.config_version), fence.clone()]).await?;
        Ok(Certificate { config_version: certificate.config_version + 1, ..next })
    }

    /// Writes what came of a certificate, if it is still the same: the versions of one that was deleted and made again
    /// begin anew, so that they do not tell.
    async fn commit(&self, certificate: &Certificate, writes: Vec<Write>) -> store::Result<()> {
        let view = self.mirror.latest().await?;
        let now = view.config.certificates.get(&certificate.cert_name);
        if now.is_none_or(|now| now.created_at != certificate.created_at || now.source != Source::Acme) {
            return Err(store::Error::Conflict { key: certificate.key() });
        }
        self.mirror.store().commit(writes).await.map(drop)
    }
}

fn put(certificate: &Certificate, version: u64) -> Write {
    Write::Put { key: certificate.key(), value: certificate.stored(), expect: Expect::Version(version) }
}
