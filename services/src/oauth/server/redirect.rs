//! The authorization response: back to the client's redirect URI, with a code or an error
//! (RFC 6749, sections 4.1.2 and 4.1.2.1) and the issuer (RFC 9207).

use std::fmt;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderName, LOCATION, REFERRER_POLICY};
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::OAuthError;

/// Everything but the unreserved characters (RFC 3986, section 2.3): right in any query.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a URI never holds and a header must not: controls and all that is not ASCII.
const NOT_URI: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// Where an authorization response goes. To have one means that the client is known and the URI is its
/// own: before that, the answer is a page.
#[derive(Clone, PartialEq, Eq)]
pub struct RedirectTarget {
    uri: String,
    state: Option<String>,
    issuer: String,
}

impl RedirectTarget {
    /// A target. `uri` must have been compared with what the client registered.
    pub fn new(uri: &str, state: Option<&str>, issuer: &str) -> Self {
        Self { uri: uri.to_owned(), state: state.map(str::to_owned), issuer: issuer.to_owned() }
    }

    /// The client's redirect URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The answer with a code.
    pub fn code(&self, code: &str) -> Response<Bytes> {
        see_other(&self.location(&[("code", code)]))
    }

    /// The answer with an error.
    pub fn error(&self, error: &OAuthError) -> Response<Bytes> {
        see_other(&self.error_location(error))
    }

    /// Where the answer with an error is.
    pub fn error_location(&self, error: &OAuthError) -> String {
        self.location(&[("error", error.code().as_str()), ("error_description", error.description())])
    }

    fn location(&self, params: &[(&str, &str)]) -> String {
        let state = self.state.as_deref().map(|state| ("state", state));
        located(&self.uri, params.iter().copied().chain(state).chain([("iss", self.issuer.as_str())]))
    }
}

/// The answer after a logout (OpenID Connect RP-Initiated Logout 1.0, section 3). `uri` must have been compared with
/// what the client registered.
pub fn logged_out(uri: &str, state: Option<&str>) -> Response<Bytes> {
    see_other(&located(uri, state.map(|state| ("state", state))))
}

/// A URI with further parameters in its query.
fn located<'a>(uri: &str, params: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    // A fragment is not allowed in the URI (RFC 6749, section 3.1.2), and would swallow the parameters.
    let uri = uri.split('#').next().unwrap_or_default();
    let mut location: String = utf8_percent_encode(uri, NOT_URI).collect();
    let mut separator = match uri.split_once('?') {
        None => "?",
        Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    for (name, value) in params {
        location.push_str(separator);
        location.push_str(name);
        location.push('=');
        location.extend(utf8_percent_encode(value, COMPONENT));
        separator = "&";
    }
    location
}

impl fmt::Debug for RedirectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The state is the client's protection against forged responses: no business of a log.
        f.debug_struct("RedirectTarget").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// A redirect that turns a POST into a GET (RFC 9700, section 4.12), kept by no cache and naming no
/// referrer, for either would carry the code.
pub fn see_other(location: &str) -> Response<Bytes> {
    let location: String = utf8_percent_encode(location, NOT_URI).collect();
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let fixed: [(HeaderName, &'static str); 2] =
        [(CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer")];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let location = HeaderValue::try_from(location).expect("what headers can't hold is percent-encoded");
    response.headers_mut().insert(LOCATION, location);
    response
}

#[cfg(test)]
mod tests {
    use super::super::error::ErrorCode;
    use super::*;

    const ISSUER: &str = "https://auth.example.com";

    fn location(response: &Response<Bytes>) -> &str {
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[REFERRER_POLICY], "no-referrer");
        response.headers()[LOCATION].to_str().expect("ASCII")
    }

    #[test]
    fn a_code_comes_with_state_and_issuer() {
        for (uri, state, expected) in [
            (
                "https://app.example/cb",
                Some("s t&x=1"),
                "https://app.example/cb?code=c-1&state=s%20t%26x%3D1&iss=https%3A%2F%2Fauth.example.com",
            ),
            (
                "https://app.example/cb?keep=1",
                None,
                "https://app.example/cb?keep=1&code=c-1&iss=https%3A%2F%2Fauth.example.com",
            ),
            (
                "https://app.example/cb?",
                None,
                "https://app.example/cb?code=c-1&iss=https%3A%2F%2Fauth.example.com",
            ),
            (
                "https://app.example/cb#frag",
                None,
                "https://app.example/cb?code=c-1&iss=https%3A%2F%2Fauth.example.com",
            ),
            (
                "cursor://anysphere.cursor-retrieval/oauth",
                Some("é"),
                "cursor://anysphere.cursor-retrieval/oauth?code=c-1&state=%C3%A9&iss=https%3A%2F%2Fauth.example.com",
            ),
            ("com.example.app:/cb", None, "com.example.app:/cb?code=c-1&iss=https%3A%2F%2Fauth.example.com"),
            (
                "http://[::1]:8080/cb",
                None,
                "http://[::1]:8080/cb?code=c-1&iss=https%3A%2F%2Fauth.example.com",
            ),
            (
                "https://app.example/é\r\nX: y",
                None,
                "https://app.example/%C3%A9%0D%0AX:%20y?code=c-1&iss=https%3A%2F%2Fauth.example.com",
            ),
        ] {
            let target = RedirectTarget::new(uri, state, ISSUER);
            assert_eq!(location(&target.code("c-1")), expected, "{uri}");
        }
    }

    #[test]
    fn an_error_comes_with_state_and_issuer_too() {
        let target = RedirectTarget::new("https://app.example/cb", Some("s1"), ISSUER);
        let error = OAuthError::new(ErrorCode::AccessDenied, "the user said no");
        assert_eq!(
            location(&target.error(&error)),
            "https://app.example/cb?error=access_denied&error_description=the%20user%20said%20no&state=s1\
             &iss=https%3A%2F%2Fauth.example.com"
        );
        assert!(!format!("{target:?}").contains("s1"));
    }

    #[test]
    fn no_location_breaks_out_of_its_header() {
        for text in ["/a\r\nSet-Cookie: x=y", "/\0", "/é", "/\u{7f}"] {
            assert!(see_other(text).headers()[LOCATION].to_str().expect("ASCII").starts_with("/"));
        }
    }
}
