//! Scopes (RFC 6749, section 3.3): what a request asks for, bounded and free of duplicates, and what of
//! it a client may ask. Which scopes a *user* has on a host is for the host's lists to say, not for here.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{ErrorCode, OAuthError};

/// Asks for an ID token (OpenID Connect Core 1.0, section 3.1.2.1).
pub const OPENID: &str = "openid";
/// Asks for a refresh token (OpenID Connect Core 1.0, section 11). Clients get one without it as well.
pub use portcullis_layers::auth::OFFLINE_ACCESS;

/// The most scopes of one request.
pub const MAX_SCOPES: usize = 64;

/// The longest scope; what hosts may publish is bounded in the same way.
pub const MAX_SCOPE: usize = 128;

/// A set of scopes, in the order in which they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Vec<String>);

/// Why a text is no list of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScopes {
    /// More than [`MAX_SCOPES`].
    #[error("there are more than 64 scopes")]
    TooMany,
    /// Longer than [`MAX_SCOPE`], or with a character outside of RFC 6749, section 3.3.
    #[error("a scope is too long or has a character that scopes can't have")]
    Token,
}

impl Scopes {
    /// Reads scopes parted by blanks. Several blanks are as good as one; a scope given twice counts once.
    ///
    /// # Errors
    ///
    /// See [`InvalidScopes`].
    pub fn parse(text: &str) -> Result<Self, InvalidScopes> {
        let mut scopes = Self::default();
        for scope in text.split(' ').filter(|scope| !scope.is_empty()) {
            if !is_scope(scope) {
                return Err(InvalidScopes::Token);
            }
            if scopes.contains(scope) {
                continue;
            }
            if scopes.0.len() == MAX_SCOPES {
                return Err(InvalidScopes::TooMany);
            }
            scopes.0.push(scope.to_owned());
        }
        Ok(scopes)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is among them. Scopes are compared as they are, with their case.
    pub fn contains(&self, scope: &str) -> bool {
        self.0.iter().any(|own| own == scope)
    }

    /// The scopes.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The scopes as a list.
    pub fn to_vec(&self) -> Vec<String> {
        self.0.clone()
    }

    /// Whether all of these are among the others.
    pub fn is_subset(&self, others: &Self) -> bool {
        self.iter().all(|scope| others.contains(scope))
    }

    /// These, and those of the others that are not among them: the scopes of a step-up. No more than
    /// [`MAX_SCOPES`], the first ones.
    #[must_use]
    pub fn union(&self, others: &Self) -> Self {
        let new = others.iter().filter(|scope| !self.contains(scope));
        Self(self.iter().chain(new).take(MAX_SCOPES).map(str::to_owned).collect())
    }

    /// Those that fulfil a condition.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.iter().filter(|scope| keep(scope)).map(str::to_owned).collect())
    }

    /// Whether an ID token is asked for.
    pub fn has_openid(&self) -> bool {
        self.contains(OPENID)
    }

    /// What a client may ask of these. A registration without scopes is no ceiling: clients register
    /// before they know what the hosts want. With a ceiling, what lies above it is left out, and the
    /// answer tells the client so (RFC 6749, section 3.3). `offline_access` is not a right at a
    /// resource, so no ceiling is asked about it.
    ///
    /// # Errors
    ///
    /// `invalid_scope` when nothing would be left of what was asked.
    pub fn permitted(&self, registered: Option<&Self>) -> Result<Self, OAuthError> {
        let Some(ceiling) = registered.filter(|ceiling| !ceiling.is_empty()) else {
            return Ok(self.clone());
        };
        let is_right = |scope: &str| scope != OFFLINE_ACCESS;
        let rest = self.only(|scope| !is_right(scope) || ceiling.contains(scope));
        if self.iter().any(is_right) && !rest.iter().any(is_right) {
            let why = "the client is registered for none of these scopes";
            return Err(OAuthError::new(ErrorCode::InvalidScope, why));
        }
        Ok(rest)
    }

    /// The scopes of a token of a grant: those of the grant, or fewer (RFC 6749, section 6).
    ///
    /// # Errors
    ///
    /// `invalid_scope` when one was not granted.
    pub fn narrowed(requested: Option<&Self>, granted: &Self) -> Result<Self, OAuthError> {
        match requested {
            None => Ok(granted.clone()),
            Some(requested) if requested.is_subset(granted) => Ok(requested.clone()),
            Some(_) => Err(OAuthError::new(ErrorCode::InvalidScope, "a scope was not granted")),
        }
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl From<InvalidScopes> for OAuthError {
    fn from(error: InvalidScopes) -> Self {
        Self::new(ErrorCode::InvalidScope, error.to_string())
    }
}

/// What a scope of ours means, in the words of the consent page. Those of the hosts speak for themselves.
pub fn meaning(scope: &str) -> Option<&'static str> {
    Some(match scope {
        "admin" => "Change everything that you may change",
        "user" => "Read what you may read",
        "mcp" => "Use MCP tools in your name",
        OPENID => "Know who you are",
        "profile" => "See your login and display name",
        "email" => "See your e-mail address",
        OFFLINE_ACCESS => "Keep this access while you are away",
        _ => return None,
    })
}

fn is_scope(scope: &str) -> bool {
    scope.len() <= MAX_SCOPE && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(text: &str) -> Scopes {
        Scopes::parse(text).expect(text)
    }

    #[test]
    fn lists_are_parted_by_blanks() {
        for (text, normal) in [
            ("", ""),
            ("  ", ""),
            ("a", "a"),
            (" a  b a ", "a b"),
            ("mcp:read https://example.com/x.y", "mcp:read https://example.com/x.y"),
            ("A a", "A a"),
        ] {
            assert_eq!(scopes(text).to_string(), normal, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        for text in ["a\"b", "a\\b", "a\tb", "a\nb", "é", "\u{7f}", &"x".repeat(MAX_SCOPE + 1)] {
            assert_eq!(Scopes::parse(text), Err(InvalidScopes::Token), "{text:?}");
        }
        let list = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>().join(" ");
        assert!(Scopes::parse(&list(MAX_SCOPES)).is_ok());
        assert_eq!(Scopes::parse(&list(MAX_SCOPES + 1)), Err(InvalidScopes::TooMany));
        assert!(Scopes::parse(&"a ".repeat(10_000)).is_ok());
    }

    #[test]
    fn sets_are_compared_and_joined() {
        assert_eq!(scopes("a b").union(&scopes("b c")), scopes("a b c"));
        assert!(scopes("").is_subset(&scopes("a")) && scopes("a").is_subset(&scopes("b a")));
        assert!(!scopes("a b").is_subset(&scopes("a")));
        assert!(scopes("a openid").has_openid() && !scopes("OpenID").has_openid());
    }

    #[test]
    fn a_client_asks_what_its_registration_allows() {
        for (asked, registered, permitted) in [
            ("a b", None, Some("a b")),
            ("a b", Some(""), Some("a b")),
            ("a b", Some("a b c"), Some("a b")),
            ("a b", Some("b"), Some("b")),
            ("a b", Some("c"), None),
            ("", Some("c"), Some("")),
            ("a offline_access", Some("a"), Some("a offline_access")),
            ("offline_access", Some("a"), Some("offline_access")),
            ("b offline_access", Some("a"), None),
            ("openid", Some("a"), None),
        ] {
            let registered = registered.map(scopes);
            let result = scopes(asked).permitted(registered.as_ref());
            match permitted {
                Some(permitted) => assert_eq!(result, Ok(scopes(permitted)), "{asked} of {registered:?}"),
                None => assert_eq!(result.expect_err("refused").code(), ErrorCode::InvalidScope, "{asked}"),
            }
        }
    }

    #[test]
    fn a_refresh_narrows_but_does_not_widen() {
        let granted = scopes("a b");
        assert_eq!(Scopes::narrowed(None, &granted), Ok(granted.clone()));
        assert_eq!(Scopes::narrowed(Some(&scopes("b")), &granted), Ok(scopes("b")));
        let error = Scopes::narrowed(Some(&scopes("b c")), &granted).expect_err("wider");
        assert_eq!(error.code(), ErrorCode::InvalidScope);
    }

    #[test]
    fn records_hold_them_as_text() {
        let json = serde_json::to_string(&scopes("a b")).expect("JSON");
        assert_eq!(json, "\"a b\"");
        assert_eq!(serde_json::from_str::<Scopes>(&json).expect("scopes"), scopes("a b"));
        assert!(serde_json::from_str::<Scopes>("\"a\\\"\"").is_err());
    }
}
