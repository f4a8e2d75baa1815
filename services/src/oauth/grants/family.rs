//! A family in the store: the grant, the hash of its current refresh token, and for a moment those of
//! the tokens before.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Grant;
use super::token::RefreshToken;
use crate::oauth::opaque;

/// How many predecessors are remembered: a client that rotates more often within the window is broken.
const PREDECESSORS: usize = 8;

/// What the record of a grant holds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stored {
    /// A family that has not ended, as far as the record knows.
    Live(Box<Family>),
    /// One that nothing can be added to any more, and whose access tokens are being revoked. It is found as before, so
    /// that who repeats what failed halfway finishes it.
    Ending(Box<Family>),
    /// One that was ended, or must not begin.
    Ended,
}

/// A family.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Family {
    pub(super) grant: Grant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<Tokens>,
}

/// What is known of the refresh tokens: hashes only.
#[derive(Clone, Serialize, Deserialize)]
struct Tokens {
    lineage: String,
    current: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rotated: Vec<Rotated>,
}

/// A token that was rotated, with its successor sealed for whoever has it.
#[derive(Clone, Serialize, Deserialize)]
struct Rotated {
    hash: String,
    at: Timestamp,
    successor: String,
}

/// What a refresh token of the family is.
#[derive(Debug)]
pub(super) enum Standing {
    /// The one that is to be rotated.
    Current,
    /// One that was rotated just now: this is what it became.
    Predecessor(RefreshToken),
    /// One that should not be in use any more.
    Spent,
    /// None of this family.
    Foreign,
}

impl Family {
    pub(super) fn new(grant: Grant, first: Option<&RefreshToken>) -> Self {
        let tokens = first.map(|token| Tokens {
            lineage: token.lineage_hash(),
            current: token.hash(),
            rotated: Vec::new(),
        });
        Self { grant, tokens }
    }

    /// What a token is at a time, if the predecessor counts for so long.
    pub(super) fn standing(&self, token: &RefreshToken, window: Duration, now: Timestamp) -> Standing {
        let Some(tokens) = &self.tokens else { return Standing::Foreign };
        if !opaque::same(&tokens.lineage, &token.lineage_hash()) {
            return Standing::Foreign;
        }
        let hash = token.hash();
        if opaque::same(&tokens.current, &hash) {
            return Standing::Current;
        }
        let recent = tokens.rotated.iter().filter(|rotated| rotated.is_within(window, now));
        let successor = recent
            .filter(|rotated| opaque::same(&rotated.hash, &hash))
            .find_map(|rotated| token.open(&rotated.successor));
        successor.map_or(Standing::Spent, Standing::Predecessor)
    }

    /// Replaces the current token; none if its successor can't be sealed.
    pub(super) fn rotate(
        &mut self,
        token: &RefreshToken,
        window: Duration,
        now: Timestamp,
    ) -> Option<RefreshToken> {
        let tokens = self.tokens.as_mut()?;
        let successor = token.successor();
        tokens.rotated.retain(|rotated| rotated.is_within(window, now));
        if !window.is_zero() {
            if tokens.rotated.len() == PREDECESSORS {
                tokens.rotated.remove(0);
            }
            let sealed = token.seal(&successor)?;
            tokens.rotated.push(Rotated { hash: token.hash(), at: now, successor: sealed });
        }
        tokens.current = successor.hash();
        self.grant.used_at = now;
        self.grant.rotations = self.grant.rotations.saturating_add(1);
        Some(successor)
    }
}

impl Rotated {
    /// Nodes' clocks differ: a rotation that seems to be in the future has just happened.
    fn is_within(&self, window: Duration, now: Timestamp) -> bool {
        let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
        !window.is_zero() && now.duration_since(self.at) <= window
    }
}
