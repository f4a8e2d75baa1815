//! When a connection has to end: signals, deadlines, age.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Shared;
use crate::deadline::Deadline;
use crate::strict::Phase;

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// End in an orderly way. Comes once.
    Stop,
    /// What was waited for took too long. When it goes on, [`Event::Kill`] follows.
    Passed,
    /// End now.
    Kill,
}

/// Polled after each poll of a connection.
pub(super) struct Watch {
    shared: Arc<Shared>,
    stop: Signal,
    /// Only when it was told to stop: being killed includes that.
    kill: Option<Signal>,
    told: bool,
    age: Option<Deadline>,
    deadline: Deadline,
    armed: bool,
    last_chance: bool,
    seen: Option<(Phase, u64)>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let age = shared.settings.max_age.map(|age| {
            let mut deadline = shared.ticker.deadline();
            deadline.arm(age);
            deadline
        });
        Self {
            stop: Signal::new(shared.drain.stopping()),
            kill: None,
            told: false,
            age,
            deadline: shared.ticker.deadline(),
            armed: false,
            last_chance: false,
            seen: None,
            shared,
        }
    }

    /// Takes notice of what the connection waits for; `number` requests have come.
    pub(super) fn poll(&mut self, phase: Phase, number: u64, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(kill) = &mut self.kill {
            if kill.is_given(cx) {
                self.shared.counters.killed.count();
                return Poll::Ready(Event::Kill);
            }
        } else if self.stop.is_given(cx) {
            self.kill = Some(Signal::new(self.shared.drain.killed()));
            if !std::mem::replace(&mut self.told, true) {
                return Poll::Ready(Event::Stop);
            }
        }
        if !self.told && self.is_old(number, cx) {
            self.told = true;
            return Poll::Ready(Event::Stop);
        }
        self.poll_deadline(phase, number, cx)
    }

    fn is_old(&mut self, number: u64, cx: &mut Context<'_>) -> bool {
        self.shared.settings.max_requests.is_some_and(|max| number >= max)
            || self.age.as_mut().is_some_and(|age| age.poll_passed(cx).is_ready())
    }

    fn poll_deadline(&mut self, phase: Phase, number: u64, cx: &mut Context<'_>) -> Poll<Event> {
        // The first head has one deadline, from the start of the connection on.
        let first = number == 0 && matches!(phase, Phase::Idle | Phase::Head);
        let waiting = if first { (Phase::Idle, 0) } else { (phase, number) };
        if self.seen != Some(waiting) {
            self.seen = Some(waiting);
            self.last_chance = false;
            let patience = self.patience(phase, number);
            self.armed = patience.is_some();
            if let Some(patience) = patience {
                self.deadline.arm(patience);
            }
        }
        if !self.armed || self.deadline.poll_passed(cx).is_pending() {
            return Poll::Pending;
        }
        if phase == Phase::Closing || std::mem::replace(&mut self.last_chance, true) {
            return Poll::Ready(Event::Kill);
        }
        self.deadline.arm(self.shared.settings.linger);
        Poll::Ready(Event::Passed)
    }

    fn patience(&self, phase: Phase, number: u64) -> Option<Duration> {
        let settings = &self.shared.settings;
        match phase {
            Phase::Idle if number > 0 => Some(settings.idle),
            Phase::Idle | Phase::Head => Some(settings.head_deadline),
            Phase::Closing => Some(settings.linger),
            Phase::Busy => None,
        }
    }
}

/// A cancellation that is asked for at each poll of a task: it registers once, and asks a lock that
/// is shared with nobody after that.
struct Signal {
    token: CancellationToken,
    given: Pin<Box<WaitForCancellationFutureOwned>>,
    waker: Option<Waker>,
}

impl Signal {
    fn new(token: &CancellationToken) -> Self {
        let token = token.child_token();
        Self { given: Box::pin(token.clone().cancelled_owned()), token, waker: None }
    }

    fn is_given(&mut self, cx: &mut Context<'_>) -> bool {
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return self.token.is_cancelled();
        }
        self.waker = Some(cx.waker().clone());
        self.given.as_mut().poll(cx).is_ready()
    }
}
