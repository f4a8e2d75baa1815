//! What a node does for all its sessions: it hears what other nodes say, says that it is alive, tells the store which
//! sessions are used, and forgets those that are not. One task, whatever the number of sessions.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Sessions;
use super::id::{NodeName, SessionKey};
use super::message::client_message;
use super::notice::{Notice, Place, What};
use super::session::Session;

/// As many looks into the store at a time.
const AT_ONCE: usize = 32;

impl Sessions {
    /// Works until it is told to stop. Without it, sessions do not find each other's nodes.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async { tokio::join!(self.hear(), self.look_after()) };
        stop.run_until_cancelled(work).await;
        for session in self.all() {
            session.close();
        }
        self.shared.farewell().await;
    }

    /// Hears what other nodes say. A node without sessions need not.
    async fn hear(&self) {
        loop {
            while self.count() == 0 {
                self.woken.notified().await;
            }
            let mut place = Place::default();
            let mut missed = false;
            while self.count() > 0 {
                let read = self.shared.board.read(&mut place).await;
                let Some((notices, more)) = self.shared.told(read) else {
                    missed = true;
                    sleep(self.shared.options.poll).await;
                    continue;
                };
                let looks = notices.into_iter().filter_map(|notice| self.heard(notice));
                let looks = looks.collect::<Vec<BoxFuture<'_, ()>>>();
                stream::iter(looks).for_each_concurrent(AT_ONCE, |look| look).await;
                if std::mem::take(&mut missed) {
                    let sessions = stream::iter(self.all());
                    sessions
                        .for_each_concurrent(AT_ONCE, async |session| session.look_everywhere().await)
                        .await;
                }
                if !more {
                    sleep(self.shared.options.poll).await;
                }
            }
        }
    }

    /// Takes a notice; what is to be done for it in the store, if anything.
    fn heard(&self, notice: Notice) -> Option<BoxFuture<'_, ()>> {
        let Notice { node, session, what } = notice;
        let session = self.get(&SessionKey::named(&session))?;
        let here = node == self.shared.name.as_str();
        match what {
            What::Listening { turn } => session.moved(here, turn),
            _ if here => {}
            What::Ended => {
                debug!("a session was ended at another node");
                self.drop_here(&session.key);
                return Some(Box::pin(async move {
                    self.shared.told(session.forget().await);
                }));
            }
            What::Message { to, name } => {
                let for_us = to.is_none_or(|to| to == self.shared.name.as_str());
                return for_us.then(|| -> BoxFuture<'_, ()> { Box::pin(self.take(session, name)) });
            }
            What::Follow { to, stream } => {
                let for_us = to == self.shared.name.as_str();
                return for_us.then(|| -> BoxFuture<'_, ()> {
                    Box::pin(async move { session.followed(stream).await })
                });
            }
            What::More { stream } => {
                return Some(Box::pin(async move { session.look(&stream, false).await }));
            }
            What::Over { stream } => return Some(Box::pin(async move { session.look(&stream, true).await })),
        }
        None
    }

    /// Takes a message that waits for this node.
    async fn take(&self, session: Arc<Session>, name: String) {
        let left = self.shared.told(self.shared.journal.take(&name).await).flatten();
        if let Some(message) = left.as_deref().and_then(client_message) {
            session.passed_on(message).await;
        }
    }

    async fn look_after(&self) {
        let options = &self.shared.options;
        let mut swept = Instant::now();
        loop {
            sleep(options.alive / 3).await;
            if self.count() == 0 {
                continue;
            }
            self.shared.speak().await;
            self.look_for_nodes().await;
            if swept.elapsed() >= options.renew / 2 {
                swept = Instant::now();
                self.sweep().await;
            }
        }
    }

    /// Ends streams of nodes that are gone.
    async fn look_for_nodes(&self) {
        let mut nodes: HashMap<NodeName, Vec<(Arc<Session>, String)>> = HashMap::new();
        for session in self.all() {
            for (stream, node) in session.follows() {
                nodes.entry(node).or_default().push((Arc::clone(&session), stream));
            }
        }
        for (node, streams) in nodes {
            let gone = self.shared.told(self.shared.is_alive(&node).await) == Some(false);
            let looks = streams.iter().map(|(session, stream)| session.look(stream, gone));
            looks.collect::<FuturesUnordered<_>>().for_each(async |()| {}).await;
        }
    }

    /// Tells the store of sessions that are used, and forgets those that are not.
    async fn sweep(&self) {
        let options = &self.shared.options;
        let mut renewals = Vec::new();
        for session in self.all() {
            if session.is_old() {
                // The store ends it about now, by a clock of its own.
                if self.end(&session.key).await.is_err() {
                    debug!("the store could not be told that a session is old");
                }
            } else if session.is_over() {
                self.drop_here(&session.key);
            } else if let Some(kept) = session.renewal() {
                renewals.push((session, kept));
            } else if !session.is_busy() && session.unused_for() >= options.resident {
                self.drop_here(&session.key);
            }
        }
        let renewals = stream::iter(renewals);
        renewals
            .for_each_concurrent(AT_ONCE, async |(session, kept)| {
                let renewed = self.shared.shelf.renew(&session.key, &kept).await;
                if self.shared.told(renewed) == Some(false) {
                    // It has ended, and this node has missed it.
                    self.drop_here(&session.key);
                }
            })
            .await;
    }
}
