//! What the I/O under hyper and the service above it tell each other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use super::violation::Violation;

/// Shared by a [`Strict`](super::Strict) and the service above hyper; nobody else ever meets at it.
///
/// Requests are numbered from 1, in the order in which they come.
#[derive(Debug, Default)]
pub struct Link {
    refused: OnceLock<(u64, Violation)>,
    broken: OnceLock<Violation>,
    tunnel: AtomicU64,
    decision: AtomicU8,
    reader: AtomicWaker,
    heads: AtomicU64,
    answered: AtomicU64,
    partial: AtomicBool,
    writing: AtomicBool,
    late: AtomicBool,
    closing: AtomicBool,
}

const OPEN: u8 = 0;
const ACCEPTED: u8 = 1;
const DECLINED: u8 = 2;

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// A response, or the client taking it.
    Busy,
    /// The client closing its side.
    Closing,
}

impl Link {
    /// The refusal that the service has to answer when hyper hands it request `number`: what hyper
    /// parsed then is a stand-in, and tells nothing.
    pub fn refusal(&self, number: u64) -> Option<Violation> {
        self.refused.get().filter(|(refused, _)| *refused == number).map(|(_, violation)| *violation)
    }

    /// What was wrong, in a head or in a body, if anything was.
    pub fn violation(&self) -> Option<Violation> {
        self.refused.get().map(|(_, violation)| *violation).or_else(|| self.broken.get().copied())
    }

    /// Says whether the response to request `number` starts a tunnel. To be called for every
    /// response; it concerns only requests that asked for one.
    pub fn answer(&self, number: u64, tunnel: bool) {
        if self.tunnel.load(Ordering::Acquire) == number {
            self.decision.store(if tunnel { ACCEPTED } else { DECLINED }, Ordering::Release);
            self.reader.wake();
        }
    }

    /// Notes that a response has ended.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// The head that is on its way has taken too long. The connection has to be polled after this.
    pub fn set_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// What the connection waits for, and how many heads have come.
    pub fn phase(&self) -> (Phase, u64) {
        let heads = self.heads.load(Ordering::Relaxed);
        let phase = if self.closing.load(Ordering::Relaxed) {
            Phase::Closing
        } else if self.refused.get().is_some()
            || self.writing.load(Ordering::Relaxed)
            || heads > self.answered.load(Ordering::Relaxed)
        {
            Phase::Busy
        } else if self.partial.load(Ordering::Relaxed) {
            Phase::Head
        } else {
            Phase::Idle
        };
        (phase, heads)
    }

    pub(super) fn refuse(&self, number: u64, violation: Violation) {
        // Only the first counts: after it nothing is read any more.
        let _ = self.refused.set((number, violation));
    }

    pub(super) fn break_off(&self, violation: Violation) {
        let _ = self.broken.set(violation);
    }

    pub(super) fn ask_for_tunnel(&self, number: u64) {
        self.decision.store(OPEN, Ordering::Relaxed);
        self.tunnel.store(number, Ordering::Release);
    }

    /// Whether the tunnel that was asked for is accepted, or `None`, and then the reader is woken later.
    pub(super) fn decision(&self, waker: &Waker) -> Option<bool> {
        self.reader.register(waker);
        match self.decision.load(Ordering::Acquire) {
            ACCEPTED => Some(true),
            DECLINED => Some(false),
            _ => None,
        }
    }

    pub(super) fn set_read(&self, heads: u64, partial: bool) {
        self.heads.store(heads, Ordering::Relaxed);
        self.partial.store(partial, Ordering::Relaxed);
    }

    pub(super) fn set_writing(&self, writing: bool) {
        self.writing.store(writing, Ordering::Relaxed);
    }

    pub(super) fn set_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }
}
