//! What the guard knows of a request, for the manager that rmcp calls within it.
//!
//! rmcp's traits say nothing of who asks. All that it calls for a request it awaits within the request's future, so that
//! a task-local value of it is there; what a handler calls later has none.

use std::cell::Cell;
use std::sync::Arc;

use super::Error;
use super::owner::Owner;
use super::shelf::Kept;

tokio::task_local! {
    static ASKING: Asking;
}

/// A request that has passed the guard.
#[derive(Debug)]
pub(super) struct Asking {
    owner: Owner,
    /// The session that the request is for, where this node has to bring it back.
    kept: Option<Arc<Kept>>,
    /// Whether the request ends the session.
    ends: bool,
    trouble: Cell<Option<Trouble>>,
}

/// Why a request failed, as far as its client may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Try again later.
    Unavailable,
    /// There is no such session any more.
    Ended,
    /// The message is too large to be passed on.
    TooLarge,
}

impl Asking {
    pub(super) const fn new(owner: Owner, kept: Option<Arc<Kept>>, ends: bool) -> Self {
        Self { owner, kept, ends, trouble: Cell::new(None) }
    }

    /// Works within the request; also returns what trouble there was.
    pub(super) async fn within<F: Future>(self, work: F) -> (F::Output, Option<Trouble>) {
        ASKING
            .scope(self, async {
                let output = work.await;
                (output, ASKING.with(|asking| asking.trouble.get()))
            })
            .await
    }
}

/// Who asks.
pub(super) fn owner() -> Option<Owner> {
    ASKING.try_with(|asking| asking.owner.clone()).ok()
}

/// What this node needs to bring the session back.
pub(super) fn kept() -> Option<Arc<Kept>> {
    ASKING.try_with(|asking| asking.kept.clone()).ok().flatten()
}

/// Whether the client ends its session.
pub(super) fn ends() -> bool {
    ASKING.try_with(|asking| asking.ends).unwrap_or(false)
}

/// Takes note of why the request fails.
pub(super) fn note(error: &Error) {
    let trouble = match error {
        Error::Store(_) | Error::Unready | Error::Full => Trouble::Unavailable,
        Error::Ended => Trouble::Ended,
        Error::TooLarge => Trouble::TooLarge,
        // rmcp answers it with a stream that ends.
        Error::UnknownEvent => return,
    };
    let _ = ASKING.try_with(|asking| asking.trouble.set(Some(trouble)));
}
