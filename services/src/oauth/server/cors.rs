//! CORS for the endpoints that web clients call (`/token`, `/register`, the metadata …): open to all
//! origins, for none of them looks at cookies, and never with credentials. The pages (`/authorize` and
//! what follows) have none.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// What browsers let other origins do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cors {
    methods: &'static str,
    headers: &'static str,
    exposed: &'static str,
}

/// Documents for everybody: metadata and keys. Clients send their protocol version along.
pub const DOCUMENTS: Cors =
    Cors { methods: "GET, HEAD, OPTIONS", headers: "MCP-Protocol-Version, Content-Type", exposed: "" };

/// What clients post to: `/token`, `/device/code`, `/register`, `/revoke`, `/introspect`.
pub const POSTS: Cors = Cors {
    methods: "POST, OPTIONS",
    headers: "Authorization, Content-Type, MCP-Protocol-Version",
    exposed: "WWW-Authenticate, Retry-After",
};

/// `/userinfo` (OpenID Connect Core 1.0, section 5.3).
pub const USERINFO: Cors = Cors { methods: "GET, POST, OPTIONS", ..POSTS };

/// The management of registrations (RFC 7592).
pub const MANAGEMENT: Cors = Cors { methods: "GET, PUT, DELETE, OPTIONS", ..POSTS };

impl Cors {
    /// Adds what an answer needs, an error as much as any other: without it, a web client sees no error
    /// but a failed connection.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        if !self.exposed.is_empty() {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(self.exposed));
        }
    }

    /// The answer to `OPTIONS`.
    pub fn preflight(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.apply(headers);
        headers.insert(ALLOW, HeaderValue::from_static(self.methods));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(self.methods));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(self.headers));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        response
    }

    /// The answer to any other method.
    pub fn method_not_allowed(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        self.apply(response.headers_mut());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(self.methods));
        response
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCESS_CONTROL_ALLOW_CREDENTIALS;

    use super::*;

    #[test]
    fn all_origins_and_never_credentials() {
        for (cors, method, header) in [
            (DOCUMENTS, "GET", "MCP-Protocol-Version"),
            (POSTS, "POST", "Authorization"),
            (USERINFO, "GET", "Authorization"),
            (MANAGEMENT, "DELETE", "Authorization"),
        ] {
            let preflight = cors.preflight();
            assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
            for response in [&preflight, &cors.method_not_allowed()] {
                assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
                assert!(!response.headers().contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
            }
            let listed = |name| preflight.headers()[name].to_str().expect("ASCII").to_owned();
            assert!(listed(ACCESS_CONTROL_ALLOW_METHODS).contains(method));
            assert!(listed(ACCESS_CONTROL_ALLOW_HEADERS).contains(header));
        }
    }

    #[test]
    fn web_clients_may_read_the_challenge() {
        let mut headers = HeaderMap::new();
        POSTS.apply(&mut headers);
        assert!(headers[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().expect("ASCII").contains("WWW-Authenticate"));
    }
}
