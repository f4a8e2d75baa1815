//! The events of checks: which question about a client, a token or a right was answered with no.
//!
//! What came of a request has an event of its own (`token_exchange`, `auth_request` ...), of which a check is the reason
//! only. So figures leave checks out. One network may have so many of either noted in a minute and no more, as far as they
//! are failures of nobody that is known: whoever floods an endpoint does not push everything else out of the log.

use portcullis_layers::Check;
use portcullis_layers::auth::TokenError;

use super::Asked;
use crate::oauth::authorization_server::Event;
use crate::oauth::server::error::{ErrorCode, OAuthError};

/// Whether a client is known, and is who it says.
pub(super) const CLIENT_AUTH: &str = "client_auth";

/// Whether a verifier fits its challenge, and whether there are both (RFC 7636).
pub(super) const PKCE_VALIDATION: &str = "pkce_validation";

/// What a device is told that asks for its token (RFC 8628, section 3.5).
pub(super) const DEVICE_POLL: &str = "device_poll";

/// Whether an event is about a check: if a request has failed because of it, another event tells so.
pub(crate) fn is_check(kind: &str) -> bool {
    let of_tokens = [Check::Decode, Check::Token, Check::Audience, Check::Scope, Check::User];
    of_tokens.iter().any(|check| check.as_str() == kind)
        || [CLIENT_AUTH, PKCE_VALIDATION, DEVICE_POLL].contains(&kind)
}

/// The check that an error's code tells of.
const fn named_by(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::InvalidClient => Some(CLIENT_AUTH),
        ErrorCode::InvalidTarget => Some(Check::Audience.as_str()),
        ErrorCode::InvalidScope | ErrorCode::InsufficientScope => Some(Check::Scope.as_str()),
        _ => None,
    }
}

impl Asked {
    /// Notes how a check has ended.
    pub(super) fn note_check(&self, event: &Event<'_>) {
        if self.server.limits.checks.count(self.client, self.now).is_ok() {
            self.server.note(event);
        }
    }

    /// Notes a check where it has failed; `about` says what is known of whom and what it was about. Returns the error,
    /// which is what the request is answered with.
    pub(super) fn failed(&self, kind: &'static str, error: OAuthError, about: Event<'_>) -> OAuthError {
        let own = self.event(kind, Some(&error));
        self.note_check(&Event {
            kind,
            error: own.error,
            detail: about.detail.or(own.detail),
            client_ip: own.client_ip,
            host: about.host.or(own.host),
            request_id: own.request_id,
            ..about
        });
        error.noted()
    }

    /// The same about a token, whose fault says which check it was.
    pub(super) fn failed_token(&self, fault: &TokenError, error: OAuthError, about: Event<'_>) -> OAuthError {
        let detail = Some(fault.description());
        self.failed(fault.check().as_str(), error, Event { detail, ..about })
    }

    /// Notes what came of a request that was refused, and the check that its code tells of, unless that was noted
    /// where it has failed.
    pub(super) fn note_refusal(&self, event: &Event<'_>, error: &OAuthError) {
        if let Some(kind) = named_by(error.code()).filter(|_| !error.is_noted()) {
            self.note_check(&Event { kind, ..*event });
        }
        self.note(event);
    }

    /// Notes what came of a request. Of failures of nobody that is known one network may have so many noted in a minute:
    /// a stranger could push everything else out of the log.
    pub(super) fn note(&self, event: &Event<'_>) {
        let is_strangers = event.error.is_some() && event.subject.is_none();
        if !is_strangers || self.server.limits.outcomes.count(self.client, self.now).is_ok() {
            self.server.note(event);
        }
    }
}
