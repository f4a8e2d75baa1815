//! How a client shows who it is (RFC 6749, section 2.3; RFC 7521, section 4.2). Whether it is right is
//! for the clients' module to say.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};

use super::{graphic, invalid_request};
use crate::oauth::server::error::{ErrorCode, OAuthError, Tried};
use crate::oauth::server::params::{self, Params};

/// RFC 7523, section 2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The client of a request, as it says.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its id. Always there but with an assertion, whose `sub` says it too.
    pub client_id: Option<String>,
    /// What it proves that with.
    pub proof: Proof,
}

/// What a client proves its identity with.
#[derive(Debug, Clone)]
pub enum Proof {
    /// `none`: a public client.
    None,
    /// `client_secret_basic`.
    Basic(SecretString),
    /// `client_secret_post`.
    Post(SecretString),
    /// `private_key_jwt`.
    Assertion(SecretString),
}

impl Credentials {
    /// Reads them from the header and the parameters.
    ///
    /// # Errors
    ///
    /// `invalid_client` when there are none or they can't be read, `invalid_request` when there are
    /// several (RFC 6749, section 2.3) or they contradict each other.
    pub fn parse(headers: &HeaderMap, params: &Params) -> Result<Self, OAuthError> {
        let client_id = params.get("client_id")?;
        let client_id = client_id.map(|id| graphic(id, "client_id is not valid")).transpose()?;
        let post = params.get("client_secret")?;
        let assertion = params.get("client_assertion")?;
        let basic = basic(headers)?;
        if usize::from(post.is_some()) + usize::from(assertion.is_some()) + usize::from(basic.is_some()) > 1 {
            return Err(invalid_request("the client authenticates in more than one way"));
        }
        if let Some((id, secret)) = basic {
            if client_id.is_some_and(|other| other != id) {
                return Err(invalid_request("client_id differs from the one in the Authorization header"));
            }
            let empty = secret.expose_secret().is_empty();
            let proof = if empty { Proof::None } else { Proof::Basic(secret) };
            return Ok(Self { client_id: Some(id), proof });
        }
        if let Some(assertion) = assertion {
            return match params.require("client_assertion_type")? {
                JWT_BEARER => Ok(Self { client_id, proof: Proof::Assertion(assertion.into()) }),
                _ => Err(invalid_client("the type of the client assertion is not supported")),
            };
        }
        let client_id = client_id.ok_or_else(|| invalid_client("the client does not say who it is"))?;
        Ok(Self {
            client_id: Some(client_id),
            proof: post.map_or(Proof::None, |secret| Proof::Post(secret.into())),
        })
    }

    /// How a refusal must be worded, whatever [`parse`](Self::parse) says.
    pub fn tried(headers: &HeaderMap) -> Tried {
        if headers.get_all(AUTHORIZATION).iter().any(|value| after_basic(value.as_bytes()).is_some()) {
            Tried::Basic
        } else {
            Tried::Other
        }
    }
}

fn invalid_client(why: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidClient, why)
}

/// What follows the scheme, if it is `Basic`.
fn after_basic(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Basic ".len())?;
    scheme.eq_ignore_ascii_case(b"Basic ").then(|| rest.trim_ascii())
}

/// Id and secret of `Authorization: Basic`; another scheme is none of ours.
fn basic(headers: &HeaderMap) -> Result<Option<(String, SecretString)>, OAuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid_request("there are several Authorization headers"));
    }
    let Some(encoded) = after_basic(value.as_bytes()) else { return Ok(None) };
    let bad = || invalid_client("the Authorization header can't be read");
    let decoded = BASE64.decode(encoded).map_err(|_| bad())?;
    let colon = memchr::memchr(b':', &decoded).ok_or_else(bad)?;
    // Both halves are form-encoded (RFC 6749, section 2.3.1). Many clients leave that out; ids and
    // secrets of ours have only characters that read the same either way.
    let id = params::decode(&decoded[..colon]).map_err(|_| bad())?;
    let secret = params::decode(&decoded[colon + 1..]).map_err(|_| bad())?;
    let id = graphic(&id, "client_id is not valid").map_err(|_| bad())?;
    Ok(Some((id, secret.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(authorization: &[&str], form: &str) -> Result<Credentials, OAuthError> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(AUTHORIZATION, value.parse().expect("a header"));
        }
        Credentials::parse(&headers, &Params::parse(form.as_bytes()).expect(form))
    }

    fn basic_of(pair: &str) -> String {
        format!("Basic {}", BASE64.encode(pair))
    }

    #[test]
    fn each_method_is_told_from_the_others() {
        for (header, form, id, proof) in [
            (None, "client_id=c", Some("c"), "none"),
            (None, "client_id=c&client_secret=", Some("c"), "none"),
            (None, "client_id=c&client_secret=hush", Some("c"), "post hush"),
            (Some(basic_of("c:hush")), "", Some("c"), "basic hush"),
            (Some(basic_of("c:hush").replace("Basic", "bASIC")), "client_id=c", Some("c"), "basic hush"),
            (Some(basic_of("https%3A%2F%2Fa%2Fc:a%2Bb")), "", Some("https://a/c"), "basic a+b"),
            (Some(basic_of("c:a:b")), "", Some("c"), "basic a:b"),
            (Some(basic_of("c:")), "", Some("c"), "none"),
            (Some("Bearer abc".to_owned()), "client_id=c", Some("c"), "none"),
            (
                None,
                "client_assertion=j.w.t&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                None,
                "assertion j.w.t",
            ),
        ] {
            let credentials =
                parse(&header.iter().map(String::as_str).collect::<Vec<_>>(), form).expect(form);
            assert_eq!(credentials.client_id.as_deref(), id, "{header:?} {form}");
            let (name, secret) = match &credentials.proof {
                Proof::None => ("none", None),
                Proof::Basic(secret) => ("basic", Some(secret)),
                Proof::Post(secret) => ("post", Some(secret)),
                Proof::Assertion(secret) => ("assertion", Some(secret)),
            };
            let shown = secret.map_or(name.to_owned(), |secret| format!("{name} {}", secret.expose_secret()));
            assert_eq!(shown, proof, "{header:?} {form}");
            assert!(!format!("{credentials:?}").contains("hush"));
        }
    }

    #[test]
    fn none_several_and_unreadable_ones_are_refused() {
        let (c, d) = (basic_of("c:hush"), basic_of("d:hush"));
        let (no_colon, bad_percent, no_id) = (basic_of("c"), basic_of("c:%zz"), basic_of(":hush"));
        for (headers, form, code) in [
            (&[][..], "", ErrorCode::InvalidClient),
            (&["Bearer abc"], "", ErrorCode::InvalidClient),
            (&["Basic ???"], "", ErrorCode::InvalidClient),
            (&[no_colon.as_str()], "", ErrorCode::InvalidClient),
            (&[bad_percent.as_str()], "", ErrorCode::InvalidClient),
            (&[no_id.as_str()], "", ErrorCode::InvalidClient),
            (&[c.as_str(), d.as_str()], "", ErrorCode::InvalidRequest),
            (&[c.as_str()], "client_id=d", ErrorCode::InvalidRequest),
            (&[c.as_str()], "client_id=c&client_secret=hush", ErrorCode::InvalidRequest),
            (&[], "client_id=c&client_id=c", ErrorCode::InvalidRequest),
            (&[], "client_id=c&client_secret=1&client_secret=2", ErrorCode::InvalidRequest),
            (&[], "client_id=c&client_secret=1&client_assertion=a", ErrorCode::InvalidRequest),
            (&[], "client_id=c&client_assertion=a", ErrorCode::InvalidRequest),
            (&[], "client_id=c&client_assertion=a&client_assertion_type=saml", ErrorCode::InvalidClient),
            (&[], "client_secret=hush", ErrorCode::InvalidClient),
        ] {
            let error = parse(headers, form).expect_err(form);
            assert_eq!(error.code(), code, "{headers:?} {form}");
            assert!(!error.to_string().contains("hush"));
        }
    }

    #[test]
    fn a_refusal_knows_whether_basic_was_used() {
        for (value, tried) in
            [("Basic ???", Tried::Basic), ("basic YTpi", Tried::Basic), ("Bearer x", Tried::Other)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            assert_eq!(Credentials::tried(&headers), tried, "{value}");
        }
        assert_eq!(Credentials::tried(&HeaderMap::new()), Tried::Other);
    }
}
