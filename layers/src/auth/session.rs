//! The session of a browser on a host: an access token in a cookie.
//!
//! Such a token is made for the session and nothing else: it is no good in an `Authorization` header, and what
//! is good there is no good in the cookie. Browsers send cookies along whoever made them ask, so the cookie
//! alone stands for nothing in a request that changes something and comes from a page of another origin.

use http::header::{ORIGIN, UPGRADE};
use http::{HeaderMap, Method};
use smol_str::{SmolStr, format_smolstr};

use super::bearer::is_b64token;
use super::token::{Audience, Verified};
use crate::cookies;

/// Behind the origin of a host: what the `aud` of a session's token is, and where the browser fetches it.
pub const SESSION_PATH: &str = "/.portcullis/session";

/// How browsers keep their session on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The cookie's name. It should begin with `__Host-`, so that no other host can set it.
    pub cookie: SmolStr,
    /// What the token in it must have been made for, and for nothing else.
    pub audience: Audience,
    /// The host's own origin, as browsers write it (RFC 6454, section 6.2).
    pub origin: SmolStr,
}

impl Session {
    /// The session of the host with this origin.
    pub fn new(cookie: impl Into<SmolStr>, origin: impl Into<SmolStr>) -> Self {
        let origin = origin.into();
        let audience = Audience::new(&format_smolstr!("{origin}{SESSION_PATH}"));
        Self { cookie: cookie.into(), audience, origin }
    }

    /// The token in the cookie.
    pub(super) fn token<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let token = std::str::from_utf8(cookies::only(headers, &self.cookie)?).ok()?;
        is_b64token(token).then_some(token)
    }

    /// Whether a token was made for the session. Other issuers don't make any.
    pub(super) fn takes(&self, verified: &Verified) -> bool {
        !verified.principal().foreign && verified.is_only_for(&self.audience)
    }

    /// Whether the cookie may stand for a request: one that changes nothing, or that no other origin's page
    /// has made. A WebSocket counts as a change: no rule of CORS keeps others from reading it.
    pub(super) fn vouches_for(&self, method: &Method, headers: &HeaderMap) -> bool {
        let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        if safe && !headers.contains_key(UPGRADE) {
            return true;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) => origin.as_bytes() == self.origin.as_bytes(),
            (Some(_), Some(_)) => false,
            (None, _) => {
                let mut sites = headers.get_all("sec-fetch-site").iter();
                sites.all(|site| site == "same-origin" || site == "none")
            }
        }
    }
}
