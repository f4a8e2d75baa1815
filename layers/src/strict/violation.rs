//! Why a request was refused below HTTP, what that means to the client, and how often it happened.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use crate::rejection::Rejection;

/// What is wrong with the bytes of a request. The text is public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// Not `METHOD target HTTP/1.x` with single spaces (RFC 9112, section 3).
    #[error("the request line is malformed")]
    RequestLine,
    /// A version that this port does not speak.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// No target (RFC 9112, section 3.2), or one with characters that no URI holds (RFC 3986, section 2).
    #[error("the request target is malformed, or has a character that must be percent-encoded")]
    Target,
    /// Longer than [`Limits::target`](super::Limits::target).
    #[error("the request target is too long")]
    TargetTooLong,
    /// Longer than [`Limits::head`](super::Limits::head).
    #[error("the request head is too large")]
    HeadTooLarge,
    /// More than [`Limits::fields`](super::Limits::fields).
    #[error("the request has too many header fields")]
    TooManyFields,
    /// The head was not complete in time.
    #[error("the request head was not complete in time")]
    Timeout,
    /// LF without CR (RFC 9112, section 2.2 allows it; two parsers may disagree about it).
    #[error("a line ends with LF instead of CR LF")]
    BareLf,
    /// CR without LF.
    #[error("there is a CR without an LF")]
    BareCr,
    /// Whitespace at the start of a line (RFC 9112, section 5.2).
    #[error("a header line starts with whitespace")]
    Fold,
    /// Whitespace before the colon (RFC 9112, section 5.1).
    #[error("there is whitespace between a header name and its colon")]
    SpaceBeforeColon,
    /// No name, no colon, or a character that is not a token's.
    #[error("a header name is malformed")]
    FieldName,
    /// NUL or another control character.
    #[error("a header value contains a control character")]
    FieldValue,
    /// HTTP/1.1 without `Host` (RFC 9112, section 3.2).
    #[error("the Host header is missing")]
    MissingHost,
    /// More than one `Host`.
    #[error("there are several Host headers")]
    SeveralHosts,
    /// Not a decimal number, or too large.
    #[error("the Content-Length is malformed")]
    ContentLength,
    /// More than one length, even if they agree.
    #[error("there are several Content-Length values")]
    SeveralLengths,
    /// Both framings in one request: the classic of request smuggling (RFC 9112, section 6.1).
    #[error("there are both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// `chunked` is missing, not last, or repeated.
    #[error("the Transfer-Encoding is malformed")]
    TransferEncoding,
    /// Another coding under `chunked`.
    #[error("only the transfer coding chunked is supported")]
    UnsupportedCoding,
    /// `Transfer-Encoding` in HTTP/1.0.
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    EncodingInHttp10,
    /// A chunk size that is not hexadecimal digits, or too many of them.
    #[error("a chunk size is malformed")]
    ChunkSize,
    /// A chunk extension that is too long or contains a control character.
    #[error("a chunk extension is malformed or too long")]
    ChunkExtension,
    /// Chunk data that is not followed by CR LF.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// Longer than [`Limits::trailers`](super::Limits::trailers).
    #[error("the trailers are too large")]
    TrailersTooLarge,
    /// What is wrong over HTTP/2, where the answer is a reset of the stream (RFC 9113, section 8.1.1).
    #[error("the HTTP/2 request is malformed")]
    Http2,
}

impl Violation {
    /// All of them, for metrics.
    pub const ALL: [Self; 26] = [
        Self::RequestLine,
        Self::Version,
        Self::Target,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::TooManyFields,
        Self::Timeout,
        Self::BareLf,
        Self::BareCr,
        Self::Fold,
        Self::SpaceBeforeColon,
        Self::FieldName,
        Self::FieldValue,
        Self::MissingHost,
        Self::SeveralHosts,
        Self::ContentLength,
        Self::SeveralLengths,
        Self::LengthAndEncoding,
        Self::TransferEncoding,
        Self::UnsupportedCoding,
        Self::EncodingInHttp10,
        Self::ChunkSize,
        Self::ChunkExtension,
        Self::ChunkEnd,
        Self::TrailersTooLarge,
        Self::Http2,
    ];

    /// A short, stable word for logs, metrics and clients.
    pub const fn code(self) -> &'static str {
        match self {
            Self::RequestLine => "bad_request_line",
            Self::Version => "unsupported_version",
            Self::Target => "bad_request_target",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_headers",
            Self::Timeout => "request_timeout",
            Self::BareLf => "bare_lf",
            Self::BareCr => "bare_cr",
            Self::Fold => "folded_header",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::FieldName => "bad_header_name",
            Self::FieldValue => "bad_header_value",
            Self::MissingHost => "missing_host",
            Self::SeveralHosts => "several_hosts",
            Self::ContentLength => "bad_content_length",
            Self::SeveralLengths => "several_content_lengths",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::UnsupportedCoding => "unsupported_transfer_coding",
            Self::EncodingInHttp10 => "encoding_in_http10",
            Self::ChunkSize => "bad_chunk_size",
            Self::ChunkExtension => "bad_chunk_extension",
            Self::ChunkEnd => "bad_chunk_end",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::Http2 => "malformed_http2",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::UnsupportedCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<Violation> for Rejection {
    fn from(violation: Violation) -> Self {
        Self::new(violation.status(), violation.code(), violation.to_string())
    }
}

/// How often each [`Violation`] was met.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; Violation::ALL.len()]);

impl Counters {
    /// Counts one.
    pub fn count(&self, violation: Violation) {
        self.0[violation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often one of them was met.
    pub fn get(&self, violation: Violation) -> u64 {
        self.0[violation as usize].load(Ordering::Relaxed)
    }

    /// All of them, with their codes.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Violation::ALL.iter().map(|violation| (violation.code(), self.get(*violation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_has_its_own_place_and_code() {
        let mut codes: Vec<_> = Violation::ALL.iter().map(|violation| violation.code()).collect();
        for (index, violation) in Violation::ALL.iter().enumerate() {
            assert_eq!(*violation as usize, index, "{violation:?}");
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Violation::ALL.len());
    }
}
