//! Asks authorities when they want certificates to be renewed (RFC 9773).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::debug;

use super::{Done, Hand, Manager, fence};
use crate::acme::order;
use crate::acme::renewal::{Advice, Window, after};
use crate::acme::state::{self, Issuance};
use crate::config::Certificate;
use crate::store::Write;

/// Who is not told when to ask again about a renewal (RFC 9773, section 4.3.3) asks in six hours.
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// What an authority may say about when to ask again.
const ASK: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(86_400));

impl Manager {
    /// Asks the authority when it wants a certificate to be renewed.
    pub(super) fn ask(self: &Arc<Self>, hand: &mut Hand, certificate: &Arc<Certificate>) {
        hand.asking += 1;
        let name = certificate.cert_name.clone();
        let (issuance, expect) = hand.known_of(certificate);
        hand.busy.insert(name.clone());
        let (manager, certificate, fence) = (Arc::clone(self), Arc::clone(certificate), fence(hand.lease));
        hand.running.spawn(async move {
            let advice = manager.advice(&certificate, issuance.advice.as_ref(), &fence).await;
            let issuance = Issuance { advice, ..issuance };
            let store = &**manager.mirror.store();
            let known = match state::write(store, &name, &issuance, expect).await {
                Ok(expect) => Some((issuance, expect)),
                Err(error) => {
                    debug!(certificate = %name, %error, "the time of a renewal can't be kept");
                    state::read(store, &name).await.ok()
                }
            };
            Done { name, asked: true, known }
        });
    }

    async fn advice(
        &self,
        certificate: &Certificate,
        before: Option<&Advice>,
        fence: &Write,
    ) -> Option<Advice> {
        let now = Timestamp::now();
        let fingerprint = certificate.fingerprint.clone()?;
        match self.ask_authority(certificate, fence).await {
            Ok((start, end, explanation, wait)) => {
                let window = Window { start, end, at: Window::choose(&fingerprint, start, end), explanation };
                // Whoever looks more often asks more often, too.
                let least = ASK.0.min(self.policy.look);
                let ask_at = after(now, wait.clamp(least, ASK.1));
                debug!(certificate = %certificate.cert_name, at = %window.at, %ask_at, "the authority says when to renew");
                Some(Advice { fingerprint, window: Some(window), ask_at })
            }
            Err(detail) => {
                debug!(certificate = %certificate.cert_name, detail, "the authority does not say when to renew");
                // What it has said before holds until it says something else.
                let same = before.filter(|advice| advice.fingerprint == fingerprint);
                let window = same.and_then(|advice| advice.window.clone());
                Some(Advice { fingerprint, window, ask_at: after(now, ASK_AGAIN) })
            }
        }
    }

    async fn ask_authority(
        &self,
        certificate: &Certificate,
        fence: &Write,
    ) -> Result<(Timestamp, Timestamp, Option<String>, Duration), String> {
        let issued_from = certificate.issued_from.as_deref().unwrap_or_default();
        let authorities =
            self.policy.authorities_of(certificate).into_iter().chain(self.policy.authorities.clone());
        let mut authorities = authorities.filter(|authority| authority.directory.to_string() == issued_from);
        let authority = authorities.next().ok_or("its authority is not asked any more")?;
        let account = self
            .accounts
            .get(&authority, self.email_of(certificate), fence)
            .await
            .map_err(|trouble| trouble.detail)?;
        let id = order::identify(certificate).ok_or("it names no authority key")?;
        let (info, wait) = account.renewal_info(&id).await.map_err(|error| error.to_string())?;
        let time = |second| Timestamp::from_second(second).map_err(|error| error.to_string());
        let (start, end) =
            (info.suggested_window.start.unix_timestamp(), info.suggested_window.end.unix_timestamp());
        if end < start {
            return Err("the window ends before it starts".to_owned());
        }
        Ok((time(start)?, time(end)?, info.explanation_url, wait))
    }
}

/// When to ask the authority about the renewal of a certificate.
pub(super) fn asks_at(certificate: &Certificate, known: Option<&Issuance>) -> Option<Timestamp> {
    certificate.issued_from.as_ref()?;
    let advice = known.and_then(|issuance| issuance.advice.as_ref());
    let fingerprint = certificate.fingerprint.as_deref()?;
    let own = advice.filter(|advice| advice.fingerprint == fingerprint);
    Some(own.map_or(Timestamp::MIN, |advice| advice.ask_at))
}
