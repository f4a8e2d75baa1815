//! The header and the claims of a token, as bytes from outside.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use smol_str::SmolStr;

use super::token::TokenError;
use crate::context::Principal;

/// The type of access tokens (RFC 9068, section 2.1).
const ACCESS_TOKEN: &str = "at+jwt";

/// What we read of a JOSE header (RFC 7515, section 4). A key that the token brings itself (`jwk`,
/// `jku`, `x5c`, `x5u`) is not even looked at. A member that comes twice is an error.
#[derive(Debug, Deserialize)]
pub(super) struct Header<'a> {
    #[serde(borrow)]
    pub(super) alg: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) typ: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) kid: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    // RFC 7797: means nothing without `crit`, but whoever sends it signs other bytes than we read.
    #[serde(default, deserialize_with = "present")]
    b64: bool,
}

impl Header<'_> {
    /// The part that needs no key.
    pub(super) fn check(&self) -> Result<(), TokenError> {
        if self.crit || self.b64 {
            return Err(TokenError::Critical);
        }
        let Some(name) = self.type_name() else { return Ok(()) };
        if name.eq_ignore_ascii_case(ACCESS_TOKEN) || name.eq_ignore_ascii_case("JWT") {
            Ok(())
        } else {
            Err(self.wrong_type())
        }
    }

    /// Requires the type of access tokens (RFC 9068, section 4). An issuer that signs ID tokens with the
    /// same keys is safe by nothing else: a client could send the one for the other.
    pub(super) fn check_access_token(&self) -> Result<(), TokenError> {
        match self.type_name() {
            Some(name) if name.eq_ignore_ascii_case(ACCESS_TOKEN) => Ok(()),
            _ => Err(self.wrong_type()),
        }
    }

    /// RFC 7515, section 4.1.9: a media type, `application/` may be left out.
    fn type_name(&self) -> Option<&str> {
        let typ = &**self.typ.as_ref()?;
        let parts = typ.split_at_checked("application/".len());
        let parts = parts.filter(|(prefix, _)| prefix.eq_ignore_ascii_case("application/"));
        Some(parts.map_or(typ, |(_, name)| name))
    }

    fn wrong_type(&self) -> TokenError {
        TokenError::Type(shorten(self.typ.as_deref().unwrap_or_default()))
    }
}

/// The claims that we read (RFC 7519, section 4.1; RFC 9068, section 2.2). Others are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Claims<'a> {
    #[serde(borrow, default)]
    pub(super) iss: Option<Cow<'a, str>>,
    #[serde(default)]
    sub: Option<SmolStr>,
    #[serde(default)]
    aud: Texts,
    #[serde(default)]
    exp: Option<NumericDate>,
    #[serde(default)]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
    #[serde(default)]
    jti: Option<SmolStr>,
    #[serde(default)]
    scope: Texts,
    /// What some servers write instead of `scope`.
    #[serde(default)]
    scp: Texts,
    #[serde(default)]
    client_id: Option<SmolStr>,
    #[serde(default)]
    azp: Option<SmolStr>,
    #[serde(default)]
    username: Option<SmolStr>,
    #[serde(default)]
    preferred_username: Option<SmolStr>,
    #[serde(default)]
    email: Option<SmolStr>,
    #[serde(default)]
    email_verified: Option<Truth>,
    #[serde(default)]
    name: Option<SmolStr>,
    #[serde(default)]
    groups: Texts,
}

impl Claims<'_> {
    /// The principal, and the time before which the token is not valid.
    ///
    /// Another issuer's e-mail address counts only when it says that it has verified it: an
    /// allowlist of addresses would trust whatever a user typed there.
    pub(super) fn into_principal(self, foreign: bool) -> Result<(Principal, u64), TokenError> {
        let required = |claim: Option<SmolStr>, name| {
            claim.filter(|text| !text.is_empty()).ok_or(TokenError::Missing(name))
        };
        let expires_at = self.exp.ok_or(TokenError::Missing("exp"))?.0;
        let not_before = self.nbf.unwrap_or_default().0.max(self.iat.unwrap_or_default().0);
        let email_counts = match self.email_verified {
            Some(Truth(verified)) => verified,
            None => !foreign,
        };
        let mut scopes: Vec<SmolStr> = Vec::new();
        for scope in self.scope.0.iter().chain(&self.scp.0).flat_map(|text| text.split(' ')) {
            if !scope.is_empty() && !scopes.iter().any(|known| known == scope) {
                scopes.push(scope.into());
            }
        }
        let principal = Principal {
            issuer: self.iss.map(|iss| SmolStr::new(&iss)).unwrap_or_default(),
            foreign,
            subject: required(self.sub, "sub")?,
            username: self.username.or(self.preferred_username).filter(|name| !name.is_empty()),
            email: self.email.filter(|_| email_counts),
            name: self.name,
            groups: self.groups.0,
            scopes,
            client_id: self.client_id.or(self.azp),
            audience: self.aud.0,
            token_id: self.jti.filter(|id| !id.is_empty()),
            expires_at,
            // Whose signature it is, the claims don't say.
            key_id: None,
        };
        Ok((principal, not_before))
    }
}

/// What of a text from outside may stand in a log.
pub(super) fn shorten(text: &str) -> SmolStr {
    text.chars().take(128).collect()
}

/// One text or a list of them.
#[derive(Debug, Default)]
struct Texts(Vec<SmolStr>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.into()]))
            }

            fn visit_unit<E: Error>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

/// Seconds since 1970; RFC 7519, section 2, allows fractions.
#[derive(Debug, Clone, Copy, Default)]
struct NumericDate(u64);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = NumericDate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds since 1970")
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<NumericDate, E> {
                Ok(NumericDate(seconds))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<NumericDate, E> {
                // Beyond 2^53 a float is no exact number of seconds.
                if !(0.0..9_007_199_254_740_992.0).contains(&seconds) {
                    return Err(E::custom("time is out of range"));
                }
                Ok(NumericDate(seconds as u64))
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}

/// A boolean, which some servers write as a text. Everything but `true` and `"true"` is false.
#[derive(Debug, Clone, Copy)]
struct Truth(bool);

impl<'de> Deserialize<'de> for Truth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bool(bool),
            Text(String),
            Other(IgnoredAny),
        }

        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Bool(truth) => truth,
            Written::Text(text) => text == "true",
            Written::Other(_) => false,
        }))
    }
}

/// True when the member is there, whatever its value, `null` included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}
