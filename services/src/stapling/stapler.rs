//! Asks responders, and staples what they say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use portcullis_layers::forward::Client;
use portcullis_layers::tls::Certified;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::entry::{Entry, Outcome};
use super::fetch;
use super::question::Question;
use super::response::{Verdict, judge};
use super::schedule::after;
use super::staples::Staples;
use crate::acme::failure::chain;
use crate::applied::Applied;
use crate::config::CertName;
use crate::config::certificate::pem::fingerprint;
use crate::random;

/// How many questions are asked at a time.
const AT_ONCE: usize = 8;

/// How many of them go to the same server: one that is slow must not hold up the others.
const AT_ONCE_EACH: usize = 2;

/// Clocks are changed, and machines sleep: however late the next question is due, the clock is read after this.
const LOOK: Duration = Duration::from_secs(60);

/// The certificates that are served.
pub type Served = Vec<(CertName, Arc<Certified>)>;

/// Keeps answers stapled to the certificates of a node.
#[derive(Debug)]
pub struct Stapler {
    client: Client,
    staples: Arc<Staples>,
    /// By fingerprint; `None` for those that name no responder.
    entries: BTreeMap<String, Option<Entry>>,
    running: JoinSet<Done>,
}

/// A question was asked.
#[derive(Debug)]
struct Done {
    fingerprint: String,
    answer: Result<(Verdict, Bytes), String>,
}

impl Stapler {
    /// Asks with this client, and tells what it learns there.
    pub fn new(client: Client, staples: Arc<Staples>) -> Self {
        Self { client, staples, entries: BTreeMap::new(), running: JoinSet::new() }
    }

    /// Keeps what is stapled to the certificates that `served` lists in force until it is told to stop. They are looked at
    /// anew whenever something else is applied.
    pub async fn run(
        mut self,
        served: impl Fn() -> Served,
        mut applied: watch::Receiver<Applied>,
        stop: CancellationToken,
    ) {
        self.adopt(served());
        loop {
            let wait = self.look(Timestamp::now());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = applied.changed() => match changed {
                    Ok(()) => self.adopt(served()),
                    Err(_) => return,
                },
                Some(done) = self.running.join_next() => self.note(done, Timestamp::now()),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Takes what is served now. What is known of a certificate stays known while it is among them.
    fn adopt(&mut self, served: Served) {
        let mut before = std::mem::take(&mut self.entries);
        before.values_mut().flatten().for_each(Entry::forget_served);
        for (name, certified) in served {
            let chain = &certified.key.cert;
            let entry = self.entries.entry(fingerprint(&chain[0])).or_insert_with_key(|fingerprint| {
                let known = before.remove(fingerprint);
                known.unwrap_or_else(|| Question::of(chain).map(Entry::new))
            });
            if let Some(entry) = entry {
                entry.serve(name, certified);
            }
        }
        let asked =
            self.entries.iter().filter_map(|(fingerprint, entry)| Some((fingerprint, entry.as_ref()?)));
        let asked: Vec<_> = asked.collect();
        self.staples.retain(&asked.iter().map(|(fingerprint, _)| fingerprint.as_str()).collect());
        for (fingerprint, entry) in asked {
            self.staples.tell(fingerprint, entry.known());
        }
    }

    /// Begins what is due; tells how long to wait for the next.
    fn look(&mut self, now: Timestamp) -> Duration {
        let mut soonest = after(now, LOOK);
        let mut asked: BTreeMap<String, usize> = BTreeMap::new();
        let mut due = Vec::new();
        for (fingerprint, entry) in &mut self.entries {
            let Some(entry) = entry else { continue };
            if entry.end(now) {
                warn!(
                    certificate = entry.name(),
                    "an OCSP response is over, and there is no other one to staple"
                );
                self.staples.tell(fingerprint, entry.known());
            }
            soonest = entry.ends().filter(|until| *until > now).map_or(soonest, |until| soonest.min(until));
            match entry.due() {
                Some(at) if at <= now => due.push((at, fingerprint.clone())),
                Some(at) => soonest = soonest.min(at),
                None => {}
            }
            if let (true, Some(server)) = (entry.is_busy(), entry.server()) {
                *asked.entry(server).or_default() += 1;
            }
        }
        // What is longest due comes first. What finds no place waits until one is free.
        due.sort_unstable();
        for (_, fingerprint) in due {
            if self.running.len() >= AT_ONCE {
                break;
            }
            let Some(Some(entry)) = self.entries.get_mut(&fingerprint) else { continue };
            let Some(server) = entry.server() else { continue };
            let places = asked.entry(server).or_default();
            if *places < AT_ONCE_EACH
                && let Some(question) = entry.begin()
            {
                *places += 1;
                self.running.spawn(ask(self.client.clone(), question, fingerprint));
            }
        }
        Duration::try_from(soonest.duration_since(now)).unwrap_or_default().max(Duration::from_millis(10))
    }

    fn note(&mut self, done: Result<Done, JoinError>, now: Timestamp) {
        let Done { fingerprint, answer } = match done {
            Ok(done) => done,
            // Nobody knows whose it was: when all others are back, it is who is still waited for.
            Err(error) => {
                warn!(%error, "a question to an OCSP responder ended badly");
                if self.running.is_empty() {
                    for lost in self.entries.values_mut().flatten().filter(|entry| entry.is_busy()) {
                        lost.note(Err("it ended badly".to_owned()), now, chance());
                    }
                }
                return;
            }
        };
        // Somebody may have removed it meanwhile.
        let Some(Some(entry)) = self.entries.get_mut(&fingerprint) else { return };
        let outcome = entry.note(answer, now, chance());
        let (known, certificate, counters) = (entry.known(), entry.name(), self.staples.counters());
        let error = known.error.as_deref();
        let counter = match outcome {
            Outcome::Good | Outcome::Recovered => &counters.good,
            Outcome::Revoked { .. } => &counters.revoked,
            Outcome::Failed | Outcome::FailedAgain => &counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Outcome::Good => debug!(certificate, until = ?known.stapled_until, "an OCSP response is stapled"),
            Outcome::Recovered => {
                info!(certificate, "an OCSP response is stapled: its responder answers again");
            }
            Outcome::Revoked { at, news: true } => {
                warn!(certificate, revoked_at = %at, "a certificate was revoked by its authority: clients may refuse it");
            }
            Outcome::Revoked { .. } => debug!(certificate, "a certificate is still revoked"),
            Outcome::Failed => {
                warn!(
                    certificate,
                    responder = known.responder,
                    error,
                    "an OCSP responder gave nothing of use"
                );
            }
            Outcome::FailedAgain => debug!(certificate, error, "an OCSP responder gave nothing of use"),
        }
        self.staples.tell(&fingerprint, known);
    }
}

async fn ask(client: Client, question: Arc<Question>, fingerprint: String) -> Done {
    let answer = match fetch::ask(&client, &question).await {
        Ok(response) => match judge(&question, &response, Timestamp::now()) {
            Ok(verdict) => Ok((verdict, response)),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(chain(&error)),
    };
    Done { fingerprint, answer }
}

/// A number between 0 and 1.
fn chance() -> f64 {
    f64::from(u32::from_be_bytes(random::bytes())) / f64::from(u32::MAX)
}
