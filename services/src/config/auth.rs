//! Who may pass: the parts of proxies and routes that describe authentication.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::field::FieldError;
use super::names::{EmailPattern, Group, MethodName, PathPrefix, Scope, SecureUrl, UserPattern};

/// What happens to a request without a valid token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// 401 with a challenge.
    #[default]
    Forward,
    /// A browser is sent to the login, anything else gets 401.
    Redirect,
    /// It passes, without an identity.
    Passthrough,
}

impl std::str::FromStr for AuthMode {
    type Err = super::names::Expected;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "forward" => Ok(Self::Forward),
            "redirect" => Ok(Self::Redirect),
            "passthrough" => Ok(Self::Passthrough),
            _ => Err(super::names::Expected("`forward`, `redirect` or `passthrough`")),
        }
    }
}

/// Where a bearer token may stand (RFC 9728, `bearer_methods_supported`). Only `header` is ever accepted by portcullis itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BearerMethod {
    /// The `Authorization` header.
    Header,
    /// A form field.
    Body,
    /// The query.
    Query,
}

/// Scopes that requests of some paths and methods need, beside those of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeRule {
    /// Which paths: this one and everything below it.
    pub path: PathPrefix,
    /// Which methods; absent or empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodName>,
    /// All of these are needed.
    pub scopes: Vec<Scope>,
}

/// A signature algorithm that tokens of other issuers may use. `none` and the HMAC ones are no option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// Another issuer whose tokens this host accepts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedIssuer {
    /// What `iss` must be, character for character.
    pub issuer: SecureUrl,
    /// Where its public keys are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<SecureUrl>,
    /// Its public keys (RFC 7517), instead of `jwks_uri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Value>,
    /// The algorithms that its tokens may use.
    #[serde(default = "rs256")]
    pub algorithms: Vec<Algorithm>,
    /// What `aud` must contain, instead of this host's resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

fn rs256() -> Vec<Algorithm> {
    vec![Algorithm::RS256]
}

impl TrustedIssuer {
    /// What is wrong between the fields.
    pub fn problems(&self) -> Vec<FieldError> {
        let mut problems = Vec::new();
        if self.jwks_uri.is_some() == self.jwks.is_some() {
            problems.push(FieldError::bare("jwks_uri", "expected exactly one of `jwks_uri` and `jwks`"));
        }
        if self.algorithms.is_empty() {
            problems.push(FieldError::bare("algorithms", "expected at least one of RS256, ES256 and EdDSA"));
        }
        if self.audience.as_deref() == Some("") {
            problems.push(FieldError::bare("audience", "expected an audience, or no such field"));
        }
        if let Some(jwks) = &self.jwks {
            match jwks.get("keys").and_then(Value::as_array) {
                None => problems
                    .push(FieldError::bare("jwks", "expected an object with a list `keys` (RFC 7517)")),
                Some(keys) => problems.extend(keys.iter().enumerate().filter_map(|(index, key)| {
                    // A private or a symmetric key here is a leak, and verifying with one would let anybody sign who reads it.
                    let secret = ["d", "k", "p", "q"].into_iter().find(|name| key.get(name).is_some());
                    let kind = key.get("kty").and_then(Value::as_str);
                    let field = format!("jwks.keys[{index}]");
                    match (kind, secret) {
                        (_, Some(name)) => Some(FieldError::bare(
                            field,
                            format!("has the secret member `{name}`: expected a public key"),
                        )),
                        (Some("RSA" | "EC" | "OKP"), None) => None,
                        _ => Some(FieldError::bare(field, "expected a public key with `kty` RSA, EC or OKP")),
                    }
                })),
            }
        }
        problems
    }
}

/// How a route that overrides its host's authentication does it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteAuthType {
    /// Anybody passes.
    None,
    /// A valid token is needed, whatever the host says.
    #[serde(alias = "oauth")]
    Bearer,
    /// What the host says, with the lists and scopes given here in place of the host's.
    #[default]
    Inherit,
}

/// A route's own rules. They count only with `override_proxy_auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteAuth {
    /// How.
    pub auth_type: RouteAuthType,
    /// All of these are needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_scopes: Option<Vec<Scope>>,
    /// Who may pass; absent: as the host says; empty: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_users: Option<Vec<UserPattern>>,
    /// Which e-mail addresses may pass; absent: as the host says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_emails: Option<Vec<EmailPattern>>,
    /// Which groups may pass; absent: as the host says.
    #[serde(skip_serializing_if = "Option::is_none", alias = "allowed_orgs")]
    pub allowed_groups: Option<Vec<Group>>,
    /// What challenges ask for, where that is more than what is needed to pass. No document says so.
    #[serde(skip)]
    pub challenged: Option<&'static str>,
}
