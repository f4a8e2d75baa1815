//! What is known of a named token: its claims, never the token.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::FieldError;
use super::names::{Scope, TokenName};
use super::{Config, Entity, stamped};
use crate::store::{Key, Kind};

/// A named token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its name; the identity is `service:NAME`.
    pub name: TokenName,
    /// Its scopes.
    pub scopes: Vec<Scope>,
    /// The resources that it is for.
    pub audience: Vec<String>,
    /// The e-mail address for certificates that this identity asks for.
    #[serde(default)]
    pub cert_email: Option<String>,
    /// The id of the token that holds now.
    pub jti: String,
    /// The id of the key that signed it.
    #[serde(default)]
    pub key_id: Option<String>,
    /// When it was minted.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Who created it.
    #[serde(default)]
    pub created_by: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Option<Timestamp>,
    /// Grows by one with each change.
    #[serde(default)]
    pub config_version: u64,
}

impl Token {
    /// What the identities of named tokens start with.
    pub const SUBJECT: &str = "service:";

    /// The identity that the token proves.
    pub fn subject(name: &TokenName) -> String {
        format!("{}{name}", Self::SUBJECT)
    }
}

impl Entity for Token {
    const KIND: Kind = Kind::Token;
    const NOUN: &'static str = "token";
    const ID: &'static str = "name";
    const REQUIRED: &'static [&'static str] =
        &["name", "scopes", "audience", "jti", "issued_at", "expires_at"];
    const ARGUMENTS: &'static [&'static str] = &["name"];
    const ALIASES: &'static [(&'static str, &'static str)] = &[];

    fn id(&self) -> String {
        self.name.to_string()
    }

    stamped!();

    fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if self.audience.is_empty() || self.audience.iter().any(|a| a.parse::<http::Uri>().is_err()) {
            problems.push(FieldError::bare("audience", "expected at least one resource URI"));
        }
        if self
            .cert_email
            .as_ref()
            .is_some_and(|email| email.parse::<super::names::EmailPattern>().is_err() || email.contains('*'))
        {
            problems.push(FieldError::new(
                "cert_email",
                self.cert_email.clone(),
                "expected an e-mail address",
            ));
        }
        problems
    }

    fn references(&self, _: &Config, _: &mut Vec<FieldError>) -> Vec<Key> {
        Vec::new()
    }
}
