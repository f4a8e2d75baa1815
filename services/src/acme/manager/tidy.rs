//! What is made and taken away without an order: documents of hosts that want a certificate, and of hosts that are gone.

use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info};

use super::{Hand, Manager, fence};
use crate::acme::needs::Needs;
use crate::acme::renewal::after;
use crate::acme::{on_demand, plan, state};
use crate::config::view::View;
use crate::config::{CertName, Certificate, Entity};
use crate::store::{self, Expect, Key, Kind, RecordWrite, Write};
use crate::vault::Vault;

/// How soon to look again at a name that nobody has asked for lately.
const IDLE: Duration = Duration::from_secs(600);

/// The change of one certificate's document.
struct Change<'a> {
    certificate: &'a Certificate,
    writes: Vec<Write>,
}

impl Manager {
    /// Makes the documents of hosts that want a certificate, and removes those of hosts that are gone; tells whether
    /// there were any.
    pub(super) async fn tidy(&self, view: &View, hand: &mut Hand, now: Timestamp) -> store::Result<bool> {
        let needs = Needs::of(&view.config);
        // A document that can't be read has a name, too.
        let is_free = |name: &CertName| !view.contains(&Key::new(Kind::Certificate, name.as_str()));
        let missing = plan::missing(&needs, is_free, &self.policy, now);
        let missing: Vec<_> = missing
            .into_iter()
            .map(|wanted| Certificate { created_at: Some(now), updated_at: Some(now), ..wanted })
            .collect();
        let made = missing.iter().map(|wanted| Change {
            certificate: wanted,
            writes: vec![Write::Put { key: wanted.key(), value: wanted.stored(), expect: Expect::Absent }],
        });
        let made = self.commit_changes(made.collect(), hand).await?;
        for wanted in &made {
            info!(certificate = %wanted.cert_name, host = %wanted.domains[0], "a host gets a certificate");
        }
        let failures = |name: &CertName| hand.known.get(name).map_or(0, |(issuance, _)| issuance.failures);
        let leftover = plan::leftover(&needs, now)
            .chain(plan::spent(&needs, failures, now))
            .filter(|one| !hand.busy.contains(&one.cert_name))
            .map(|gone| Change {
                certificate: gone,
                writes: vec![
                    Write::Delete { key: gone.key(), expect: Expect::Version(gone.config_version) },
                    Vault::delete(&Certificate::secret_id(&gone.cert_name), Expect::Any),
                ],
            });
        let leftover = leftover.collect();
        let gone = self.commit_changes(leftover, hand).await?;
        for one in &gone {
            info!(certificate = %one.cert_name, "no host needs this certificate any more");
            // Who has the name next begins anew.
            hand.known.remove(&one.cert_name);
            let forgotten = RecordWrite::Delete { key: state::key(&one.cert_name), expect: Expect::Any };
            self.mirror.store().commit_records(vec![forgotten]).await?;
        }
        Ok(!made.is_empty() || !gone.is_empty())
    }

    /// Makes changes, all at once or, where one of them is overtaken, each for itself; those that were made.
    async fn commit_changes<'a>(
        &self,
        changes: Vec<Change<'a>>,
        hand: &Hand,
    ) -> store::Result<Vec<&'a Certificate>> {
        let commit = async |writes: Vec<Write>| {
            let writes = writes.into_iter().chain([fence(hand.lease)]).collect();
            match self.mirror.store().commit(writes).await {
                Ok(_) => Ok(true),
                // Somebody else was faster: the next look sees it.
                Err(store::Error::Conflict { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        if changes.is_empty() || commit(changes.iter().flat_map(|one| one.writes.clone()).collect()).await? {
            return Ok(changes.iter().map(|one| one.certificate).collect());
        }
        let mut made = Vec::new();
        for Change { certificate, writes } in changes {
            if commit(writes).await? {
                made.push(certificate);
            }
        }
        Ok(made)
    }

    /// Until when a certificate is not renewed because nobody asks for its name any more; none for one that is.
    pub(super) async fn rests_until(
        &self,
        hand: &mut Hand,
        certificate: &Certificate,
        needs: &Needs<'_>,
        now: Timestamp,
    ) -> store::Result<Option<Timestamp>> {
        if !needs.is_allowed_on_demand(certificate) {
            return Ok(None);
        }
        let known = hand.idle.remove(&certificate.cert_name).filter(|again| *again > now);
        let again = match known {
            Some(again) => again,
            None if on_demand::is_any_asked_for(&**self.mirror.store(), certificate).await? => {
                return Ok(None);
            }
            None => {
                debug!(certificate = %certificate.cert_name, "not renewed: nobody has asked for it lately");
                after(now, IDLE)
            }
        };
        hand.idle.insert(certificate.cert_name.clone(), again);
        Ok(Some(again))
    }
}
