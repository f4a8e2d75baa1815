//! The errors of the OAuth endpoints, and the three ways to say them: JSON to clients, a redirect to a
//! client whose redirect URI is known to be its own, a page to people where it is not.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

/// The longest description. It ends up in URLs and logs.
const MAX_DESCRIPTION: usize = 200;

/// When to ask again what is not to be had at the moment: what we depend on is mostly back soon.
const AWAY: Duration = Duration::from_secs(5);

/// An error code of the RFCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// RFC 6749, sections 4.1.2.1 and 5.2.
    InvalidRequest,
    /// RFC 6749, section 5.2.
    InvalidClient,
    /// RFC 6749, section 5.2.
    InvalidGrant,
    /// RFC 6749, sections 4.1.2.1 and 5.2.
    UnauthorizedClient,
    /// RFC 6749, section 5.2.
    UnsupportedGrantType,
    /// RFC 6749, section 4.1.2.1.
    UnsupportedResponseType,
    /// RFC 6749, sections 4.1.2.1 and 5.2.
    InvalidScope,
    /// RFC 6749, section 4.1.2.1, and RFC 8628, section 3.5.
    AccessDenied,
    /// RFC 6749, section 4.1.2.1.
    ServerError,
    /// RFC 6749, section 4.1.2.1.
    TemporarilyUnavailable,
    /// RFC 8707, section 2.
    InvalidTarget,
    /// RFC 8628, section 3.5.
    AuthorizationPending,
    /// RFC 8628, section 3.5.
    SlowDown,
    /// RFC 8628, section 3.5.
    ExpiredToken,
    /// RFC 7591, section 3.2.2.
    InvalidRedirectUri,
    /// RFC 7591, section 3.2.2.
    InvalidClientMetadata,
    /// RFC 6750, section 3.1.
    InvalidToken,
    /// RFC 6750, section 3.1.
    InsufficientScope,
    /// OpenID Connect Core 1.0, section 3.1.2.6.
    LoginRequired,
    /// OpenID Connect Core 1.0, section 3.1.2.6.
    ConsentRequired,
    /// OpenID Connect Core 1.0, section 3.1.2.6.
    RequestNotSupported,
    /// OpenID Connect Core 1.0, section 3.1.2.6.
    RequestUriNotSupported,
    /// OpenID Connect Core 1.0, section 3.1.2.6.
    RegistrationNotSupported,
}

/// An error of an OAuth endpoint, with words for the developer of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthError {
    code: ErrorCode,
    description: Cow<'static, str>,
    retry_after: Option<Duration>,
    is_noted: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    error_description: &'a str,
}

impl ErrorCode {
    /// The code as it is sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::InvalidScope => "invalid_scope",
            Self::AccessDenied => "access_denied",
            Self::ServerError => "server_error",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::InvalidTarget => "invalid_target",
            Self::AuthorizationPending => "authorization_pending",
            Self::SlowDown => "slow_down",
            Self::ExpiredToken => "expired_token",
            Self::InvalidRedirectUri => "invalid_redirect_uri",
            Self::InvalidClientMetadata => "invalid_client_metadata",
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
            Self::LoginRequired => "login_required",
            Self::ConsentRequired => "consent_required",
            Self::RequestNotSupported => "request_not_supported",
            Self::RequestUriNotSupported => "request_uri_not_supported",
            Self::RegistrationNotSupported => "registration_not_supported",
        }
    }

    /// The status of its JSON form.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidClient | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope => StatusCode::FORBIDDEN,
            Self::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl OAuthError {
    /// An error. What the RFC does not allow in a description is replaced, so any text is good, but
    /// nothing secret: clients log it.
    pub fn new(code: ErrorCode, description: impl Into<Cow<'static, str>>) -> Self {
        Self { code, description: describable(description.into()), retry_after: None, is_noted: false }
    }

    /// Too many requests: 429 and when to come back.
    pub fn too_many(retry_after: Duration) -> Self {
        Self {
            code: ErrorCode::TemporarilyUnavailable,
            description: Cow::Borrowed("too many requests"),
            retry_after: Some(retry_after),
            is_noted: false,
        }
    }

    /// Says that the check that has failed has an event already, which knows more of it than the code tells.
    #[must_use]
    pub fn noted(self) -> Self {
        Self { is_noted: true, ..self }
    }

    /// Whether the check that has failed has an event already.
    pub const fn is_noted(&self) -> bool {
        self.is_noted
    }

    /// The code.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The words.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The status of the JSON form and of the page.
    pub const fn status(&self) -> StatusCode {
        if self.retry_after.is_some() { StatusCode::TOO_MANY_REQUESTS } else { self.code.status() }
    }

    /// When another attempt makes sense (RFC 9110, section 10.2.3).
    fn comes_back_after(&self) -> Option<Duration> {
        let away = self.code == ErrorCode::TemporarilyUnavailable;
        self.retry_after.or_else(|| away.then_some(AWAY))
    }

    /// The answer to a client (RFC 6749, section 5.2).
    pub fn json(&self) -> Response<Bytes> {
        let body = Body { error: self.code.as_str(), error_description: &self.description };
        let mut response = json(self.status(), &body);
        let headers = response.headers_mut();
        // Every 401 names a scheme that would do (RFC 9110, section 15.5.2), however the client has tried.
        if self.code == ErrorCode::InvalidClient {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"oauth\""));
        }
        if self.code == ErrorCode::InvalidToken || self.code == ErrorCode::InsufficientScope {
            // The description holds neither `"` nor `\`, so it is a quoted string as it is.
            let challenge =
                format!("Bearer error=\"{}\", error_description=\"{}\"", self.code, self.description);
            if let Ok(challenge) = HeaderValue::try_from(challenge) {
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
        }
        self.say_when(headers);
        response
    }

    /// When to come back, where there was too much (RFC 6585, section 4), or something is away.
    pub(super) fn say_when(&self, headers: &mut HeaderMap) {
        if let Some(after) = self.comes_back_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
    }
}

impl fmt::Display for OAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.description)
    }
}

impl std::error::Error for OAuthError {}

/// An answer to a client that no cache keeps (RFC 6749, section 5.1).
pub fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(body).expect("answers are texts, numbers and lists");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// A text in the characters of a description: `%x20-21 / %x23-5B / %x5D-7E` (RFC 6749, section 5.2).
fn describable(text: Cow<'static, str>) -> Cow<'static, str> {
    let fine = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if text.len() <= MAX_DESCRIPTION && text.bytes().all(fine) {
        return text;
    }
    let replaced = text.chars().take(MAX_DESCRIPTION).map(|char| match char {
        '"' => '\'',
        '\\' => '/',
        char if u8::try_from(char).is_ok_and(fine) => char,
        _ => '?',
    });
    Cow::Owned(replaced.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_status_of_its_rfc() {
        for (code, text, status) in [
            (ErrorCode::InvalidRequest, "invalid_request", 400),
            (ErrorCode::InvalidClient, "invalid_client", 401),
            (ErrorCode::InvalidGrant, "invalid_grant", 400),
            (ErrorCode::UnauthorizedClient, "unauthorized_client", 400),
            (ErrorCode::UnsupportedGrantType, "unsupported_grant_type", 400),
            (ErrorCode::UnsupportedResponseType, "unsupported_response_type", 400),
            (ErrorCode::InvalidScope, "invalid_scope", 400),
            (ErrorCode::AccessDenied, "access_denied", 400),
            (ErrorCode::ServerError, "server_error", 500),
            (ErrorCode::TemporarilyUnavailable, "temporarily_unavailable", 503),
            (ErrorCode::InvalidTarget, "invalid_target", 400),
            (ErrorCode::AuthorizationPending, "authorization_pending", 400),
            (ErrorCode::SlowDown, "slow_down", 400),
            (ErrorCode::ExpiredToken, "expired_token", 400),
            (ErrorCode::InvalidRedirectUri, "invalid_redirect_uri", 400),
            (ErrorCode::InvalidClientMetadata, "invalid_client_metadata", 400),
            (ErrorCode::InvalidToken, "invalid_token", 401),
            (ErrorCode::InsufficientScope, "insufficient_scope", 403),
            (ErrorCode::LoginRequired, "login_required", 400),
            (ErrorCode::ConsentRequired, "consent_required", 400),
            (ErrorCode::RequestNotSupported, "request_not_supported", 400),
            (ErrorCode::RequestUriNotSupported, "request_uri_not_supported", 400),
            (ErrorCode::RegistrationNotSupported, "registration_not_supported", 400),
        ] {
            let response = OAuthError::new(code, "why").json();
            assert_eq!(response.status(), status, "{text}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json", "{text}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store", "{text}");
            let body: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
            assert_eq!(body, serde_json::json!({ "error": text, "error_description": "why" }));
        }
    }

    #[test]
    fn each_401_names_a_scheme() {
        let error = OAuthError::new(ErrorCode::InvalidClient, "no such client");
        assert_eq!(error.json().headers()[WWW_AUTHENTICATE], "Basic realm=\"oauth\"");
        let error = OAuthError::new(ErrorCode::InvalidGrant, "spent");
        assert!(!error.json().headers().contains_key(WWW_AUTHENTICATE));
        let error = OAuthError::new(ErrorCode::InvalidToken, "a \"quoted\\ word");
        assert_eq!(
            error.json().headers()[WWW_AUTHENTICATE],
            "Bearer error=\"invalid_token\", error_description=\"a 'quoted/ word\""
        );
    }

    #[test]
    fn descriptions_keep_to_their_characters_and_length() {
        for (text, sent) in [
            ("plain words, 100%", "plain words, 100%".to_owned()),
            ("a\"b\\c", "a'b/c".to_owned()),
            ("line\r\nInjected: x", "line??Injected: x".to_owned()),
            ("é\u{202e}\0\u{7f}", "????".to_owned()),
            ("", String::new()),
        ] {
            assert_eq!(OAuthError::new(ErrorCode::InvalidRequest, text).description(), sent, "{text:?}");
        }
        let long = OAuthError::new(ErrorCode::InvalidRequest, "é".repeat(1_000));
        assert_eq!(long.description(), "?".repeat(200));
    }

    #[test]
    fn who_comes_too_often_learns_when_to_come_back() {
        let response = OAuthError::too_many(Duration::from_millis(1)).json();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
            (429, &"1".parse().expect("a header"))
        );
        let away = OAuthError::new(ErrorCode::TemporarilyUnavailable, "the store is away").json();
        assert_eq!(
            (away.status().as_u16(), &away.headers()[RETRY_AFTER]),
            (503, &"5".parse().expect("a header"))
        );
    }
}
