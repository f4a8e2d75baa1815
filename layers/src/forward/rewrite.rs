//! What a request looks like to a given upstream: target, `Host`, framing. Pure.

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};
use http_body::Body as _;

use super::upload::Outgoing;

/// What the client asked for, kept apart, because a request may be shaped more than once: for
/// another upstream, or for another version of HTTP.
#[derive(Debug)]
pub(super) struct Asked {
    path: PathAndQuery,
    host: Option<HeaderValue>,
}

/// The request can't be given the form that the upstream needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's target can't be forwarded")]
pub(super) struct BadTarget;

impl Asked {
    /// Reads the target, from a URI in origin form or (HTTP/2, proxies) in absolute form.
    pub(super) fn of(parts: &http::request::Parts) -> Result<Self, BadTarget> {
        let path = parts.uri.path_and_query().cloned().ok_or(BadTarget)?;
        let host = match (parts.headers.get(header::HOST), parts.uri.authority()) {
            (Some(host), _) => Some(host.clone()),
            (None, Some(authority)) => {
                Some(HeaderValue::try_from(authority.as_str()).map_err(|_| BadTarget)?)
            }
            (None, None) => None,
        };
        Ok(Self { path, host })
    }

    fn target(&self, base: &str) -> Result<PathAndQuery, BadTarget> {
        if base.is_empty() {
            return Ok(self.path.clone());
        }
        // `OPTIONS *` asks the server as a whole; below a base path that is the base.
        let path = if self.path.as_str() == "*" { "" } else { self.path.as_str() };
        PathAndQuery::try_from(format!("{base}{path}")).map_err(|_| BadTarget)
    }

    fn host<'a>(&'a self, preserve: bool, authority: &'a HeaderValue) -> &'a HeaderValue {
        self.host.as_ref().filter(|_| preserve).unwrap_or(authority)
    }

    /// The form for HTTP/1.1 (RFC 9112, section 3.2.1).
    pub(super) fn shape_http1(
        &self,
        request: &mut Outgoing,
        base: &str,
        preserve_host: bool,
        authority: &HeaderValue,
    ) -> Result<(), BadTarget> {
        let as_asked =
            request.uri().authority().is_none() && request.uri().path_and_query() == Some(&self.path);
        if !(as_asked && base.is_empty()) {
            *request.uri_mut() = Uri::from(self.target(base)?);
        }
        *request.version_mut() = Version::HTTP_11;
        let unframed = !request.body().is_end_stream();
        let implied = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
        let headers = request.headers_mut();
        if !preserve_host || self.host.is_none() || !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, self.host(preserve_host, authority).clone());
        }
        if (unframed || implied) && !headers.contains_key(header::CONTENT_LENGTH) {
            if unframed {
                // Said aloud: of a GET whose length is unknown hyper would drop the body silently.
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            } else {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        // RFC 9110, section 10.1.4: TE is for one hop, and has to say so.
        if headers.contains_key(header::TE) && !headers.contains_key(header::CONNECTION) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        Ok(())
    }

    /// The form for HTTP/2 (RFC 9113, section 8.3.1).
    pub(super) fn shape_http2(
        &self,
        request: &mut Outgoing,
        scheme: Scheme,
        base: &str,
        preserve_host: bool,
        authority: &HeaderValue,
    ) -> Result<(), BadTarget> {
        let host = self.host(preserve_host, authority);
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| BadTarget)?);
        parts.path_and_query = Some(self.target(base)?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| BadTarget)?;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.remove(header::HOST);
        headers.remove(header::CONNECTION);
        headers.remove(header::TRANSFER_ENCODING);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::deadline::Ticker;
    use crate::forward::upload::RequestBody;

    const AUTHORITY: HeaderValue = HeaderValue::from_static("backend:8080");

    fn asked(request: http::request::Builder, body: Body) -> (Asked, Outgoing) {
        let (parts, body) = request.body(body).expect("valid").into_parts();
        let asked = Asked::of(&parts).expect("it has a path");
        let (body, _) = RequestBody::new(body, None, None, &Ticker::new(1));
        (asked, http::Request::from_parts(parts, body))
    }

    fn header(request: &Outgoing, name: header::HeaderName) -> Option<&str> {
        request.headers().get(name).map(|value| value.to_str().expect("ASCII"))
    }

    #[test]
    fn the_base_path_stands_before_the_path() {
        for (uri, base, expected) in [
            ("/a?b=c", "", "/a?b=c"),
            ("/a?b=c", "/v1", "/v1/a?b=c"),
            ("/", "/v1", "/v1/"),
            ("https://x.example/a", "", "/a"),
            ("https://x.example/a?", "/v1", "/v1/a?"),
            ("*", "", "*"),
            ("*", "/v1", "/v1"),
        ] {
            let (asked, mut request) = asked(http::Request::get(uri), Body::empty());
            asked.shape_http1(&mut request, base, true, &AUTHORITY).expect("valid");
            assert_eq!(request.uri().to_string(), expected, "{uri} below {base}");
        }
    }

    #[test]
    fn the_host_is_kept_or_the_upstreams_own() {
        let from_host = || http::Request::get("/").header("host", "app.example");
        let from_authority = || http::Request::get("https://app.example/");
        for request in [from_host(), from_authority()] {
            let (asked, mut request) = asked(request, Body::empty());
            asked.shape_http1(&mut request, "", true, &AUTHORITY).expect("valid");
            assert_eq!(header(&request, header::HOST), Some("app.example"));
            asked.shape_http1(&mut request, "", false, &AUTHORITY).expect("valid");
            assert_eq!(header(&request, header::HOST), Some("backend:8080"));
        }
    }

    #[test]
    fn a_request_changes_between_versions_and_back() {
        let (asked, mut request) = asked(
            http::Request::get("/a").header("host", "app.example").header("te", "trailers"),
            Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<
                Result<http_body::Frame<bytes::Bytes>, crate::BoxError>,
            >())),
        );
        asked.shape_http1(&mut request, "", true, &AUTHORITY).expect("valid");
        assert_eq!(header(&request, header::TRANSFER_ENCODING), Some("chunked"), "the body is not lost");
        assert_eq!(header(&request, header::CONNECTION), Some("te"));
        asked.shape_http2(&mut request, Scheme::HTTPS, "/v1", true, &AUTHORITY).expect("valid");
        assert_eq!(request.uri(), "https://app.example/v1/a");
        assert_eq!(request.headers().len(), 1, "only te is left");
        asked.shape_http1(&mut request, "", true, &AUTHORITY).expect("valid");
        assert_eq!(request.uri(), "/a");
        assert_eq!(header(&request, header::HOST), Some("app.example"));
    }

    #[test]
    fn a_post_without_a_body_says_so() {
        let (asked, mut request) = asked(http::Request::post("/"), Body::empty());
        asked.shape_http1(&mut request, "", true, &AUTHORITY).expect("valid");
        assert_eq!(header(&request, header::CONTENT_LENGTH), Some("0"));
        assert_eq!(header(&request, header::TRANSFER_ENCODING), None);
    }
}
