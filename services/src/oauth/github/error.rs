//! What can go wrong with GitHub, and what that means for whoever signs in.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use smol_str::SmolStr;

use crate::outbound::{Answer, CallError};

/// GitHub's own limits begin anew each hour.
const LONGEST_WAIT: u64 = 60 * 60;

/// The reason that GitHub gives for a refusal, by its code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The code is wrong, used, expired, or the verifier does not fit.
    #[error("the code is wrong, used or expired")]
    BadVerificationCode,
    /// The secret of the app is wrong.
    #[error("the id or the secret of the app is wrong")]
    IncorrectClientCredentials,
    /// GitHub knows no such app.
    #[error("there is no such app")]
    UnknownApp,
    /// The redirect URI is not below the one that the app is registered with.
    #[error("the redirect URI is not the one that the app is registered with")]
    RedirectUriMismatch,
    /// The user's primary e-mail address is not verified.
    #[error("the user's primary e-mail address is not verified at GitHub")]
    UnverifiedUserEmail,
    /// The user said no.
    #[error("the user refused")]
    AccessDenied,
    /// GitHub suspended the app.
    #[error("the app is suspended")]
    ApplicationSuspended,
    /// Something else.
    #[error("the code {0:?}")]
    Other(SmolStr),
}

impl Refusal {
    /// The refusal with this code, from an answer or from the parameter `error` of a redirect.
    pub fn of_code(code: &str) -> Self {
        match code {
            "bad_verification_code" => Self::BadVerificationCode,
            "incorrect_client_credentials" => Self::IncorrectClientCredentials,
            "redirect_uri_mismatch" => Self::RedirectUriMismatch,
            "unverified_user_email" => Self::UnverifiedUserEmail,
            "access_denied" => Self::AccessDenied,
            "application_suspended" => Self::ApplicationSuspended,
            other => Self::Other(word(other)),
        }
    }

    /// Whether the user can do something about it: all others are for an admin.
    pub const fn is_users(&self) -> bool {
        matches!(self, Self::BadVerificationCode | Self::UnverifiedUserEmail | Self::AccessDenied)
    }
}

/// What a code may look like: whoever made the redirect may have written anything.
fn word(text: &str) -> SmolStr {
    let is_word = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_word { text.into() } else { SmolStr::new_static("unknown") }
}

/// Why GitHub was of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refused.
    #[error("GitHub refused: {0}")]
    Refused(Refusal),
    /// Too much was asked lately.
    #[error("GitHub's limit of requests is reached: try later")]
    RateLimited {
        /// When to try again, as far as GitHub says.
        retry_after: Option<Duration>,
    },
    /// It is out of order.
    #[error("GitHub is out of order: it answered {0}")]
    Unavailable(StatusCode),
    /// There is no answer.
    #[error("GitHub can't be reached")]
    Unreachable(#[source] CallError),
    /// The user's token is no longer good.
    #[error("GitHub does not accept the user's token")]
    TokenRejected,
    /// An answer that makes no sense here.
    #[error("GitHub answered {status} to {what}")]
    Unexpected {
        /// What was asked.
        what: &'static str,
        /// The answer's status.
        status: StatusCode,
    },
    /// An answer without what it must have. What it has is left out, because it may be a secret.
    #[error("GitHub's answer to {what} can't be read")]
    Malformed {
        /// What was asked.
        what: &'static str,
    },
}

impl Error {
    /// The code for the client that started the login (RFC 6749, section 4.1.2.1).
    pub const fn oauth_code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) if refusal.is_users() => "access_denied",
            Self::RateLimited { .. } | Self::Unavailable(_) | Self::Unreachable(_) => {
                "temporarily_unavailable"
            }
            Self::Refused(_) | Self::TokenRejected | Self::Unexpected { .. } | Self::Malformed { .. } => {
                "server_error"
            }
        }
    }
}

/// The error, if an answer means that a limit is reached. Without a word about limits, 403 means
/// that the token may not.
pub(super) fn rate_limit(answer: &Answer, now: Timestamp) -> Option<Error> {
    let headers = &answer.headers;
    let is_used_up = || number(headers, "x-ratelimit-remaining") == Some(0);
    let is_told = || {
        let body = answer.body.to_ascii_lowercase();
        memchr::memmem::find(&body, b"rate limit").is_some()
    };
    let limited = match answer.status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::FORBIDDEN => headers.contains_key(header::RETRY_AFTER) || is_used_up() || is_told(),
        _ => false,
    };
    limited.then(|| Error::RateLimited { retry_after: wait(headers, now) })
}

fn wait(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let reset = || {
        let now = u64::try_from(now.as_second()).ok()?;
        Some(number(headers, "x-ratelimit-reset")?.saturating_sub(now))
    };
    let seconds = number(headers, header::RETRY_AFTER.as_str()).or_else(reset)?;
    Some(Duration::from_secs(seconds.clamp(1, LONGEST_WAIT)))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_apart_from_missing_rights() {
        let now = Timestamp::from_second(1000).expect("a time");
        for (status, headers, body, expected) in [
            (403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1090")][..], "{}", Some(Some(90))),
            (403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "10")], "{}", Some(Some(1))),
            (
                403,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "99999999")],
                "{}",
                Some(Some(3600)),
            ),
            (403, &[("retry-after", "30"), ("x-ratelimit-reset", "1090")], "{}", Some(Some(30))),
            (429, &[("retry-after", "soon")], "{}", Some(None)),
            (429, &[], "", Some(None)),
            (403, &[], r#"{"message":"You have exceeded a secondary Rate Limit."}"#, Some(None)),
            (403, &[("x-ratelimit-remaining", "12")], r#"{"message":"Resource not accessible"}"#, None),
            (404, &[("x-ratelimit-remaining", "0")], "{}", None),
            (200, &[("x-ratelimit-remaining", "0")], "{}", None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().expect("a value"));
            }
            let status = StatusCode::from_u16(status).expect("a status");
            let limited = match rate_limit(&Answer { status, headers: map, body: body.into() }, now) {
                Some(Error::RateLimited { retry_after }) => Some(retry_after),
                Some(other) => panic!("{other}"),
                None => None,
            };
            assert_eq!(limited, expected.map(|wait| wait.map(Duration::from_secs)), "{status} {headers:?}");
        }
    }

    #[test]
    fn codes_that_nobody_knows_are_words_or_nothing() {
        assert_eq!(Refusal::of_code("access_denied"), Refusal::AccessDenied);
        assert_eq!(Refusal::of_code("new_reason"), Refusal::Other("new_reason".into()));
        for odd in ["", "<script>", "a b", &"x".repeat(65)] {
            assert_eq!(Refusal::of_code(odd), Refusal::Other("unknown".into()));
        }
    }

    #[test]
    fn clients_learn_whose_turn_it_is() {
        for (error, code) in [
            (Error::Refused(Refusal::AccessDenied), "access_denied"),
            (Error::Refused(Refusal::UnverifiedUserEmail), "access_denied"),
            (Error::Refused(Refusal::IncorrectClientCredentials), "server_error"),
            (Error::RateLimited { retry_after: None }, "temporarily_unavailable"),
            (Error::Unavailable(StatusCode::BAD_GATEWAY), "temporarily_unavailable"),
            (Error::TokenRejected, "server_error"),
        ] {
            assert_eq!(error.oauth_code(), code, "{error}");
        }
    }
}
