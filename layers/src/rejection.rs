//! Any answer that the proxy gives instead of the upstream.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::body::BoxError;
use crate::check::Check;

/// An error that already knows its HTTP meaning.
///
/// A layer that refuses returns one (or its own error enum, which converts into one); the
/// `respond` layer turns it into bytes. `detail` is public; `source` is for logs only.
#[derive(Debug)]
pub struct Rejection {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    headers: HeaderMap,
    check: Option<Check>,
    body: Option<Box<str>>,
    source: Option<BoxError>,
}

impl Rejection {
    /// A rejection. `code` is a short, stable word for logs and clients (`no_such_host`),
    /// `detail` a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            headers: HeaderMap::new(),
            check: None,
            body: None,
            source: None,
        }
    }

    /// What an error means: a rejection is itself, anything else is our fault and its text stays inside.
    pub fn of(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(rejection) => *rejection,
            Err(unknown) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "The gateway failed to answer this request.",
            )
            .with_source(unknown),
        }
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Says which check of who asks has failed, for logs.
    #[must_use]
    pub const fn with_check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// Answers with this body instead of a document for people, for clients of a protocol that has its own form of
    /// errors. Say with [`with_header`](Self::with_header) what its type is.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Box<str>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Keeps the cause, for logs.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The status of the answer.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The short word for logs and clients.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The public sentence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The check of who asks that has failed, if it was one.
    pub const fn check(&self) -> Option<Check> {
        self.check
    }

    /// The body that was given, if any.
    pub fn body(&self) -> Option<&str> {
        self.body.as_deref()
    }

    /// The headers of the answer.
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The headers of the answer, to edit: response rules apply to refusals, too.
    pub const fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.code, self.detail)
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
