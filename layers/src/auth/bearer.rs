//! The access token of a request (RFC 6750, section 2.1).
//!
//! From the `Authorization` header alone: a token in the query or in a form body is not looked at,
//! because addresses end up in logs and in `Referer`.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// More than one `Authorization` header: two readers could take different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated;

/// The token, as it was sent; `None` when there is none or the scheme is another.
///
/// The token is empty where it is no `b64token`: no verifier takes that.
///
/// # Errors
///
/// When there are several headers.
pub fn token(headers: &HeaderMap) -> Result<Option<&str>, Repeated> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Repeated);
    }
    let value = value.as_bytes();
    let (scheme, rest) = value.split_at(value.len().min("Bearer".len()));
    if !scheme.eq_ignore_ascii_case(b"Bearer") || !matches!(rest.first(), None | Some(b' ')) {
        return Ok(None);
    }
    let token = rest.trim_ascii();
    let text = std::str::from_utf8(token).ok().filter(|token| is_b64token(token)).unwrap_or_default();
    Ok(Some(text))
}

/// `b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
pub(super) fn is_b64token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    !body.is_empty()
        && body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_one_authorization_header_with_the_bearer_scheme_is_read() {
        for (values, expected) in [
            (vec![], Ok(None)),
            (vec!["Bearer abc.def-_~+/=="], Ok(Some("abc.def-_~+/=="))),
            (vec!["bearer abc"], Ok(Some("abc"))),
            (vec!["BEARER  abc "], Ok(Some("abc"))),
            (vec!["Bearer"], Ok(Some(""))),
            (vec!["Bearer "], Ok(Some(""))),
            (vec!["Bearer a b"], Ok(Some(""))),
            (vec!["Bearer a,b"], Ok(Some(""))),
            (vec!["Bearer =="], Ok(Some(""))),
            (vec!["Bearer a=b"], Ok(Some(""))),
            (vec!["Bearerabc"], Ok(None)),
            (vec!["Bearer\tabc"], Ok(None)),
            (vec!["Basic abc"], Ok(None)),
            (vec![""], Ok(None)),
            (vec!["Bearer abc", "Bearer abc"], Err(Repeated)),
            (vec!["Basic abc", "Bearer abc"], Err(Repeated)),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(token(&headers), expected, "{values:?}");
        }
    }
}
