//! Why an operation refused. Each surface has its own form of it: problem+json, an exit code, a tool error.

use http::StatusCode;

use crate::config::FieldError;
use crate::store;

/// Why an operation refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// What it would be.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// The state of things forbids it.
    #[error("{0}")]
    Conflict(String),
    /// `If-Match` names a version that is no longer, or not yet, the current one (RFC 9110, section 13.1.1).
    #[error("{what} {id:?} is at version {actual}, not {expected}: read it again")]
    Stale {
        /// What it is.
        what: &'static str,
        /// Its name.
        id: String,
        /// What the caller expects.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The input is wrong.
    #[error("{}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// Nobody knows who calls.
    #[error("this operation needs a token")]
    Unauthenticated,
    /// The caller may not.
    #[error("this operation needs the scope {}", scopes.join(" or "))]
    Forbidden {
        /// Each of these would do.
        scopes: Vec<&'static str>,
    },
    /// It was there once and will not come back.
    #[error("{0}")]
    Gone(String),
    /// The input is too large.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// How large it may be.
        limit: usize,
    },
    /// Something that is needed does not answer.
    #[error("the store does not answer: nothing is known to have changed, try again later")]
    Unavailable(#[source] store::Error),
    /// There is nothing to ask.
    #[error("this node has no authorization server: ask another one")]
    NoAuthorizationServer,
    /// The node serves nothing yet.
    #[error("no configuration is in force yet: try again later")]
    NotReady,
    /// The node stops.
    #[error("this node is stopping: ask another one")]
    Draining,
    /// What is written now would not be served.
    #[error(
        "the store is another one than what is served, or an older state of it: run `portcullis system accept-store` \
         to serve what it holds now, or restore what it held before"
    )]
    StoreReplaced,
    /// This node has no Docker engine.
    #[error("{0}")]
    NoEngine(String),
    /// The Docker engine does not answer.
    #[error("{0}: nothing is known to have changed there, try again later")]
    EngineAway(String),
    /// The Docker engine, or what it runs, did not do what was asked for.
    #[error("{0}")]
    EngineFailed(String),
    /// The caller went away, or the node is shutting down.
    #[error("the operation was cancelled")]
    Cancelled,
    /// Our fault.
    #[error("something went wrong inside")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn summary(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// One wrong field.
    pub fn invalid(error: FieldError) -> Self {
        Self::Invalid(vec![error])
    }

    /// Our fault.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// The status of the answer.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Stale { .. } => StatusCode::PRECONDITION_FAILED,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Gone(_) => StatusCode::GONE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable(_)
            | Self::NoAuthorizationServer
            | Self::NotReady
            | Self::Draining
            | Self::StoreReplaced
            | Self::NoEngine(_)
            | Self::EngineAway(_)
            | Self::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Self::EngineFailed(_) => StatusCode::BAD_GATEWAY,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A short, stable word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Stale { .. } => "stale",
            Self::Invalid(_) => "invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden { .. } => "insufficient_scope",
            Self::Gone(_) => "gone",
            Self::TooLarge { .. } => "too_large",
            Self::Unavailable(_) => "unavailable",
            Self::NoAuthorizationServer => "no_authorization_server",
            Self::NotReady => "not_ready",
            Self::Draining => "draining",
            Self::StoreReplaced => "store_replaced",
            Self::NoEngine(_) => "no_engine",
            Self::EngineAway(_) => "engine_unavailable",
            Self::EngineFailed(_) => "engine_failed",
            Self::Cancelled => "cancelled",
            Self::Internal(_) => "internal",
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Conflict { key } => {
                Self::Conflict(format!("{key} was changed by somebody else meanwhile: try again"))
            }
            store::Error::RecordConflict { .. } | store::Error::Fenced { .. } => {
                Self::Conflict(error.to_string())
            }
            store::Error::Unavailable(_) => Self::Unavailable(error),
            store::Error::Corrupt { .. } => Self::internal(error),
        }
    }
}
