//! Refusals that scripts of every origin may read (Fetch standard, section 3.3): a web client learns from them where
//! to get a token.
//!
//! Nothing else becomes readable, and no cookie comes with such a request: what the upstream answers is its own to
//! share. A preflight is answered where a token is needed, because what follows it is refused without one.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, ORIGIN, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::rejection::Rejection;

/// The same refusal, readable; or the answer to a preflight of a request with a token.
pub(super) fn readable(mut refusal: Rejection, method: &Method, headers: &HeaderMap) -> Rejection {
    if !refusal.headers().contains_key(WWW_AUTHENTICATE) {
        return refusal;
    }
    if refusal.status() == StatusCode::UNAUTHORIZED
        && let Some(answer) = preflight(method, headers)
    {
        return answer;
    }
    let own = refusal.headers_mut();
    own.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    own.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("www-authenticate"));
    refusal
}

/// The answer to a preflight that asks whether a request may have a token.
fn preflight(method: &Method, headers: &HeaderMap) -> Option<Rejection> {
    let is_preflight = *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return None;
    }
    let asked: Vec<HeaderName> = headers
        .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    if !asked.contains(&AUTHORIZATION) {
        return None;
    }
    let names: Vec<&str> = asked.iter().map(HeaderName::as_str).collect();
    let allowed = HeaderValue::try_from(names.join(", ")).ok()?;
    let answer = Rejection::new(StatusCode::NO_CONTENT, "preflight", "");
    let text = HeaderValue::from_static;
    Some(
        answer
            .with_header(ACCESS_CONTROL_ALLOW_ORIGIN, text("*"))
            .with_header(ACCESS_CONTROL_ALLOW_METHODS, text("GET, HEAD, POST, PUT, PATCH, DELETE"))
            .with_header(ACCESS_CONTROL_ALLOW_HEADERS, allowed)
            .with_header(ACCESS_CONTROL_MAX_AGE, text("600"))
            .with_header(VARY, text("origin, access-control-request-method, access-control-request-headers")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: StatusCode, challenged: bool) -> Rejection {
        let refusal = Rejection::new(status, "refused", "");
        if !challenged {
            return refusal;
        }
        refusal.with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    fn answered(status: u16, challenged: bool, method: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let pairs = headers.iter().map(|(name, value)| {
            (HeaderName::try_from(*name).expect("a name"), HeaderValue::try_from(*value).expect("a value"))
        });
        let refusal = refusal(StatusCode::from_u16(status).expect("a status"), challenged);
        let answer = readable(refusal, &method.parse().expect("a method"), &pairs.collect());
        let origin =
            answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().expect("text"));
        (answer.status().as_u16(), origin.unwrap_or_default().to_owned())
    }

    #[test]
    fn what_has_a_challenge_is_readable_and_a_preflight_for_a_token_is_answered() {
        let origin = ("origin", "https://web.example");
        let wants = ("access-control-request-method", "PUT");
        let token = ("access-control-request-headers", "content-type, Authorization");
        let other = ("access-control-request-headers", "content-type");
        for (status, challenged, method, headers, expected) in [
            (401, true, "GET", vec![], (401, "*")),
            (403, true, "POST", vec![origin], (403, "*")),
            (403, false, "POST", vec![origin], (403, "")),
            (302, false, "GET", vec![origin], (302, "")),
            (401, true, "OPTIONS", vec![origin, wants, token], (204, "*")),
            (401, true, "OPTIONS", vec![origin, wants, other], (401, "*")),
            (401, true, "OPTIONS", vec![origin, wants], (401, "*")),
            (401, true, "OPTIONS", vec![origin, token], (401, "*")),
            (401, true, "OPTIONS", vec![wants, token], (401, "*")),
            (401, true, "GET", vec![origin, wants, token], (401, "*")),
            (403, true, "OPTIONS", vec![origin, wants, token], (403, "*")),
        ] {
            let answered = answered(status, challenged, method, &headers);
            assert_eq!((answered.0, answered.1.as_str()), expected, "{status} {method} {headers:?}");
        }
    }
}
