//! The way of a browser to the login page, and how it is known again when it comes back.
//!
//! The login page gets a random `state`, which the browser also keeps in a cookie: who comes back with the one
//! must have the other. So nobody can have another's browser finish a login that he began (RFC 9700, section 4.7).

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use smol_str::SmolStr;

use crate::cookies;

/// The cookie that binds a login to the browser that began it. No other host can set it.
pub const STATE_COOKIE: &str = "__Host-portcullis-state";

/// How long a login may take, in seconds.
const STATE_AGE: u32 = 3600;

/// 256 bits: a proof, not a name.
const STATE_BYTES: usize = 32;

/// As base64url.
const STATE_LENGTH: usize = 43;

/// The longest address to come back to: it is percent-encoded into another one, and servers have limits.
const MAX_RETURN_URL: usize = 4096;

/// Everything but what RFC 3986 calls unreserved: the value goes into a query.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The login page of [`Mode::Redirect`](super::Mode::Redirect).
#[derive(Debug, Clone)]
pub struct Login {
    /// The page; `return_url` and `state` are added to its query.
    pub page: Uri,
    /// This host's public origin, `https://app.example`. From configuration and not from the request, so
    /// that no `Host` can choose where the browser comes back to.
    pub origin: SmolStr,
}

/// What sends a browser to the login page.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) location: HeaderValue,
    /// The value of `Set-Cookie`.
    pub(super) cookie: HeaderValue,
}

impl Login {
    /// Sends a browser from an address here to the login page.
    pub(super) fn departure(&self, uri: &Uri, headers: &HeaderMap) -> Option<Departure> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if self.origin.len() + path.len() > MAX_RETURN_URL { "/" } else { path };
        let back = [self.origin.as_str(), path].concat();
        let back = utf8_percent_encode(&back, QUERY_VALUE);
        // One for all tabs: each of them must find its own when it comes back.
        let state = known_state(headers).map_or_else(new_state, str::to_owned);
        let separator = if self.page.query().is_some() { '&' } else { '?' };
        let location = format!("{}{separator}return_url={back}&state={state}", self.page);
        let cookie =
            format!("{STATE_COOKIE}={state}; Max-Age={STATE_AGE}; Path=/; Secure; HttpOnly; SameSite=Lax");
        let sensitive = |text: String| {
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Some(Departure { location: sensitive(location)?, cookie: sensitive(cookie)? })
    }
}

/// The state that the browser has, if we made it.
fn known_state(headers: &HeaderMap) -> Option<&str> {
    let state = std::str::from_utf8(cookies::only(headers, STATE_COOKIE)?).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (state.len() == STATE_LENGTH && state.bytes().all(plain)).then_some(state)
}

fn new_state() -> String {
    let mut bytes = [0; STATE_BYTES];
    rand::fill(&mut bytes).expect("the system has randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether a browser asks for a page to show: a script's request must see the 401. Browsers say so themselves
/// (Fetch Metadata); of older ones the best sign is that they accept HTML.
pub(super) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    // What was sent with any other method would be lost on the way.
    if !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    match headers.get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => headers
            .get_all(ACCEPT)
            .iter()
            .any(|value| value.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html"))),
    }
}
