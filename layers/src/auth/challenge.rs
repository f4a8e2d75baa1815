//! The `WWW-Authenticate` header of a refusal (RFC 6750, section 3, and RFC 9728, section 5.1).
//!
//! One header that starts with `Bearer `: clients read it with plain regular expressions. No value
//! ever holds a `"` or a `\`, so that even a reader that knows no escapes is not misled.

use http::HeaderValue;

/// The parts of the challenge that are the same for all requests.
#[derive(Debug, Clone)]
pub struct Challenge {
    realm: String,
    metadata: Option<String>,
    description: Option<String>,
    scope: Option<String>,
    // Parameters of the owner's choice, each already as `, name="value"`.
    params: String,
}

/// Why a parameter can't stand in a challenge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParam {
    /// The name is no token of RFC 9110, section 5.6.2.
    #[error("parameter name {0:?} is not a token")]
    Name(String),
    /// The name belongs to a parameter that the challenge writes itself.
    #[error("parameter {0:?} is written by the challenge itself")]
    Reserved(String),
}

impl Challenge {
    /// A challenge for a realm, a text for people.
    pub fn new(realm: &str) -> Self {
        Self { realm: quotable(realm), metadata: None, description: None, scope: None, params: String::new() }
    }

    /// The absolute URL of the protected resource's metadata.
    #[must_use]
    pub fn resource_metadata(mut self, url: &str) -> Self {
        self.metadata = Some(quotable(url));
        self
    }

    /// Says this in `error_description`, whatever the reason of a refusal is.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        self.description = Some(quotable(text));
        self
    }

    /// Names these scopes in a 401. Without it, a 401 names the scopes that the request needs.
    #[must_use]
    pub fn scope(mut self, scopes: &str) -> Self {
        self.scope = Some(quotable(scopes));
        self
    }

    /// Adds a parameter.
    ///
    /// # Errors
    ///
    /// When the name is no token, or one that the challenge writes itself.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, InvalidParam> {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(InvalidParam::Name(name.to_owned()));
        }
        let reserved = ["realm", "resource_metadata", "error", "error_description", "scope"];
        if reserved.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(InvalidParam::Reserved(name.to_owned()));
        }
        push(&mut self.params, name, &quotable(value));
        Ok(self)
    }

    /// For a request without a token: no `error` (RFC 6750, section 3.1).
    pub fn without_error(&self, required: &str) -> HeaderValue {
        self.header(None, self.scope.as_deref().unwrap_or(required))
    }

    /// For a token that is no good.
    pub(super) fn with_error(&self, error: &str, description: &str, required: &str) -> HeaderValue {
        self.header(Some((error, description)), self.scope.as_deref().unwrap_or(required))
    }

    /// For a token without the scopes that the request needs: names all of them, as one answer must do.
    pub fn insufficient_scope(&self, required: &str) -> HeaderValue {
        self.header(Some(("insufficient_scope", "The access token lacks a scope")), required)
    }

    fn header(&self, error: Option<(&str, &str)>, scope: &str) -> HeaderValue {
        let mut text = format!("Bearer realm=\"{}\"", self.realm);
        if let Some(url) = &self.metadata {
            push(&mut text, "resource_metadata", url);
        }
        if let Some((error, description)) = error {
            push(&mut text, "error", error);
            push(&mut text, "error_description", self.description.as_deref().unwrap_or(description));
        }
        if !scope.is_empty() {
            push(&mut text, "scope", &quotable(scope));
        }
        text.push_str(&self.params);
        HeaderValue::try_from(text).expect("only printable ASCII was let in")
    }
}

fn push(text: &mut String, name: &str, value: &str) {
    text.push_str(", ");
    text.push_str(name);
    text.push_str("=\"");
    text.push_str(value);
    text.push('"');
}

/// Only what RFC 6750 allows in these values, `%x20-21 / %x23-5B / %x5D-7E`: the rest is replaced.
fn quotable(text: &str) -> String {
    let allowed = |c: char| matches!(c, ' '..='!' | '#'..='[' | ']'..='~');
    text.chars()
        .map(|c| match c {
            c if allowed(c) => c,
            '"' | '\\' => '\'',
            _ => '?',
        })
        .collect()
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge() -> Challenge {
        Challenge::new("app").resource_metadata("https://app.example/.well-known/oauth-protected-resource")
    }

    #[test]
    fn a_challenge_without_a_token_has_no_error() {
        assert_eq!(
            challenge().without_error("read write"),
            "Bearer realm=\"app\", \
             resource_metadata=\"https://app.example/.well-known/oauth-protected-resource\", \
             scope=\"read write\""
        );
        assert_eq!(Challenge::new("app").without_error(""), "Bearer realm=\"app\"");
    }

    #[test]
    fn the_order_is_realm_metadata_error_description_scope_and_the_rest() {
        let challenge = challenge().param("as_uri", "https://auth.example").expect("valid");
        assert_eq!(
            challenge.with_error("invalid_token", "The access token expired", "read"),
            "Bearer realm=\"app\", \
             resource_metadata=\"https://app.example/.well-known/oauth-protected-resource\", \
             error=\"invalid_token\", error_description=\"The access token expired\", \
             scope=\"read\", as_uri=\"https://auth.example\""
        );
    }

    #[test]
    fn a_configured_scope_is_named_in_a_401_and_the_needed_ones_in_a_403() {
        let challenge = Challenge::new("app").scope("basic");
        assert_eq!(challenge.without_error("read"), "Bearer realm=\"app\", scope=\"basic\"");
        assert_eq!(
            challenge.insufficient_scope("read write"),
            "Bearer realm=\"app\", error=\"insufficient_scope\", \
             error_description=\"The access token lacks a scope\", scope=\"read write\""
        );
    }

    #[test]
    fn no_value_breaks_out_of_its_quotes() {
        let challenge = Challenge::new("a\", error=\"x\\\r\nSet-Cookie: y=ü")
            .description("no \"way\"")
            .param("hint", "a\"b")
            .expect("valid");
        assert_eq!(
            challenge.with_error("invalid_token", "unused", "a\"b"),
            "Bearer realm=\"a', error='x'??Set-Cookie: y=?\", error=\"invalid_token\", \
             error_description=\"no 'way'\", scope=\"a'b\", hint=\"a'b\""
        );
    }

    #[test]
    fn a_parameter_needs_a_name_of_its_own() {
        for name in ["", "a b", "a=b", "ü", "a\"", "Realm", "scope", "ERROR"] {
            assert!(challenge().param(name, "x").is_err(), "{name:?} was taken");
        }
    }
}
