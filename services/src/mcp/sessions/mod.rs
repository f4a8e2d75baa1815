//! Sessions of MCP (revisions before 2026-07-28) that any node goes on with.
//!
//! What a session is stands in the store: whose it is, and what its client has said of itself. A node that is asked for
//! one that it does not know makes a handler, tells it who the client is, and goes on. Events that a client may ask for
//! again stand in the store before they are sent; what has to find its way between nodes goes there too, and each node
//! has one reader for it. An answer that comes at once costs the store nothing.
//!
//! What a handler knows beyond what the client said at first (subscriptions, a log level) is the node's own: it does not
//! come along to another one.
//!
//! A session belongs to its [`Owner`]; for everybody else it does not exist. It ends by DELETE, by its age, when it is
//! not used, or when its owner makes too many.
//!
//! While the store is away: sessions that a node has in memory go on, their events go out without ids, so that a client
//! that loses a stream then goes on from the last event that has one; new sessions, sessions of other nodes and DELETE
//! get 503.
//!
//! - [`guard`]: the service in front of rmcp's, which lets nobody at another's session.
//! - `session`: a session at a node; `answer` and `standing` are its two kinds of streams, `line` its handler's end.
//! - `shelf`, `journal`, `notice`: sessions, events and hints in the store; events are sealed by `seal`.
//! - `node`: what a node does for all its sessions: hear, renew, forget.

mod answer;
mod asking;
mod events;
pub mod guard;
mod id;
mod journal;
mod line;
mod message;
mod node;
mod notice;
mod options;
mod owner;
mod seal;
mod session;
mod shared;
mod shelf;
mod standing;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use rmcp::ServerHandler;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::{
    RestoreOutcome, ServerSseMessage, SessionId, SessionManager, SessionState, SessionStore,
    SessionStoreError,
};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::sync::Notify;

pub use self::guard::Guard;
use self::id::{SessionKey, new_session};
pub use self::line::Line;
use self::notice::What;
pub use self::options::Options;
pub use self::owner::Owner;
use self::session::Session;
use self::shared::Shared;
use self::shelf::{Kept, Refused};
use crate::store::{self, Store};

/// As much as a client can say of itself, in bytes of JSON.
const MAX_ABOUT: usize = 16 * 1024;

/// Why something can't be done for a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store can't be asked.
    #[error("the store of sessions is not available")]
    Store(#[from] store::Error),
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
    /// The handler does not take the client, or not yet.
    #[error("the session is not ready")]
    Unready,
    /// There are too many sessions.
    #[error("there are too many sessions")]
    Full,
    /// A message is too large to be passed on.
    #[error("the message is too large to be passed on to the node that waits for it")]
    TooLarge,
    /// No event of the session has this id.
    #[error("there is no such event")]
    UnknownEvent,
}

/// The sessions of a node.
#[derive(Debug)]
pub struct Sessions {
    shared: Arc<Shared>,
    here: Mutex<HashMap<SessionKey, Arc<Session>>>,
    /// Wakes the reader when there is a first session.
    woken: Notify,
}

/// What the guard finds.
#[derive(Debug)]
enum Found {
    /// The session is in this node's memory.
    Here,
    /// It has to be brought back.
    Kept(Box<Kept>),
    /// There is none for whoever asks.
    Nothing,
}

impl Sessions {
    /// The sessions of a node that shares this store, and the key by which events are sealed there. [`Self::run`] must
    /// run.
    pub fn new(store: Arc<dyn Store>, key: &[u8; 32], options: Options) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Shared::new(store, key, options)),
            here: Mutex::default(),
            woken: Notify::new(),
        })
    }

    /// The service of a handler, with these sessions.
    pub fn serve<S: ServerHandler + Send + 'static>(
        self: &Arc<Self>,
        handler: impl Fn() -> io::Result<S> + Send + Sync + 'static,
        mut config: StreamableHttpServerConfig,
    ) -> Guard<StreamableHttpService<S, Self>> {
        // rmcp's own would have one id for all streams; ours are in front of each stream.
        config.sse_retry = None;
        config.session_store = Some(Arc::new(Admitted));
        Guard::new(StreamableHttpService::new(handler, Arc::clone(self), config), Arc::clone(self))
    }

    /// How many sessions are in this node's memory.
    pub fn count(&self) -> usize {
        self.here().len()
    }

    /// Looks for a session of somebody's. Another's session is looked for like one that does not exist.
    async fn admit(&self, id: &str, owner: &Owner) -> Result<Found, Error> {
        let key = SessionKey::of(id);
        let here = self.get(&key).filter(|session| session.owner.is(owner) && session.is_ready());
        if let Some(session) = &here
            && !session.is_over()
        {
            session.touch();
            return Ok(Found::Here);
        }
        let kept = self.shared.shelf.get(&key).await?.filter(|kept| kept.owner.is(owner));
        let over = here.is_some_and(|session| session.is_over());
        Ok(match kept {
            Some(kept) if !over => Found::Kept(Box::new(kept)),
            Some(_) | None => {
                if over {
                    self.drop_here(&key);
                }
                Found::Nothing
            }
        })
    }

    /// Puts a new session into the store. `false`: its handler did not take the client.
    async fn settle(&self, id: &str) -> Result<bool, Error> {
        let key = SessionKey::of(id);
        let session = self.get(&key).ok_or(Error::Ended)?;
        let Some(kept) = session.to_keep() else {
            self.drop_here(&key);
            return Ok(false);
        };
        match self.shared.shelf.add(&key, &kept).await {
            Ok(gone) => {
                session.is_kept(kept);
                for key in gone {
                    let session = self.drop_here(&key);
                    self.shared.tell(&key, What::Ended).await;
                    if let Some(session) = session {
                        self.shared.told(session.forget().await);
                    }
                }
                Ok(true)
            }
            Err(refused) => {
                self.drop_here(&key);
                Err(match refused {
                    Refused::Full => Error::Full,
                    Refused::Store(error) => error.into(),
                })
            }
        }
    }

    /// Ends a session everywhere.
    async fn end(&self, key: &SessionKey) -> Result<(), Error> {
        let session = self.drop_here(key);
        self.shared.shelf.remove(key).await?;
        self.shared.tell(key, What::Ended).await;
        if let Some(session) = session {
            self.shared.told(session.forget().await);
        }
        Ok(())
    }

    /// Has a session here, instead of one of that name that is not ready.
    fn enter(&self, session: &Arc<Session>) -> Result<(), Error> {
        let mut here = self.here();
        if here.len() >= self.shared.options.open {
            // The one that was not used for the longest time makes room: its next request brings it back.
            let idle = here.iter().filter(|(_, session)| !session.is_busy());
            let idlest = idle.max_by_key(|(_, session)| session.unused_for());
            let key = idlest.map(|(key, _)| key.clone()).ok_or(Error::Full)?;
            if let Some(session) = here.remove(&key) {
                session.close();
            }
        }
        if let Some(former) = here.insert(session.key.clone(), Arc::clone(session)) {
            former.close();
        }
        drop(here);
        self.woken.notify_one();
        Ok(())
    }

    /// Has a session here no more.
    fn drop_here(&self, key: &SessionKey) -> Option<Arc<Session>> {
        let session = self.here().remove(key);
        if let Some(session) = &session {
            session.close();
        }
        session
    }

    fn get(&self, key: &SessionKey) -> Option<Arc<Session>> {
        self.here().get(key).cloned()
    }

    fn find(&self, id: &SessionId) -> Result<Arc<Session>, Error> {
        self.get(&SessionKey::of(id)).ok_or(Error::Ended)
    }

    fn all(&self) -> Vec<Arc<Session>> {
        self.here().values().cloned().collect()
    }

    fn here(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<Session>>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionManager for Sessions {
    type Error = Error;
    type Transport = Line;

    async fn create_session(&self) -> Result<(SessionId, Line), Error> {
        let made = async {
            let owner = asking::owner().ok_or(Error::Unready)?;
            let id = new_session();
            let (session, line) = Session::open(&id, owner, None, Arc::clone(&self.shared));
            self.enter(&session)?;
            self.shared.speak().await;
            Ok((id, line))
        };
        made.await.inspect_err(asking::note)
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Error> {
        let greeted = async { self.find(id)?.greet(message).await };
        let greeted = greeted.await.inspect_err(asking::note);
        if greeted.is_err() {
            self.drop_here(&SessionKey::of(id));
        }
        greeted
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Error> {
        Ok(self.get(&SessionKey::of(id)).is_some_and(|session| session.is_ready()))
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Error> {
        let key = SessionKey::of(id);
        if asking::ends() {
            return self.end(&key).await.inspect_err(asking::note);
        }
        // A handler has gone. By now the session may have another one.
        let mut here = self.here();
        if here.get(&key).is_some_and(|session| session.is_orphaned()) {
            here.remove(&key);
        }
        Ok(())
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Error> {
        let asked = async { self.find(id)?.ask(message).await };
        asked.await.inspect_err(asking::note)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Error> {
        let heard = async {
            let session = self.find(id)?;
            session.hear(message).await?;
            // Where it comes back, the handler has heard all of the greeting now.
            session.is_back();
            Ok(())
        };
        heard.await.inspect_err(asking::note)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Error> {
        let opened = async { self.find(id)?.listen().await };
        opened.await.inspect_err(asking::note)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Error> {
        let resumed = async { self.find(id)?.resume(&last_event_id).await };
        resumed.await.inspect_err(asking::note)
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Line>, Error> {
        let Some(kept) = asking::kept() else { return Ok(RestoreOutcome::NotSupported) };
        let (session, line) =
            Session::open(&id, kept.owner.clone(), Some(Kept::clone(&kept)), Arc::clone(&self.shared));
        self.enter(&session).inspect_err(asking::note)?;
        self.shared.speak().await;
        Ok(RestoreOutcome::Restored(line))
    }
}

/// What rmcp asks for when it does not know a session: the one that the guard has found for the request.
struct Admitted;

#[async_trait::async_trait]
impl SessionStore for Admitted {
    async fn load(&self, _id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        Ok(asking::kept().map(|kept| SessionState::new(kept.params.clone())))
    }

    /// The guard does this, because here a failure would go unseen.
    async fn store(&self, _id: &str, _state: &SessionState) -> Result<(), SessionStoreError> {
        Ok(())
    }

    /// [`Sessions::end`] has done it.
    async fn delete(&self, _id: &str) -> Result<(), SessionStoreError> {
        Ok(())
    }
}
