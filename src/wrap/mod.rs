//! A local MCP server that speaks over its standard input and output, as one over HTTP.
//!
//! Each session has a process of its own, so that callers share nothing. Messages go through as they are. A process that
//! dies is started again, told once more who its client is, and the session goes on; what was asked of it meanwhile gets
//! an error. Who may call is known by a token: it is for a gateway in front, or for one's own clients.
//!
//! It speaks the revisions with sessions (2025-03-26 to 2025-11-25); a gateway in front carries newer clients over.
//!
//! - `message`: what is read of a message.
//! - `process`: one process and the lines that it reads and writes.
//! - `session`: a session and what its client waits for.
//! - `sessions`: all of them, bounded.
//! - `http`: what clients see.

mod http;
mod message;
mod process;
mod session;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;

pub(crate) use self::process::Program;
use self::sessions::Sessions;

/// The longest message in either direction, in bytes.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// How long answers may still take when everything ends.
const GRACE: Duration = Duration::from_secs(5);

/// What is wrapped, and how.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The program.
    pub(crate) program: Arc<Program>,
    /// The path that clients call.
    pub(crate) path: String,
    /// What clients must bring as their bearer token.
    pub(crate) token: SecretString,
    /// How many sessions there are at a time; each is a process.
    pub(crate) max_sessions: usize,
    /// How long a session may be unused.
    pub(crate) idle: Duration,
    /// How long a process may take until it has answered `initialize`.
    pub(crate) start: Duration,
}

/// Serves on a listener until `stop` is done, then ends all processes.
///
/// # Errors
///
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let sessions = Arc::new(Sessions::new(settings));
    let sweep = tokio::spawn(Arc::clone(&sessions).sweep());
    let closing = Arc::clone(&sessions);
    let serving = axum::serve(listener, http::router(Arc::clone(&sessions))).with_graceful_shutdown({
        let sessions = Arc::clone(&sessions);
        async move {
            stop.await;
            // Streams end with their sessions, and nobody can begin another one.
            sessions.close();
        }
    });
    let late = async move {
        closing.closed().await;
        tokio::time::sleep(GRACE).await;
    };
    let outcome = tokio::select! {
        outcome = serving.into_future() => outcome,
        // Whoever sends or reads too slowly.
        () = late => Ok(()),
    };
    sweep.abort();
    sessions.close();
    sessions.gone().await;
    outcome
}
