//! Keeps what is served equal to what the store holds: something changed, read the truth, make it so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use portcullis_services::acme::Challenges;
use portcullis_services::applied::Applied;
use portcullis_services::config::Problem;
use portcullis_services::config::view::View;
use portcullis_services::logs::Levels;
use portcullis_services::mirror::Mirror;
use portcullis_services::oauth::{AuthorizationServer, Keys};
use portcullis_services::store::snapshot_file::SnapshotFile;
use portcullis_services::store::{self, Revision};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::bootstrap;
use crate::live::{self, Live};
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::succession::{Acceptance, Served};

/// A full look at the store, even when nobody hinted: hand-made writes in Redis are seen, too.
const FULL: Duration = Duration::from_secs(60);

/// The pause after a failed look, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The one task that swaps snapshots.
#[derive(Debug)]
pub struct Reconcile {
    /// The truth.
    pub mirror: Mirror,
    /// What is served.
    pub live: Live,
    /// What the stacks are built with.
    pub runtime: Arc<Runtime>,
    /// Signs with the keys that it is given.
    pub authorization: Arc<AuthorizationServer>,
    /// Is told whether certificates are being issued.
    pub challenges: Challenges,
    /// Levels of diagnostics.
    pub levels: Levels,
    /// This node's own copy of the configuration, for a start without the store.
    pub copy: Option<Arc<SnapshotFile>>,
    /// One writes the copy at a time.
    pub copying: Arc<Mutex<()>>,
    /// Tells what is served.
    pub applied: watch::Sender<Applied>,
    /// An admin accepts a store that is older than what is served, or another one.
    pub accept: Arc<Notify>,
    /// What an accepted store may lack is made of them, as at start.
    pub settings: Settings,
}

impl Reconcile {
    /// Serves a state of the store.
    pub async fn apply(&self, view: Arc<View>, from_copy: bool) {
        let (runtime, previous) = (Arc::clone(&self.runtime), self.live.current());
        self.rotate(&view, previous.view.as_deref());
        bootstrap::apply_levels(&view.config, &self.levels);
        // Compiling hundreds of hosts takes a while: the tasks of this runtime must not wait for it.
        let built = tokio::task::spawn_blocking(move || Snapshot::build(view, &runtime, &previous));
        let Ok(next) = built.await else {
            error!("a configuration could not be built: the one before stays in force");
            return;
        };
        let applied = Applied {
            revision: next.revision().cloned(),
            hosts: next.enabled_hosts(),
            certificates: next.certificates.len(),
            https: true,
            from_copy,
            replaced: None,
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
        let config = Arc::clone(&next.config);
        let services = next.services;
        self.live.publish(next, &self.runtime);
        self.runtime.services.served(services);
        self.challenges.expect(config.certificates.values().any(|one| one.status.is_under_way()));
        self.authorization.serve(config);
        if !from_copy && let Some(view) = &self.live.current().view {
            self.keep_copy(view);
        }
        self.applied.send_replace(applied);
    }

    /// Serves the same state of the store with services where they are now.
    async fn refresh(&self) {
        let (runtime, previous) = (Arc::clone(&self.runtime), self.live.current());
        let services = self.runtime.services.current().serial;
        if previous.services >= services {
            return;
        }
        let Some(view) = previous.view.clone() else { return };
        let built = tokio::task::spawn_blocking(move || Snapshot::build(view, &runtime, &previous));
        let Ok(next) = built.await else {
            error!("a configuration could not be built: the one before stays in force");
            return;
        };
        let services = next.services;
        self.live.publish(next, &self.runtime);
        debug!(services, "services are somewhere else");
        self.runtime.services.served(services);
    }

    /// Follows the store until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let since = self.applied.borrow().revision.clone().unwrap_or(Revision { epoch: String::new(), n: 0 });
        let mut changes = self.mirror.store().changes(since);
        let mut services = self.runtime.services.subscribe();
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
                _ = services.changed() => {
                    self.refresh().await;
                    continue;
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
        let mut view = self.mirror.load().await?;
        let serving = self.applied.borrow().clone();
        if serving.revision.as_ref() == Some(&view.revision)
            // A hand may have written without moving the revision.
            && self.live.current().view.as_ref().is_some_and(|before| view.is_same(before))
            && !self.live.current().is_over()
            && !serving.from_copy
            && serving.replaced.is_none()
        {
            return Ok(());
        }
        // A store that comes back empty or older must not take all hosts away.
        if let Some(served) = self.served() {
            if accepted && served.is_replaced_by(&view) {
                self.accept(&served).await?;
                view = self.mirror.load().await?;
            }
            if self.must_wait(&served, &view) {
                self.report_replaced(&view.revision);
                return Ok(());
            }
            if serving.from_copy {
                // Nobody has looked yet whether it lacks anything.
                let _logged = self.make_ready().await?;
                view = self.mirror.load().await?;
                // It may have been replaced in between.
                if self.must_wait(&served, &view) {
                    self.report_replaced(&view.revision);
                    return Ok(());
                }
            }
        }
        self.apply(view, false).await;
        Ok(())
    }

    /// Whether the store may not take the place of what is served without an admin's word.
    fn must_wait(&self, served: &Served, found: &View) -> bool {
        // A backup of the same store that grows again is the backup still: it lacks what came after it was made.
        let replaced = self.applied.borrow().replaced.as_ref().is_some_and(|replaced| {
            replaced.epoch == served.revision.epoch && replaced.epoch == found.revision.epoch
        });
        let back = || self.live.current().view.as_ref().is_some_and(|view| view.is_same(found));
        served.is_replaced_by(found) || (replaced && !served.is_followed_by(found) && !back())
    }

    fn served(&self) -> Option<Served> {
        self.live.current().view.as_deref().map(Served::of)
    }

    /// Makes in the store what it may lack, and notes for all nodes that it stands in the place of what is served.
    async fn accept(&self, served: &Served) -> store::Result<()> {
        if !self.make_ready().await? {
            return Ok(());
        }
        // A second look: only now has an emptied store an epoch.
        let found = self.mirror.load().await?;
        let write = Acceptance::next(served, &found).map_err(|error| {
            let place = "the accepted store".to_owned();
            store::Error::Corrupt { place, source: Box::new(error) }
        })?;
        match self.mirror.store().commit(vec![write]).await {
            // Another node was first.
            Ok(_) | Err(store::Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the store has now what every deployment needs.
    async fn make_ready(&self) -> store::Result<bool> {
        match bootstrap::run(&**self.mirror.store(), &self.runtime.vault, &self.settings).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_temporary() => Err(store::Error::Unavailable(Box::new(error))),
            Err(error) => {
                warn!(%error, "the store can't be made ready");
                Ok(false)
            }
        }
    }

    /// Tells everybody that the store is another one than what is served.
    pub fn report_replaced(&self, revision: &Revision) {
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
            if applied.replaced.is_none() {
                warn!(
                    revision = revision.n,
                    "the store is older than what is served, or another one: it waits for `system accept-store`"
                );
            }
            applied.replaced = Some(revision.clone());
            applied.problems.retain(|one| one.kind != REPLACED);
            applied.problems.push(problem);
            true
        });
    }

    fn rotate(&self, view: &View, previous: Option<&View>) {
        if previous.is_some_and(|previous| view.are_same(previous, &Keys::KINDS)) {
            return;
        }
        let keys = match Keys::load(&view.documents(&Keys::KINDS), &self.runtime.vault, Timestamp::now()) {
            Ok(Some(keys)) => keys,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "the signing keys in the store can't be used: the ones before stay");
                return;
            }
        };
        // Verified before it is signed with: nobody may get a token that this node does not take.
        match self.runtime.verifiers.trust.replace_keys(&keys) {
            Ok(()) => {
                let keys = Arc::new(keys);
                self.runtime.identity.replace_keys(Arc::clone(&keys));
                self.authorization.replace_keys(keys);
                // What a key has signed ends with it, what such a token has opened among it.
                live::end_bad(self.runtime.client.tunnels(), &self.runtime.verifiers.trust);
            }
            Err(error) => warn!(%error, "the signing keys in the store can't be used: the ones before stay"),
        }
    }

    fn keep_copy(&self, view: &Arc<View>) {
        let Some(copy) = self.copy.clone() else { return };
        let (view, live, turn) = (Arc::clone(view), self.live.clone(), Arc::clone(&self.copying));
        tokio::task::spawn_blocking(move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            // An older state that is late must not take the place of a newer one.
            if live.current().view.as_ref().is_none_or(|newest| !Arc::ptr_eq(newest, &view)) {
                return;
            }
            if let Err(error) = copy.write(&view.revision, view.raw()) {
                warn!(%error, "this node's copy of the configuration can't be written");
            }
        });
    }
}

/// The kind of problem that a replaced store is.
const REPLACED: &str = "store";
