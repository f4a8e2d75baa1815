//! What is known of one certificate, and what follows from an answer about it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use portcullis_layers::tls::Certified;

use super::question::{Question, Unaskable};
use super::response::Verdict;
use super::schedule::{after_answer, after_failure};
use super::staples::{Known, Said};
use crate::config::CertName;

/// A certificate that names a responder.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where it is served: more than once if it was stored under several names.
    served: Vec<(CertName, Arc<Certified>)>,
    question: Result<Arc<Question>, Unaskable>,
    /// The last answer, until it is over.
    held: Option<Held>,
    /// The newest that was known. Who holds an older answer back, until after a revocation, is not believed.
    newest: Option<Timestamp>,
    failures: u32,
    error: Option<String>,
    next: Timestamp,
    /// Whether it is being asked about.
    busy: bool,
}

#[derive(Debug)]
struct Held {
    verdict: Verdict,
    response: Bytes,
}

/// What became of an answer, where somebody should be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is stapled.
    Good,
    /// The same, after failures.
    Recovered,
    /// The certificate is revoked; this is news, or not.
    Revoked {
        /// When it was.
        at: Timestamp,
        /// Whether it was not known before.
        news: bool,
    },
    /// The first of possibly many failures.
    Failed,
    /// Another one.
    FailedAgain,
}

impl Entry {
    /// One that is due at once.
    pub(super) fn new(question: Result<Question, Unaskable>) -> Self {
        Self {
            served: Vec::new(),
            question: question.map(Arc::new),
            held: None,
            newest: None,
            failures: 0,
            error: None,
            next: Timestamp::MIN,
            busy: false,
        }
    }

    /// Nobody serves it, until somebody does.
    pub(super) fn forget_served(&mut self) {
        self.served.clear();
    }

    /// It is served here, and what is held is stapled to it.
    pub(super) fn serve(&mut self, name: CertName, certified: Arc<Certified>) {
        // The same certificate, perhaps with the issuer this time.
        if self.question.is_err()
            && let Some(Ok(question)) = Question::of(&certified.key.cert)
        {
            self.question = Ok(Arc::new(question));
        }
        match self.good() {
            Some(held) if certified.stapled_until() == Some(held.verdict.until.as_second()) => {}
            Some(held) => held.staple(&certified),
            None => certified.unstaple(),
        }
        self.served.push((name, certified));
    }

    /// A name that it is served under.
    pub(super) fn name(&self) -> &str {
        self.served.first().map_or("", |(name, _)| name.as_str())
    }

    /// The server that is asked.
    pub(super) fn server(&self) -> Option<String> {
        self.question.as_ref().ok().map(|question| question.responder.server.to_string())
    }

    /// When it is to be asked about; `None` while that is done, and where it can't be.
    pub(super) fn due(&self) -> Option<Timestamp> {
        (self.question.is_ok() && !self.busy).then_some(self.next)
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// The question, which is asked from now on.
    pub(super) fn begin(&mut self) -> Option<Arc<Question>> {
        let question = self.question.as_ref().ok()?;
        self.busy = true;
        Some(Arc::clone(question))
    }

    /// Until when the last answer counts.
    pub(super) fn ends(&self) -> Option<Timestamp> {
        self.held.as_ref().map(|held| held.verdict.until)
    }

    /// Lets go of an answer that is over; tells whether it was stapled until now.
    pub(super) fn end(&mut self, now: Timestamp) -> bool {
        if self.ends().is_none_or(|until| now < until) {
            return false;
        }
        let was_good = self.good().is_some();
        // What is revoked stays so when nobody says it any more.
        if was_good {
            self.held = None;
            self.unstaple();
        }
        was_good
    }

    /// Takes what became of a question.
    pub(super) fn note(
        &mut self,
        answer: Result<(Verdict, Bytes), String>,
        now: Timestamp,
        chance: f64,
    ) -> Outcome {
        self.busy = false;
        let (verdict, response) = match answer {
            Ok((verdict, _)) if self.newest.is_some_and(|newest| verdict.this_update < newest) => {
                return self.fail("the answer is older than one before it".to_owned(), now, chance);
            }
            Ok(answer) => answer,
            Err(error) => return self.fail(error, now, chance),
        };
        let recovered = self.failures > 0;
        let was_revoked = self.held.as_ref().is_some_and(|held| held.verdict.revoked_at.is_some());
        self.failures = 0;
        self.error = None;
        self.newest = Some(verdict.this_update);
        self.next = after_answer(&verdict, now, chance);
        let held = self.held.insert(Held { verdict, response });
        match verdict.revoked_at {
            Some(at) => {
                self.unstaple();
                Outcome::Revoked { at, news: !was_revoked }
            }
            None => {
                self.served.iter().for_each(|(_, certified)| held.staple(certified));
                if recovered { Outcome::Recovered } else { Outcome::Good }
            }
        }
    }

    fn fail(&mut self, error: String, now: Timestamp, chance: f64) -> Outcome {
        self.failures = self.failures.saturating_add(1);
        self.error = Some(error);
        self.next = after_failure(self.failures, now, chance);
        if self.failures == 1 { Outcome::Failed } else { Outcome::FailedAgain }
    }

    /// What there is to report.
    pub(super) fn known(&self) -> Known {
        let verdict = self.held.as_ref().map(|held| &held.verdict);
        let revoked_at = verdict.and_then(|verdict| verdict.revoked_at);
        let question = self.question.as_ref();
        Known {
            responder: question.ok().map(|question| question.responder.url.clone()),
            status: verdict.map(|_| if revoked_at.is_some() { Said::Revoked } else { Said::Good }),
            revoked_at,
            this_update: verdict.map(|verdict| verdict.this_update),
            stapled_until: self.good().map(|held| held.verdict.until),
            error: question.err().map(ToString::to_string).or_else(|| self.error.clone()),
            next_attempt: question.ok().map(|_| self.next).filter(|next| *next > Timestamp::MIN),
        }
    }

    fn good(&self) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.verdict.revoked_at.is_none())
    }

    fn unstaple(&self) {
        self.served.iter().for_each(|(_, certified)| certified.unstaple());
    }
}

impl Held {
    fn staple(&self, certified: &Certified) {
        certified.staple(self.response.to_vec(), self.verdict.until.as_second());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stapling::schedule::after;
    use crate::stapling::testing::Authority;

    fn soon(seconds: u64) -> Timestamp {
        after(Timestamp::now(), Duration::from_secs(seconds))
    }

    fn answer(this_update: Timestamp, until: Timestamp) -> (Verdict, Bytes) {
        (Verdict { revoked_at: None, this_update, until }, Bytes::from_static(b"answer"))
    }

    fn revoked(this_update: Timestamp, until: Timestamp) -> (Verdict, Bytes) {
        let (verdict, response) = answer(this_update, until);
        (Verdict { revoked_at: Some(this_update), ..verdict }, response)
    }

    /// One that is served.
    fn served() -> (Entry, Arc<Certified>) {
        let certified = Arc::new(Authority::new("ours").certified(&["http://ocsp.example/"]));
        let mut entry = Entry::new(Question::of(&certified.key.cert).expect("a responder"));
        entry.serve("a".parse().expect("valid"), Arc::clone(&certified));
        (entry, certified)
    }

    #[test]
    fn a_good_answer_is_stapled_until_it_is_over() {
        let (mut entry, certified) = served();
        assert_eq!((entry.due(), certified.stapled_until()), (Some(Timestamp::MIN), None));
        assert!(entry.begin().is_some() && entry.due().is_none());
        let (now, until) = (Timestamp::now(), soon(100));
        assert_eq!(entry.note(Ok(answer(now, until)), now, 0.5), Outcome::Good);
        assert_eq!(certified.stapled_until(), Some(until.as_second()));
        assert!(entry.due().is_some_and(|at| at > soon(45) && at < soon(55)));
        // A failure changes nothing about it.
        assert_eq!(entry.note(Err("away".to_owned()), now, 0.0), Outcome::Failed);
        assert_eq!(entry.note(Err("away".to_owned()), now, 0.0), Outcome::FailedAgain);
        assert_eq!(certified.stapled_until(), Some(until.as_second()));
        assert_eq!(entry.known().error.as_deref(), Some("away"));
        assert!(!entry.end(now));
        assert!(entry.end(until) && !entry.end(until));
        assert_eq!((certified.stapled_until(), entry.known().status), (None, None));
        assert_eq!(entry.note(Ok(answer(until, soon(200))), until, 0.5), Outcome::Recovered);
        assert_eq!(entry.known().error, None);
    }

    #[test]
    fn what_is_revoked_is_never_good_again_by_an_older_answer() {
        let (mut entry, certified) = served();
        let (now, until) = (Timestamp::now(), soon(100));
        entry.note(Ok(answer(now, until)), now, 0.5);
        let known_at = soon(10);
        assert!(matches!(
            entry.note(Ok(revoked(known_at, until)), now, 0.5),
            Outcome::Revoked { news: true, .. }
        ));
        assert_eq!(certified.stapled_until(), None);
        assert!(matches!(
            entry.note(Ok(revoked(known_at, until)), now, 0.5),
            Outcome::Revoked { news: false, .. }
        ));
        // Out of some cache.
        assert_eq!(entry.note(Ok(answer(now, until)), now, 0.5), Outcome::Failed);
        assert_eq!(certified.stapled_until(), None);
        assert!(!entry.end(soon(1000)), "nobody needs to be told");
        assert_eq!(entry.known().status, Some(Said::Revoked));
        // A hold that was taken back.
        assert_eq!(entry.note(Ok(answer(soon(20), soon(200))), now, 0.5), Outcome::Recovered);
        assert!(certified.stapled_until().is_some());
    }

    #[test]
    fn what_is_loaded_anew_is_stapled_at_once() {
        let (mut entry, first) = served();
        let (now, until) = (Timestamp::now(), soon(100));
        entry.note(Ok(answer(now, until)), now, 0.5);
        entry.forget_served();
        let again = Authority::new("ours").certified(&["http://ocsp.example/"]);
        let again = Arc::new(again);
        entry.serve("b".parse().expect("valid"), Arc::clone(&again));
        assert_eq!(again.stapled_until(), first.stapled_until());
        entry.note(Ok(revoked(now, until)), now, 0.5);
        assert!(again.stapled_until().is_none());
        assert!(first.stapled_until().is_some(), "it is not served any more");
    }
}
