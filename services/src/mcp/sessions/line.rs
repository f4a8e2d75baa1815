//! The line between a session and its handler.

use std::sync::Arc;

use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::sync::mpsc;

use super::Error;
use super::session::Session;

/// Where a client's messages go in. Boxed: most lines are idle, and room for whole messages would be most of a session.
pub(super) type Inbox = mpsc::Sender<Box<ClientJsonRpcMessage>>;

/// A handler's end of the line. The handler's own task works on it: a session has none.
#[derive(Debug)]
pub struct Line {
    session: Arc<Session>,
    messages: mpsc::Receiver<Box<ClientJsonRpcMessage>>,
}

impl Line {
    pub(super) const fn new(
        session: Arc<Session>,
        messages: mpsc::Receiver<Box<ClientJsonRpcMessage>>,
    ) -> Self {
        Self { session, messages }
    }
}

impl Transport<RoleServer> for Line {
    type Error = Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let session = Arc::clone(&self.session);
        async move {
            session.send(message).await;
            Ok(())
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        self.messages.recv().await.map(|message| *message)
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.messages.close();
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.session.orphan();
    }
}
