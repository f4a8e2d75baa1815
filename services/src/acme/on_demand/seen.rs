//! Names that were missed lately: they are not looked at again.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use portcullis_layers::HostName;

use super::after;

/// Names that are remembered. Each is counted for a network, so that this takes many networks.
const MAX: usize = 4096;

/// How often those that may come again are looked for at most, once there is no room.
const SWEEP: Duration = Duration::from_secs(1);

/// Until when names are not looked at again.
#[derive(Debug, Default)]
pub(super) struct Seen {
    until: HashMap<HostName, Timestamp>,
    swept: Option<Timestamp>,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It was not seen lately, and there is room to remember it.
    New,
    /// It was seen lately.
    Lately,
    /// There is no room.
    Full,
}

impl Seen {
    /// Looks for a name.
    pub(super) fn look(&mut self, name: &HostName, now: Timestamp) -> Look {
        if self.until.get(name).is_some_and(|until| *until > now) {
            return Look::Lately;
        }
        let was_swept = self.swept.is_some_and(|at| at <= now && after(at, SWEEP) > now);
        if self.until.len() >= MAX && !was_swept {
            self.until.retain(|_, until| *until > now);
            self.swept = Some(now);
        }
        if self.until.len() < MAX { Look::New } else { Look::Full }
    }

    /// Remembers a name.
    pub(super) fn hold(&mut self, name: HostName, until: Timestamp) {
        self.until.insert(name, until);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.until.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_swept_now_and_then() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let name = |n: usize| -> HostName { format!("n{n}.example.com").parse().expect("valid") };
        let mut seen = Seen::default();
        for n in 0..MAX {
            assert_eq!(seen.look(&name(n), at(0)), Look::New);
            seen.hold(name(n), at(10));
        }
        assert_eq!(seen.look(&name(MAX), at(9)), Look::Full);
        assert_eq!(seen.look(&name(0), at(9)), Look::Lately);
        seen.hold(name(0), at(9));
        assert_eq!(seen.look(&name(MAX), at(9)), Look::Full, "not at each handshake");
        assert_eq!(seen.look(&name(MAX), at(10)), Look::New);
        assert_eq!(seen.len(), 0);
    }
}
