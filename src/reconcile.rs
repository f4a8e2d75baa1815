//! Keeps what is served equal to what the store holds: something changed, read the truth, make it so.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use portcullis_services::config::Problem;
use portcullis_services::control::Applied;
use portcullis_services::logs::Levels;
use portcullis_services::oauth::Keys;
use portcullis_services::store::snapshot_file::SnapshotFile;
use portcullis_services::store::{self, Document, Revision, Store};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::bootstrap;
use crate::live::Live;
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::snapshot::{Loaded, Snapshot};

/// A full look at the store, even when nobody hinted: hand-made writes in Redis are seen, too.
const FULL: Duration = Duration::from_secs(60);

/// The pause after a failed look, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The one task that swaps snapshots.
#[derive(Debug)]
pub struct Reconcile {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// What is served.
    pub live: Live,
    /// What the stacks are built with.
    pub runtime: Arc<Runtime>,
    /// Levels of diagnostics.
    pub levels: Levels,
    /// This node's own copy of the configuration, for a start without the store.
    pub copy: Option<Arc<SnapshotFile>>,
    /// Tells what is served.
    pub applied: watch::Sender<Applied>,
    /// An admin accepts a store that is older than what is served, or another one.
    pub accept: Arc<Notify>,
    /// What an accepted store may lack is made of them, as at start.
    pub settings: Settings,
}

impl Reconcile {
    /// Serves a state of the store.
    pub async fn apply(&self, revision: Revision, documents: Vec<Document>, from_copy: bool) {
        self.rotate(&documents);
        bootstrap::apply_levels(&documents, &self.levels);
        if !from_copy {
            self.keep_copy(&revision, &documents);
        }
        let (runtime, previous) = (Arc::clone(&self.runtime), self.live.current());
        // Compiling hundreds of hosts takes a while: the tasks of this runtime must not wait for it.
        let built = tokio::task::spawn_blocking(move || {
            let loaded = Loaded::new(revision, documents);
            Snapshot::build(&loaded, &runtime, &previous)
        });
        let Ok(next) = built.await else {
            error!("a configuration could not be built: the one before stays in force");
            return;
        };
        let applied = Applied {
            revision: next.revision.clone(),
            hosts: next.hosts.len(),
            certificates: next.certificates.len(),
            https: true,
            from_copy,
            problems: next.problems.clone(),
        };
        let revision = applied.revision.as_ref().map(|revision| revision.n);
        info!(revision, hosts = applied.hosts, problems = applied.problems.len(), "configuration in force");
        for problem in &applied.problems {
            warn!(
                kind = problem.kind,
                id = problem.id,
                field = problem.field,
                problem.message,
                "not in force"
            );
        }
        self.live.publish(next, &self.runtime);
        self.applied.send_replace(applied);
    }

    /// Follows the store until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let since = self.applied.borrow().revision.clone().unwrap_or(Revision { epoch: String::new(), n: 0 });
        let mut changes = self.store.changes(since);
        let mut pause = BACKOFF.0;
        let mut wait = FULL;
        // Holds until a look succeeds: the store may be away just when it is accepted.
        let mut accepted = false;
        loop {
            tokio::select! {
                hint = changes.next() => {
                    if hint.is_none() {
                        return;
                    }
                }
                () = tokio::time::sleep(wait) => {}
                () = self.accept.notified() => accepted = true,
                () = stop.cancelled() => return,
            }
            (wait, pause) = match self.look(accepted).await {
                Ok(()) => {
                    accepted = false;
                    (FULL, BACKOFF.0)
                }
                Err(error) => {
                    debug!(%error, "the store can't be read");
                    (pause, (pause * 2).min(BACKOFF.1))
                }
            };
        }
    }

    /// Reads the store, and serves what it holds if that is news.
    async fn look(&self, accepted: bool) -> store::Result<()> {
        if accepted
            && let Err(error) = bootstrap::run(&*self.store, &self.runtime.vault, &self.settings).await
        {
            warn!(%error, "the accepted store can't be made ready");
        }
        let (revision, documents) = self.store.load().await?;
        let serving = self.applied.borrow().clone();
        let known = serving.revision.as_ref();
        if known == Some(&revision)
            && !serving.from_copy
            && serving.problems.iter().all(|one| one.kind != REPLACED)
        {
            return Ok(());
        }
        // A store that comes back empty or older must not take all hosts away.
        let replaced = known.is_some_and(|known| known.epoch != revision.epoch || known.n > revision.n);
        if replaced && !accepted {
            self.report_replaced(&revision);
            return Ok(());
        }
        self.apply(revision, documents, false).await;
        Ok(())
    }

    fn report_replaced(&self, revision: &Revision) {
        let problem = Problem {
            kind: REPLACED.to_owned(),
            id: revision.epoch.clone(),
            field: None,
            message: format!(
                "the store is older than what is served, or another one (it is at {}): what was served before stays in \
                 force until an admin runs `portcullis system accept-store`",
                revision.n
            ),
        };
        self.applied.send_if_modified(|applied| {
            if applied.problems.contains(&problem) {
                return false;
            }
            warn!(revision = revision.n, "the store is older than what is served, or another one");
            applied.problems.retain(|one| one.kind != REPLACED);
            applied.problems.push(problem);
            true
        });
    }

    fn rotate(&self, documents: &[Document]) {
        let keys = match Keys::load(documents, &self.runtime.vault, Timestamp::now()) {
            Ok(Some(keys)) => keys,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "the signing keys in the store can't be used: the ones before stay");
                return;
            }
        };
        if let Err(error) = self.runtime.trust.replace_keys(&keys) {
            warn!(%error, "the signing keys in the store can't be used: the ones before stay");
        }
    }

    fn keep_copy(&self, revision: &Revision, documents: &[Document]) {
        let Some(copy) = self.copy.clone() else { return };
        let (revision, documents) = (revision.clone(), documents.to_vec());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = copy.write(&revision, &documents) {
                warn!(%error, "this node's copy of the configuration can't be written");
            }
        });
    }
}

/// The kind of problem that a replaced store is.
const REPLACED: &str = "store";
